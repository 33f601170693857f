"""Several D4RL files in a folder as one source: a piece per file, in the order of their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcli.datasets.contract import Advance, Part, Piece, Report
from rlcli.errors import IncompatibleError
from rlcli.format.schema import Schema
from rlcli.format.specs import Box, Composite, Discrete, Spec, spec_from_json

if TYPE_CHECKING:
    from rlcli.datasets.d4rl import D4RLSource

SUFFIXES = (".hdf5", ".h5")


def files_of(folder: Path) -> list[Path]:
    """The HDF5 files of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


class D4RLFolder:
    """Opened files with the same columns. See `contract.Source`.

    The record has one entry per file and no image of it: the way back makes one new file.
    """

    def __init__(
        self, sources: Sequence[D4RLSource], again: Callable[[D4RLSource, set[str]], D4RLSource]
    ) -> None:
        inexact = set().union(*(source.scan.inexact for source in sources))
        self.sources = [
            source if source.scan.inexact == inexact else again(source, inexact) for source in sources
        ]
        first = self.sources[0]
        self.schema: Schema = first.schema
        for source in self.sources[1:]:
            if source.schema != first.schema:
                raise IncompatibleError(
                    f"{source.path}: its columns differ from those of {first.path}; convert them one by one",
                    path=source.path,
                )
        self.files: Sequence[Path] = [source.path for source in self.sources]
        self.pieces: Sequence[Piece] = [source.pieces[0] for source in self.sources]
        self.plan: dict[str, Any] = {}
        self.report = self._report()
        self.spec: dict[str, Any] = {
            **first.spec,
            "env": self._same("env"),
            "observation": _widest([source.spec["observation"] for source in self.sources]),
            "action": _widest([source.spec["action"] for source in self.sources]),
        }
        scores = self._same("reference_scores")
        self.spec.pop("reference_scores", None)
        if scores is not None:
            self.spec["reference_scores"] = scores
        self.record: dict[str, Any] = {
            "format": "d4rl",
            "files": [
                {"name": source.path.name, "num_rows": source.num_rows, "other": source.layout.others}
                for source in self.sources
            ],
            "columns": first.record["columns"],
            "episode_ends": first.record["episode_ends"],
        }

    def parts(self, piece: Piece, report: Report, advance: Advance) -> Iterator[Part]:
        """The rows of one file. Raises what `D4RLSource.parts` raises."""
        source = self.sources[self.pieces.index(piece)]
        return source.parts(source.pieces[0], report, advance)

    def _same(self, name: str) -> Any:
        """What all files say, None where they differ."""
        told = [source.spec.get(name) for source in self.sources]
        return told[0] if all(value == told[0] for value in told) else None

    def _report(self) -> Report:
        report = Report()
        for source in self.sources:
            report.add(source.report)
        report.details["other"] = {}
        env = self._same("env")
        report.details["env"] = None if env is None else env["id"]
        names = {
            source.spec["env"]["id"] if source.spec["env"] else source.path.name for source in self.sources
        }
        if len(names) > 1 and env is None:
            report.remarks.append(f"files of several environments: {', '.join(sorted(names))}")
        return report


def _widest(specs: Sequence[Any]) -> Any:
    """A spec that holds the values of all: bounds that differ are left out, the largest choice counts."""

    def join(specs: Sequence[Spec]) -> Spec:
        first = specs[0]
        if isinstance(first, Composite):
            parts = [spec for spec in specs if isinstance(spec, Composite)]
            return Composite({name: join([spec.fields[name] for spec in parts]) for name in first.fields})
        if isinstance(first, Discrete):
            return Discrete(max(spec.n for spec in specs if isinstance(spec, Discrete)))
        if isinstance(first, Box) and any(spec != first for spec in specs):
            return Box(first.shape, first.dtype)
        return first

    return join([spec_from_json(spec) for spec in specs]).to_json()
