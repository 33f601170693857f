"""Scores to statements: interquartile mean and bootstrap interval (Agarwal et al., 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def iqm(scores: Sequence[float] | Scores, axis: int = -1) -> Scores:
    """The interquartile mean over `axis` (Agarwal et al., 2021, section 4.3).

    Of n scores, `floor(n / 4)` are cut at each end. `scores` may have any shape.
    """
    ordered = np.sort(np.asarray(scores, np.float64), axis=axis)
    count = ordered.shape[axis]
    cut = count // 4
    return np.asarray(np.take(ordered, np.arange(cut, count - cut), axis=axis).mean(axis=axis))


def bootstrap_interval(
    scores: Sequence[float] | Scores,
    statistic: Callable[[Scores], Scores] = iqm,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of `statistic` at `level`, from `resamples` draws with replacement.

    `statistic` maps `[resamples, n]` to `[resamples]`.
    """
    values = np.asarray(scores, np.float64)
    draws = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    estimates = statistic(values[draws])
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
