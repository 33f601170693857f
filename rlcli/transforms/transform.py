"""What every transform is, and how one is named: `name` or `name:option=value,…`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rlcli.config import from_options
from rlcli.errors import UsageError, nearest
from rlcli.format.specs import Composite, Leaf, Spec
from rlcli.plugins import load_reference
from rlcli.transforms import TRANSFORMS

if TYPE_CHECKING:
    from torch import Tensor

Memory = dict[str, "Tensor"]


@dataclass(frozen=True)
class Episodic:
    """What is needed of an episode besides its newest observation; whoever has the episode gives it.

    `frames` > 0: that many of the newest observations, `[B, frames, …]`, oldest first. `to_go`: discount and,
    in an environment, target of the reward-to-go beside them: `{"observation": …, "reward_to_go": [B, 1]}`.
    """

    frames: int = 0
    to_go: tuple[float, float] | None = None


NEWEST = Episodic()  # observations as they are


class Transform:
    """Changes nothing; a subclass is a frozen dataclass that overrides what it changes.

    All functions are pure. `spec` is that of the observations that come in, `[B, …]`, nested like it.
    `memory` holds tensors by the names in `MEMORY`: what `init` gave and `learn` changed since. It is a part
    of the run's state, so that it is saved, resumed and exported with the parameters.
    """

    MEMORY: ClassVar[tuple[str, ...]] = ()

    def output(self, spec: Spec) -> Spec:
        """The spec of what comes out. Raises `IncompatibleError` if it cannot be changed."""
        return spec

    def init(self, spec: Spec) -> Memory:
        """What is known before the first update."""
        return {}

    def learn(self, memory: Memory, spec: Spec, observation: Any) -> Memory:
        """What is known after one more batch."""
        return memory

    def observation(self, memory: Memory, spec: Spec, observation: Any) -> Any:
        """The observations as networks see them."""
        return observation

    def reward(self, reward: Tensor) -> Tensor:
        """Rewards of any shape as the losses see them."""
        return reward

    @property
    def episodic(self) -> Episodic:
        """What comes in beside, or instead of, the newest observation. Only the first transforms may ask."""
        return NEWEST

    @property
    def is_linear(self) -> bool:
        """Whether a sum of rewards is changed as its parts are, so that n-step rewards can be given."""
        return True


def parse_transform(text: str) -> Transform:
    """The transform that a word names: `normalise`, `reward-scale:factor=0.1`.

    Raises `UsageError` for an unknown name or option.
    """
    name, _, rest = text.partition(":")
    if name not in TRANSFORMS:
        raise UsageError(f"--transform: there is no transform {name!r}; {nearest(name, TRANSFORMS)}")
    values = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--transform {text}: {item!r} is not of the form option=value")
        values[key.strip()] = value.strip()
    made: Transform = from_options(load_reference(TRANSFORMS[name]), values, name)
    return made


def episodic_of(transforms: Sequence[Transform]) -> tuple[Episodic, int]:
    """What transforms need of the episode, and how many of them: a stack first, then a reward-to-go.

    Raises `UsageError` if they come in another order, or behind others.
    """
    needs = NEWEST
    count = 0
    for number, transform in enumerate(transforms):
        own = transform.episodic
        if own == NEWEST:
            continue
        if number > count or (own.frames and needs != NEWEST) or (own.to_go and needs.to_go):
            raise UsageError(
                "--transform: frame-stack comes first, then reward-to-go, once each, then others"
            )
        needs = Episodic(own.frames or needs.frames, own.to_go or needs.to_go)
        count += 1
    return needs, count


def map_leaves(function: Callable[[Leaf, Any], Any], spec: Spec, value: Any) -> Any:
    """`function(leaf spec, leaf)` over a nested value."""
    if isinstance(spec, Composite):
        return {name: map_leaves(function, child, value[name]) for name, child in spec.fields.items()}
    return function(spec, value)


def map_spec(function: Callable[[Leaf], Leaf], spec: Spec) -> Spec:
    """A spec with every leaf replaced."""
    if isinstance(spec, Composite):
        return Composite({name: map_spec(function, child) for name, child in spec.fields.items()})
    return function(spec)
