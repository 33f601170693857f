"""What a writer is given, compared with the schema before a byte is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlcli.format.heap import encode
from rlcli.format.keys import Key
from rlcli.format.schema import Column, Schema
from rlcli.format.values import booleans

Array = np.ndarray[Any, Any]
Values = Array | Sequence[Any]  # of a plain column, or a heap's values: text, bytes, arrays
Stored = Array | list[bytes | memoryview]


def stored_rows(schema: Schema, columns: Mapping[Key, Values]) -> tuple[list[Stored], int]:
    """The rows as they are stored, in the order of `schema.given`, and how many they are.

    `columns` has every plain column, `[n, *shape]` in its dtype, and n values of every heap column. Raises
    `ValueError` (of a heap's value also `TypeError`) where they differ.
    """
    stored: list[Stored] = []
    rows = -1
    for column in schema.given:
        values = columns.get(column.key)
        if values is None:
            raise ValueError(f"column {column.key} is missing")
        if rows < 0:
            rows = len(values)
        if column.heap is None:
            stored.append(_plain(column, values, (rows, *column.shape)))
        elif len(values) == rows:
            stored.append([encode(column, value) for value in values])
        else:
            raise ValueError(f"column {column.key} has {len(values)} values, expected {rows}")
    if len(columns) != len(stored):
        raise ValueError(f"unknown columns {sorted(set(columns) - {c.key for c in schema.given})}")
    return stored, rows


def stored_final(schema: Schema, final: Mapping[Key, Any]) -> dict[Key, Array | bytes | memoryview]:
    """The final values as they are stored, by the key of the column that is shifted."""
    stored: dict[Key, Array | bytes | memoryview] = {}
    for column in schema.shifts:
        assert column.of is not None
        source = schema.column(column.of)
        if source.heap is not None:
            stored[column.of] = encode(source, final[column.of])
            continue
        value = np.ascontiguousarray(final[column.of])
        if value.dtype != column.numpy or value.size * value.itemsize != column.row_bytes:
            raise ValueError(
                f"final {column.of} is {value.dtype}{value.shape}, expected {column.numpy}{column.shape}"
            )
        stored[column.of] = booleans(value)
    return stored


def _plain(column: Column, values: Values, shape: tuple[int, ...]) -> Array:
    array = np.asarray(values)
    if array.dtype != column.numpy or array.shape != shape:
        raise ValueError(f"column {column.key} is {array.dtype}{array.shape}, expected {column.numpy}{shape}")
    return booleans(np.ascontiguousarray(array))
