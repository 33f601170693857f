"""Failing calls, folders that cannot be written: a clean error, nothing lost, and the next writer goes on."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import faults
import known_rows
from known_rows import KnownWriter

from rlcli.format import layer
from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify
from rlcli.format.writer import Writer


def test_any_call_may_fail(memory_path: Path) -> None:
    """A slice of `make soak`, which has every call: calls of the C library, native code's included."""
    acts = ("create", "append after", "share a", "recover a", "garbage", "convert SOURCE")
    verbs = ("DS MORE -o", "compact", "unpack")
    found = faults.run(memory_path, step=499, first=19, names=[*acts, *verbs])
    assert found["violations"] == []
    assert found["cases"] > 50
    failed = found["failed calls"].keys()
    assert {"open", "pread64", "pwrite64", "fstat64", "close"} <= failed
    assert {"fsync", "fdatasync"} & failed


def test_a_close_that_fails_is_not_done_again(memory_path: Path) -> None:
    """The number of a closed descriptor may be another file's by then."""
    known = KnownWriter(
        Writer.create(memory_path / "ds", known_rows.schema(heap=True), spec={}, lineage={"op": "test"})
    )
    known.write(0, 30)
    known.commit()
    closing = _FailingClose()
    with layer.use(closing), pytest.raises(OSError, match="Input/output"):
        known.close()
    known.writer.abort()
    assert len(closing.closed) == len(set(closing.closed)) > 10


class _FailingClose(layer.Layer):
    """From the first link on every close reports an error; descriptors are not given out again meanwhile."""

    def __init__(self) -> None:
        self.closed: list[int] = []
        self.is_published = False

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        self.is_published = True

    def close(self, fd: int, path: Path | None = None) -> None:
        if not self.is_published:
            super().close(fd, path)
            return
        self.closed.append(fd)
        raise OSError(errno.EIO, "Input/output error")


class _ReadOnly(layer.Layer):
    """As a file system that is mounted read-only; permissions do not hold for everybody."""

    def _refuse(self, *args: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    pwrite = fallocate = punch = truncate = link = rename = unlink = mkdir = rmdir = _refuse

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        if flags & 0o103:  # to be written, or created
            self._refuse()
        return super().open(path, flags, mode)


def test_a_read_only_dataset_is_read_and_not_written(memory_path: Path) -> None:
    path = memory_path / "ds"
    known = KnownWriter(
        Writer.create(path, known_rows.schema(heap=True), spec={}, lineage={"op": "test"}, segment_rows=8)
    )
    known.write(0, 30)
    known.close()
    with layer.use(_ReadOnly()):
        with Dataset.open(path) as dataset:
            assert known_rows.check(dataset) == 30
        assert verify(path, deep=True) == []
        with pytest.raises(OSError, match="Read-only"):
            Writer.append(path, lineage={"op": "more"})
    Writer.append(path, lineage={"op": "more"}).close()
    assert verify(path, deep=True) == []
