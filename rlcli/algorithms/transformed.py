"""An algorithm that sees observations and rewards through transforms, with the contract of any other.

Transforms run inside `update`, `act`, `sample` and `value`: they are compiled, exported and saved with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rlcli.errors import IncompatibleError
from rlcli.format.specs import Spec
from rlcli.transforms.reward_to_go import NAME as REWARD_TO_GO
from rlcli.transforms.transform import Memory, Transform, episodic_of

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, Any]


class Transformed(ModuleType):
    """`algorithm` behind `transforms`, in order; `observation` is the spec of what environments give.

    What transforms remember lies in the algorithm's state under `transform<k>_<name>`. Off-policy they learn
    from every batch, after the update on it; on-policy the runner calls `learn` after an iteration, so that
    all its minibatches see what the rollout saw. Raises `IncompatibleError` if a transform does not fit.
    """

    def __init__(self, algorithm: ModuleType, transforms: Sequence[Transform], observation: Spec) -> None:
        super().__init__(f"{algorithm.__name__} {transforms!r}", algorithm.__doc__)
        self.algorithm = algorithm
        self.transforms = tuple(transforms)
        specs = [observation]
        for transform in transforms:
            specs.append(transform.output(specs[-1]))
        self.specs = tuple(specs)
        self.episodic, self._needing = episodic_of(transforms)
        self.COLUMNS: tuple[tuple[str, ...], ...] = algorithm.COLUMNS
        if self.episodic.to_go is not None:
            if ("next", "observation") in self.COLUMNS or algorithm.ON_POLICY:
                raise IncompatibleError(
                    "reward-to-go is for learners from observations and actions alone: bc"
                )
            self.COLUMNS = (*self.COLUMNS, (REWARD_TO_GO,))

    def __getattr__(self, name: str) -> Any:
        if name in ("algorithm", "transforms", "specs", "episodic", "_needing", "COLUMNS"):
            raise AttributeError(name)
        return getattr(self.algorithm, name)

    @property
    def input(self) -> Spec:
        """What `act` and the like take as observations: what environments give, and what is `episodic`."""
        return self.specs[self._needing]

    @property
    def __file__(self) -> str:  # type: ignore[override]
        return str(self.algorithm.__file__)

    def build(self, observation: Spec, action: Spec, config: Any) -> Any:
        """Networks for what the transforms give."""
        return self.algorithm.build(self.specs[-1], action, config)

    def init(self, nets: Any, config: Any, generator: Any) -> State:
        """The algorithm's state and what the transforms know."""
        state: State = self.algorithm.init(nets, config, generator)
        for index, (transform, spec) in enumerate(zip(self.transforms, self.specs, strict=False)):
            state |= _named(index, transform.init(spec))
        return state

    def update(
        self, state: State, batch: Mapping[str, Any], nets: Any, config: Any
    ) -> tuple[State, dict[str, Tensor]]:
        """One update on the transformed batch."""
        observation = batch["observation"]
        if self.episodic.to_go is not None:
            observation = {"observation": observation, REWARD_TO_GO: batch[REWARD_TO_GO]}
        seen = {**batch, "observation": self.observation(state, observation)}
        if after := batch.get("next"):
            after = dict(after)
            if "observation" in after:
                after["observation"] = self.observation(state, after["observation"])
            if "reward" in after:
                after["reward"] = self.reward(after["reward"])
            seen["next"] = after
        new, metrics = self.algorithm.update(state, seen, nets, config)
        if self.algorithm.ON_POLICY:
            return {**new, **self._remembered(state)}, metrics
        return {**new, **self._remembered(self.learn(state, observation))}, metrics

    def act(self, state: State, observation: Any, nets: Any, config: Any, **noise: Any) -> Any:
        """Actions for raw observations."""
        return self.algorithm.act(state, self.observation(state, observation), nets, config, **noise)

    def sample(self, state: State, observation: Any, nets: Any, config: Any, noise: Any) -> Any:
        """Actions, log-probabilities and values for raw observations."""
        return self.algorithm.sample(state, self.observation(state, observation), nets, config, noise)

    def value(self, state: State, observation: Any, nets: Any, config: Any) -> Any:
        """Values of raw observations."""
        return self.algorithm.value(state, self.observation(state, observation), nets, config)

    def observation(self, state: Mapping[str, Any], observation: Any) -> Any:
        """Raw observations as the networks see them."""
        for index, (transform, spec) in enumerate(zip(self.transforms, self.specs, strict=False)):
            observation = transform.observation(_memory(index, transform, state), spec, observation)
        return observation

    def reward(self, reward: Tensor) -> Tensor:
        """Raw rewards as the losses see them."""
        for transform in self.transforms:
            reward = transform.reward(reward)
        return reward

    def learn(self, state: State, observation: Any) -> State:
        """The state after the transforms have seen raw observations `[B, …]`."""
        state = dict(state)
        for index, (transform, spec) in enumerate(zip(self.transforms, self.specs, strict=False)):
            memory = _memory(index, transform, state)
            state |= _named(index, transform.learn(memory, spec, observation))
            observation = transform.observation(memory, spec, observation)
        return state

    def _remembered(self, state: State) -> State:
        parts = [_named(i, _memory(i, transform, state)) for i, transform in enumerate(self.transforms)]
        return {name: value for part in parts for name, value in part.items()}


def _memory(index: int, transform: Transform, state: Mapping[str, Any]) -> Memory:
    return {name: state[f"transform{index}_{name}"] for name in transform.MEMORY}


def _named(index: int, memory: Memory) -> State:
    return {f"transform{index}_{name}": value for name, value in memory.items()}
