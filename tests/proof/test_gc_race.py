"""Garbage is collected beside writers and readers: before calls of one, the other does all it does; before
every single one with `-m slow`.

The other stands for another process: it has descriptors of its own, so locks hold it off as they would. Where
it would have to wait, it comes later.
"""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import known_rows
from kills import CALLS
from known_rows import KnownWriter

from rlcli.format import layer
from rlcli.format.dataset import Dataset
from rlcli.format.gc import collect_garbage
from rlcli.format.layout import SegmentPaths
from rlcli.format.recover import orphans
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

NOBODYS = "w09-000000000777"  # of a stream that no manifest has
ITS_OWN = "w00-000000009999"  # of a stream that is being written
WINDOWS = pytest.mark.parametrize("window", [None, 9])
EVERY = pytest.mark.parametrize(
    ("every", "phase"), [(13, 4), *(pytest.param(n, n // 2, marks=pytest.mark.slow) for n in (1, 3))]
)


class Waits(Exception):
    """Another process holds the lock."""


class Impatient(layer.Layer):
    """Says so where it would wait for a lock."""

    def flock(self, fd: int, operation: int) -> None:
        try:
            super().flock(fd, operation | fcntl.LOCK_NB)
        except BlockingIOError as err:
            if operation & fcntl.LOCK_NB:
                raise
            raise Waits from err


class Between(layer.Layer):
    """Before every so manyth call somebody else acts. `acted` and `waited` count how that ended."""

    def __init__(self, other: Callable[[], object], every: int, phase: int) -> None:
        self.other, self.every, self.calls = other, every, -phase
        self.acted = self.waited = 0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name in CALLS:
            if self.calls % self.every == 0:
                self._act()
            self.calls += 1
        return found

    def _act(self) -> None:
        try:
            with layer.use(Impatient()):
                self.other()
            self.acted += 1
        except Waits:
            self.waited += 1


def _litter(path: Path, name: str) -> None:
    """What a killed writer leaves of a segment that it did not publish."""
    paths = SegmentPaths(path, name)
    for folder in (paths.columns, paths.finals):
        folder.mkdir(exist_ok=True)
        (folder / "observation.memmap").write_bytes(bytes(4096))
    paths.journal.write_bytes(b"")


def _shared(path: Path, window: int | None) -> KnownWriter:
    """The writer of stream 0, whose segments are full after five rows."""
    return KnownWriter(
        Writer.create(
            path, known_rows.schema(heap=True), spec={}, lineage={"op": "test"}, segment_rows=5,
            window=window, share=True, durability="process",
        )
    )  # fmt: skip


def _right(path: Path, rows: list[int], window: int | None) -> None:
    with Dataset.open(path) as dataset:
        assert dataset.stream_rows == rows
        retained = [row if window is None else min(row, window) for row in rows]
        assert known_rows.check(dataset) == sum(retained)
    assert verify(path, deep=True) == []


@WINDOWS
@EVERY
def test_at_every_call_of_writers(every: int, phase: int, window: int | None, memory_path: Path) -> None:
    """One commits, one joins, is killed, another takes over: the garbage of nobody goes, nothing else."""
    path = memory_path / "ds"
    first = _shared(path, window)
    follower = Dataset.open(path)

    def collect() -> None:
        _litter(path, NOBODYS)
        report = collect_garbage(path, grace_seconds=-1)
        assert NOBODYS not in orphans(path, follower.manifest)
        assert {Path(removed).stem for removed in report.removed} >= {NOBODYS}
        follower.refresh()
        known_rows.check(follower)

    between = Between(collect, every, phase)
    with layer.use(between):
        _write(first, [4, 3, 6])
        killed = KnownWriter(Writer.join(path, lineage={"op": "join"}))
        _write(killed, [3, 4])
        killed.write(0, 7)  # in segments that it has not published
        killed.writer._lock.close()
        last = KnownWriter(Writer.join(path, lineage={"op": "join"}, num_streams=2))
        _write(last, [6, 2])
        for writer in (first, last):
            writer.close()
    follower.close()
    assert between.acted > 50 // every
    assert between.waited > 50 // every  # while one of them publishes
    _right(path, [13, 15, 8], window)


def _write(known: KnownWriter, commits: list[int]) -> None:
    for rows in commits:
        for stream in range(len(known.writer.streams)):
            known.write(stream, rows)
        known.commit()


@WINDOWS
@EVERY
def test_writers_and_readers_at_every_call_of_it(
    every: int, phase: int, window: int | None, memory_path: Path
) -> None:
    """Rows come and go, readers come and follow, while it works; what a living writer has stays."""
    path = memory_path / "ds"
    known = _shared(path, window)
    _write(known, [7])
    follower = Dataset.open(path)

    def others() -> None:
        known.write(0, 1)
        follower.refresh()
        with Dataset.open(path) as stranger:
            for reader in (follower, stranger):
                known_rows.check(reader)
        Writer.join(path, lineage={"op": "join"}).close()
        known.commit()

    between = Between(others, every, phase)
    for name in (NOBODYS, ITS_OWN):
        _litter(path, name)
    with layer.use(between):
        report = collect_garbage(path, grace_seconds=-1)
    assert {Path(removed).stem for removed in report.removed} == {NOBODYS}
    assert ITS_OWN in report.kept
    known.commit()
    assert between.acted
    assert between.waited > 50 // every
    rows = known.writer.stream_rows[0]
    assert rows == 7 + between.acted + between.waited
    follower.close()
    known.close()
    _right(path, [rows, 0], window)


@WINDOWS
def test_at_every_call_of_readers(window: int | None, memory_path: Path) -> None:
    """Beside a writer: who opens, follows or verifies meanwhile finds all as if nobody collected."""
    path = memory_path / "ds"
    known = _shared(path, window)
    _write(known, [4, 3])
    follower = Dataset.open(path)
    _write(known, [6, 9])
    known.write(0, 8)

    def collect() -> None:
        _litter(path, NOBODYS)
        collect_garbage(path, grace_seconds=-1)

    between = Between(collect, 3, 0)
    with layer.use(between):
        with Dataset.open(path) as dataset:
            known_rows.check(dataset)
        follower.refresh()
        known_rows.check(follower)
        assert verify(path, deep=True) == []
    assert between.acted > 30
    assert not between.waited
    follower.close()
    known.close()
    _right(path, [30], window)
