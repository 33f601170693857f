"""Several writers at once: each has streams of its own, dead ones are taken over, readers see no seam."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import struct
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import killing
import model as m

from rlcli.errors import BusyError
from rlcli.format import generations, layer
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.recover import recover
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

EPISODE = 7


def _create(path: Path, **options: Any) -> Writer:
    options = {"num_streams": 1, "segment_rows": 24, "share": True, **options}
    return Writer.create(path, m.schema_of(m.FLAT), spec={}, lineage={"op": "test"}, **options)


def _add(writer: EpisodeWriter, stream: int, rows: int) -> None:
    """Rows whose values follow from the stream's number and the row, so that any prefix can be checked."""
    s = writer.writer.streams[stream]
    for t in range(s.rows, s.rows + rows):
        last = t % EPISODE == EPISODE - 1
        writer.add(
            stream,
            observation=np.full(3, t + 10_000 * s.number, np.float32),
            action=t % 4,
            reward=float(t),
            terminated=last,
            truncated=False,
            next_observation=np.full(3, -t, np.float32) if t % EPISODE == EPISODE - 1 else None,
        )


def _check(dataset: Dataset) -> None:
    start = 0
    observation = dataset.read(("observation",))
    for stream, rows in enumerate(dataset.stream_rows):
        assert np.array_equal(observation[start : start + rows, 0], np.arange(rows) + 10_000 * stream)
        start += rows
    table = dataset.episodes
    for stream in range(len(dataset.stream_rows)):
        numbers = table.number[table.stream == stream]
        assert len(set(numbers.tolist())) == len(numbers)


def _join(path: Path, num_streams: int = 1) -> EpisodeWriter:
    return EpisodeWriter(Writer.join(path, lineage={"op": "join"}, num_streams=num_streams), chunk_rows=64)


def test_writers_side_by_side_each_have_their_streams(tmp_path: Path) -> None:
    first = EpisodeWriter(_create(tmp_path / "ds"), chunk_rows=64)
    second, third = _join(tmp_path / "ds", 2), _join(tmp_path / "ds")
    assert [[s.number for s in w.writer.streams] for w in (first, second, third)] == [[0], [1, 2], [3]]
    for count in (5, 30, 1, 60):
        for writer in (first, second, third):
            for stream in range(len(writer.writer.streams)):
                _add(writer, stream, count)
                writer.flush()
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.stream_rows == [96] * 4
        _check(dataset)
    for writer in (second, first, third):
        writer.close()
    with Dataset.open(tmp_path / "ds") as dataset:
        assert (dataset.state, dataset.num_rows) == ("sealed", 4 * 96)
        _check(dataset)
    assert verify(tmp_path / "ds", deep=True) == []


def test_a_closed_writers_stream_is_gone_on_with(tmp_path: Path) -> None:
    first, second = EpisodeWriter(_create(tmp_path / "ds"), chunk_rows=64), _join(tmp_path / "ds")
    _add(first, 0, 10)
    _add(second, 0, 10)
    first.close()
    third = _join(tmp_path / "ds")
    assert [s.number for s in third.writer.streams] == [0]
    _add(third, 0, 4)
    third.close()
    second.close()
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.stream_rows == [14, 10]
        _check(dataset)


def test_an_exclusive_writer_and_sharing_ones_exclude_each_other(tmp_path: Path) -> None:
    alone = _create(tmp_path / "alone", share=False)
    owner = f"another writer has it open \\(process {os.getpid()} on host .+\\)"
    with pytest.raises(BusyError, match=owner):
        Writer.join(tmp_path / "alone", lineage={})
    alone.close()
    shared = _create(tmp_path / "shared")
    with pytest.raises(BusyError, match=owner):
        Writer.append(tmp_path / "shared", lineage={})
    with pytest.raises(BusyError):
        recover(tmp_path / "shared")
    shared.close()
    Writer.append(tmp_path / "shared", lineage={}).close()


