"""What an observation or an action may be: shape, dtype, bounds, discrete or not.

Specs are small data classes that travel in every dataset and run as JSON, so that training
from a dataset needs no environment. Keys of nested specs are tuples of strings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.errors import IncompatibleError

Key = tuple[str, ...]
Bound = tuple[float, ...] | float | None


@dataclass(frozen=True)
class Box:
    """A dense array. `low` and `high` are one number, one number per element (C order), or None."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: Bound = None
    high: Bound = None

    def bounds(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """`(low, high)` in `self.dtype` and `self.shape`; a missing bound is the dtype's extreme."""
        dtype = np.dtype(self.dtype)
        extremes = (
            (-np.inf, np.inf)
            if dtype.kind == "f"
            else (False, True)
            if dtype.kind == "b"
            else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        )
        low, high = (
            np.full(self.shape, extreme if bound is None else 0, dtype)
            + (0 if bound is None else _expand(bound, self.shape, dtype))
            for bound, extreme in zip((self.low, self.high), extremes, strict=True)
        )
        return low.astype(dtype), high.astype(dtype)

    def contains(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """For `values` `[B, *shape]`, which of the B lie within the bounds. NaN does not."""
        low, high = self.bounds()
        inside = (values >= low) & (values <= high)
        return np.asarray(inside.reshape(len(values), -1).all(axis=1))

    def to_json(self) -> dict[str, Any]:
        """Strict JSON; infinite bounds are the strings `inf` and `-inf`."""
        return {
            "type": "box",
            "shape": list(self.shape),
            "dtype": self.dtype,
            "low": _bound_to_json(self.low),
            "high": _bound_to_json(self.high),
        }


@dataclass(frozen=True)
class Discrete:
    """One integer in `start, …, start + n - 1`, stored as int64 without a trailing axis."""

    n: int
    start: int = 0
    dtype: str = "int64"

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    def contains(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """For `values` `[B]`, which lie in the range."""
        return np.asarray((values >= self.start) & (values < self.start + self.n))

    def to_json(self) -> dict[str, Any]:
        return {"type": "discrete", "n": self.n, "start": self.start}


@dataclass(frozen=True)
class MultiDiscrete:
    """A vector of integers, element k in `0, …, nvec[k] - 1`, int64."""

    nvec: tuple[int, ...]
    dtype: str = "int64"

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.nvec),)

    def contains(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """For `values` `[B, len(nvec)]`, which lie in the ranges."""
        return np.asarray(((values >= 0) & (values < np.asarray(self.nvec))).all(axis=1))

    def to_json(self) -> dict[str, Any]:
        return {"type": "multi_discrete", "nvec": list(self.nvec)}


@dataclass(frozen=True)
class MultiBinary:
    """A vector of n zeros and ones, int8."""

    n: int
    dtype: str = "int8"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.n,)

    def contains(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """For `values` `[B, n]`, which hold only zeros and ones."""
        return np.asarray(((values == 0) | (values == 1)).all(axis=1))

    def to_json(self) -> dict[str, Any]:
        return {"type": "multi_binary", "n": self.n}


Leaf = Box | Discrete | MultiDiscrete | MultiBinary


@dataclass(frozen=True)
class Composite:
    """Named specs, nested as deep as needed. Order of names is kept."""

    fields: Mapping[str, Spec]

    def to_json(self) -> dict[str, Any]:
        return {"type": "composite", "fields": {name: spec.to_json() for name, spec in self.fields.items()}}


Spec = Leaf | Composite


def leaves(spec: Spec, prefix: Key = ()) -> dict[Key, Leaf]:
    """Every leaf of `spec` by its full key, e.g. `("observation", "pixels")` under `("observation",)`."""
    if isinstance(spec, Composite):
        found: dict[Key, Leaf] = {}
        for name, child in spec.fields.items():
            found.update(leaves(child, (*prefix, name)))
        return found
    return {prefix: spec}


def num_elements(spec: Spec) -> int:
    """How many numbers one value of `spec` holds, over all leaves; a discrete leaf counts one."""
    return sum(math.prod(leaf.shape) for leaf in leaves(spec).values())


def spec_from_json(value: Any) -> Spec:
    """The spec that `to_json` wrote. Raises `IncompatibleError` for an unknown kind or a bad field."""
    try:
        match value["type"]:
            case "box":
                dtype = str(np.dtype(value["dtype"]))
                low, high = _bound_from_json(value["low"]), _bound_from_json(value["high"])
                shape = tuple(int(n) for n in value["shape"])
                if any(isinstance(b, tuple) and len(b) != math.prod(shape) for b in (low, high)):
                    raise ValueError(f"its bounds are not one number, or one for each of {shape}")
                return Box(shape, dtype, low, high)
            case "discrete":
                if int(value["n"]) < 1:
                    raise ValueError(f"n is {value['n']}, expected at least 1")
                return Discrete(int(value["n"]), int(value.get("start", 0)))
            case "multi_discrete":
                return MultiDiscrete(tuple(int(n) for n in value["nvec"]))
            case "multi_binary":
                return MultiBinary(int(value["n"]))
            case "composite":
                return Composite({str(k): spec_from_json(v) for k, v in value["fields"].items()})
            case kind:
                raise IncompatibleError(f"unknown spec type {kind!r}")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as err:
        raise IncompatibleError(f"a spec is malformed: {err}") from err


def _expand(bound: tuple[float, ...] | float, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    array = np.asarray(bound, dtype)
    return np.broadcast_to(array, shape) if array.ndim == 0 else array.reshape(shape)


def _bound_to_json(bound: Bound) -> Any:
    if bound is None:
        return None
    if isinstance(bound, tuple):
        return [_bound_to_json(value) for value in bound]
    return bound if math.isfinite(bound) else ("inf" if bound > 0 else "-inf")


def _bound_from_json(value: Any) -> Bound:
    if isinstance(value, list):
        return tuple(float(item) for item in value)
    return None if value is None else float(value)
