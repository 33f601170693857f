"""Proving a dataset from its newest manifest to every byte, and saying where it is damaged. SPEC.md sections
4 to 9.

Readers stop at the first wrong thing they touch; this looks at everything and goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from rlcli.errors import CorruptError
from rlcli.format import dataset_json, digests, files, folders, generations, snapshot, strictjson, sums, trees
from rlcli.format.checking import commit_hash
from rlcli.format.episode_table import episode_arrays, read_episodes
from rlcli.format.journal import Journal
from rlcli.format.keys import path_of
from rlcli.format.layout import FOLDERS, SegmentPaths
from rlcli.format.manifest import Manifest, Segment
from rlcli.format.mapping import MappedSegment, StreamMap
from rlcli.format.schema import Column, Schema
from rlcli.format.segment_files import expected_files, optional_files
from rlcli.format.sums import BLOCK

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `file` is relative to the dataset; `rows` are logical rows `start, stop`;
    `episodes` the numbers of the episodes that have such rows.
    """

    file: str
    message: str
    block: int | None = None
    rows: tuple[int, int] | None = None
    episodes: tuple[int, ...] = ()


def verify(
    path: str | Path, *, deep: bool = False, progress: Callable[[int], None] | None = None
) -> list[Problem]:
    """Everything that is wrong with a dataset; an empty list proves it sound.

    Compares every byte of every file with its hash, and every manifest with the chain. `deep` also compares
    what the files say with each other: each commit's own hash, the episode tables with the journals, the
    content digests. `progress` is told of bytes that were compared. Raises `InputError` if `path` is no
    dataset and `IncompatibleError` if it is of another version.
    """
    verifier = _Verifier(Path(path), deep, progress or (lambda _: None))
    verifier.run()
    return verifier.problems


class _Noting:
    """A block in which a `CorruptError` becomes a problem."""

    def __init__(self, verifier: _Verifier) -> None:
        self._verifier = verifier

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, CorruptError):
            return False
        self._verifier.note(error)
        return True


