"""Full disks and failing calls: one clean error, nothing half-made, committed rows intact."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.errors import ResourceError
from rlcli.format import files
from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

CALLS = ("create", "write_at", "sync", "link_new", "replace", "truncate", "punch", "write_new", "sync_folder")


class Failing:
    """Lets the n-th call of the file layer, and every later one that needs space, fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
        self.left = -1
        self.error = error
        for name in CALLS:
            monkeypatch.setattr(files, name, self._wrap(getattr(files, name)))

    def _wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*args: Any, **kwargs: Any) -> Any:
            if self.left == 0:
                raise OSError(self.error, os.strerror(self.error))
            self.left -= 1
            return call(*args, **kwargs)

        return failing


def _run(path: Path) -> list[list[m.Step]]:
    model = m.create(path, segment_rows=12, chunk_rows=4, durability="commit")
    try:
        for _ in range(3):
            m.fill(model, 10)
            model.writer.flush()
        model.writer.close()
    except BaseException:
        model.writer.writer.close()
        raise
    return model.streams


def test_an_error_at_any_call_leaves_the_committed_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = Failing(monkeypatch, errno.ENOSPC)
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # the calls are counted, the disk need not turn
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)
    expected = _run(tmp_path / "whole")
    model = m.Model.__new__(m.Model)
    model.streams = expected
    finished = failures = 0
    for call in range(0, 2000, 4):
        path = tmp_path / f"{call}"
        layer.left = call
        try:
            _run(path)
            finished += 1
        except ResourceError as err:
            failures += "No space left" in err.message
        layer.left = -1
        if path.exists():
            assert verify(path) == [], call
            with Dataset.open(path) as dataset:
                rows = dataset.stream_rows
                m.check(dataset, model, rows)
            Writer.append(path, lineage={"op": "again"}).close()
            with Dataset.open(path) as dataset:
                assert (dataset.state, dataset.stream_rows) == ("sealed", rows)
        assert not [name for name in os.listdir(tmp_path) if ".tmp-" in name]
        if finished:
            break
    assert failures > 30
    assert finished


def test_a_failed_sync_ends_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = m.create(tmp_path / "ds", durability="commit")
    m.fill(model, 5)
    model.writer.flush()
    m.fill(model, 5)

    def sync(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "sync", sync)
    with pytest.raises(OSError, match="Input/output"):
        model.writer.flush()
    monkeypatch.undo()
    with pytest.raises(ValueError, match="failed"):
        model.writer.flush()
    model.writer.writer.close()
    m.check(Dataset.open(tmp_path / "ds"), model, [5])


@pytest.fixture
def file_size_limit() -> Iterator[Callable[[int], None]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def test_a_real_limit_on_file_size(tmp_path: Path, file_size_limit: Callable[[int], None]) -> None:
    model = m.create(tmp_path / "ds", segment_rows=64)
    m.fill(model, 50)
    model.writer.flush()
    file_size_limit(600)  # less than any column of the next segment
    with pytest.raises(ResourceError, match="too large"):
        m.fill(model, 2000)
    model.writer.writer.close()
    file_size_limit(resource.RLIM_INFINITY)
    assert sorted(os.listdir(tmp_path / "ds" / "segments")) == ["w00-000000000000"]
    m.check(Dataset.open(tmp_path / "ds"), model, Dataset.open(tmp_path / "ds").stream_rows)


def test_creating_without_space_leaves_nothing(
    tmp_path: Path, file_size_limit: Callable[[int], None]
) -> None:
    file_size_limit(100)
    with pytest.raises(ResourceError):
        m.create(tmp_path / "ds")
    file_size_limit(resource.RLIM_INFINITY)
    assert os.listdir(tmp_path) == []


def test_rows_that_were_never_committed_are_not_counted(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", num_streams=2)
    writer = model.writer.writer
    m.fill(model, 40)
    model.writer.flush()
    rows = writer.stream_rows
    m.fill(model, 40)
    for stream, buffer in enumerate(model.writer._buffers):
        buffer.complete(buffer.rows)
        writer.write_arrays(stream, [array[: buffer.rows] for array in buffer.arrays], buffer.rows)
    writer.abort()
    assert writer.stream_rows == rows
    assert Dataset.open(tmp_path / "ds").stream_rows == rows
