"""Priorities beside the data: found again after a kill, following a window, and second to a saved state."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.errors import BusyError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.mutable import SideColumn
from rlcli.format.verify import verify
from rlcli.replay.batches import Batches
from rlcli.replay.choice import make_sampler
from rlcli.replay.follow import Follow
from rlcli.replay.mixture import Mixture
from rlcli.replay.prefetch import Prefetch
from rlcli.replay.prioritized import Config, Prioritized
from tests.replay.made_up import Growing, counting

KEPT = Config(alpha=0.7, persist="priority")


def priorities(sampler: Prioritized) -> list[float]:
    """Of all rows that are there, -1 where one cannot be drawn."""
    sampler.table.refresh()
    dataset = sampler.source.dataset
    return sampler.table.tree.get(dataset.row_ids(np.arange(dataset.num_rows))).tolist()


def beside(dataset: Dataset) -> list[float]:
    """The same, of a dataset that no sampler has open."""
    with SideColumn.open(dataset, "priority", default=-1.0) as column:
        return column.read(dataset.row_ids(np.arange(dataset.num_rows))).tolist()


def told(sampler: Any, batch: Any, turn: int) -> None:
    """New priorities that say which row got them, and when."""
    sampler.update(batch["row"], np.asarray(batch["row"] % 97 + turn * 0.5 + 0.25, np.float64))


def _learn_for_ever(path: Path, out: int) -> None:
    """Tells the parent what it is about to tell the sampler, and that it has."""
    sampler = Prioritized(Dataset.open(path), config=KEPT)
    for turn in range(1_000_000):
        row = sampler.sample(1)["row"]
        os.write(out, np.array([row[0], turn], np.int64).tobytes())
        sampler.update(row, np.array([turn + 0.25]))


@pytest.mark.parametrize("turns", [1, 30])
def test_priorities_are_found_again_after_a_kill(turns: int, tmp_path: Path) -> None:
    counting(tmp_path / "a", [5, 9, 3]).close()
    heard, out = os.pipe()
    child = multiprocessing.get_context("fork").Process(target=_learn_for_ever, args=(tmp_path / "a", out))
    child.start()
    os.close(out)
    said = b"".join(os.read(heard, 16) for _ in range(turns))
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    while more := os.read(heard, 1 << 16):
        said += more
    os.close(heard)
    pairs = np.frombuffer(said, np.int64).reshape(-1, 2).tolist()
    sure, expected = pairs[:-1], np.ones(17)
    for row, turn in sure:
        expected[row] = turn + 0.25
    (row, turn) = pairs[-1]  # it may or may not have been written
    with Dataset.open(tmp_path / "a") as dataset:
        sampler = Prioritized(dataset, config=KEPT)
        found = np.array(priorities(sampler))
        assert found[row] in (expected[row], turn + 0.25)
        found[row] = expected[row]
        assert found.tolist() == expected.tolist()
        sampler.close()


@pytest.mark.parametrize("name", ["prioritized", "prioritized-slices"])
def test_keeping_changes_no_batch(name: str, tmp_path: Path) -> None:
    """Rows come, in part before what follows them is known; the tables agree all the way."""
    growing = Growing(tmp_path / "a", window=40, segment_rows=8)
    growing.add(10)
    dataset = Dataset.open(tmp_path / "a")
    sets = ["length=2"] if name == "prioritized-slices" else []
    plain, keeping = (make_sampler(name, dataset, sets=[*sets, *more]) for more in ([], ["persist=priority"]))
    for turn in range(6):
        batches = [sampler.sample(6) for sampler in (plain, keeping)]
        for key in ("row", "weight", "action"):
            np.testing.assert_array_equal(batches[0][key], batches[1][key])
        told(plain, batches[0], turn), told(keeping, batches[1], turn)
        growing.add(9)
        dataset.refresh()
    keeping.close()
    growing.writer.close()


def test_they_follow_a_live_window(tmp_path: Path) -> None:
    growing = Growing(tmp_path / "a", window=32, segment_rows=8)
    growing.add(21)
    dataset = Dataset.open(tmp_path / "a")
    sampler = Prioritized(dataset, config=KEPT)
    sampler.sample(1)
    rows = np.arange(21)
    sampler.update(rows, np.where(rows == 20, 4.0, 0.5))
    growing.add(23)
    dataset.refresh()
    assert dataset.num_rows == 32
    ids = dataset.row_ids(np.arange(32))
    expected = np.where(ids < 20, 0.5, 4.0)  # those that came got the greatest, the oldest left
    expected[dataset.unknown_next] = -1.0
    assert priorities(sampler) == expected.tolist()
    assert set(sampler.sample(500)["row"].tolist()) == set(ids[expected > 0].tolist())
    sampler.update(np.arange(12), np.full(12, 50.0))  # too late: they have left
    assert priorities(sampler) == expected.tolist()
    sampler.close()
    files = {path.stem for path in (tmp_path / "a" / "mutable" / "priority").glob("*.memmap")}
    assert files <= {segment.name for segment in dataset.segments}
    assert beside(dataset) == expected.tolist()
    again = Prioritized(Dataset.open(tmp_path / "a"), config=KEPT)
    assert priorities(again) == expected.tolist()
    growing.add(3)
    again.source.dataset.refresh()
    assert priorities(again)[-3:-1] == [4.0, 4.0]
    again.close()
    growing.writer.close()


@pytest.mark.parametrize("grows", [False, True])
def test_a_saved_state_counts_and_not_what_was_kept_after_it(grows: bool, tmp_path: Path) -> None:
    """An unbroken run keeps nothing; a broken one dies after it told more than it had saved."""
    growing = Growing(tmp_path / "a")
    growing.add(20)

    def turns(sampler: Prioritized, numbers: range) -> list[list[int]]:
        found = []
        for turn in numbers:
            batch = sampler.sample(5)
            told(sampler, batch, turn)
            found.append(batch["row"].tolist())
        return found

    first = {"dataset": Dataset.open(tmp_path / "a"), "seed": 3}
    unbroken, broken = Prioritized(**first, config=Config(alpha=0.7)), Prioritized(**first, config=KEPT)
    assert turns(unbroken, range(4)) == turns(broken, range(4))
    saved = broken.state()
    if grows:
        growing.add(9)
        first["dataset"].refresh()
    turns(broken, range(100, 110))  # lost
    broken.close()
    resumed = Prioritized(Dataset.open(tmp_path / "a"), config=KEPT)
    resumed.load_state(saved)
    assert turns(unbroken, range(4, 9)) == turns(resumed, range(4, 9))
    assert priorities(unbroken) == priorities(resumed)
    resumed.close()
    assert beside(Dataset.open(tmp_path / "a")) == priorities(unbroken)
    growing.writer.close()
    assert verify(tmp_path / "a", deep=True) == []


def test_batches_drawn_ahead_and_priorities_told_meanwhile(tmp_path: Path) -> None:
    """A thread draws and takes in new rows while this one tells priorities; none is lost."""
    growing = Growing(tmp_path / "a")
    growing.add(14)
    sampler = Prioritized(Dataset.open(tmp_path / "a"), config=KEPT)
    with Prefetch(Batches(Follow(sampler), 4, keep=0), depth=2) as prefetch:
        for turn in range(20):
            told(sampler, next(prefetch), turn)
            growing.add(7)
    kept = priorities(sampler)
    sampler.close()
    assert beside(sampler.source.dataset) == kept
    growing.writer.close()


def test_a_later_sampler_has_other_options_and_the_same_priorities(tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [4, 4])
    sampler = Prioritized(dataset, config=KEPT)
    sampler.sample(1)
    sampler.update(np.arange(8), np.arange(8.0))
    sampler.close()
    later = Prioritized(dataset, config=Config(alpha=1.0, epsilon=0.5, persist="priority"))
    assert priorities(later) == list(range(8))
    assert later.table.tree.total == sum(range(8)) + 4.0
    assert later.table.greatest == 7.0
    later.close()
    assert priorities(Prioritized(dataset, config=Config(persist="other"))) == [1.0] * 8


def test_one_at_a_time(tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [4])
    sampler = Prioritized(dataset, config=KEPT)
    with pytest.raises(BusyError):
        Prioritized(Dataset.open(tmp_path / "a"), config=KEPT)
    Mixture([Follow(sampler)], [1.0]).close()
    Prioritized(dataset, config=KEPT).close()


def test_what_no_priority_can_be_is_none(tmp_path: Path) -> None:
    """Nothing says that what lies beside the data is right."""
    dataset = counting(tmp_path / "a", [5])
    with SideColumn.open(dataset, "priority", default=-1.0) as column:
        column.write(np.arange(4), np.array([np.nan, np.inf, 1e101, 3.0]))
    sampler = Prioritized(dataset, config=KEPT)
    assert priorities(sampler) == [3.0] * 5
    sampler.close()


@pytest.mark.parametrize("name", ["../x", "a/b", ""])
def test_a_name_is_one_part_of_a_key(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="kept under"):
        Prioritized(counting(tmp_path / "a", [4]), config=Config(persist=name))
    assert not (tmp_path / "a" / "mutable").exists()
