"""Values whose very bits are part of the format. SPEC.md sections 3 and 7."""

from __future__ import annotations

from typing import Any

import numpy as np


def add_in_order(total: float, values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """`total` plus all values, one after the other, in float64: the same bits however they were chunked."""
    if values.size <= 1:
        return total + float(values.item()) if values.size else total
    return float(np.add.accumulate(np.concatenate(([total], values.reshape(-1))))[-1])


def booleans(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The values; where they are of bool and have bytes beyond 0 and 1, as a view may, with 1 for each."""
    if values.dtype.kind != "b" or not values.size:
        return values
    octets = values.view(np.uint8)
    return octets != 0 if octets.max() > 1 else values
