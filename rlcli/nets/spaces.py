"""How networks see specs: observations become float32 features, actions become heads.

Casting and flattening happen here and nowhere else, once per forward pass. Images are not for
perceptrons and are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlcli.errors import IncompatibleError
from rlcli.lazy import lazy_import

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rlcli.format import specs
    from rlcli.format.specs import Spec
else:
    torch = lazy_import("torch")
    specs = lazy_import("rlcli.format.specs")


@dataclass(frozen=True)
class Part:
    """One leaf of the observation. `num_values`: one-hot sizes of its integers; empty means plain numbers."""

    path: tuple[str, ...]
    size: int
    ndim: int
    num_values: tuple[int, ...] = ()
    start: int = 0


@dataclass(frozen=True)
class Features:
    """Turns a batch of observations into `[B, size]` float32: leaves sorted by key, flattened, concatenated.

    Integers of discrete spaces become one-hot vectors.
    """

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def __call__(self, observation: Any) -> Tensor:
        """`observation`: a tensor `[B, …]` or nested mappings of them, as the spec says."""
        columns = []
        for part in self.parts:
            value = observation
            for name in part.path:
                value = value[name]
            columns.append(_encode(value, part))
        return columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)


def features(observation: Spec) -> Features:
    """The features of an observation spec. Raises `IncompatibleError` for images."""
    parts = []
    for path, leaf in sorted(specs.leaves(observation).items()):
        ndim = len(leaf.shape)
        if isinstance(leaf, specs.Discrete):
            parts.append(Part(path, leaf.n, ndim, (leaf.n,), leaf.start))
        elif isinstance(leaf, specs.MultiDiscrete):
            parts.append(Part(path, sum(leaf.nvec), ndim, tuple(leaf.nvec)))
        elif isinstance(leaf, specs.Box) and leaf.dtype == "uint8" and ndim >= 2:
            name = "/".join(("observation", *path))
            raise IncompatibleError(
                f"{name} is an image {list(leaf.shape)}; expected vectors: there are no image networks",
                hint=f"a dataset does without it by `rl buffer map DS --exclude {name} -o OUT`",
            )
        else:
            parts.append(Part(path, math.prod(leaf.shape), ndim))
    if sum(part.size for part in parts) == 0:
        raise IncompatibleError("the observation holds no numbers, expected at least one")
    return Features(tuple(parts))


@dataclass(frozen=True)
class DiscreteActions:
    """`n` actions `start, …, start + n - 1`; networks count them from 0."""

    n: int
    start: int

    def flat(self, action: Tensor) -> Tensor:
        """The environment's actions `[B]` counted from 0."""
        return action - self.start

    def shaped(self, action: Tensor) -> Tensor:
        """Actions counted from 0, `[B]`, as the environment's."""
        return action + self.start

    def clip(self, action: Tensor) -> Tensor:
        """`action` itself: every index a network gives is an action."""
        return action


@dataclass(frozen=True, eq=False)
class BoxActions:
    """A vector of `size` numbers; `center ± half_range` are the bounds, `[size]`, when `bounded`.

    Networks work with flat vectors `[B, size]`; environments and datasets see `[B, *shape]` in `dtype`.
    """

    shape: tuple[int, ...]
    dtype: str
    bounded: bool
    center: Tensor
    half_range: Tensor
    low: Tensor
    high: Tensor

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def flat(self, action: Tensor) -> Tensor:
        """`[B, *shape]` in the environment's dtype to `[B, size]` float32."""
        return action.reshape(-1, self.size).to(torch.float32)

    def shaped(self, action: Tensor) -> Tensor:
        """`[B, size]` to `[B, *shape]` in the environment's dtype."""
        return action.reshape(-1, *self.shape).to(getattr(torch, self.dtype))

    def clip(self, action: Tensor) -> Tensor:
        """`[B, size]` limited to the bounds, infinite ones included."""
        return torch.minimum(torch.maximum(action, self.low), self.high)


Actions = DiscreteActions | BoxActions


def actions(spec: Spec, algorithm: str) -> Actions:
    """The head for Discrete or float Box actions. Raises `IncompatibleError` for any other spec."""
    if isinstance(spec, specs.Discrete):
        return DiscreteActions(spec.n, spec.start)
    if isinstance(spec, specs.Box) and spec.dtype.startswith("float"):
        return _box(spec)
    raise IncompatibleError(f"{algorithm} takes Discrete or float Box actions, found {_describe(spec)}")


def discrete_actions(spec: Spec, algorithm: str) -> DiscreteActions:
    """The head for Discrete actions. Raises `IncompatibleError`, naming what fits."""
    if isinstance(spec, specs.Discrete):
        return DiscreteActions(spec.n, spec.start)
    fitting = "; sac, ppo, bc or iql fit it" if isinstance(spec, specs.Box) else ""
    raise IncompatibleError(f"{algorithm} takes Discrete actions, found {_describe(spec)}{fitting}")


def bounded_actions(spec: Spec, algorithm: str) -> BoxActions:
    """The head for float Box actions with finite bounds. Raises `IncompatibleError`, naming what fits."""
    if isinstance(spec, specs.Box) and spec.dtype.startswith("float"):
        box = _box(spec)
        if box.bounded:
            return box
        raise IncompatibleError(
            f"{algorithm} needs finite action bounds with low < high, found {spec.low} to {spec.high}; "
            "ppo, bc or iql fit it"
        )
    fitting = "; dqn, ppo, bc or iql fit it" if isinstance(spec, specs.Discrete) else ""
    raise IncompatibleError(f"{algorithm} takes bounded float Box actions, found {_describe(spec)}{fitting}")


def _box(spec: specs.Box) -> BoxActions:
    low, high = (torch.from_numpy(bound.astype("float32").reshape(-1)) for bound in spec.bounds())
    bounded = bool(torch.isfinite(low).all() and torch.isfinite(high).all() and (low < high).all())
    center = (low + high) / 2 if bounded else torch.zeros_like(low)
    half_range = (high - low) / 2 if bounded else torch.ones_like(low)
    return BoxActions(tuple(spec.shape), spec.dtype, bounded, center, half_range, low, high)


def _describe(spec: Spec) -> str:
    if isinstance(spec, specs.Box):
        return f"a Box of shape {list(spec.shape)} and dtype {spec.dtype}"
    return type(spec).__name__


def _encode(value: Tensor, part: Part) -> Tensor:
    if not part.num_values:
        return value.reshape(-1, part.size).to(torch.float32)
    columns = value.reshape(-1, len(part.num_values)) - part.start
    one_hots = [
        (columns[:, index, None] == torch.arange(n, device=value.device)).to(torch.float32)
        for index, n in enumerate(part.num_values)
    ]
    return torch.cat(one_hots, dim=-1)
