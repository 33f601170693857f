"""How stored actions cover what their spec allows: counts of discrete values, shares at a box's bounds."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlcli.format.specs import Box, Discrete, Leaf, MultiDiscrete

Array = NDArray[Any]

MAX_ACTIONS = 1 << 16  # larger sets get no counts
NEAR_BOUND = 1e-3  # of the range: what counts as at a bound


class Coverage(Protocol):
    """Takes the values of one action leaf in parts."""

    def add(self, values: Array) -> None:
        """`values` `[rows, elements]`."""

    def facts(self) -> dict[str, Any]:
        """What was found, for JSON."""
        ...


def coverage_of(spec: Leaf) -> Coverage | None:
    """What to measure of a leaf; None where there is nothing to say: unbounded, binary or too many values."""
    match spec:
        case Discrete(n, start) if n <= MAX_ACTIONS:
            return Counts([start], [n])
        case MultiDiscrete(nvec) if max(nvec) <= MAX_ACTIONS:
            return Counts([0] * len(nvec), list(nvec))
        case Box() if np.isfinite(spec.bounds()).all():
            return AtBounds(spec)
    return None


class Counts:
    """Per element, how often each of `starts[k] … starts[k] + sizes[k] - 1` occurred, and anything else."""

    def __init__(self, starts: list[int], sizes: list[int]) -> None:
        self.starts = starts
        self.counts = [np.zeros(size, np.int64) for size in sizes]
        self.outside = [0] * len(sizes)

    def add(self, values: Array) -> None:
        for k, counts in enumerate(self.counts):
            index = values[:, k].astype(np.int64) - self.starts[k]
            inside = index[(index >= 0) & (index < len(counts))]
            counts += np.bincount(inside, minlength=len(counts))
            self.outside[k] += len(index) - len(inside)

    def facts(self) -> dict[str, Any]:
        parts = zip(self.starts, self.counts, self.outside, strict=True)
        return {
            "kind": "counts",
            "parts": [{"start": s, "counts": counts.tolist(), "outside": o} for s, counts, o in parts],
        }


class AtBounds:
    """Per element, the shares of values at (or beyond) the lower and the upper bound, and beyond either."""

    def __init__(self, spec: Box) -> None:
        self.low, self.high = (bound.reshape(-1).astype(np.float64) for bound in spec.bounds())
        self.margin = (self.high - self.low) * NEAR_BOUND
        self.rows = 0
        self.counts = np.zeros((3, len(self.low)), np.int64)

    def add(self, values: Array) -> None:
        at_low, at_high = values <= self.low + self.margin, values >= self.high - self.margin
        outside = (values < self.low) | (values > self.high)
        self.rows += len(values)
        self.counts += [part.sum(axis=0) for part in (at_low, at_high, outside)]

    def facts(self) -> dict[str, Any]:
        at_low, at_high, outside = self.counts / max(self.rows, 1)
        return {
            "kind": "bounds", "low": self.low, "high": self.high,
            "at_low": at_low, "at_high": at_high, "outside": outside,
        }  # fmt: skip
