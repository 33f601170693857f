"""Windows as a reader sees them: exactly the newest rows of each stream, wherever segments begin and end."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.errors import CorruptError, InputError
from rlcli.format import dataset_json, generations
from rlcli.format.dataset import Dataset
from rlcli.format.stream_set import ROW_BITS

KEY = ("observation",)
NEXT = ("next", "observation")


def _check(dataset: Dataset, model: m.Model, window: int) -> None:
    """Everything a reader says of a window is what the lists in memory say of their last rows."""
    starts = [max(0, len(steps) - window) for steps in model.streams]
    ranges = [range(start, len(steps)) for start, steps in zip(starts, model.streams, strict=True)]
    kept = [(stream, row) for stream, rows in enumerate(ranges) for row in rows]
    assert dataset.num_rows == len(kept)
    assert dataset.stream_rows == [len(steps) for steps in model.streams]
    assert dataset.snapshot["starts"] == starts
    steps = [model.streams[stream][row] for stream, row in kept]
    ids = np.array([stream << ROW_BITS | row for stream, row in kept], np.int64)
    rows = np.arange(len(kept))
    assert np.array_equal(dataset.row_ids(rows), ids)
    assert np.array_equal(dataset.rows_of(ids), rows)
    gone = [stream << ROW_BITS | start - 1 for stream, start in enumerate(starts) if start]
    gone += [stream << ROW_BITS | len(steps) for stream, steps in enumerate(model.streams)]
    assert (dataset.rows_of(np.array([*gone, len(starts) << ROW_BITS, -1], np.int64)) == -1).all()
    if kept:
        chosen = np.random.default_rng(0).integers(0, len(kept), 2 * len(kept))
        for found, order in ((dataset.read_rows(), rows), (dataset.gather(chosen), chosen)):
            for position, row in enumerate(order):
                step = steps[row]
                following = step.next_observation
                if following is None:
                    following = np.zeros_like(step.observation)
                assert np.array_equal(found["observation"][position], step.observation)
                assert np.array_equal(found["next"]["observation"][position], following)
                assert (found["episode"][position], found["step"][position]) == (step.episode, step.step)
    unknown = [row for row, step in enumerate(steps) if step.next_observation is None]
    assert dataset.unknown_next.tolist() == unknown
    _check_episodes(dataset, model, starts)


def _check_episodes(dataset: Dataset, model: m.Model, starts: list[int]) -> None:
    whole, every, at = [], [], 0
    for stream, steps in enumerate(model.streams):
        first = 0
        for row, step in enumerate(steps):
            if step.terminated or step.truncated:
                found = (first - starts[stream] + at, row + 1 - first, step.episode, stream)
                if first >= starts[stream]:
                    whole.append(found)
                if row >= starts[stream]:
                    every.append(found)
                first = row + 1
        at += len(steps) - starts[stream]
    for table, expected in ((dataset.episodes, whole), (dataset.episodes_all(), every)):
        columns = (table.start, table.length, table.number, table.stream)
        found = list(zip(*(column.tolist() for column in columns), strict=True))
        assert found == expected
    assert dataset.num_episodes == len(whole) == len(dataset.episodes)
    for index, (start, length, _, stream) in enumerate(whole):
        episode = dataset.episode(index)
        assert (episode.start, episode.length, episode.stream) == (start, length, stream)
    with pytest.raises(IndexError):
        dataset.episode(len(whole))


@settings(max_examples=25, deadline=None)
@given(
    window=st.integers(1, 60),
    segment_rows=st.integers(3, 20),
    num_streams=st.integers(1, 3),
    parts=st.lists(st.integers(0, 25), min_size=1, max_size=10),
    check=st.sampled_from(["touch", "none"]),
)
def test_any_window_is_read_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    window: int,
    segment_rows: int,
    num_streams: int,
    parts: list[int],
    check: Any,
) -> None:
    path = tmp_path_factory.mktemp("window") / "ds"
    model = m.create(path, window=window, segment_rows=segment_rows, num_streams=num_streams, chunk_rows=8)
    followed = Dataset.open(path, check=check)
    for count in parts:
        before = followed.snapshot
        m.fill(model, count)
        model.writer.flush()
        news = followed.refresh()
        after = followed.snapshot
        rows, ends = np.array(before["rows"]), np.array(after["rows"])
        starts = np.array(after["starts"])
        assert list(news.new_rows) == (ends - np.maximum(rows, starts)).tolist()
        assert list(news.evicted_rows) == (np.minimum(rows, starts) - before["starts"]).tolist()
        _check(followed, model, window)
        with Dataset.open(path, check=check) as dataset:
            _check(dataset, model, window)
    model.writer.writer.abort()


@pytest.mark.parametrize("single_range", [True, False])
def test_segments_of_whole_pages_slide_through_one_range(tmp_path: Path, single_range: bool) -> None:
    model = m.create(tmp_path / "ds", window=9000, segment_rows=4096, num_streams=1)
    followed = Dataset.open(tmp_path / "ds", single_range=single_range)
    for _ in range(12):
        for row in range(3000):
            model.add(0, end="truncated" if row % 500 == 499 else "no")
        model.writer.flush()
        followed.refresh()
    _check(followed, model, 9000)
    model.writer.writer.abort()


def test_a_follower_that_fell_behind_begins_anew(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", window=20, segment_rows=8, num_streams=1, chunk_rows=8)
    m.fill(model, 10)
    model.writer.flush()
    followed = Dataset.open(tmp_path / "ds")
    m.fill(model, 300)
    model.writer.flush()
    news = followed.refresh()
    assert (news.new_rows, news.evicted_rows) == ((20,), (10,))
    _check(followed, model, 20)
    model.writer.writer.abort()


def _stale(path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> m.Model:
    """A window of which the next `times` looks for the newest manifest find one whose segments have gone."""
    model = m.create(path, window=20, segment_rows=8, num_streams=1, chunk_rows=8)
    m.fill(model, 30)
    model.writer.flush()
    old = generations.load_newest(path, dataset_json.load(path)["uuid"])
    m.fill(model, 200)
    model.writer.flush()
    load = generations.load_newest
    left = [old] * times
    monkeypatch.setattr(generations, "load_newest", lambda *a, **k: left.pop() if left else load(*a, **k))
    return model


def test_a_segment_that_leaves_while_the_window_is_opened_means_to_look_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _stale(tmp_path / "ds", monkeypatch, times=2)
    _check(Dataset.open(tmp_path / "ds"), model, 20)
    model.writer.writer.abort()


def test_a_window_whose_newest_manifest_names_what_is_missing_is_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _stale(tmp_path / "ds", monkeypatch, times=0)
    model.writer.writer.abort()
    shutil.rmtree(sorted((tmp_path / "ds" / "segments").iterdir())[-2])
    with pytest.raises(CorruptError, match="missing"):
        Dataset.open(tmp_path / "ds")


def test_rows_that_were_read_stay_readable_when_their_files_are_gone(tmp_path: Path) -> None:
    """A snapshot of a window is whole: what it lists was mapped before the writer could remove it."""
    model = m.create(tmp_path / "ds", window=20, segment_rows=8, num_streams=1, chunk_rows=8)
    m.fill(model, 100)
    model.writer.flush()
    dataset = Dataset.open(tmp_path / "ds", check="none")
    expected = np.array([step.observation for step in model.streams[0][-20:]])
    m.fill(model, 200)
    model.writer.flush()
    assert np.array_equal(dataset.read(KEY), expected)
    model.writer.writer.abort()


def test_an_older_snapshot_of_a_window_opens_while_its_rows_are_there(tmp_path: Path) -> None:
    model = m.create(tmp_path / "ds", window=40, segment_rows=8, num_streams=1, chunk_rows=8)
    m.fill(model, 60)
    model.writer.flush()
    with Dataset.open(tmp_path / "ds") as dataset:
        at, expected = dataset.snapshot, dataset.read_rows()
    at = {**at, "starts": [40]}
    m.fill(model, 15)
    model.writer.flush()
    with Dataset.open(tmp_path / "ds", at=at) as dataset:
        assert dataset.num_rows == 20
        assert np.array_equal(dataset.read(KEY), expected["observation"][20:])
    m.fill(model, 100)
    model.writer.flush()
    with pytest.raises(InputError, match="not there any more"):
        Dataset.open(tmp_path / "ds", at=at)
    model.writer.writer.abort()
