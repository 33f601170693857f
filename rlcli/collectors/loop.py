"""Stepping E environments in lock step, one round at a time, so that the caller decides each action.

Used by online training and evaluation. Recording whole datasets goes through `record`, which is faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.collectors.nested import Batch, allocate, copy, put, rows, same_bits, singles
from rlcli.collectors.seeds import EpisodeSeeds
from rlcli.envs.contract import Env, check_score, foreign
from rlcli.errors import IncompatibleError

_FIRST_LOG = 256  # actions the log of an episode has room for at first; it doubles


@dataclass(slots=True)
class Episode:
    """An episode that ended in this round."""

    env: int
    number: int  # counted from 0 in its environment
    seed: int
    score: float  # float64 sum of the float32 rewards
    length: int
    terminated: bool
    truncated: bool


@dataclass(slots=True)
class Transitions:
    """One step of E environments. The arrays are the caller's to keep; nothing writes to them again."""

    observation: Batch  # [E, …] what the policy saw
    action: Batch  # [E, …] as given, not clipped
    reward: NDArray[np.float32]  # [E]
    terminated: NDArray[np.bool_]  # [E]
    truncated: NDArray[np.bool_]  # [E]
    next_observation: (
        Batch  # [E, …] true successors; at an episode's end the final one, never that of the reset
    )
    ended: list[Episode]


class Collector:
    """E environments and where each is in its sequence of episodes.

    Every episode is reset with its own seed (`episode_seed(seed, env, number)`), so nothing carries over from
    one episode to the next and an interrupted collector is resumed exactly by playing the current
    episodes' actions again. The environments are the caller's to close.
    """

    def __init__(
        self, envs: Sequence[Env], seed: int, *, first_episodes: Sequence[int] | None = None
    ) -> None:
        """`first_episodes` `[E]` are the numbers of the episodes to begin with; 0 each by default."""
        if not envs:
            raise ValueError("a collector needs at least one environment")
        self.envs = list(envs)
        self.seed = seed
        self.observation_spec = envs[0].observation_spec
        self.action_spec = envs[0].action_spec
        self._seeds = [EpisodeSeeds(seed, index) for index in range(len(envs))]
        self._numbers = list(first_episodes) if first_episodes is not None else [0] * len(envs)
        self._logs: list[Batch] = [allocate(self.action_spec, _FIRST_LOG) for _ in envs]
        self._capacities = [_FIRST_LOG] * len(envs)
        self._lengths = [0] * len(envs)
        self._scores = np.zeros(len(envs))
        self._observation = allocate(self.observation_spec, len(envs))
        for index in range(len(envs)):
            self._reset(index)

    @property
    def num_envs(self) -> int:
        """E."""
        return len(self.envs)

    @property
    def observation(self) -> Batch:
        """`[E, …]` what the next action answers to; after a reset, the new episode's first observation."""
        return self._observation

    @property
    def episode_seeds(self) -> list[int]:
        """`[E]` the seed of each current episode."""
        return [seeds[number] for seeds, number in zip(self._seeds, self._numbers, strict=True)]

    def step(self, action: Batch) -> Transitions:
        """Step every environment with its row of `action` `[E, …]`; environments that are done are reset."""
        size = len(self.envs)
        observation = self._observation
        following = allocate(self.observation_spec, size)
        reward = np.empty(size, np.float32)
        terminated = np.zeros(size, np.bool_)
        truncated = np.zeros(size, np.bool_)
        done: list[int] = []
        for index, (env, choice) in enumerate(zip(self.envs, singles(action), strict=True)):
            self._log(index, choice)
            with foreign(env):
                value, reward[index], terminal, cut = env.step(choice)
                put(following, index, value)
            if terminal or cut:
                terminated[index], truncated[index] = terminal, cut
                done.append(index)
        self._scores += reward
        ended = []
        self._observation = following
        if done:
            self._observation = copy(following)
            for index in done:
                ended.append(self._finish(index, bool(terminated[index]), bool(truncated[index])))
        return Transitions(observation, action, reward, terminated, truncated, following, ended)

    def state_dict(self) -> dict[str, Any]:
        """Where every environment is, as arrays: episode numbers, actions since the reset, observations."""
        logs = [rows(log, 0, length) for log, length in zip(self._logs, self._lengths, strict=True)]
        return {
            "seed": np.asarray(self.seed, np.int64),
            "episodes": np.asarray(self._numbers, np.int64),
            "lengths": np.asarray(self._lengths, np.int64),
            "actions": _concatenate(logs),
            "observation": copy(self._observation),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Bring fresh environments to the saved state by resetting and playing the saved actions.

        Raises `IncompatibleError` if an environment does not come to bit-identical observations: it depends
        on something beside its seed and its actions, so exact resumption is impossible.
        """
        if len(state["episodes"]) != self.num_envs:
            saved = len(state["episodes"])
            raise IncompatibleError(f"the saved collector has {saved} environments, this one {self.num_envs}")
        self.seed = int(state["seed"])
        self._seeds = [EpisodeSeeds(self.seed, index) for index in range(self.num_envs)]
        self._observation = allocate(self.observation_spec, self.num_envs)
        start = 0
        for index, (number, length) in enumerate(zip(state["episodes"], state["lengths"], strict=True)):
            self._numbers[index] = int(number)
            self._replay(index, rows(state["actions"], start, start + int(length)))
            start += int(length)
        if not same_bits(self._observation, state["observation"]):
            raise IncompatibleError(
                f"{self.envs[0].spec_json['id']} is not replayable: the same seed and actions lead "
                "to another observation, so this run cannot be resumed exactly"
            )

    def _replay(self, index: int, actions: Batch) -> None:
        self._reset(index)
        env = self.envs[index]
        for choice in singles(actions):
            self._log(index, choice)
            value, reward, terminated, truncated = env.step(choice)
            self._scores[index] += np.float32(reward)
            put(self._observation, index, value)
            if terminated or truncated:
                raise IncompatibleError(
                    f"{env.spec_json['id']} is not replayable: the same seed and actions end an episode early"
                )

    def _log(self, index: int, choice: Any) -> None:
        length = self._lengths[index]
        if length == self._capacities[index]:
            longer = allocate(self.action_spec, 2 * length)
            _copy_rows(self._logs[index], longer)
            self._logs[index], self._capacities[index] = longer, 2 * length
        put(self._logs[index], length, choice)
        self._lengths[index] = length + 1

    def _finish(self, index: int, terminated: bool, truncated: bool) -> Episode:
        number = self._numbers[index]
        seed = self._seeds[index][number]
        score, length = float(self._scores[index]), self._lengths[index]
        check_score(score, self.envs[index])
        self._numbers[index] = number + 1
        self._reset(index)
        return Episode(index, number, seed, score, length, terminated, truncated)

    def _reset(self, index: int) -> None:
        self._lengths[index] = 0
        self._scores[index] = 0.0
        seed = self._seeds[index][self._numbers[index]]
        with foreign(self.envs[index]):
            put(self._observation, index, self.envs[index].reset(seed))


def _concatenate(batches: list[Batch]) -> Batch:
    if isinstance(batches[0], dict):
        return {name: _concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return np.concatenate(batches)


def _copy_rows(source: Batch, target: Batch) -> None:
    if isinstance(source, dict):
        for name, child in source.items():
            _copy_rows(child, target[name])
    else:
        target[: len(source)] = source
