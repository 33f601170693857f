"""How rows of a schema are read: which of its columns are files, and what is read of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from rlcli import _native
from rlcli.format.keys import Key
from rlcli.format.schema import Column, Schema


class RowPlan(NamedTuple):
    """Columns to read, and their numbers in the table of rows."""

    keys: tuple[Key, ...]
    columns: tuple[Column, ...]
    numbers: tuple[int, ...]
    derived: bool
    composed: tuple[Column, ...]  # these are made of others


@lru_cache(maxsize=16)
def table_of(schema: Schema) -> tuple[_native.RowMap, Mapping[Key, int]]:
    """An empty table of the columns that are files, and their numbers in it: the plain ones come first."""
    table = _native.RowMap()
    numbers: dict[Key, int] = {}
    for column in schema.plain:
        numbers[column.key] = table.add_plain(column.numpy, column.shape, column.file)
    for column in schema.derived:
        numbers[column.key] = table.add_shift(numbers[column.of or ()], column.file)
    return table, numbers


@lru_cache(maxsize=64)
def plan_of(schema: Schema, wanted: tuple[Key, ...] | None) -> RowPlan:
    """How to read these columns, or all. Raises `IncompatibleError` for one that is not there."""
    known = table_of(schema)[1]
    chosen = schema.columns if wanted is None else tuple(schema.column(key) for key in wanted)
    columns = tuple(column for column in chosen if column.key in known)
    composed = tuple(column for column in chosen if column.key not in known)
    keys = tuple(column.key for column in columns)
    numbers = tuple(known[key] for key in keys)
    return RowPlan(keys, columns, numbers, any(column.of for column in columns), composed)
