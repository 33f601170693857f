"""What every transform is, and how one is named: `name` or `name:option=value,…`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rlcli.config import from_options
from rlcli.errors import UsageError, nearest
from rlcli.format.specs import Composite, Leaf, Spec
from rlcli.plugins import load_reference
from rlcli.transforms import TRANSFORMS

if TYPE_CHECKING:
    from torch import Tensor

Memory = dict[str, "Tensor"]


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
    def history(self) -> int:
        """How many of an episode's newest observations come in, `[B, history, …]`; 0: the newest one alone.

        Only the first of several transforms may ask for more than that.
        """
        return 0

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


def history_of(transforms: Sequence[Transform]) -> int:
    """What the first transform asks for. Raises `UsageError` if another one has wishes of its own."""
    if any(transform.history for transform in transforms[1:]):
        raise UsageError("--transform frame-stack comes first: it stacks what the environment gives")
    return transforms[0].history if transforms else 0


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
