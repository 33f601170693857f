"""Statistics as LeRobot 0.4 keeps them, per episode and of the whole dataset.

min, max, mean, std, count and five quantiles of every feature; of pictures per channel, in [0, 1], over some
frames. Quantiles of the dataset are the means of the episodes' ones, weighted by their lengths, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Stats = dict[str, NDArray[Any]]
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
MAX_FRAMES = 100  # of an episode that are looked at
_SIDE = 150  # pixels of a side that are looked at


def of_numbers(values: NDArray[Any]) -> Stats:
    """Statistics over the rows of `[n, …]`; a single number per row has an axis of one.

    Those of uint64 are float64: where they are kept whole numbers are int64.
    """
    rows = values.reshape(-1, 1) if values.ndim == 1 else values
    numbers = rows.astype(np.float64)
    rows = numbers if rows.dtype == np.uint64 else rows
    with np.errstate(all="ignore"):
        found = {
            "min": rows.min(0),
            "max": rows.max(0),
            "mean": numbers.mean(0),
            "std": numbers.std(0),
            "count": np.array([len(rows)]),
        }
        quantiles = np.quantile(numbers, list(QUANTILES.values()), axis=0)
    return {**found, **dict(zip(QUANTILES, quantiles, strict=True))}


def of_pictures(frames: Sequence[NDArray[Any]]) -> Stats:
    """Statistics per channel, `[channels, 1, 1]`, over pixels of frames `[height, width, channels]`."""
    height, width, channels = frames[0].shape
    step = max(1, max(height, width) // _SIDE)
    scale = 255.0 if frames[0].dtype == np.uint8 else 65535.0
    pixels = np.stack([frame[::step, ::step] for frame in frames]).reshape(-1, channels) / scale
    found = {name: value.reshape(-1, 1, 1) for name, value in of_numbers(pixels).items() if name != "count"}
    return {**found, "count": np.array([len(frames)])}


def sampled(length: int) -> NDArray[np.int64]:
    """Which frames of an episode are looked at."""
    return np.unique(np.linspace(0, length - 1, min(length, MAX_FRAMES)).round().astype(np.int64))


def joined(parts: Sequence[Stats]) -> Stats:
    """Statistics of everything from those of its parts."""
    counts = np.array([part["count"][0] for part in parts], np.float64)
    weights = (counts / counts.sum()).reshape(-1, *([1] * parts[0]["mean"].ndim))
    with np.errstate(all="ignore"):
        means = np.stack([part["mean"] for part in parts])
        mean = (weights * means).sum(0)
        spread = np.stack([part["std"] for part in parts]) ** 2 + (means - mean) ** 2
        found = {
            "min": np.stack([part["min"] for part in parts]).min(0),
            "max": np.stack([part["max"] for part in parts]).max(0),
            "mean": mean,
            "std": np.sqrt((weights * spread).sum(0)),
            "count": np.array([int(counts.sum())]),
        }
        for name in QUANTILES:
            found[name] = (weights * np.stack([part[name] for part in parts])).sum(0)
    return found
