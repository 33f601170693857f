"""A foreign source becomes a dataset: what is read, where it grows, its lineage, and its report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.datasets import registry
from rlcli.datasets.contract import Advance, LayoutMismatch, Report, Request, Source
from rlcli.datasets.stopping import stoppable
from rlcli.errors import UsageError
from rlcli.format.dataset import Dataset
from rlcli.pipeline import convert_check, convert_files, convert_parts
from rlcli.pipeline.convert_job import Job, description, lineage_of, origin
from rlcli.pipeline.convert_rows import check_not_empty, check_space, write, writer_at
from rlcli.pipeline.convert_tasks import reading_whole
from rlcli.pipeline.convert_workers import Crew
from rlcli.pipeline.outputs import publish, unfinished


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
    stopped = f"{job.path}: conversion stopped, nothing was written"
    with (
        console.interruptible() as stop,
        unfinished(out) as temporary,
        convert_files.Hashes(job.path, lambda: stop.raise_if_requested(stopped)) as hashes,
    ):
        if resume:
            job = convert_parts.begun(job, out)
        while True:
            try:
                report, files = _fill(job, out, temporary, hashes, jobs=jobs, resume=resume, stop=stop)
                break
            except LayoutMismatch as mismatch:
                if not job.request.derive:
                    raise
                shutil.rmtree(temporary, ignore_errors=True)
                convert_parts.discard(out)
                job = job.after(mismatch)
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
        convert_parts.discard(out)
    seconds = round(time.monotonic() - started, 3)
    return {"dataset": str(out), "format": job.format, **report, "seconds": seconds}


def _fill(
    job: Job,
    out: Path,
    temporary: Path,
    hashes: convert_files.Hashes,
    *,
    jobs: int,
    resume: bool,
    stop: console.Stop,
) -> tuple[dict[str, Any], convert_files.Fingerprint]:
    """Make the dataset `temporary`; the report, and what the source files were. Raises `LayoutMismatch`."""

    def check() -> None:
        stop.raise_if_requested(f"{job.path}: conversion stopped, nothing was written")

    with Crew(job.format, jobs) as crew, ExitStack() as stack:
        with stoppable(check):
            source = stack.enter_context(job.opened(crew.look(job, check)))
        if job.selection.is_whole:
            check_space(out, source.pieces, source.schema)
        groups = convert_parts.groups_of(source.pieces, job.selection)
        if resume or len(groups) > 1:
            report, parents, files = convert_parts.convert(
                job, source, groups, out, temporary, crew, hashes, jobs=jobs, resume=resume, stop=stop
            )
        else:
            report, parents, files = _at_once(job, source, temporary, hashes, check)
        report.add(source.report)
        check_not_empty(job.path, report, job.selection)
        return {"source": origin(job.path, parents), **report.to_json()}, files


def _at_once(
    job: Job, source: Source, temporary: Path, hashes: convert_files.Hashes, check: Callable[[], None]
) -> tuple[Report, list[dict[str, Any]], convert_files.Fingerprint]:
    """One dataset, written from the first row to the last."""

    def advance(count: int) -> None:
        check()
        bar.advance(count)

    files = hashes.tell(source.files)
    parents: list[dict[str, Any]] = []
    num_bytes = sum(piece.num_bytes for piece in source.pieces)
    with (
        console.progress(num_bytes, "convert", "B") as bar,
        reading_whole(source, job.selection, advance) as (report, parts),
    ):
        writer = writer_at(temporary, source, source.pieces)

        def tell_origin() -> None:
            parents.extend(hashes.parents(files))
            writer.describe(lineage_of(job, parents), description(job, source, parents))

        write(writer, parts, report, check, before_close=tell_origin)
        return report, parents, files
