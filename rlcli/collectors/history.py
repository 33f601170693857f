"""What environments showed and gave since their episodes began, as far as a policy looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlcli.collectors.nested import Batch, flatten
from rlcli.transforms.transform import Episodic


class History:
    """What is `needed` of the episodes of E environments, and their newest observations.

    Before an episode's first observation stands that one again, as in a dataset's stacks.
    """

    def __init__(self, needed: Episodic) -> None:
        self.frames = needed.frames
        self.to_go = needed.to_go
        self._seen: Batch = None
        self._fresh: set[int] = set()
        self._left: dict[int, float] = {}  # reward-to-go, where something was earned

    def begin(self, env: int) -> None:
        """The next observation of environment `env` is the first of an episode."""
        self._fresh.add(env)
        self._left.pop(env, None)

    def earned(self, env: int, reward: float) -> None:
        """What the last step of environment `env` gave."""
        if self.to_go is not None:
            gamma, target = self.to_go
            self._left[env] = (self._left.get(env, target) - float(np.float32(reward))) / gamma

    def see(self, observation: Batch) -> Batch:
        """Takes in `[E, …]`; returns what is needed, the caller's to keep. Call it once per step."""
        observation = self._stacked(observation) if self.frames else observation
        if self.to_go is None:
            return observation
        size = len(next(flatten(observation, ()))[1])
        left = [[self._left.get(env, self.to_go[1])] for env in range(size)]
        return {"observation": observation, "reward_to_go": np.array(left, np.float32)}

    def _stacked(self, observation: Batch) -> Batch:
        if self._seen is None:
            self._seen = _repeated(observation, self.frames)
        self._seen = _followed(self._seen, observation, sorted(self._fresh))
        self._fresh.clear()
        return self._seen

    def following(self, observation: Batch) -> Batch:
        """The stacks of the true next observations `[E, …]`, which stay unseen."""
        return _followed(self._seen, observation, []) if self.frames else observation

    def state_dict(self) -> dict[str, Any]:
        """All that later stacks depend on, as arrays; empty before the first, and without frames."""
        if self._seen is None:
            return {}
        return {"seen": self._seen, "fresh": np.array(sorted(self._fresh), np.int64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
        self._seen = state.get("seen")
        self._fresh = set(np.asarray(state.get("fresh", ())).tolist())


def _repeated(observation: Batch, frames: int) -> Batch:
    if isinstance(observation, dict):
        return {name: _repeated(child, frames) for name, child in observation.items()}
    return np.repeat(observation[:, None], frames, axis=1)


def _followed(seen: Batch, observation: Batch, fresh: list[int]) -> Batch:
    """`seen` one step later; of `fresh` environments nothing before it counts."""
    if isinstance(observation, dict):
        return {name: _followed(seen[name], child, fresh) for name, child in observation.items()}
    stack = np.concatenate([seen[:, 1:], observation[:, None]], axis=1)
    stack[fresh] = observation[fresh][:, None]
    return stack
