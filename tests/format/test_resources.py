"""Real limits: one clean error, nothing half-made, committed rows intact."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.errors import ResourceError
from rlcli.format import folders
from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify


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
    for stream in range(2):
        writer.write(stream, {c.key: np.ones((7, *c.shape), c.numpy) for c in writer.schema.plain})
    writer.abort()
    assert writer.stream_rows == rows
    assert Dataset.open(tmp_path / "ds").stream_rows == rows


def test_reading_takes_no_room_of_a_file_system_in_memory() -> None:
    """A page of a hole that is read through a map would: on a full one that is SIGBUS."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="rl-holes-", dir=shared if shared.is_dir() else None))
    try:
        model = m.create(folder / "ds")  # 4,096 rows of room
        m.fill(model, 100)
        model.writer.close()
        room = folders.space(folder)
        m.read_everything(folder / "ds")
        m.read_everything(folder / "ds", check="none")
        assert verify(folder / "ds", deep=True) == []
        with Dataset.open(folder / "ds") as dataset:
            dataset.open_segment(dataset.segments[0].name)
        assert folders.space(folder) == room
    finally:
        shutil.rmtree(folder)
