"""What stored values mean, and those whose very bits are part of the format. SPEC.md sections 3 and 7."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlcli.format.schema import Column

Array = np.ndarray[Any, Any]


def as_numbers(column: Column, values: Array) -> Array:
    """Stored values as numbers NumPy can reckon with: bfloat16, which comes as its bits, becomes float32."""
    if column.dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def as_rewards(column: Column, values: Array) -> Array:
    """Stored rewards as returns add them up: float64, of complex ones the real parts."""
    found: Array = as_numbers(column, values).real.astype(np.float64)
    return found


def add_in_order(total: float, values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """`total` plus all values, one after the other, in float64: the same bits however they were chunked."""
    if values.size <= 1:
        return total + float(values.item()) if values.size else total
    return float(np.add.accumulate(np.concatenate(([total], values.reshape(-1))))[-1])


def booleans(values: Array) -> Array:
    """The values; where they are of bool and have bytes beyond 0 and 1, as a view may, with 1 for each."""
    if values.dtype.kind != "b" or not values.size:
        return values
    octets = values.view(np.uint8)
    return octets != 0 if octets.max() > 1 else values
