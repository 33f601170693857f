"""Hindsight goals: the next achieved goal, from the same episode, with the reward that goes with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.errors import IncompatibleError, InputError, UsageError
from rlcli.replay.hindsight import Config, Hindsight
from rlcli.replay.prioritized_hindsight import Config as PrioritizedConfig
from rlcli.replay.prioritized_hindsight import PrioritizedHindsight
from tests.replay.made_up import counting, goals


def _sample(path: Path, lengths: list[int], count: int = 400, **options: Any) -> Any:
    batch = Hindsight(goals(path, lengths), config=Config(**options)).sample(count)
    step = batch["observation"]["achieved_goal"][:, 0]
    return batch, step, batch["observation"]["desired_goal"][:, 0]


def test_final_is_the_goal_of_the_last_transition_and_it_succeeds(tmp_path: Path) -> None:
    batch, step, goal = _sample(tmp_path / "a", [4], strategy="final", share=1.0)
    assert (goal == 4).all()  # not 3, the goal that the last row began with
    np.testing.assert_array_equal(batch["next"]["reward"][:, 0], np.where(step == 3, 0.0, -1.0))
    np.testing.assert_array_equal(batch["next"]["observation"]["desired_goal"][:, 0], goal)


def test_future_is_at_or_after_the_row(tmp_path: Path) -> None:
    batch, step, goal = _sample(tmp_path / "a", [4, 7, 1], 4000, strategy="future", share=1.0)
    assert (goal // 1000 == step // 1000).all()
    assert (goal > step).all()
    last = np.isin(step, [3, 1006, 2000])
    assert (batch["next"]["reward"][last] == 0).all()
    first = step == 1000
    assert np.abs(np.bincount(goal[first].astype(int) - 1001, minlength=7) / first.sum() - 1 / 7).max() < 0.08


def test_episode_and_random_reach_everywhere(tmp_path: Path) -> None:
    _, step, goal = _sample(tmp_path / "a", [4, 7], 3000, strategy="episode", share=1.0)
    assert set(goal[step == 1003].tolist()) == {float(1000 + k) for k in range(1, 8)}
    _, step, goal = _sample(tmp_path / "b", [4, 7], 3000, strategy="random", share=1.0)
    assert set(goal[step == 0].tolist()) == {1.0, 2, 3, 4, *(1000.0 + k for k in range(1, 8))}


def test_the_share_gets_a_new_goal_and_the_others_keep_theirs(tmp_path: Path) -> None:
    batch, _, goal = _sample(tmp_path / "a", [50], 5000, share=0.8)
    assert abs((goal != -1).mean() - 0.8) < 0.03
    assert (batch["next"]["reward"][goal == -1] == -1).all()


def test_success_may_terminate_and_truncated_stays(tmp_path: Path) -> None:
    batch, step, _ = _sample(tmp_path / "a", [4], strategy="final", share=1.0, terminate=True)
    following = batch["next"]
    np.testing.assert_array_equal(following["terminated"][:, 0], step == 3)
    np.testing.assert_array_equal(following["truncated"][:, 0], step == 3)
    np.testing.assert_array_equal(following["done"][:, 0], step == 3)


def test_the_reward_may_be_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_goal.py").write_text(
        "def reward(achieved, desired):\n    return 10.0 * (achieved[:, 0] - desired[:, 0])\n"
        "def wrong(achieved, desired):\n    return achieved\n"
        "def fails(achieved, desired):\n    return achieved['x']\n"
        "def text(achieved, desired):\n    return ['much'] * len(achieved)\n"
    )
    batch, step, goal = _sample(tmp_path / "a", [6], share=1.0, reward="own_goal:reward")
    np.testing.assert_array_equal(batch["next"]["reward"][:, 0], 10 * (step + 1 - goal))
    with pytest.raises(UsageError, match="shape"):
        _sample(tmp_path / "b", [6], share=1.0, reward="own_goal:wrong")
    with pytest.raises(InputError, match=r"own_goal:fails failed: IndexError: .* at own_goal\.py:6"):
        _sample(tmp_path / "c", [6], share=1.0, reward="own_goal:fails")
    with pytest.raises(InputError, match=r"own_goal:text failed: ValueError: .*'much'"):
        _sample(tmp_path / "d", [6], share=1.0, reward="own_goal:text")


def test_what_cannot_be_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="desired_goal"):
        Hindsight(counting(tmp_path / "a", [4]))
    with pytest.raises(UsageError, match="sparse"):
        Hindsight(goals(tmp_path / "b", [4]), config=Config(reward="spares"))


@pytest.mark.parametrize("stratified", [False, True])
def test_priorities_choose_rows_and_goals_do_not_depend_on_them(stratified: bool, tmp_path: Path) -> None:
    """The draw is that of `Prioritized`; goals are next ones of the row's episode, with their reward."""
    dataset = goals(tmp_path / "a", [4, 8])
    config = PrioritizedConfig(
        alpha=1.0, beta=1.0, strategy="final", share=0.75, terminate=True, stratified=stratified
    )
    sampler = PrioritizedHindsight(dataset, config=config)
    sampler.sample(1)
    sampler.update(np.arange(12), np.where(np.arange(12) == 6, 11.0, 1.0))  # half of 22
    batch = sampler.sample(8000)
    row, step = batch["row"], batch["observation"]["achieved_goal"][:, 0]
    goal, following = batch["observation"]["desired_goal"][:, 0], batch["next"]
    np.testing.assert_array_equal(step, np.where(row < 4, row, 1000 + row - 4))
    assert abs((row == 6).mean() - 0.5) < (0.001 if stratified else 0.02)
    np.testing.assert_allclose(batch["weight"][:, 0], np.where(row == 6, 1 / 11, 1.0), rtol=1e-5)
    new = goal != -1
    for which in (row == 6, row != 6):
        assert abs(new[which].mean() - 0.75) < 0.03
    np.testing.assert_array_equal(goal[new], np.where(row < 4, 4, 1008)[new])
    np.testing.assert_array_equal(following["observation"]["desired_goal"][:, 0], goal)
    reached = following["observation"]["achieved_goal"][:, 0] == goal
    np.testing.assert_array_equal(following["reward"][new, 0], np.where(reached[new], 0.0, -1.0))
    np.testing.assert_array_equal(following["terminated"][:, 0], reached & new)