def test_a_dead_writers_streams_are_recovered_by_who_joins_next(tmp_path: Path) -> None:
    alive = EpisodeWriter(_create(tmp_path / "ds"), chunk_rows=64)
    dead = _join(tmp_path / "ds", 2)
    _add(alive, 0, 10)
    alive.flush()
    _add(dead, 0, 30)
    _add(dead, 1, 9)
    dead.flush()
    dead.writer.abort()
    heir = _join(tmp_path / "ds")
    assert heir.writer.streams[0].number == 1
    newest = generations.load_newest(tmp_path / "ds", heir.writer._publisher.manifest.dataset)
    assert [stream["owner"] is None for stream in newest.streams] == [False, False, True]
    assert [entry["op"] for entry in newest.lineage] == ["test", "join", "recover", "join"]
    _add(heir, 0, 5)
    _add(alive, 0, 20)
    heir.close()
    alive.close()
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.stream_rows == [30, 35, 9]
        assert sorted(dataset.episodes.stream[dataset.episodes.cut].tolist()) == [0, 1, 2]
        _check(dataset)
    assert verify(tmp_path / "ds", deep=True) == []


class _Dying(layer.Layer):
    """Ends the process at a `link`, before or after it."""

    def __init__(self, after: bool) -> None:
        self.after = after

    def link(self, source: Path, target: Path) -> None:
        if self.after:
            super().link(source, target)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("heirs", [0, 1])
def test_killed_while_publishing(tmp_path: Path, after: bool, heirs: int) -> None:
    """The seal record of a generation that never came is cut by the next who publishes."""
    path = tmp_path / "ds"
    alive = EpisodeWriter(_create(path), chunk_rows=64)
    pid = os.fork()
    if pid == 0:
        try:
            dying = _join(path)
            _add(dying, 0, 20)
            dying.flush()
            with layer.use(_Dying(after)):
                _add(dying, 0, 20)
                dying.flush()
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    reader = Dataset.open(path)
    _check(reader)
    before = reader.stream_rows[1]
    assert before in (20, 24)  # rows that the seal committed are there, those of the new segment are not
    for _ in range(heirs):
        _join(path).close()
    _add(alive, 0, 30)
    alive.flush()
    assert not [name for name in os.listdir(path / "manifests") if name.startswith(".tmp-")]
    reader.refresh()
    _check(reader)
    assert reader.stream_rows == [30, before]
    with Dataset.open(path) as dataset:
        _check(dataset)
    alive.close()
    heir = _join(path, 2)
    _add(heir, 1, 3)
    heir.close()
    reader.refresh()
    assert reader.stream_rows == [30, before + 3]
    _check(reader)
    assert verify(path, deep=True) == []


def test_a_writer_that_fails_while_publishing_lets_its_streams_go(tmp_path: Path) -> None:
    class Full(layer.Layer):
        def link(self, source: Path, target: Path) -> None:
            raise OSError(5, "Input/output error")

    first, second = EpisodeWriter(_create(tmp_path / "ds"), chunk_rows=64), _join(tmp_path / "ds")
    _add(second, 0, 20)
    second.flush()
    _add(second, 0, 20)
    with layer.use(Full()), pytest.raises(OSError, match="Input"):
        second.flush()
    _add(first, 0, 30)
    first.flush()
    third = _join(tmp_path / "ds")
    assert third.writer.streams[0].number == 1
    second.writer.abort()  # must not touch what is another's now
    _add(third, 0, 30)
    third.close()
    first.close()
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.stream_rows[0] == 30
        _check(dataset)
    assert verify(tmp_path / "ds", deep=True) == []


