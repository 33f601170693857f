"""What a row is: its columns, in order. SPEC.md sections 3, 4 and 6."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from rlcli.errors import IncompatibleError
from rlcli.format.keys import DTYPES, Key, check_dtype, check_key, check_keys
from rlcli.format.specs import Spec, leaves

MAX_ROW_BYTES = 1 << 40


@dataclass(frozen=True)
class Column:
    """One value per row. A derived column is not stored: it is the next row's value of `of`."""

    key: Key
    dtype: str
    shape: tuple[int, ...] = ()
    encoding: Literal["plain", "derived"] = "plain"
    of: Key | None = None

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        return DTYPES[self.dtype]

    @cached_property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * self.numpy.itemsize

    def to_json(self) -> dict[str, Any]:
        if self.encoding == "derived":
            assert self.of is not None
            return {
                "key": list(self.key), "encoding": "derived", "op": "shift", "of": list(self.of), "by": 1
            }  # fmt: skip
        return {"key": list(self.key), "encoding": "plain", "dtype": self.dtype, "shape": list(self.shape)}


@dataclass(frozen=True)
class Schema:
    """Columns in stored order. Raises `IncompatibleError` if they break the grammar."""

    columns: tuple[Column, ...]
    by_key: Mapping[Key, Column] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        for column in self.columns:
            check_key(column.key)
            check_dtype(column.dtype)
            if any(not isinstance(n, int) or n < 1 for n in column.shape):
                raise IncompatibleError(
                    f"column {column.key} has shape {column.shape}: every axis needs >= 1"
                )
            if not 0 < column.row_bytes <= MAX_ROW_BYTES:
                raise IncompatibleError(f"column {column.key} has {column.row_bytes} bytes per row")
        check_keys(column.key for column in self.columns)
        object.__setattr__(self, "by_key", {column.key: column for column in self.columns})
        if not self.plain:
            raise IncompatibleError("a schema needs a stored column")
        for column in self.derived:
            source = self.by_key.get(column.of or ())
            if source is None or source.encoding != "plain":
                raise IncompatibleError(f"column {column.key} derives from {column.of}, which is not stored")
            if (source.dtype, source.shape) != (column.dtype, column.shape):
                raise IncompatibleError(f"column {column.key} differs in dtype or shape from {column.of}")

    @cached_property
    def plain(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.encoding == "plain")

    @cached_property
    def derived(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.encoding == "derived")

    @cached_property
    def row_bytes(self) -> int:
        """Stored bytes per row."""
        return sum(column.row_bytes for column in self.plain)

    def column(self, key: Iterable[str]) -> Column:
        """The column `key`. Raises `IncompatibleError` if there is none."""
        wanted = tuple(key)
        try:
            return self.by_key[wanted]
        except KeyError:
            known = ", ".join("/".join(column.key) for column in self.columns)
            raise IncompatibleError(f"no column {'/'.join(wanted)!r}; there are {known}") from None

    def to_json(self) -> dict[str, Any]:
        return {
            "columns": [column.to_json() for column in self.columns],
            "batch_names": ["time"],
            "layout": "ted",
        }

    @staticmethod
    def from_json(value: Any) -> Schema:
        """The schema `to_json` wrote. Raises `IncompatibleError` for what 1.0 does not know."""
        try:
            entries = value["columns"]
            plain: dict[Key, Column] = {}
            for entry in entries:
                if entry["encoding"] == "plain":
                    shape = tuple(entry["shape"])
                    if any(type(n) is not int for n in shape):
                        raise IncompatibleError(f"shape {shape!r} is not a list of integers")
                    plain[tuple(entry["key"])] = Column(
                        tuple(entry["key"]), check_dtype(entry["dtype"]), shape
                    )
            columns = []
            for entry in entries:
                key = check_key(entry["key"])
                if entry["encoding"] == "plain":
                    columns.append(plain[key])
                elif entry["encoding"] == "derived" and entry["op"] == "shift" and entry["by"] == 1:
                    of = tuple(entry["of"])
                    if of not in plain:
                        raise IncompatibleError(f"column {key} derives from {of}, which is not stored")
                    columns.append(Column(key, plain[of].dtype, plain[of].shape, "derived", of))
                else:
                    raise IncompatibleError(f"column {key}: unknown encoding {entry!r}")
        except (KeyError, TypeError, AttributeError) as err:
            raise IncompatibleError(f"the schema is malformed: {err!r}") from err
        return Schema(tuple(columns))


def ted_schema(
    observation: Spec,
    action: Spec,
    *,
    extra: Sequence[Column] = (),
    next_observation: Literal["derived", "plain"] = "derived",
) -> Schema:
    """The standard columns of a time step (TorchRL's TED layout), then `extra`.

    `next_observation="derived"` stores each observation once: the next one is the next row's, and finals
    are kept apart. `"plain"` stores it in every row.
    """
    columns = []
    for prefix, spec in (("observation", observation), ("action", action)):
        columns += [Column(key, leaf.dtype, leaf.shape) for key, leaf in leaves(spec, (prefix,)).items()]
    for key, leaf in leaves(observation, ("observation",)).items():
        following = ("next", *key)
        if next_observation == "derived":
            columns.append(Column(following, leaf.dtype, leaf.shape, "derived", key))
        else:
            columns.append(Column(following, leaf.dtype, leaf.shape))
    columns += [
        Column(("next", "reward"), "float32", (1,)),
        Column(("next", "terminated"), "bool", (1,)),
        Column(("next", "truncated"), "bool", (1,)),
        Column(("next", "done"), "bool", (1,)),
        Column(("is_init",), "bool", (1,)),
        Column(("episode",), "int64"),
        Column(("step",), "int64"),
    ]
    return Schema((*columns, *extra))
