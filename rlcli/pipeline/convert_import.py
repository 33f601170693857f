"""A foreign source becomes a dataset: what is read, where it grows, its lineage, and its report."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.config import from_dict, to_dict
from rlcli.datasets import registry
from rlcli.datasets.contract import Advance, LayoutMismatch, NoOptions, Report, Request, Source
from rlcli.errors import UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.writer import Writer
from rlcli.pipeline import convert_check, convert_files, provenance
from rlcli.pipeline.convert_rows import Selection, check_not_empty, segment_rows, selected, write
from rlcli.pipeline.outputs import publish, unfinished


@dataclass(frozen=True)
class Job:
    """One source and how it is to be read."""

    format: str
    path: Path
    request: Request
    options: Any
    selection: Selection

    @contextmanager
    def opened(self) -> Iterator[Source]:
        """The opened source."""
        with registry.load(self.format).open_source(self.path, self.request, self.options) as source:
            yield source

    def stored(self) -> Job:
        """The same with next observations stored in every row."""
        return dataclasses.replace(self, request=dataclasses.replace(self.request, derive=False, plan=None))

    def to_json(self) -> dict[str, Any]:
        """What the lineage says, and another process needs, of it. Without `selection`."""
        request = dataclasses.asdict(self.request)
        return {
            "format": self.format,
            "path": str(self.path.absolute()),
            "request": {**request, "mapping": dict(self.request.mapping)},
            "options": to_dict(self.options),
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> Job:
        kind = getattr(registry.load(value["format"]), "Options", NoOptions)
        options = from_dict(kind, value["options"])
        return Job(value["format"], Path(value["path"]), Request(**value["request"]), options, Selection())


def fetch(name: str, dataset: str, request: Request) -> Path:
    """The dataset of that name, from the cache or downloaded. Raises what the format's `fetch` raises."""
    find: Callable[[str, Request, Advance], Path] | None = getattr(registry.load(name), "fetch", None)
    if find is None:
        raise UsageError(f"{name} datasets are not found by name; give a path")
    with console.interruptible() as stop, console.progress(None, "download", "B") as bar:

        def advance(count: int) -> None:
            stop.raise_if_requested("download stopped; the same command goes on with it")
            bar.advance(count)

        return find(dataset, request, advance)


def run(job: Job, out: Path, *, check: bool, jobs: int, resume: bool) -> dict[str, Any]:
    """Convert and publish; see `convert.convert`."""
    started = time.monotonic()
    with console.interruptible() as stop, unfinished(out) as temporary:
        try:
            report, files = _fill(job, temporary, stop)
        except LayoutMismatch:
            shutil.rmtree(temporary, ignore_errors=True)
            job = job.stored()
            report, files = _fill(job, temporary, stop)
        with Dataset.open(temporary) as dataset:
            if check:
                module = registry.load(job.format)
                report["check"] = convert_check.of_import(
                    module, job.path, job.request, job.options, job.selection, dataset, stop
                )
            report["digest"] = dataset.digest
            report["bytes"] = dataset.size_bytes
        files.check()
        stop.raise_if_requested(f"{out}: conversion stopped, nothing was written")
        publish(temporary, out)
    seconds = round(time.monotonic() - started, 3)
    return {"dataset": str(out), "format": job.format, **report, "seconds": seconds}


def _fill(job: Job, temporary: Path, stop: console.Stop) -> tuple[dict[str, Any], convert_files.Fingerprint]:
    stopped = f"{job.path}: conversion stopped, nothing was written"

    def check() -> None:
        stop.raise_if_requested(stopped)

    def advance(count: int) -> None:
        check()
        bar.advance(count)

    with job.opened() as source:
        files = convert_files.Fingerprint(source.files)
        parents = convert_files.parents(job.path, source.files, check)
        report = Report()
        total = sum(piece.num_bytes for piece in source.pieces)
        with console.progress(total, "convert", "B") as bar:
            writer = create(job, source, temporary, parents)
            parts = selected(source, source.pieces, job.selection, report, advance)
            write(writer, parts, report, check)
        report.add(source.report)
        check_not_empty(job.path, report, job.selection)
        return {"source": _origin(job.path, parents), **report.to_json()}, files


def create(job: Job, source: Source, path: Path, parents: list[dict[str, Any]]) -> Writer:
    """A new dataset for rows of `source`, with its lineage and record."""
    told = job.to_json()
    lineage = {
        "op": "convert",
        "command": provenance.command_line(),
        "versions": provenance.versions(),
        "time": provenance.now(),
        "format": job.format,
        "options": {**told["options"], **_given(told["request"]), **_given(job.selection.to_json())},
        "parents": parents,
    }
    extra = {"source": {**source.record, "format": job.format, **_origin(job.path, parents)}}
    return Writer.create(
        path,
        source.schema,
        spec=source.spec,
        lineage=lineage,
        segment_rows=segment_rows(source.pieces, source.schema),
        extra=extra,
    )


def _origin(path: Path, parents: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a file its bytes and hash, of a folder how many files and bytes were read."""
    told = {"path": str(path.absolute()), "bytes": sum(entry["bytes"] for entry in parents)}
    if len(parents) == 1 and parents[0].get("file") == told["path"]:
        return {**told, "sha256": parents[0]["sha256"]}
    return {**told, "files": sum(entry.get("files", 1) for entry in parents)}


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """What differs from the defaults: the rest needs no place in every manifest."""
    plain = {**dataclasses.asdict(Request()), **Selection().to_json(), "plan": options.get("plan")}
    return {name: value for name, value in options.items() if value != plain[name]}
