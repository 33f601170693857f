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


def stored_finals(schema: Schema, finals: Mapping[Key, Values], count: int) -> dict[Key, Stored]:
    """`count` final values of each column that is shifted, as they are stored, by its key.

    Raises `ValueError` (of a heap's value also `TypeError`) where they do not fit the schema.
    """
    stored: dict[Key, Stored] = {}
    for column in schema.shifts:
        assert column.of is not None
        source, values = schema.column(column.of), finals[column.of]
        if source.heap is not None:
            stored[column.of] = [encode(source, value) for value in values]
            continue
        array = np.ascontiguousarray(values)
        if array.dtype != column.numpy or array.nbytes != count * column.row_bytes:
            raise ValueError(
                f"final {column.of} is {array.dtype}{array.shape[1:]}, expected {column.numpy}{column.shape}"
            )
        stored[column.of] = booleans(array).reshape(count, *column.shape)
    return stored


def _plain(column: Column, values: Values, shape: tuple[int, ...]) -> Array:
    array = np.asarray(values)
    if array.dtype != column.numpy or array.shape != shape:
        raise ValueError(f"column {column.key} is {array.dtype}{array.shape}, expected {column.numpy}{shape}")
    return booleans(np.ascontiguousarray(array))