class _Verifier:
    def __init__(self, root: Path, deep: bool, progress: Callable[[int], None]) -> None:
        self.root = root
        self.deep = deep
        self.progress = progress
        self.problems: list[Problem] = []
        self.schema: Schema

    def _noting(self) -> _Noting:
        return _Noting(self)

    def note(self, error: CorruptError) -> None:
        """Adds the problem that an error tells of."""
        path = Path(error.path or self.root)
        inside = path.is_relative_to(self.root)
        self._add(Problem(path.relative_to(self.root).as_posix() if inside else str(path), error.message))

    def _add(self, problem: Problem) -> None:
        if not any(known.file == problem.file and known.block == problem.block for known in self.problems):
            self.problems.append(problem)

    def run(self) -> None:
        try:
            identity = dataset_json.load(self.root)
        except CorruptError as err:
            self._add(Problem("dataset.json", err.message))
            return
        newest = None
        for folder in FOLDERS:
            for path in folders.links(self.root / folder):
                self.note(CorruptError(f"{path}: a symbolic link instead of a folder", path=path))
        with self._noting():
            self._check_chain(generations.published(self.root))
        with self._noting():
            numbers = generations.published(self.root)
            newest = generations.load(self.root, identity["uuid"], numbers[-1]) if numbers else None
        journals: dict[str, Journal] = {}
        with self._noting():
            found = snapshot.load(self.root)
            newest, journals = found.manifest, {name: j.state for name, j in found.journals.items()}
            found.close()
        if newest is None:
            return
        self.schema = newest.schema
        ends = {s.stream: s.first + (journals[s.name].rows if s.name in journals else s.rows)
                for s in newest.segments}  # fmt: skip
        begin, stream, start = 0, -1, 0
        for segment in newest.segments:
            if segment.stream != stream:
                begin += ends.get(stream, start) - start
                stream, start = segment.stream, segment.first
                if newest.window is not None:
                    start = max(start, ends[stream] - newest.window)
            known, logical = len(self.problems), begin + segment.first - start
            if segment.sealed:
                self._check_sealed(newest, segment, logical)
            elif segment.name in journals:
                self._check_open(segment, journals[segment.name], logical)
            with self._noting():
                if len(self.problems) > known and not generations.still_lists(self.root, newest, segment):
                    del self.problems[known:]  # it has left, or was replaced, while it was looked at
            self.problems[known:] = [_retained(problem, begin) for problem in self.problems[known:]]

    def _check_chain(self, numbers: list[int]) -> None:
        with self._noting():
            generations.check_without_gap(self.root, numbers)
        expected: Any = None
        for generation in numbers:
            path = generations.path_of(self.root, generation)
            if expected is not None and expected["generation"] != generation - 1:
                expected = None  # the gap is reported already
            with self._noting():
                value, data = strictjson.load_checked(path, "rl-manifest")
                if expected is not None and value.get("parent") != expected:
                    before = generations.path_of(self.root, generation - 1)
                    raise CorruptError(f"{before}: SHA-256 differs from what {path.name} says", path=before)
                expected = {"generation": generation, "sha256": hashlib.sha256(data).hexdigest()}
                continue
            expected = None

    def _check_sealed(self, newest: Manifest, entry: Segment, logical: int) -> None:
        found: Mapping[str, sums.FileSum] = {}
        with self._noting():
            found = sums.load(self.root, entry)
        expected = expected_files(self.schema, entry)
        expected |= dict.fromkeys(optional_files(self.schema, entry) & set(found))
        for name, size in expected.items():
            if found and name not in found:
                self._add(Problem(f"sums/{entry.name}.json", f"does not name {name}"))
            with self._noting():
                named = found.get(name)
                fd = files.open_read(self.root / name, named.bytes if named else size)
                files.close(fd)
        for name in sorted(set(found) - set(expected)):
            self._add(Problem(f"sums/{entry.name}.json", f"names {name}, which is no file of the segment"))
        episodes = None
        with self._noting():
            episodes = read_episodes(SegmentPaths(self.root, entry.name), entry)
        for name, named in found.items():
            if name in expected:
                self._check_blocks(entry, name, named, logical, episodes)
        if self.deep and episodes is not None and not self.problems:
            with self._noting():
                self._check_contents(newest, entry, episodes)

    def _check_blocks(
        self, entry: Segment, name: str, named: sums.FileSum, logical: int, episodes: dict[str, Array] | None
    ) -> None:
        """Compares a file's blocks; where a column's differ, says which rows and episodes that hits."""
        path = self.root / name
        try:
            fd = files.open_read(path, named.bytes)
        except CorruptError:
            return  # reported already
        try:
            for block, expected in enumerate(named.blocks):
                data = files.read_at(fd, min(BLOCK, named.bytes - block * BLOCK), block * BLOCK)
                self.progress(len(data))
                if xxhash.xxh3_64_hexdigest(data) != expected:
                    rows: tuple[int, int] | None = None
                    hit: tuple[int, ...] = ()
                    if (column := self._column(entry, name)) is not None:
                        rows, hit = _hit(entry, column, block, logical, episodes)
                    self._add(Problem(name, f"{path}: block {block} differs from its hash", block, rows, hit))
        finally:
            files.close(fd)

    def _column(self, entry: Segment, name: str) -> Column | None:
        """The plain column that a file of the segment holds."""
        known = {f"segments/{entry.name}/{column.file}": column for column in self.schema.plain}
        return known.get(name)

    def _check_contents(self, newest: Manifest, entry: Segment, episodes: dict[str, Array]) -> None:
        """What the files of a sealed segment say about each other."""
        paths = SegmentPaths(self.root, entry.name)
        mapped = self._map(entry)
        mapped.map_finals(entry.finals)
        if digests.segment_content(mapped, entry.rows, episodes) != entry.content:
            raise CorruptError(
                f"{paths.columns}: content digest differs from the manifest's", path=paths.columns
            )
        journal = Journal(entry.stream, newest.dataset, entry.first, entry.alloc)
        reason = journal.feed(files.read(paths.journal, limit=1 << 40))
        if reason is None and journal.sealed_by is None:
            reason = "no seal record"
        if reason is not None:
            raise CorruptError(f"{paths.journal}: {reason}", path=paths.journal)
        self._check_commits(mapped, journal)
        for name, array in episode_arrays(journal.episodes).items():
            if not np.array_equal(array, episodes[name], equal_nan=array.dtype.kind == "f"):
                path = paths.episodes / path_of((name,))
                raise CorruptError(f"{path}: differs from the journal", path=path)

    def _check_commits(self, mapped: MappedSegment, journal: Journal) -> None:
        for commit in journal.commits:
            if commit_hash(mapped, commit) != commit.hash:
                path = mapped.paths.columns
                stop = commit.first + commit.rows
                raise CorruptError(
                    f"{path}: rows {commit.first} to {stop} differ from their commit", path=path
                )

    def _check_open(self, entry: Segment, journal: Journal, logical: int) -> None:
        with self._noting():
            mapped = self._map(entry)
            mapped.map_finals(journal.finals)
            episodes = episode_arrays(journal.episodes)
            for commit in journal.commits:
                self.progress(commit.rows * self.schema.row_bytes)
                if commit_hash(mapped, commit) != commit.hash:
                    stop = commit.first + commit.rows
                    self._add(
                        Problem(
                            f"segments/{entry.name}",
                            f"{mapped.paths.columns}: rows {commit.first} to {stop} differ from their commit",
                            None,
                            (logical + commit.first, logical + stop),
                            _episodes_in(episodes, entry.first + commit.first, entry.first + stop),
                        )
                    )
        leaves = [(c.key, c.dtype, c.shape) for c in self.schema.plain]
        for relative in trees.meta_files(leaves, entry.alloc):
            with self._noting():
                path = SegmentPaths(self.root, entry.name).columns / relative
                found = files.read(path)
                rows = _rows_of_meta(found, path)
                # a seal writes the final number before it commits the last rows, and may be killed in between
                lawful = journal.rows <= rows <= entry.alloc
                if not lawful or found != trees.meta_files(leaves, rows)[relative]:
                    raise CorruptError(f"{path}: differs from the schema", path=path)

    def _map(self, entry: Segment) -> MappedSegment:
        return StreamMap(self.root, self.schema, capacity=0, single_range=False).add(entry)


