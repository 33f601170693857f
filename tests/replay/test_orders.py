"""Samplers with an order or a limit: epochs, best episodes, queues, live datasets; copies of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Box, Discrete
from rlcli.format.writer import Writer
from rlcli.replay import consuming, follow, top_return, without_replacement
from rlcli.replay.consuming import Consuming
from rlcli.replay.follow import Follow
from rlcli.replay.top_return import TopReturn
from rlcli.replay.uniform import Uniform
from rlcli.replay.without_replacement import WithoutReplacement
from tests.replay.made_up import Growing, counting, flat

OBSERVED = [("observation",)]


@contextmanager
def _two_streams(path: Path) -> Iterator[Callable[[int, int], None]]:
    """A dataset that is being written; gives what adds rows to a stream: 0, 1, … and 100, 101, …"""
    box = Box((1,))
    spec = {"env": None, "observation": box.to_json(), "action": Discrete(2).to_json()}
    schema, written = ted_schema(box, Discrete(2)), [0, 100]
    created = Writer.create(path, schema, spec=spec, lineage={"op": "test"}, num_streams=2)
    with EpisodeWriter(created) as writer:

        def add(stream: int, count: int) -> None:
            for _ in range(count):
                observation = np.array([written[stream]], np.float32)
                writer.add(
                    stream, observation=observation, action=0, reward=0.0, terminated=False, truncated=False
                )
                written[stream] += 1
            writer.flush()

        yield add


def test_an_epoch_has_every_row_once_in_another_order(tmp_path: Path) -> None:
    config = without_replacement.Config(drop_last=False)
    sampler = WithoutReplacement(counting(tmp_path / "a", [7, 13]), OBSERVED, config=config)
    drawn = np.concatenate([sampler.rows(8) for _ in range(5)])  # two epochs
    assert sorted(drawn[:20].tolist()) == sorted(drawn[20:].tolist()) == list(range(20))
    assert drawn[:20].tolist() != drawn[20:].tolist() != list(range(20))


def test_drop_last_leaves_out_what_does_not_fill_a_batch(tmp_path: Path) -> None:
    sampler = WithoutReplacement(counting(tmp_path / "a", [20]), OBSERVED)
    epochs = [np.concatenate([sampler.rows(8), sampler.rows(8)]) for _ in range(3)]
    assert [len(set(rows.tolist())) for rows in epochs] == [16, 16, 16]
    assert sampler.epoch == 2
    with pytest.raises(IncompatibleError, match="20 rows"):
        sampler.rows(21)


def test_an_epoch_is_over_the_rows_that_were_there_when_it_began(tmp_path: Path) -> None:
    with _two_streams(tmp_path / "a") as add, Dataset.open(tmp_path / "a") as dataset:
        add(0, 20), add(1, 20)
        dataset.refresh()
        sampler = WithoutReplacement(dataset, OBSERVED, config=without_replacement.Config(drop_last=False))
        drawn = flat(sampler.sample(15)["observation"])
        add(0, 7)  # rows of the second stream have other numbers now
        dataset.refresh()
        resumed = WithoutReplacement(dataset, OBSERVED, config=sampler.config)
        resumed.load_state(sampler.state())
        rest = flat(sampler.sample(25)["observation"])
        assert sorted(drawn + rest) == [*range(20), *range(100, 120)]
        assert flat(resumed.sample(25)["observation"]) == rest
        assert sorted(flat(sampler.sample(47)["observation"])) == [*range(27), *range(100, 120)]


def test_rows_that_left_are_passed_over_and_none_comes_twice_in_an_epoch(tmp_path: Path) -> None:
    growing = Growing(tmp_path / "a")
    growing.add(70)
    with Dataset.open(growing.path) as dataset:
        observed = [("observation", "achieved_goal")]
        sampler = WithoutReplacement(
            dataset, observed, 70, config=without_replacement.Config(drop_last=False)
        )
        first = flat(sampler.sample(35)["observation"]["achieved_goal"])
        growing.add(14)
        dataset.refresh()
        left = set(range(14, 70)) - set(first)
        assert set(flat(sampler.sample(len(left))["observation"]["achieved_goal"])) == left
        assert sorted(flat(sampler.sample(70)["observation"]["achieved_goal"])) == list(range(14, 84))
        assert sampler.epoch == 1


def test_only_the_best_episodes_come(tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [4, 2, 3, 6])  # returns 6, 9, 21, 69
    sampler = TopReturn(dataset, OBSERVED, config=top_return.Config(share=0.5))
    counts = np.bincount(sampler.rows(9000), minlength=15)
    assert counts[:6].sum() == 0
    assert np.abs(counts[6:] - 1000).max() < 170
    two = TopReturn(dataset, OBSERVED, config=top_return.Config(episodes=2))
    assert two.rows(100).tolist() == TopReturn(dataset, OBSERVED, config=sampler.config).rows(100).tolist()
    all_of_them = TopReturn(dataset, OBSERVED, config=top_return.Config(episodes=9))
    assert set(all_of_them.rows(1000).tolist()) == set(range(15))


def test_a_queue_gives_each_row_once_and_again_what_was_not_acknowledged(tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [5, 4], streams=2)
    sampler = Consuming(dataset, OBSERVED, config=consuming.Config(acknowledge=True))
    assert flat(sampler.sample(3)["observation"]) == [0, 1, 2]
    sampler.acknowledge()
    assert flat(sampler.sample(4)["observation"]) == [3, 4, 5, 6]
    resumed = Consuming(dataset, OBSERVED, config=consuming.Config(acknowledge=True))
    resumed.load_state(sampler.state())
    assert flat(resumed.sample(6)["observation"]) == [3, 4, 5, 6, 7, 8]
    with pytest.raises(IncompatibleError, match="0 rows"):
        resumed.sample(1)


def test_a_queue_of_the_newest_rows_has_no_others(tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [5, 4])
    sampler = Consuming(dataset, OBSERVED, 3)
    assert len(sampler) == 3
    assert flat(sampler.sample(3)["observation"]) == [6, 7, 8]
    assert sampler.missed == 0


def test_following_waits_for_what_a_sampler_lacks(tmp_path: Path) -> None:
    growing = Growing(tmp_path / "a")
    growing.add(5)  # of an episode of 7
    observed = [("observation", "achieved_goal")]
    with Dataset.open(growing.path) as dataset:
        queue = Follow(Consuming(dataset, observed), sleep=lambda seconds: growing.add(3))
        assert flat(queue.sample(10)["observation"]["achieved_goal"]) == list(range(10))
        whole = Follow(TopReturn(dataset, observed), sleep=lambda seconds: growing.add(3))
        whole.sample(4)
        starved = Follow(
            Consuming(dataset, observed), follow.Config(timeout_seconds=0.5), sleep=lambda seconds: None
        )
        with pytest.raises(IncompatibleError, match="has not grown") as caught:
            starved.sample(100)
        assert "not given out" in str(caught.value.__cause__)
        growing.writer.close()
        with pytest.raises(IncompatibleError, match="not given out"):
            queue.sample(100)


def test_following_waits_for_rows_and_not_longer(tmp_path: Path) -> None:
    path, box = tmp_path / "a", Box((1,))
    spec = {"env": None, "observation": box.to_json(), "action": Discrete(2).to_json()}
    created = Writer.create(path, ted_schema(box, Discrete(2)), spec=spec, lineage={"op": "test"})
    with EpisodeWriter(created) as writer:
        written = 0

        def add(count: int) -> None:
            nonlocal written
            for _ in range(count):
                observation = np.array([written], np.float32)
                writer.add(
                    0, observation=observation, action=0, reward=0.0, terminated=False, truncated=False
                )
                written += 1
            writer.flush()

        writer.begin(0, 0)
        add(10)
        naps = 0

        def sleep(seconds: float) -> None:
            nonlocal naps
            naps += 1
            add(5)

        config = follow.Config(samples_per_insert=2.0, min_rows=10, timeout_seconds=1.0)
        with Dataset.open(path) as dataset:
            sampler = Follow(Uniform(dataset, OBSERVED), config, sleep=sleep)
            sampler.sample(20)  # drawn 0 <= 2 * 0
            assert (naps, sampler.drawn) == (0, 20)
            sampler.sample(20)  # 20 <= 2 * (20 - 10)
            assert (naps, written) == (2, 20)
            starved = Follow(Uniform(dataset, OBSERVED), config, sleep=lambda seconds: None)
            starved.load_state(sampler.state())
            with pytest.raises(IncompatibleError, match="has not grown"):
                starved.sample(1)
    with Dataset.open(path) as dataset:
        done = Follow(Uniform(dataset, OBSERVED), config, sleep=sleep)
        done.load_state(sampler.state())
        for _ in range(5):
            done.sample(50)  # nobody writes any more: nothing is held back
        assert naps == 2
