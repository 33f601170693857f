"""kill -9, again and again: every committed row is there, once, in order, whoever reads and when."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import known_rows
from kills import Kills
from known_rows import KnownWriter

from rlcli.format import layer
from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify
from rlcli.format.writer import Writer


@pytest.mark.parametrize("seed", [0, 1])
def test_a_hundred_kills_lose_nothing(memory_path: Path, seed: int) -> None:
    run = Kills(memory_path, random.Random(seed))
    run.run(100)
    assert run.violations == []
    assert run.counts["kills"] >= 100
    assert run.counts["rows"] > 1000


def _create(path: Path, **options: Any) -> KnownWriter:
    heap = options.pop("heap", False)
    options = {"segment_rows": 16, "durability": "process", **options}
    return KnownWriter(
        Writer.create(path, known_rows.schema(heap=heap), spec={}, lineage={"op": "test"}, **options)
    )


def _write(writer: KnownWriter, rows: int) -> None:
    for _ in range(rows):
        writer.write(0, 1)
        writer.commit()


def test_what_has_left_a_window_needs_no_sync(tmp_path: Path) -> None:
    writer = _create(tmp_path / "ds", window=20)
    _write(writer, 100)
    writer.commit(sync=True)
    writer.close()
    assert verify(tmp_path / "ds", deep=True) == []


@pytest.mark.parametrize("check", ["touch", "none"])
def test_a_reader_of_a_window_keeps_its_heaps_and_episodes(tmp_path: Path, check: Any) -> None:
    writer = _create(tmp_path / "ds", window=40, heap=True)
    _write(writer, 60)
    with Dataset.open(tmp_path / "ds", check=check) as dataset:
        _write(writer, 30)
        dataset.refresh()  # what was the open segment is read by name no more
        _write(writer, 200)
        assert known_rows.check(dataset) == 40
        dataset.refresh()
        assert known_rows.check(dataset) == 40
    writer.close()


def test_a_reader_of_a_log_keeps_a_segment_that_a_recovery_replaced(tmp_path: Path) -> None:
    """A cut episode whose last row is a sealed segment's is noted in a copy of that segment."""
    path = tmp_path / "ds"
    writer = _create(path, segment_rows=9)
    _write(writer, 9)
    assert not known_rows.ends(known_rows.identities(0, 8, 9)).any()
    writer.write(0, 1)
    writer.writer._publisher.publish(writer.writer.streams, 0)  # killed before the commit that follows
    writer.writer.abort()
    reader = Dataset.open(path)
    assert [segment.sealed for segment in reader.segments] == [True, False]
    Writer.append(path, lineage={"op": "again"}).close()
    assert reader.segments[0].name not in {segment.name for segment in Dataset.open(path).segments}
    assert known_rows.check(reader) == 9
    reader.refresh()
    assert known_rows.check(reader) == 9
    assert verify(path, deep=True) == []


@pytest.mark.parametrize("heir", ["joins", "publishes"])
def test_a_lock_that_outlives_its_dead_writer_for_a_moment_hides_nothing(tmp_path: Path, heir: str) -> None:
    """A dying process closes its descriptors one by one: the publish lock may go before a stream's."""
    path = tmp_path / "ds"
    alive = _create(path, share=True)
    pid = os.fork()
    if pid == 0:
        try:
            dying = KnownWriter(Writer.join(path, lineage={"op": "join"}))
            _write(dying, 10)
            with layer.use(_DyingAtLink()):
                _write(dying, 10)
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    assert any(name.startswith(".tmp-") for name in os.listdir(path / "manifests"))
    fd = os.open(path / "locks" / "w01.lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    if heir == "joins":
        Writer.join(path, lineage={"op": "join"}).close()
    else:
        _write(alive, 1)
    os.close(fd)
    alive.close()
    with Dataset.open(path) as dataset:
        assert dataset.stream_rows[1] == 16
        known_rows.check(dataset)
    Writer.append(path, lineage={"op": "again"}).close()
    assert verify(path, deep=True) == []


class _DyingAtLink(layer.Layer):
    def link(self, source: Path, target: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
