"""One source and how it is to be read, in a form that lineage keeps and another process can be told."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rlcli.config import from_dict, to_dict
from rlcli.datasets import registry
from rlcli.datasets.contract import LayoutMismatch, NoOptions, Request, Shared, Source
from rlcli.datasets.stacked import StackMismatch, unstacked
from rlcli.pipeline import provenance
from rlcli.pipeline.convert_rows import Selection

_DEPTH = 24  # a manifest may be nested 32 deep, and has these some levels down
_LARGEST = 1 << 53


@dataclass(frozen=True)
class Job:
    """A source, its format, and the options of reading it."""

    format: str
    path: Path
    request: Request
    options: Any
    selection: Selection

    @contextmanager
    def opened(self, plan: Mapping[str, Any] | None = None) -> Iterator[Source]:
        """The opened source; `plan` is what it said of itself when it was opened before."""
        request = dataclasses.replace(self.request, plan=plan)
        with registry.load(self.format).open_source(self.path, request, self.options) as source:
            source.spec = {name: _strict(told, _DEPTH) for name, told in source.spec.items()}
            source.record = {name: _strict(told, _DEPTH) for name, told in source.record.items()}
            yield unstacked(source) if request.derive and request.unstack else source

    def shares(self) -> int:
        """Into how many shares the first look through the source is worth cutting."""
        module = registry.load(self.format)
        return module.shares(self.path, self.request, self.options) if isinstance(module, Shared) else 1

    def look(self, share: int, shares: int) -> Any:
        """One of these shares, JSON."""
        return self._shared.look(self.path, self.request, self.options, share, shares)

    def plan(self, looks: Sequence[Any]) -> Mapping[str, Any]:
        """The plan of the source by the looks of all shares, in order."""
        return self._shared.plan(looks)

    @property
    def _shared(self) -> Shared:
        return cast(Shared, registry.load(self.format))

    def after(self, mismatch: LayoutMismatch) -> Job:
        """The same with what does not hold stored in every row: stacks of frames, or next observations."""
        if isinstance(mismatch, StackMismatch):
            return self.reading(derive=True, unstack=False)
        return self.reading(derive=False, unstack=False)

    def reading(self, *, derive: bool, unstack: bool) -> Job:
        """The same where these fields of the request are told."""
        request = dataclasses.replace(self.request, derive=derive, unstack=unstack)
        return dataclasses.replace(self, request=request)

    def to_json(self) -> dict[str, Any]:
        """All of it; `from_json` is the inverse."""
        request = dataclasses.asdict(self.request)
        return {
            "format": self.format,
            "path": str(self.path.absolute()),
            "request": {**request, "mapping": dict(self.request.mapping), "plan": None},
            "options": to_dict(self.options),
            "selection": self.selection.to_json(),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Job:
        """The job that `to_json` told."""
        kind = getattr(registry.load(value["format"]), "Options", NoOptions)
        return Job(
            value["format"],
            Path(value["path"]),
            Request(**value["request"]),
            from_dict(kind, value["options"]),
            Selection.from_json(value["selection"]),
        )


def _strict(value: Any, depth: int) -> Any:
    """JSON as our files may have it: what is not is told by its name.

    NaN and infinities, numbers beyond 2^53, and what is nested more than `depth` deep, become text.
    """
    if isinstance(value, Mapping | list | tuple) and not depth:
        return json.dumps(value, default=str)
    if isinstance(value, Mapping):
        return {name: _strict(item, depth - 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item, depth - 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, int) and abs(value) > _LARGEST else value


def lineage_of(job: Job, parents: list[dict[str, Any]]) -> dict[str, Any]:
    """The lineage entry of a conversion."""
    told = job.to_json()
    plain = {**dataclasses.asdict(Request()), **Selection().to_json()}
    given = {**told["request"], **told["selection"]}
    return {
        "op": "convert",
        "command": provenance.command_line(),
        "versions": provenance.versions(),
        "time": provenance.now(),
        "format": job.format,
        "options": {
            **told["options"],
            **{name: value for name, value in given.items() if value != plain[name]},
        },
        "parents": parents,
    }


def description(job: Job, source: Source, parents: list[dict[str, Any]]) -> dict[str, Any]:
    """What a converted dataset says of its source in `extra`."""
    return {"source": {**source.record, "format": job.format, **origin(job.path, parents)}}


def origin(path: Path, parents: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a file its bytes and hash, of a folder how many files and bytes were read."""
    told = {"path": str(path.absolute()), "bytes": sum(entry["bytes"] for entry in parents)}
    if len(parents) == 1 and parents[0].get("file") == told["path"]:
        return {**told, "sha256": parents[0]["sha256"]}
    return {**told, "files": sum(entry.get("files", 1) for entry in parents)}
