"""Gymnasium spaces as Minari writes them, JSON in a string, and what they are among our specs.

A `Dict` is a composite by its names, a `Tuple` one by the numbers of its items. `Text` has no spec of ours:
it is a column of text beside them. Gymnasium is not needed here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from rlcli.datasets.mapping import storable
from rlcli.errors import CorruptError, IncompatibleError
from rlcli.format.keys import DTYPES, Key
from rlcli.format.specs import Box, Composite, Discrete, MultiBinary, MultiDiscrete, Spec
from rlcli.format.specs import Leaf as SpecLeaf

_MAX_DEPTH = 12
_IMAGE_SIDE = 32  # Minari takes smaller arrays for no pictures
#: The characters of Gymnasium's `Text` where nothing else is known.
_CHARACTERS = "".join(map(chr, range(32, 127)))


@dataclass(frozen=True)
class Leaf:
    """A space that is neither `Dict` nor `Tuple`.

    `path` is where its values are, below `observations` or `actions` (items of tuples are `_index_0`, …);
    `key` is ours, below `observation` or `action`.
    """

    path: tuple[str, ...]
    key: Key
    space: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.space["type"])

    @property
    def is_picture(self) -> bool:
        """Whether Minari stores its values as JPEG, unless told otherwise (`is_image_space` there)."""
        shape = self.space.get("shape", ())
        return (
            self.kind == "Box"
            and self.space.get("dtype") == "uint8"
            and len(shape) in (2, 3)
            and min(shape[:2]) >= _IMAGE_SIDE
            and _bound(self.space.get("low")) == 0
            and _bound(self.space.get("high")) == 255
        )

    def spec(self, dtype: str, shape: tuple[int, ...]) -> SpecLeaf:
        """The spec for a column of that type, with what the space says where it fits."""
        space = self.space
        if self.kind == "Discrete" and not shape and dtype == "int64" and int(space["n"]) > 0:
            return Discrete(int(space["n"]), int(space.get("start") or 0))
        if self.kind == "MultiBinary" and len(shape) == 1 and dtype == "int8":
            return MultiBinary(shape[0])
        if self.kind == "MultiDiscrete" and len(shape) == 1 and dtype == "int64":
            start = np.asarray(space.get("start", 0))
            if not start.any():
                return MultiDiscrete(tuple(int(n) for n in space["nvec"]))
        if self.kind == "Box" and dtype != "bool" and tuple(space["shape"]) == shape:
            return Box(shape, dtype, _bound(space.get("low")), _bound(space.get("high")))
        return Box(shape, dtype)


def declared(leaf: Leaf) -> tuple[str, tuple[int, ...]]:
    """The dtype and shape of a value, as the space says. Not for `Text`."""
    space = leaf.space
    if leaf.kind == "Discrete":
        return "int64", ()
    if leaf.kind == "MultiBinary":
        n = space["n"]
        return "int8", tuple(n) if isinstance(n, list) else (int(n),)
    if leaf.kind == "MultiDiscrete":
        return str(space.get("dtype", "int64")), np.asarray(space["nvec"]).shape
    return str(space["dtype"]), tuple(space["shape"])


def read_space(value: Any, what: str) -> dict[str, Any]:
    """The space that `metadata.json` holds, checked. Raises `CorruptError`, `IncompatibleError`."""
    try:
        space = json.loads(value) if isinstance(value, str | bytes) else value
        _check(space, 0)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as err:
        raise CorruptError(f"{what} is malformed: {err!r}") from err
    return cast("dict[str, Any]", space)


def leaves_of(space: Mapping[str, Any], path: tuple[str, ...] = (), key: Key = ()) -> list[Leaf]:
    """All leaves of a space, in its order."""
    found: list[Leaf] = []
    if space["type"] == "Dict":
        for name, child in space["subspaces"].items():
            found += leaves_of(child, (*path, name), (*key, *storable(name)))
    elif space["type"] == "Tuple":
        for index, child in enumerate(space["subspaces"]):
            found += leaves_of(child, (*path, f"_index_{index}"), (*key, str(index)))
    else:
        found.append(Leaf(path, key, space))
    return found


def without_bounds(space: Mapping[str, Any]) -> dict[str, Any]:
    """The space with one number, or None, for the bounds of a `Box`; the spec has all of them."""
    if space["type"] == "Dict":
        return {**space, "subspaces": {k: without_bounds(v) for k, v in space["subspaces"].items()}}
    if space["type"] == "Tuple":
        return {**space, "subspaces": [without_bounds(v) for v in space["subspaces"]]}
    if space["type"] == "Box":
        return {**space, "low": None, "high": None}
    return dict(space)


def with_bounds(space: Mapping[str, Any], specs: Mapping[Key, SpecLeaf], key: Key) -> dict[str, Any]:
    """The inverse of `without_bounds`; `specs` are by key. Raises `KeyError` if one is missing."""
    if space["type"] == "Dict":
        children = {k: with_bounds(v, specs, (*key, *storable(k))) for k, v in space["subspaces"].items()}
        return {**space, "subspaces": children}
    if space["type"] == "Tuple":
        items = [with_bounds(v, specs, (*key, str(i))) for i, v in enumerate(space["subspaces"])]
        return {**space, "subspaces": items}
    if space["type"] != "Box":
        return dict(space)
    spec = specs[key]
    low, high = (spec.low, spec.high) if isinstance(spec, Box) else (None, None)
    return _box(tuple(space["shape"]), str(space["dtype"]), low, high)


def space_of(spec: Spec, texts: Mapping[Key, None] | None = None) -> dict[str, Any]:
    """The space for a spec, with a `Text` at each key of `texts`. Raises `IncompatibleError`."""
    match spec:
        case Composite(fields):
            children = {name: space_of(child) for name, child in fields.items()}
            for key in texts or ():
                node = children
                for name in key[:-1]:
                    node = node.setdefault(name, {"type": "Dict", "subspaces": {}})["subspaces"]
                node[key[-1]] = text_space()
            return {"type": "Dict", "subspaces": children}
        case Discrete(n, start):
            return {"type": "Discrete", "dtype": "int64", "start": start, "n": n}
        case MultiDiscrete(nvec):
            return {"type": "MultiDiscrete", "dtype": "int64", "nvec": list(nvec), "start": [0] * len(nvec)}
        case MultiBinary(n):
            return {"type": "MultiBinary", "n": n}
        case Box(shape, dtype, low, high):
            if dtype in ("bfloat16", "complex64"):
                raise IncompatibleError(f"Minari has no spaces of {dtype}")
            return _box(shape, dtype, low, high)


def text_space() -> dict[str, Any]:
    """A `Text` that says nothing about its values."""
    return {"type": "Text", "max_length": 1 << 20, "min_length": 0, "charset": _CHARACTERS}


def _box(shape: tuple[int, ...], dtype: str, low: Any, high: Any) -> dict[str, Any]:
    kind = np.dtype(dtype)
    if kind.kind == "b":
        limits: tuple[Any, Any] = (False, True)
    elif kind.kind in "iu":
        limits = (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
    else:
        limits = (-math.inf, math.inf)
    told = {"type": "Box", "dtype": dtype, "shape": list(shape)}
    for name, bound, limit in (("low", low, limits[0]), ("high", high, limits[1])):
        values = np.asarray(limit if bound is None else bound, object)
        values = np.full(shape, values[()]) if values.ndim == 0 else values.reshape(shape)
        flat = [_number(value, kind, limits) for value in values.reshape(-1).tolist()]
        told[name] = np.array(flat, object).reshape(shape).tolist()
    return told


def _number(value: Any, kind: np.dtype[Any], limits: tuple[Any, Any]) -> Any:
    if kind.kind == "f":
        return float(value)
    return min(max(value if math.isinf(value) else int(value), limits[0]), limits[1])


def _bound(value: Any) -> float | tuple[float, ...] | None:
    """A bound as specs have it: one number if all are equal, None if there is none."""
    if value is None:
        return None
    values = np.asarray(value, np.float64).reshape(-1)
    if values.size and (values == values[0]).all():
        return None if np.isinf(values[0]) else float(values[0])
    return tuple(values.tolist())


def _check(space: Any, depth: int) -> None:
    """Raises what `read_space` turns into an error."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"spaces nested more than {_MAX_DEPTH} deep")
    kind = space["type"]
    if kind == "Dict":
        for name, child in space["subspaces"].items():
            if not isinstance(name, str) or not name.strip("/"):
                raise ValueError(f"a space named {name!r}")
            _check(child, depth + 1)
    elif kind == "Tuple":
        if not isinstance(space["subspaces"], list):
            raise TypeError("the items of a Tuple are not a list")
        for child in space["subspaces"]:
            _check(child, depth + 1)
    elif kind == "Box":
        shape = space["shape"]
        if any(type(n) is not int or n < 0 for n in shape) or math.prod(shape) > 1 << 31:
            raise ValueError(f"a Box of shape {shape}")
        if space["dtype"] not in DTYPES:
            raise ValueError(f"a Box of {space['dtype']!r}")
        for name in ("low", "high"):
            if np.asarray(space[name], np.float64).size not in (1, math.prod(shape)):
                raise ValueError(f"the {name} of a Box does not fit its shape {shape}")
    elif kind == "Discrete":
        int(space["n"])
    elif kind == "MultiBinary":
        np.asarray(space["n"], np.int64)
    elif kind == "MultiDiscrete":
        np.asarray(space["nvec"], np.int64)
    elif kind != "Text":
        raise IncompatibleError(f"a space of type {kind!r}, which Minari does not write")
