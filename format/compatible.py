"""What differs between two datasets that are to become one, said column by column."""

from __future__ import annotations

from typing import Any

from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.format.schema import Column, Schema

_SHOWN = 8


def check(first: Dataset, other: Dataset, *, verb: str, order_matters: bool = False) -> None:
    """Raise `IncompatibleError` with every difference unless columns and spec are the same.

    Columns may come in another order unless `order_matters`.
    """
    found = schema_differences(first.schema, other.schema) + value_differences(first.spec, other.spec)
    if not found and order_matters and first.schema != other.schema:
        found = ["its columns come in another order"]
    if found:
        more = f"; and {len(found) - _SHOWN} more differences" if len(found) > _SHOWN else ""
        listed = "; ".join(found[:_SHOWN])
        raise IncompatibleError(
            f"{other.path} cannot be {verb} with {first.path}: {listed}{more}",
            hint="`rl buffer map` renames, casts, selects and excludes columns",
            path=other.path,
        )


def schema_differences(first: Schema, other: Schema) -> list[str]:
    """A phrase for each column that is not the same in both, in order."""
    found = []
    keys = dict.fromkeys([*first.by_key, *other.by_key])
    for key in keys:
        a, b = first.by_key.get(key), other.by_key.get(key)
        if a != b:
            name = "/".join(key)
            if a is None or b is None:
                found.append(f"column {name} is only in the {'second' if a is None else 'first'}")
            else:
                found.append(f"column {name} is {_kind(a)} in the first and {_kind(b)} in the second")
    return found


def _kind(column: Column) -> str:
    of = "/".join(column.of or ())
    if column.encoding == "derived":
        return f"{column.dtype} {list(column.shape)}, derived from {of}"
    if column.encoding == "stack":
        return f"the last {column.frames} of {of}"
    if column.heap is not None:
        return f"{column.heap.value} of any length (codec {column.heap.codec}, limit {column.heap.limit})"
    return f"{column.dtype} {list(column.shape)}"


def value_differences(first: Any, other: Any, path: str = "spec") -> list[str]:
    """A phrase for each place where two JSON values differ."""
    if isinstance(first, dict) and isinstance(other, dict):
        found = []
        for name in dict.fromkeys([*first, *other]):
            if name not in first or name not in other:
                found.append(f"{path}.{name} is only in the {'second' if name not in first else 'first'}")
            else:
                found += value_differences(first[name], other[name], f"{path}.{name}")
        return found
    if first == other:
        return []
    return [f"{path} is {_short(first)} in the first and {_short(other)} in the second"]


def _short(value: Any, width: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= width else f"{text[: width - 1]}…"
