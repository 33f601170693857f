"""An environment whose every number is known in advance: tests compare with arithmetic, not with our output.

The observation counts steps, the reward of step k is k + 1, an episode's length and kind of ending follow
from its seed. Whatever a dataset of it holds can be recomputed from the recorded seeds alone.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

TAGS = 4096  # observations carry seed % TAGS, exact in float32

_ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(3, start=1),
    "box": spaces.Box(np.array([-1, -2], np.float32), np.array([1, 2], np.float32)),
    "multi_discrete": spaces.MultiDiscrete([2, 5]),
    "multi_binary": spaces.MultiBinary(4),
    "dict": spaces.Dict({"move": spaces.Box(-1.0, 1.0, (2,)), "jump": spaces.Discrete(2)}),
}
_VECTOR = spaces.Box(0.0, np.inf, (2,))
_OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "vector": _VECTOR,
    "discrete": spaces.Discrete(1 << 20),
    "dict": spaces.Dict(
        {
            "vector": _VECTOR,
            "nested": spaces.Dict({"pixels": spaces.Box(0, 255, (2, 2, 3), np.uint8)}),
            "mode": spaces.Discrete(3),
        }
    ),
}


class Counting(gymnasium.Env[Any, Any]):
    """Counts steps.

    An episode lasts `length + seed % (spread + 1)` steps. `ending` is how: "alternate" terminates for even
    seeds and truncates for odd ones, "both" raises both flags at once. The vector observation at step k is
    `[k, seed % TAGS]`. With `reuse`, every observation is the same array, changed in place, as some
    environments do. `delay` seconds pass in each step; step number `fail_at` raises.
    """

    def __init__(
        self,
        length: int = 5,
        spread: int = 0,
        ending: Literal["terminated", "truncated", "both", "alternate"] = "terminated",
        observation: Literal["vector", "discrete", "dict"] = "vector",
        action: Literal["discrete", "box", "multi_discrete", "multi_binary", "dict"] = "discrete",
        reuse: bool = False,
        delay: float = 0.0,
        fail_at: int = -1,
    ) -> None:
        self.observation_space = _OBSERVATIONS[observation]
        self.action_space = _ACTIONS[action]
        self.received: list[Any] = []  # actions since the reset
        self._length, self._spread, self._ending = length, spread, ending
        self._observation, self._reuse = observation, reuse
        self._delay, self._fail_at = delay, fail_at
        self._array = np.zeros(2, np.float32)
        self._seed = 0
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is None:
            raise ValueError("a counting environment is always reset with a seed")
        self._seed, self._step, self.received = seed, 0, []
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._step >= episode_length(self._seed, self._length, self._spread):
            raise RuntimeError("stepped after the end of the episode")
        if self._step == self._fail_at:
            raise RuntimeError("failing on purpose")
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in {self.action_space}")
        if self._delay:
            time.sleep(self._delay)
        self.received.append(action)
        self._step += 1
        done = self._step == episode_length(self._seed, self._length, self._spread)
        terminated, truncated = ending(self._seed, self._ending)
        return self._observe(), float(self._step), done and terminated, done and truncated, {}

    def _observe(self) -> Any:
        return observation(self._seed, self._step, self._observation, self._array if self._reuse else None)


def episode_length(seed: int, length: int, spread: int) -> int:
    """Steps of the episode that starts from `seed`."""
    return length + seed % (spread + 1)


def ending(seed: int, kind: str) -> tuple[bool, bool]:
    """`(terminated, truncated)` at the end of the episode that starts from `seed`."""
    if kind == "alternate":
        kind = "truncated" if seed % 2 else "terminated"
    return kind in ("terminated", "both"), kind in ("truncated", "both")


def observation(seed: int, step: int, kind: str = "vector", array: NDArray[np.float32] | None = None) -> Any:
    """What is observed after `step` steps of the episode that starts from `seed`."""
    if kind == "discrete":
        return step
    vector = np.empty(2, np.float32) if array is None else array
    vector[:] = step, seed % TAGS
    if kind == "vector":
        return vector
    pixels = np.full((2, 2, 3), step % 256, np.uint8)
    return {"vector": vector, "nested": {"pixels": pixels}, "mode": step % 3}


def scripted(observation: Any) -> NDArray[np.int64]:
    """A policy for the discrete actions that follows from the vector observation: 1 + (step + tag) % 3."""
    chosen: NDArray[np.int64] = 1 + observation.sum(axis=1).astype(np.int64) % 3
    return chosen
