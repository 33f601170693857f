"""Arithmetic whose result is part of the format. SPEC.md section 7."""

from __future__ import annotations

from typing import Any

import numpy as np


def add_in_order(total: float, values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """`total` plus all values, one after the other, in float64: the same bits however they were chunked."""
    if values.size <= 1:
        return total + float(values.item()) if values.size else total
    return float(np.add.accumulate(np.concatenate(([total], values.reshape(-1))))[-1])
