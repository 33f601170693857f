"""Writers on file systems whose locks do less than those of a disk of one's own: network file systems."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import known_rows
from known_rows import KnownWriter

from rlcli.errors import InputError, RLError
from rlcli.format import layer
from rlcli.format.dataset import Dataset
from rlcli.format.generations import GenerationTaken
from rlcli.format.recover import recover
from rlcli.format.verify import verify
from rlcli.format.writer import Writer


def _create(path: Path, **options: Any) -> Writer:
    return Writer.create(
        path, known_rows.schema(), spec={}, lineage={"op": "test"}, durability="process", segment_rows=8,
        **options,
    )  # fmt: skip


class LocksOfBytes(layer.Layer):
    """`flock` is a lock of bytes there, as over NFS: an exclusive one needs a descriptor for writing."""

    def flock(self, fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        super().flock(fd, operation)


class NoLocks(layer.Layer):
    """There are none at all."""

    def flock(self, fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_where_a_lock_is_one_of_bytes_writers_write(tmp_path: Path) -> None:
    path = tmp_path / "ds"
    with layer.use(LocksOfBytes()):
        writer = KnownWriter(_create(path))
        writer.write(0, 20)
        with pytest.raises(RLError, match="another writer"):
            Writer.append(path, lineage={"op": "again"})
        writer.close()
        writer = KnownWriter(Writer.append(path, lineage={"op": "again"}))
        writer.write(0, 5)
        writer.commit()
        writer.writer.abort()
        recover(path)
    with Dataset.open(path) as dataset:
        assert known_rows.check(dataset) == 25


def test_where_there_are_no_locks_nobody_writes(tmp_path: Path) -> None:
    _create(tmp_path / "ds").close()
    acts: list[Callable[[], object]] = [
        lambda: _create(tmp_path / "other"),
        lambda: Writer.append(tmp_path / "ds", lineage={"op": "again"}),
        lambda: Writer.join(tmp_path / "ds", lineage={"op": "again"}),
    ]
    for act in acts:
        with layer.use(NoLocks()), pytest.raises(InputError, match="no locks"):
            act()
    assert sorted(found.name for found in tmp_path.iterdir()) == ["ds"]
    with layer.use(NoLocks()):
        assert verify(tmp_path / "ds") == []


class AskedAgain(layer.Layer):
    """A server makes a name, its answer is lost, and it is asked again."""

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        super().link(source, target)


def test_a_name_that_was_made_before_the_answer_was_lost(tmp_path: Path) -> None:
    with layer.use(AskedAgain()):
        writer = KnownWriter(_create(tmp_path / "ds"))
        for _ in range(5):
            writer.write(0, 6)
            writer.commit()
        writer.close()
    with Dataset.open(tmp_path / "ds") as dataset:
        assert known_rows.check(dataset) == 30
    assert not [found for found in (tmp_path / "ds" / "manifests").iterdir() if found.name.startswith(".")]


class Between(layer.Layer):
    """The lock for publishing keeps nobody out, and at call number `at` another host publishes."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self.at, self.act, self.calls, self.passing = at, act, 0, -1

    def __getattribute__(self, name: str) -> Any:
        if name in ("pwrite", "link", "open", "unlink", "names", "stat", "truncate", "flock"):
            self.calls += 1
            if self.calls == self.at:
                with layer.use(Between(0, self.act)):
                    self.act()
        return super().__getattribute__(name)

    def flock(self, fd: int, operation: int) -> None:
        if not os.readlink(f"/proc/self/fd/{fd}").endswith("publish.lock"):
            super().flock(fd, operation)


@pytest.mark.parametrize("seals", [False, True])
def test_two_publish_at_once_and_no_commit_is_lost(seals: bool, tmp_path: Path) -> None:
    """`link` decides: the later one begins again, or says so and stops where it had sealed a segment; what
    either has committed is there, at the latest after a recovery.
    """
    stopped, at = 0, 1
    while True:
        path = tmp_path / f"ds{at}"
        first = KnownWriter(_create(path, share=True))
        second = KnownWriter(Writer.join(path, lineage={"op": "join"}))
        done = [0, 0]
        for number, writer in enumerate((first, second)) if seals else ():
            writer.write(0, 4)
            writer.commit()
            done[number] = 4

        def publish(second: KnownWriter = second, done: list[int] = done) -> None:
            second.write(0, 5)
            second.commit()
            done[1] += 5

        between = Between(at, publish)
        with layer.use(between):
            first.write(0, 5)
            try:
                first.commit()
                done[0] += 5
            except GenerationTaken:
                stopped += 1
        for writer in (first, second):
            writer.writer.abort()
        recover(path)
        with Dataset.open(path) as dataset:
            assert all(n >= told for n, told in zip(dataset.stream_rows, done, strict=True))
            known_rows.check(dataset)
        assert verify(path, deep=True) == []
        if between.calls < at:
            break
        at += 1
    assert at > 10
    assert bool(stopped) == seals
