"""Mean, deviation, extremes and odd values of a stream of arrays, in one pass and bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Moments:
    """Per element, over rows that come in parts. NaN and infinity are counted, not averaged.

    Sums are float64. Each part's deviations are taken from its own mean and parts are merged pairwise (Chan,
    Golub & LeVeque, 1979), so a large mean does not eat the variance.
    """

    def __init__(self, num_elements: int) -> None:
        self.rows = 0
        self.count = np.zeros(num_elements, np.int64)
        self.nan = np.zeros(num_elements, np.int64)
        self.inf = np.zeros(num_elements, np.int64)
        self.mean = np.zeros(num_elements)
        self.squares = np.zeros(num_elements)  # sum of squared deviations from the mean
        self.min: Array | None = None  # in the values' own dtype; None before the first finite row
        self.max: Array | None = None

    def add(self, values: Array) -> None:
        """`values` `[rows, num_elements]`, real numbers or booleans."""
        if not len(values):
            return
        self.rows += len(values)
        if values.dtype.kind == "b":
            values = values.view(np.uint8)
        if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
            nan = np.isnan(values)
            self.nan += nan.sum(axis=0)
            self.inf += (~finite & ~nan).sum(axis=0)
            self._merge(finite.sum(axis=0), values, finite)
            self._extremes(np.where(finite, values, np.inf), np.where(finite, values, -np.inf))
        else:
            self._merge(np.full(len(self.count), len(values)), values, None)
            self._extremes(values, values)

    @property
    def std(self) -> Array:
        """Population standard deviation per element; NaN where there is no finite value."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.sqrt(self.squares / self.count))

    @property
    def constant(self) -> Array:
        """Elements that hold the same finite value in every row."""
        if self.min is None or self.max is None:
            return np.zeros(len(self.count), np.bool_)
        return np.asarray((self.min == self.max) & (self.count == self.rows))

    def pooled(self) -> tuple[float, float]:
        """Mean and standard deviation over all elements together; NaN without a finite value."""
        total = int(self.count.sum())
        if not total:
            return float("nan"), float("nan")
        mean = float((self.mean * self.count).sum() / total)
        squares = float((self.squares + self.count * (self.mean - mean) ** 2).sum())
        return mean, float(np.sqrt(squares / total))

    def _merge(self, count: Array, values: Array, finite: Array | None) -> None:
        wide = values.astype(np.float64)
        if finite is not None:
            wide[~finite] = 0.0
        divisor = np.maximum(count, 1)
        mean = wide.sum(axis=0) / divisor
        wide -= mean
        if finite is not None:
            wide[~finite] = 0.0
        # the second term takes out the rounding of `mean` (corrected two-pass)
        squares = np.einsum("ij,ij->j", wide, wide) - wide.sum(axis=0) ** 2 / divisor
        total = self.count + count
        share = count / np.maximum(total, 1)
        delta = mean - self.mean
        self.squares += squares + delta**2 * self.count * share
        self.mean += delta * share
        self.count = total

    def _extremes(self, low: Array, high: Array) -> None:
        least, most = low.min(axis=0), high.max(axis=0)
        self.min = least if self.min is None else np.minimum(self.min, least)
        self.max = most if self.max is None else np.maximum(self.max, most)
