"""What sources of episodes have in common: their attributes, specs of their columns, nested observations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli import _native
from rlcli.datasets.contract import Piece, Report
from rlcli.datasets.mapping import keys_for
from rlcli.datasets.slicing import slice_rows
from rlcli.errors import IncompatibleError, UsageError
from rlcli.format.keys import Key
from rlcli.format.schema import Column, Schema
from rlcli.format.specs import Box, Composite, Discrete, MultiDiscrete, Spec, leaves, spec_from_json


@dataclass(kw_only=True)
class Opened:
    """The attributes of `contract.Source`; a format adds `parts`."""

    schema: Schema
    spec: dict[str, Any]
    record: dict[str, Any]
    report: Report
    files: Sequence[Path]
    pieces: Sequence[Piece]
    plan: dict[str, Any] = field(default_factory=dict)

    def slice_rows(self) -> int:
        """Rows of a slice."""
        return slice_rows(self.schema.row_bytes)


def nest(values: Mapping[Key, Any], depth: int = 1) -> Any:
    """`{("observation", "x"): a}` as `{"x": a}`; the value alone where the key ends at `depth`."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        if len(key) == depth:
            return value
        node = nested
        for part in key[depth:-1]:
            node = node.setdefault(part, {})
        node[key[-1]] = value
    return nested


def nested_spec(specs: Mapping[Key, Spec], depth: int = 1) -> Spec:
    """A composite of `specs` by what follows `depth` parts of their keys; the spec alone where nothing does.

    Raises `IncompatibleError` where one key is the parent of another.
    """

    def build(node: Any) -> Spec:
        if isinstance(node, dict):
            return Composite({name: build(child) for name, child in node.items()})
        spec: Spec = node
        return spec

    for key in specs:
        if above := next((key[:size] for size in range(depth, len(key)) if key[:size] in specs), None):
            raise IncompatibleError(f"{'/'.join(above)} is a column itself, and has a part {'/'.join(key)}")
    return build(nest(specs, depth))


def box_spec(columns: Iterable[Column], top: str) -> Spec:
    """The spec of all columns below `top` whose values have one size, without bounds."""
    return nested_spec({c.key: Box(c.shape, c.dtype) for c in columns if c.key[0] == top and c.is_sized})


def spec_of(columns: Iterable[Column], env: Mapping[str, Any] | None, env_id: str | None) -> dict[str, Any]:
    """The `spec` of a source whose observations and actions are boxes; `env_id` is what the user says."""
    columns = list(columns)
    return {
        "env": env_of(env_id) or (None if env is None else dict(env)),
        "observation": box_spec(columns, "observation").to_json(),
        "action": box_spec(columns, "action").to_json(),
    }


def described(told: Any, found: Spec) -> Spec | None:
    """The spec that our own export told, where it describes the columns of `found`; None otherwise.

    Whole numbers are of the columns' own types, which the spec of discrete ones does not tell.
    """
    columns = leaves(found)

    def stored(spec: Spec, key: Key) -> Spec:
        if isinstance(spec, Composite):
            return Composite({name: stored(child, (*key, name)) for name, child in spec.fields.items()})
        column = columns.get(key)
        is_whole = column is not None and np.dtype(column.dtype).kind in "iu"
        whole = isinstance(spec, Discrete | MultiDiscrete) and is_whole
        return replace(spec, dtype=column.dtype) if whole and column is not None else spec

    try:
        spec = stored(spec_from_json(told), ())
    except (KeyError, TypeError, ValueError, IncompatibleError):
        return None
    pair = [{key: (leaf.dtype, leaf.shape) for key, leaf in leaves(each).items()} for each in (spec, found)]
    return spec if pair[0] == pair[1] else None


def told_specs(found: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """What our own export said of spaces and scores, where it describes the columns that were found."""
    kept: dict[str, Any] = {}
    for top in ("observation", "action"):
        if described(told.get(top), spec_from_json(found[top])) is not None:
            kept[top] = told[top]
    if isinstance(told.get("reference_scores"), dict):
        kept["reference_scores"] = told["reference_scores"]
    return kept


def env_of(env_id: str | None) -> dict[str, Any] | None:
    """`library:id` as an environment's entry in a spec."""
    if env_id is None:
        return None
    library, separator, id_ = env_id.partition(":")
    library, id_ = (library, id_) if separator else ("gymnasium", env_id)
    return {"library": library, "id": id_, "kwargs": {}, "max_episode_steps": None}


def renamed(keys: Mapping[str, Key], given: Mapping[str, str], where: object) -> dict[str, Key | None]:
    """The key of every source name after `--map`; None for what is left out.

    Raises `UsageError` for unknown names, and for keys of another kind: an observation stays one.
    """
    chosen = keys_for(given, keys, where)
    for name, key in chosen.items():
        if key is not None and key[0] != keys[name][0]:
            to = "/".join(key)
            raise UsageError(f"{where}: {name} is below {keys[name][0]} and cannot become {to!r}", path=where)
    return {**keys, **chosen}


def equal_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two arrays hold the same bytes; NaN equals NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return a.shape == b.shape and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
    return bool((_words(a) == _words(b)).all())


def differing_rows(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.int64]:
    """The rows in which two arrays `[n, …]` of one dtype hold other bytes, ascending; NaN equals NaN."""
    return _native.differing_rows(np.ascontiguousarray(a), np.ascontiguousarray(b))


def _words(values: NDArray[Any]) -> NDArray[Any]:
    """All values, flat, as unsigned integers of their bits."""
    size = values.dtype.itemsize
    return np.ascontiguousarray(values).reshape(-1).view(f"u{size}" if size in (1, 2, 4, 8) else np.uint8)


def is_exact(rewards: NDArray[Any]) -> bool:
    """Whether rewards come back bit for bit from our float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        back = rewards.astype(np.float32).astype(rewards.dtype)
    return equal_bits(back, rewards)
