"""Observations in another dtype."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rlcli.config import opt
from rlcli.format.specs import Box, Leaf, Spec
from rlcli.lazy import lazy_import
from rlcli.transforms.transform import Memory, Transform, map_leaves, map_spec

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")


@dataclass(frozen=True)
class Cast(Transform):
    """Box observations as floats, times a factor: 1/255 for bytes between 0 and 1."""

    dtype: Literal["float32", "float64"] = opt("float32", "Of what comes out.")
    factor: float = opt(1.0, "What numbers are multiplied by after the cast.", gt=0)

    def output(self, spec: Spec) -> Spec:
        return map_spec(self._leaf, spec)

    def observation(self, memory: Memory, spec: Spec, observation: Any) -> Any:
        kind = getattr(torch, self.dtype)
        return map_leaves(
            lambda leaf, value: value.to(kind) * self.factor if isinstance(leaf, Box) else value,
            spec,
            observation,
        )

    def _leaf(self, leaf: Leaf) -> Leaf:
        if not isinstance(leaf, Box):
            return leaf
        low, high = (self._bound(bound) for bound in leaf.bounds())
        return replace(leaf, dtype=self.dtype, low=low, high=high)

    def _bound(self, bound: Any) -> tuple[float, ...] | None:
        values = tuple(float(value) * self.factor for value in bound.reshape(-1))
        return values if all(map(math.isfinite, values)) else None
