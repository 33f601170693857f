"""Sampling from a window that moves: what is drawn is there, whatever was there before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.replay import SAMPLERS
from rlcli.replay.choice import make_sampler
from tests.replay.made_up import Growing

WINDOW = 50
SETS = {
    "without-replacement": ["drop_last=false"],
    "slices": ["length=3"],
    "prioritized-slices": ["length=3"],
    "top-return": ["share=0.5"],
    "hindsight": ["strategy=random"],
}
GOALS = ["future", "final", "episode", "random"]


def check(batch: Any, low: int, rows: int) -> None:
    """Every value in a batch is that of one of the rows `low … rows - 1`, or what follows one."""
    counts = batch["valid"][..., 0] if "valid" in batch else np.ones(len(batch["action"]), bool)
    for where, first, last in ((batch, low, rows - 1), (batch["next"], low + 1, rows)):
        states = where["observation"]["observation"][counts]
        assert first <= states.min(), "a row that has left was drawn"
        assert states.max() <= last
        goals = where["observation"]["desired_goal"][counts]
        assert ((goals == -1) | ((goals > low) & (goals <= rows))).all()
    if "row" in batch:
        assert low <= batch["row"].min()


def draw(
    name: str,
    path: Path,
    turns: int,
    batch_size: int,
    *,
    sets: Sequence[str] = (),
    more: Callable[[Any, int, int], None] = check,
) -> None:
    """Batches while the window moves on, each one seen by `more(batch, low, rows)`."""
    growing = Growing(path, window=WINDOW, segment_rows=16)
    growing.add(30)
    dataset = Dataset.open(path)
    sampler = make_sampler(name, dataset, sets=sets or SETS.get(name, []))
    for _ in range(turns):
        growing.add(11)
        dataset.refresh()
        growing.add(5)  # after the snapshot: the window has moved on already
        rows = dataset.stream_rows[0]
        batch = sampler.sample(batch_size)
        more(batch, rows - dataset.num_rows, rows)
        if "row" in batch:
            told: Any = sampler
            told.update(batch["row"] - 20, np.full(batch_size, 1e3))  # many have left
    assert rows > 2 * WINDOW
    assert dataset.num_rows == WINDOW
    growing.writer.close()


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_row_that_left_a_window_is_drawn(name: str, tmp_path: Path) -> None:
    draw(name, tmp_path / "a", 10, 7)


@pytest.mark.parametrize("strategy", GOALS)
@pytest.mark.parametrize("name", ["hindsight", "prioritized-hindsight"])
def test_goals_are_those_of_an_episode_that_is_there(name: str, strategy: str, tmp_path: Path) -> None:
    """Of an episode that is going on, or of which the first rows have left, only what is there."""

    def goals(batch: Any, low: int, rows: int) -> None:
        goal = batch["observation"]["desired_goal"][:, 0]
        state = batch["observation"]["achieved_goal"][:, 0]
        check(batch, low, rows)
        assert (goal != -1).all()
        if strategy != "random":
            assert ((goal - 1) // 7 == state // 7).all()
        if strategy == "future":
            assert (goal > state).all()
        if strategy == "final":
            assert np.isin(goal, [*range(7, rows, 7), rows - 1, rows]).all()

    draw(name, tmp_path / "a", 10, 40, sets=[f"strategy={strategy}", "share=1"], more=goals)


@pytest.mark.parametrize("name", ["n-step", "prioritized-n-step"])
def test_steps_follow_each_other_in_a_window(name: str, tmp_path: Path) -> None:
    def consecutive(batch: Any, low: int, rows: int) -> None:
        check(batch, low, rows)
        state = batch["observation"]["observation"][:, 0]
        following = batch["next"]["observation"]["observation"][:, 0]
        m = following - state
        assert ((m >= 1) & (m <= 3)).all()
        assert (state // 7 == (following - 1) // 7).all()
        wanted = sum(np.where(k < m, 0.5**k * (state + k), 0) for k in range(3))
        np.testing.assert_allclose(batch["next"]["reward"][:, 0], wanted, rtol=1e-6)
        np.testing.assert_allclose(batch["next"]["discount"][:, 0], 0.5**m)

    draw(name, tmp_path / "a", 10, 40, sets=["gamma=0.5"], more=consecutive)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "consuming"])
def test_no_row_that_left_a_window_is_drawn_in_a_million_each(name: str, tmp_path: Path) -> None:
    draw(name, tmp_path / "a", 200, 5000)
