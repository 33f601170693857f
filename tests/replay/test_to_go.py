"""Rewards to go in batches: exact over whole episodes, and of no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.replay.choice import make_sampler
from rlcli.transforms.transform import Episodic
from tests.replay.made_up import Growing, counting

LENGTHS = [4, 9, 1, 6, 3]


@pytest.mark.parametrize("gamma", [1.0, 0.5])
@pytest.mark.parametrize(
    "name", ["uniform", "without-replacement", "prioritized", "top-return", "consuming", "n-step"]
)
def test_rewards_to_go_equal_a_loop(name: str, gamma: float, tmp_path: Path) -> None:
    """The reward of row k is k. Truncated episodes count as they ended."""
    dataset = counting(tmp_path / "a", LENGTHS, terminated=False)
    sampler = make_sampler(name, dataset, episodic=Episodic(to_go=(gamma, 0.0)))
    ends = np.cumsum(LENGTHS)
    batch = sampler.sample(20)
    for row, found in zip(batch["observation"][:, 0].astype(int), batch["reward_to_go"][:, 0], strict=True):
        end = ends[np.searchsorted(ends, row, side="right")]
        assert found == pytest.approx(sum(gamma ** (k - row) * k for k in range(row, end)), rel=1e-6)


@pytest.mark.parametrize("name", ["uniform", "prioritized", "top-return"])
def test_only_whole_episodes_are_drawn(name: str, tmp_path: Path) -> None:
    """A window has lost the beginning of one, and another still goes on; then it ends."""
    growing = Growing(tmp_path / "a", window=20, segment_rows=8)
    growing.add(39)  # rows 19 to 38 are there; episodes have 7
    dataset = Dataset.open(tmp_path / "a")
    sampler = make_sampler(
        name, dataset, sets=["share=1"] if name == "top-return" else [], episodic=Episodic(to_go=(1.0, 0.0))
    )
    assert sampler.source.to_go is not None
    for ends, whole in ((39, range(21, 35)), (42, range(28, 42))):
        growing.add(ends - growing.rows)
        dataset.refresh()
        batch = sampler.sample(300)
        rows = batch["observation"]["observation"][:, 0].astype(int)
        assert set(rows.tolist()) == set(whole)
        wanted = [sum(range(row, row - row % 7 + 7)) for row in rows.tolist()]
        assert batch["reward_to_go"][:, 0].tolist() == wanted
        assert len(sampler.source.to_go.unknown()) == 20 - len(whole)
    growing.writer.close()


def test_without_a_whole_episode_there_is_nothing_to_draw(tmp_path: Path) -> None:
    growing = Growing(tmp_path / "a")
    growing.add(5)
    sampler = make_sampler(
        "uniform", Dataset.open(tmp_path / "a"), episodic=Episodic(to_go=(1.0, 0.0)), keys=[("action",)]
    )
    with pytest.raises(IncompatibleError, match="no row of which all that is asked is known"):
        sampler.sample(1)
    growing.writer.close()
