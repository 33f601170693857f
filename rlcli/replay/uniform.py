"""Uniform sampling with replacement, and mixtures of datasets.

A sampler draws row numbers with the caller's generator and lets the dataset gather them, so a seed
and a snapshot determine every batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.format.specs import Key

Batch = dict[str, Any]  # nested dicts with arrays [B, ...] at the leaves


class Uniform:
    """Rows drawn uniformly with replacement from the newest `capacity` rows of a dataset.

    Rows whose next observation is unknown are never drawn when `keys` asks for next observations.
    `keys` names the columns of a batch, or the nodes above them; None means all. The dataset may grow;
    `refresh` it to see more. Raises `IncompatibleError` if the dataset has nothing under a key.
    """

    def __init__(
        self, dataset: Dataset, keys: Sequence[Key] | None = None, capacity: int | None = None
    ) -> None:
        self.dataset = dataset
        self.keys = [column.key for column in dataset.schema.columns if _is_under(column.key, keys)]
        self.capacity = capacity
        self._needs_next = any(key[:2] == ("next", "observation") for key in self.keys)
        self._known: tuple[int, int, NDArray[np.int64]] = (0, -1, np.empty(0, np.int64))
        for wanted in keys or ():
            if not any(_is_under(key, [wanted]) for key in self.keys):
                raise IncompatibleError(f"{dataset.path} has no column {'/'.join(wanted)}")

    def __len__(self) -> int:
        """How many rows can be drawn now."""
        low, high, excluded = self._range()
        return high - low - len(excluded)

    def rows(self, batch_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """`batch_size` row numbers `[B]`. Raises `IncompatibleError` if no row can be drawn."""
        low, high, excluded = self._range()
        count = high - low - len(excluded)
        if count <= 0:
            raise IncompatibleError(f"{self.dataset.path} has no row whose next observation is known")
        drawn = rng.integers(0, count, batch_size)
        if len(excluded):  # the k-th eligible row lies after as many excluded rows as come before it
            drawn += np.searchsorted(excluded - low - np.arange(len(excluded)), drawn, side="right")
        return drawn + low

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """A fresh batch: nested dicts of arrays `[B, ...]`."""
        return self.dataset.gather(self.rows(batch_size, rng), self.keys)

    def _range(self) -> tuple[int, int, NDArray[np.int64]]:
        """First and last row, and the rows between that are not drawn; worked out once per snapshot."""
        high = self.dataset.num_rows
        if high != self._known[1]:
            low = 0 if self.capacity is None else max(0, high - self.capacity)
            unknown = self.dataset.unknown_next if self._needs_next else np.empty(0, np.int64)
            self._known = (low, high, unknown[np.searchsorted(unknown, low) :])
        return self._known


class Mixture:
    """Batches whose rows come from several samplers in fixed proportion (Ball et al., 2023, section 4.1).

    Of B rows, source k gives `B * weight_k`, rounded down or up at random so that its expectation is exact.
    """

    def __init__(self, sources: Sequence[Uniform], weights: Sequence[float]) -> None:
        self.sources = list(sources)
        self.weights = np.asarray(weights, np.float64) / np.sum(weights)

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """A fresh batch, rows of one source after those of another."""
        edges = np.floor(np.cumsum(self.weights * batch_size) + rng.random())  # systematic sampling
        edges[-1] = batch_size
        counts = np.diff(edges, prepend=0.0)
        parts = [source.sample(int(n), rng) for source, n in zip(self.sources, counts, strict=True) if n]
        return concatenate(parts)


def _is_under(key: Key, nodes: Sequence[Key] | None) -> bool:
    return nodes is None or any(key[: len(node)] == node for node in nodes)


def concatenate(parts: Sequence[Batch]) -> Batch:
    """Batches of equal keys joined along the first axis."""
    if len(parts) == 1:
        return parts[0]
    joined: Batch = {}
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        joined[name] = concatenate(values) if isinstance(first, dict) else np.concatenate(values)
    return joined