def test_a_taken_generation_is_rebased_on_where_locks_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lockless(layer.Layer):
        def flock(self, fd: int, operation: int) -> None:
            pass

    path = tmp_path / "ds"
    first, second = EpisodeWriter(_create(path), chunk_rows=64), _join(path)
    publish = generations.publish

    def beaten(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(generations, "publish", publish)
        _add(first, 0, 5)
        first.flush()
        return publish(*args, **kwargs)

    _add(second, 0, 5)
    monkeypatch.setattr(generations, "publish", beaten)
    with layer.use(Lockless()):
        second.flush()
    generation = second.writer.generation
    second.close()
    first.close()
    with Dataset.open(path) as dataset:
        assert (dataset.stream_rows, dataset.generation) == ([5, 5], generation + 2)
    assert verify(path, deep=True) == []


def test_a_forked_child_keeps_no_lock_and_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "ds"
    writer = EpisodeWriter(_create(path, share=False), chunk_rows=64)
    _add(writer, 0, 3)
    writer.flush()
    context = multiprocessing.get_context("fork")
    told, tell = context.Pipe()
    hold, held = context.Pipe()

    def child() -> None:
        try:
            writer.flush()
        except ValueError as err:
            tell.send(str(err))
        writer.writer.abort()
        held.recv()

    process = context.Process(target=child)
    process.start()
    assert "another process's" in told.recv()
    _add(writer, 0, 3)
    writer.flush()
    writer.writer.abort()
    Writer.append(path, lineage={}).close()  # though the child is alive
    hold.send(None)
    process.join()
    assert Dataset.open(path).stream_rows == [6]


def _write_for_ever(path: Path, told: Path, rng: random.Random) -> None:
    """Joins with one or two streams and tells, after each commit, the rows of each stream."""
    writer = _join(path, rng.randrange(1, 3))
    with told.open("r+b") as file:
        while True:
            for stream in range(len(writer.writer.streams)):
                _add(writer, stream, rng.randrange(6))
            writer.flush()
            for s in writer.writer.streams:
                file.seek(8 * s.number)
                file.write(struct.pack("<Q", s.committed))
                file.flush()


def test_killing_writers_that_share(tmp_path: Path) -> None:
    """Three writers at a time, each killed at random; a follower never sees a wrong or vanished row."""
    path, told = tmp_path / "ds", tmp_path / "told"
    _create(path, durability="process").close()
    told.write_bytes(bytes(8 * 64))
    rng = random.Random(3)
    alive: list[killing.Fork] = []
    follower = Dataset.open(path)
    before: list[int] = []
    for seed in range(36):
        alive.append(killing.Fork(partial(_write_for_ever, path, told, random.Random(seed))))
        if len(alive) > 2:
            time.sleep(rng.uniform(0.005, 0.05))
            alive.pop(rng.randrange(len(alive))).kill()
        follower.refresh()
        _check(follower)
        rows = follower.stream_rows
        assert all(now >= then for then, now in zip(before, rows, strict=False))
        before = rows
    for child in alive:
        child.kill()
    said = struct.unpack("<64Q", told.read_bytes())
    with Dataset.open(path) as dataset:
        _check(dataset)
        assert len(dataset.stream_rows) <= 6
        assert all(rows >= known for rows, known in zip(dataset.stream_rows, said, strict=False))
    assert not any(said[len(dataset.stream_rows) :])
    assert recover(path).rows == dataset.num_rows
    assert verify(path, deep=True) == []


def test_killing_one_writer_beside_another(tmp_path: Path) -> None:
    path, told = tmp_path / "ds", tmp_path / "told"
    told.write_bytes(bytes(8 * 64))
    steady = EpisodeWriter(_create(path, durability="process"), chunk_rows=64)
    rng = random.Random(1)
    for round_ in range(12):
        killing.fork_and_kill(
            lambda: _write_for_ever(path, told, random.Random(round_)),  # noqa: B023
            delay=(0.002, 0.04),
            rng=rng,
        )
        _add(steady, 0, 11)
        steady.flush()
        with Dataset.open(path) as dataset:
            _check(dataset)
    steady.close()
    recover(path)
    assert Dataset.open(path).stream_rows[0] == 12 * 11
    assert verify(path, deep=True) == []


def test_a_name_that_readers_know_is_never_given_to_another_segment(tmp_path: Path) -> None:
    path = tmp_path / "ds"
    seen: dict[str, tuple[int, ...]] = {}
    writer = EpisodeWriter(_create(path, share=False), chunk_rows=64)
    for keep in (40, 20, 24, 24, 10, 0):
        _add(writer, 0, 50 - writer.writer.streams[0].rows)
        writer.flush()
        for segment in Dataset.open(path).segments:
            inode = os.stat(path / "segments" / segment.name / "observation.memmap").st_ino
            assert seen.setdefault(segment.name, (inode,)) == (inode,)
            os.link(path / "segments" / segment.name / "observation.memmap", tmp_path / f"{inode}-{keep}")
        writer.writer.abort()
        writer = EpisodeWriter(Writer.append(path, lineage={"op": "again"}, rewind=[keep]), chunk_rows=64)
    writer.close()
    assert len(seen) > 10
