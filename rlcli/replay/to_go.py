"""Rewards still to come of every row of a dataset, worked out once per snapshot."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rlcli import _native
from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.format.specs import Key
from rlcli.replay.streams import Rows, Streams

REWARD: Key = ("next", "reward")
TO_GO: Key = ("reward_to_go",)


class RewardsToGo:
    """The discounted sum of the rewards from each row to the end of its episode, float32.

    It is known of whole episodes: terminated or truncated ones that begin in the dataset; nothing is added
    for what would follow a truncation. Rows of others are `unknown`. Takes 4 bytes per row.
    """

    def __init__(self, dataset: Dataset, gamma: float) -> None:
        if REWARD not in [column.key for column in dataset.schema.columns]:
            raise IncompatibleError(f"{dataset.path}: rewards to go need the column next/reward")
        if math.prod(dataset.schema.column(REWARD).shape) != 1:
            raise IncompatibleError(f"{dataset.path}: rewards to go need one reward per row")
        self._dataset = dataset
        self._gamma = gamma
        self._found: tuple[int, NDArray[np.float32]] | None = None

    def values(self) -> NDArray[np.float32]:
        """Of every logical row, NaN where it is unknown."""
        if self._found is None or self._found[0] != self._dataset.changes:
            self._found = (self._dataset.changes, self._computed())
        return self._found[1]

    def unknown(self) -> Rows:
        """The logical rows of episodes that are not whole, ascending."""
        return np.flatnonzero(np.isnan(self.values()))

    def _computed(self) -> NDArray[np.float32]:
        dataset, table = self._dataset, self._dataset.episodes
        reward = dataset.read(REWARD).astype(np.float64).reshape(-1)
        at_ends = np.zeros(len(reward), np.bool_)
        at_ends[table.start + table.length - 1] = True
        at_ends[[stop - 1 for start, stop in Streams.of(dataset).spans() if start < stop]] = True
        found = _native.td_lambda(
            reward, None, np.zeros_like(at_ends), at_ends, gamma=self._gamma, lam=1.0, threads=1
        )
        edges = np.zeros(len(reward) + 1, np.int64)
        np.add.at(edges, table.start[~table.cut], 1)
        np.add.at(edges, (table.start + table.length)[~table.cut], -1)
        return np.where(np.cumsum(edges[:-1]) > 0, found, np.nan).astype(np.float32)
