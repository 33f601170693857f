"""The lock-step collector: true final observations, no rows from resets, exact resumption."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlcli.collectors.loop import Collector
from rlcli.collectors.nested import flatten, same_bits
from rlcli.collectors.policy import RandomPolicy
from rlcli.collectors.seeds import episode_seed
from rlcli.envs import make
from rlcli.errors import IncompatibleError
from rlcli.testing.counting import TAGS, episode_length

COUNTING = "rlcli.testing.counting:Counting"


def _collector(envs: int, seed: int = 0, first: list[int] | None = None, **kwargs: Any) -> Collector:
    return Collector([make(COUNTING, **kwargs) for _ in range(envs)], seed, first_episodes=first)


def _ones(collector: Collector) -> Any:
    return np.ones(collector.num_envs, np.int64)


@pytest.mark.parametrize("reuse", [False, True])
def test_rows_are_true_transitions(reuse: bool) -> None:
    """Traps 6 and 12: next observation L at the end, the new episode starts at 0, no reset row."""
    collector = _collector(3, length=4, reuse=reuse)
    history = [collector.step(_ones(collector)) for _ in range(12)]
    for step, rows in enumerate(history):
        assert rows.observation[:, 0].tolist() == [step % 4] * 3
        assert rows.next_observation[:, 0].tolist() == [step % 4 + 1] * 3
        assert rows.reward.tolist() == [step % 4 + 1] * 3
        assert rows.terminated.tolist() == [step % 4 == 3] * 3
        assert not rows.truncated.any()
        tags = [episode_seed(0, env, step // 4) % TAGS for env in range(3)]
        assert rows.observation[:, 1].tolist() == rows.next_observation[:, 1].tolist() == tags


@pytest.mark.parametrize(
    ("kind", "flags"),
    [("terminated", (True, False)), ("truncated", (False, True)), ("both", (True, True))],
)
def test_terminated_and_truncated_stay_apart(kind: str, flags: tuple[bool, bool]) -> None:
    collector = _collector(1, length=2, ending=kind)
    first, last = (collector.step(_ones(collector)) for _ in range(2))
    assert (first.terminated[0], first.truncated[0]) == (False, False)
    assert (last.terminated[0], last.truncated[0]) == flags
    assert (last.ended[0].terminated, last.ended[0].truncated) == flags


def test_ended_episodes_report_what_is_known() -> None:
    """Trap 59: scores are raw sums and count truncated episodes too."""
    collector = _collector(2, seed=9, length=3, spread=4, ending="alternate")
    ended = [episode for _ in range(60) for episode in collector.step(_ones(collector)).ended]
    assert len(ended) > 10
    for episode in ended:
        length = episode_length(episode.seed, 3, 4)
        assert episode.seed == episode_seed(9, episode.env, episode.number)
        assert (episode.length, episode.score) == (length, length * (length + 1) / 2)
        assert (episode.terminated, episode.truncated) == (episode.seed % 2 == 0, episode.seed % 2 == 1)


def test_the_time_limit_of_gymnasium_is_a_truncation() -> None:
    collector = Collector([make("CartPole-v1", max_episode_steps=5)], 0)
    rows = [collector.step(np.array([step % 2])) for step in range(5)]
    assert [bool(row.truncated[0]) for row in rows] == [False] * 4 + [True]
    assert not any(row.terminated[0] for row in rows)
    assert not same_bits(rows[-1].next_observation, collector.observation)


def test_transitions_belong_to_the_caller() -> None:
    collector = _collector(2, length=3, reuse=True)
    kept = [collector.step(_ones(collector)) for _ in range(9)]
    copies = [(row.observation.copy(), row.next_observation.copy()) for row in kept]
    state = collector.state_dict()
    for _ in range(9):
        collector.step(_ones(collector))
    collector.load_state_dict(state)
    for row, (before, after) in zip(kept, copies, strict=True):
        assert same_bits(row.observation, before)
        assert same_bits(row.next_observation, after)


def test_seeds_are_distinct_and_depend_on_nothing_else() -> None:
    """Trap 61: worked out once with NumPy 2.4, so that recorded seeds keep their meaning."""
    seeds = [episode_seed(0, env, episode) for env in range(4) for episode in range(600)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert _collector(3).episode_seeds == _collector(8).episode_seeds[:3]
    assert _collector(1, first=[7]).episode_seeds == [episode_seed(0, 0, 7)]
    block = np.random.SeedSequence(5, spawn_key=(2, 1)).generate_state(256, np.uint32) >> 1
    assert episode_seed(5, 2, 256 + 17) == block[17]
    with pytest.raises(ValueError, match="from 0"):
        episode_seed(-1, 0, 0)


def test_any_episode_can_be_made_again_alone() -> None:
    collector = Collector([make("CartPole-v1") for _ in range(2)], 3)
    policy = RandomPolicy(collector.action_spec, 3)
    rows = [collector.step(policy(collector.observation)) for _ in range(120)]
    ends = [step for step, row in enumerate(rows) if row.terminated[1]]
    start, stop = ends[0] + 1, ends[1] + 1
    env = make("CartPole-v1")
    observation = env.reset(episode_seed(3, 1, 1))
    for row in rows[start:stop]:
        assert row.observation[1].tobytes() == observation.tobytes()
        observation, reward, terminated, _ = env.step(int(row.action[1]))
        assert row.next_observation[1].tobytes() == observation.tobytes()
        assert row.reward[1] == reward
    assert terminated


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("CartPole-v1", {}),
        ("Pendulum-v1", {}),
        (COUNTING, {"observation": "dict", "action": "dict", "length": 400, "spread": 9}),
        (COUNTING, {"observation": "discrete", "action": "multi_discrete"}),
    ],
)
def test_a_resumed_collector_equals_one_that_never_stopped(name: str, kwargs: dict[str, Any]) -> None:
    def build() -> Collector:
        return Collector([make(name, **kwargs) for _ in range(3)], 11)

    collector, policy = build(), RandomPolicy(build().action_spec, 1)
    for _ in range(333):
        collector.step(policy(collector.observation))
    state, policy_state = collector.state_dict(), policy.state_dict()
    state = {key: np.copy(value) if isinstance(value, np.ndarray) else value for key, value in state.items()}
    expected = [collector.step(policy(collector.observation)) for _ in range(500)]
    resumed = build()
    resumed.load_state_dict(state)
    policy.load_state_dict(policy_state)
    for row in expected:
        again = resumed.step(policy(resumed.observation))
        for left, right in (
            (again.observation, row.observation),
            (again.next_observation, row.next_observation),
            (again.action, row.action),
        ):
            assert same_bits(left, right)
        assert again.reward.tobytes() == row.reward.tobytes()
        assert again.ended == row.ended


def test_an_environment_with_hidden_state_cannot_be_resumed() -> None:
    collector = _collector(1, length=50)
    for _ in range(3):
        collector.step(_ones(collector))
    state = collector.state_dict()
    state["observation"] = state["observation"] + np.float32(1e-6)
    with pytest.raises(IncompatibleError, match="not replayable"):
        _collector(1, length=50).load_state_dict(state)
    with pytest.raises(IncompatibleError, match="end an episode early"):
        _collector(1, length=2).load_state_dict(collector.state_dict())
    with pytest.raises(IncompatibleError, match="1 environments, this one 2"):
        _collector(2).load_state_dict(state)


def test_state_is_arrays_only() -> None:
    state = _collector(2, action="dict", observation="dict").state_dict()
    assert all(isinstance(array, np.ndarray) for _, array in flatten(state, ()))
