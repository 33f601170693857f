"""Followers of live datasets: nothing twice, nothing left out, however often writers die."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.errors import InputError
from rlcli.format import layer
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.follow import Follower
from rlcli.format.writer import Writer

EPISODE = 7


class _Time:
    """A clock that only sleeping moves on, and something that happens during each sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.events: list[object] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)
        if self.events:
            event = self.events.pop(0)
            if callable(event):
                event()

    def clock(self) -> float:
        return self.now


def _follow(dataset: Dataset, time: _Time, **options: object) -> Follower:
    return Follower(dataset, sleep=time.sleep, clock=time.clock, **options)  # type: ignore[arg-type]


def test_what_is_new_is_told_once_and_in_order(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", num_streams=2, segment_rows=16)
    dataset, time = Dataset.open(tmp_path / "ds"), _Time()

    def write(count: int) -> None:
        m.fill(model, count)
        model.writer.flush()

    time.events = [lambda: write(10), None, None, lambda: write(50), model.writer.close]
    total = np.zeros(2, np.int64)
    for news in _follow(dataset, time, until_sealed=True):
        total += news.new_rows
        assert total.tolist() == dataset.stream_rows
        assert news.evicted_rows == (0, 0)
        assert news.generation == dataset.generation
    assert dataset.state == "sealed"
    m.check(dataset, model)


def test_pauses_grow_until_there_is_something(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds")
    dataset, time = Dataset.open(tmp_path / "ds"), _Time()

    def write() -> None:
        model.add(0)
        model.writer.flush()

    time.events = [None, None, None, write, None]
    found = list(_follow(dataset, time, idle_seconds=10.0, shortest=0.5, longest=3.0))
    assert [news.new_rows for news in found] == [(1,)]
    assert time.pauses[:7] == [0.5, 1.0, 2.0, 3.0, 0.5, 1.0, 2.0]
    assert time.now - sum(time.pauses[:4]) == 0.5 + 1 + 2 + 3 + 3 + 3
    model.writer.writer.abort()


def test_a_stop_still_tells_what_was_committed(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", num_streams=1)
    dataset, time = Dataset.open(tmp_path / "ds"), _Time()
    m.fill(model, 5)
    model.writer.flush()
    assert [news.new_rows for news in _follow(dataset, time, stop=lambda: True)] == [(5,)]
    assert time.pauses == []
    model.writer.writer.abort()


def test_streams_that_appear_later_are_followed(tmp_path: Path) -> None:
    options = {"spec": {}, "lineage": {"op": "test"}}
    first = EpisodeWriter(Writer.create(tmp_path / "ds", m.schema_of(m.FLAT), share=True, **options))  # type: ignore[arg-type]
    dataset = Dataset.open(tmp_path / "ds")
    _add(first, 0, 10)
    first.flush()
    assert dataset.refresh().new_rows == (10,)
    second = EpisodeWriter(Writer.join(tmp_path / "ds", lineage={"op": "join"}, num_streams=2))
    _add(second, 1, 20)
    _add(first, 0, 1)
    first.flush()
    second.flush()
    assert dataset.refresh().new_rows == (1, 0, 20)
    _check_rows(dataset)
    second.close()
    first.close()
    assert dataset.refresh().new_rows == (0, 0, 0)
    assert dataset.state == "sealed"


def test_a_follower_of_a_rewound_dataset_says_so(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", num_streams=1, segment_rows=16, chunk_rows=4)
    m.fill(model, 40)
    model.writer.flush()
    dataset = Dataset.open(tmp_path / "ds")
    model.writer.writer.abort()
    Writer.append(tmp_path / "ds", lineage={"op": "again"}, rewind=[20]).close()
    with pytest.raises(InputError, match="taken back"):
        dataset.refresh()


def test_an_empty_segment_of_a_dead_writer_is_let_go(tmp_path: Path) -> None:
    """A segment is published before its first rows are committed; its writer may be killed in between."""
    path = tmp_path / "ds"
    model = m.create(path, num_streams=1, segment_rows=8, chunk_rows=8)
    for _ in range(12):
        model.add(0)
    model.writer.flush()
    journal = max((path / "journal").iterdir())
    os.truncate(journal, 64)
    dataset = Dataset.open(path)
    assert dataset.num_rows == 8
    model.writer.writer.abort()
    writer = EpisodeWriter(Writer.append(path, lineage={"op": "again"}))
    _add(writer, 0, 3)
    writer.close()
    assert dataset.refresh().new_rows == (3,)
    assert dataset.num_rows == Dataset.open(path).num_rows == 11
    assert np.array_equal(dataset.read(("observation",)), Dataset.open(path).read(("observation",)))


def test_an_empty_segment_that_goes_while_it_is_opened_means_to_look_again(tmp_path: Path) -> None:
    path = tmp_path / "ds"
    model = m.create(path, num_streams=1, segment_rows=8, chunk_rows=8)
    for _ in range(8):
        model.add(0)
    model.writer.flush()
    dataset = Dataset.open(path)
    for _ in range(4):
        model.add(0)
    model.writer.flush()
    journal = max((path / "journal").iterdir())
    os.truncate(journal, 64)
    model.writer.writer.abort()

    class TakenOver(layer.Layer):
        def open(self, path_: Path, flags: int, mode: int = 0o666) -> int:
            if path_ == journal:
                with layer.use(layer.Layer()):
                    Writer.append(path, lineage={"op": "again"}).close()
                assert not journal.exists()
            return super().open(path_, flags, mode)

    with layer.use(TakenOver()):
        dataset.refresh()
    assert dataset.num_rows == 8
    assert dataset.generation == Dataset.open(path).generation


def _add(writer: EpisodeWriter, stream: int, rows: int) -> None:
    """Rows whose values follow from their number in the stream."""
    for _ in range(rows):
        s = writer.writer.streams[stream]
        t = s.rows + writer._buffers[stream].rows
        last = t % EPISODE == EPISODE - 1
        writer.add(
            stream,
            observation=np.full(3, t, np.float32),
            action=t % 4,
            reward=float(t),
            terminated=last,
            truncated=False,
            next_observation=np.full(3, -t, np.float32) if last else None,
        )


def _check_rows(dataset: Dataset) -> None:
    """Every row is what its number says, and so is the next value of all that have one."""
    found, unknown = dataset.read_rows(), set(dataset.unknown_next.tolist())
    rows = np.concatenate([np.arange(rows) for rows in dataset.stream_rows])
    assert np.array_equal(found["observation"][:, 0], rows)
    following = np.where(rows % EPISODE == EPISODE - 1, -rows, rows + 1)
    known = np.array([row not in unknown for row in range(len(rows))], bool)
    assert np.array_equal(found["next"]["observation"][known, 0], following[known])


@pytest.mark.parametrize("window", [None, 40])
def test_a_follower_survives_writers_that_are_killed(tmp_path: Path, window: int | None) -> None:
    """Each writer is forked, takes over from the killed one before, and is killed while this process follows:
    rows come in order, without holes, and never go back.
    """
    path, rng = tmp_path / "ds", random.Random(0)
    schema = m.schema_of(m.FLAT)
    Writer.create(
        path, schema, spec={}, lineage={"op": "test"}, durability="process", segment_rows=24, window=window
    ).close()
    dataset = Dataset.open(path, check="none" if window else "touch")
    seen = 0

    def look() -> None:
        nonlocal seen
        news, before = dataset.refresh(), seen
        (seen,) = dataset.stream_rows
        start = dataset.snapshot["starts"][0]
        assert seen >= before
        assert news.new_rows == (seen - max(before, start),)
        rows = dataset.read(("observation",))[:, 0]
        assert np.array_equal(rows, np.arange(start, seen))

    for _ in range(12):
        looks = rng.randrange(1, 30)
        pid = os.fork()
        if pid == 0:
            try:
                writer = EpisodeWriter(
                    Writer.append(path, lineage={"op": "again"}, durability="process"), chunk_rows=4
                )
                while True:
                    _add(writer, 0, 3)
                    writer.flush()
            finally:
                os._exit(1)
        for _ in range(looks):
            look()
        begun = seen
        while seen < begun + looks:
            look()
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status)
        look()
    Writer.append(path, lineage={"op": "last"}).close()
    look()
    assert dataset.state == "sealed"
    if window is None:
        _check_rows(dataset)