def _rows_of_meta(data: bytes, path: Path) -> int:
    """The number of rows that a `meta.json` says, -1 if it says none."""
    shape = strictjson.load(data, path).get("shape")
    return shape[0] if isinstance(shape, list) and shape and type(shape[0]) is int else -1


def _hit(
    entry: Segment, column: Column, block: int, logical: int, episodes: dict[str, Array] | None
) -> tuple[tuple[int, int] | None, tuple[int, ...]]:
    """The logical rows, and the episodes, that have bytes in a block of a column."""
    low = block * BLOCK // column.row_bytes
    high = min(-(-(block + 1) * BLOCK // column.row_bytes), entry.rows)
    if low >= high:
        return None, ()  # behind the last row
    hit = () if episodes is None else _episodes_in(episodes, entry.first + low, entry.first + high)
    return (logical + low, logical + high), hit


def _retained(problem: Problem, begin: int) -> Problem:
    """Without rows below the first of the stream's, which have left its window."""
    if problem.rows is None or problem.rows[0] >= begin:
        return problem
    low, high = begin, problem.rows[1]
    return replace(problem, rows=(low, high) if low < high else None)


def _episodes_in(episodes: dict[str, Array], start: int, stop: int) -> tuple[int, ...]:
    inside = (episodes["start"] < stop) & (episodes["start"] + episodes["length"] > start)
    return tuple(episodes["number"][inside].tolist())
