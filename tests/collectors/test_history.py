"""Histories of observations: against a list that remembers everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlcli.collectors.history import History
from rlcli.transforms.transform import Episodic

EPISODES = [[5, 1, 3, 20], [2, 2, 9, 7, 1]]  # lengths, of two environments


def steps() -> list[tuple[Any, list[int], list[list[int]]]]:
    """Rounds: the observation `[2, 1]`, which environments begin, and all values since they began."""
    since: list[list[int]] = [[], []]
    left = [list(lengths) for lengths in EPISODES]
    found = []
    for value in range(21):
        begun = []
        for env in range(2):
            if not since[env] or len(since[env]) == left[env][0]:
                if since[env]:
                    left[env].pop(0)
                since[env] = []
                begun.append(env)
            since[env] = [*since[env], 100 * env + value]
        observation = np.array([[values[-1]] for values in since], np.float32)
        found.append((observation, begun, [list(values) for values in since]))
    return found


def stack(values: list[int], frames: int) -> list[int]:
    """The last `frames` of them, the first one again where there are fewer."""
    return ([values[0]] * frames + values)[-frames:]


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_stacks_are_the_last_observations_of_the_episode(frames: int) -> None:
    history = History(Episodic(frames))
    for observation, begun, since in steps():
        for env in begun:
            history.begin(env)
        if observation[0, 0]:
            saved = history.state_dict()
            history = History(Episodic(frames))  # goes on from what was saved
            history.load_state_dict(saved)
        seen = history.see({"a": observation, "b": {"c": observation[:, 0] * 2}})
        wanted = [stack(values, frames) for values in since]
        assert seen["a"][..., 0].tolist() == wanted
        assert (seen["b"]["c"] / 2).tolist() == wanted
        after = history.following({"a": observation + 1000, "b": {"c": observation[:, 0]}})
        assert after["a"][..., 0].tolist() == [
            stack([*values, values[-1] + 1000], frames) for values in since
        ]


def test_what_was_given_out_stays() -> None:
    history = History(Episodic(2))
    first = history.see(np.array([[1.0]]))
    history.see(np.array([[2.0]]))
    assert first.tolist() == [[[1.0], [1.0]]]


def test_without_frames_an_observation_is_itself() -> None:
    history, observation = History(Episodic()), np.ones((2, 3))
    assert history.see(observation) is observation
    assert history.following(observation) is observation
    assert history.state_dict() == {}


def test_what_was_earned_is_taken_off_what_was_asked_for() -> None:
    """R_t = r_t + gamma R_(t+1), from the target on, each environment for itself."""
    gamma, rewards = 0.5, [1.0, 2.0, -4.0]
    history = History(Episodic(frames=2, to_go=(gamma, 10.0)))
    history.begin(0), history.begin(1)
    observation = np.zeros((2, 3))
    left = [history.see(observation)["reward_to_go"][:, 0].tolist()]
    for reward in rewards:
        history.earned(1, reward)
        seen = history.see(observation)
        assert seen["observation"].shape == (2, 2, 3)
        left.append(seen["reward_to_go"][:, 0].tolist())
    assert [both[0] for both in left] == [10.0] * 4
    for now, reward, after in zip(left, rewards, left[1:], strict=False):
        assert now[1] == reward + gamma * after[1]
    history.begin(1)
    assert history.see(observation)["reward_to_go"].tolist() == [[10.0], [10.0]]
