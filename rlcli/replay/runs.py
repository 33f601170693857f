"""Episodes as far as they can be drawn from: where each begins and ends, and which one a row is in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.format.dataset import Dataset
from rlcli.replay.streams import Rows, Streams


@dataclass(frozen=True)
class Runs:
    """Rows `start … stop - 1` of one episode each, ascending; one element per run.

    `return_` is the episode's undiscounted return, NaN where the episode is not whole.
    """

    start: Rows
    stop: Rows
    return_: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def length(self) -> Rows:
        return self.stop - self.start

    def of(self, rows: Rows) -> Rows:
        """The run that each row is in. Precondition: each is in one."""
        return np.searchsorted(self.start, rows, side="right") - 1

    def select(self, chosen: NDArray[Any]) -> Runs:
        """The runs that `chosen` names, by index or as flags."""
        return Runs(self.start[chosen], self.stop[chosen], self.return_[chosen])


def runs_of(dataset: Dataset, low: int, unknown: Rows, *, across: bool = False) -> Runs:
    """The runs of a dataset's rows from `low` on.

    A run ends before a row in `unknown`; those are last rows of episodes only. What is there of an episode
    that has begun or ended outside the dataset is a run as well. `across` makes one run of all consecutive
    rows of a stream, whatever the episodes, but for rows in `unknown`: those lie between two runs.
    """
    if across:
        spans = np.array(Streams.of(dataset).spans(), np.int64).reshape(-1, 2)
        start = np.sort(np.concatenate([spans[:, 0], unknown + 1]))
        stop = np.sort(np.concatenate([spans[:, 1], unknown]))
        return_ = np.full(len(start), np.nan)
    else:
        start, stop, return_ = _episodes(dataset)
    start = np.maximum(start, low)
    stop = stop - np.isin(stop - 1, unknown)
    kept = start < stop
    return Runs(start[kept], stop[kept], return_[kept])


def _episodes(dataset: Dataset) -> tuple[Rows, Rows, NDArray[np.float64]]:
    """Whole episodes, and the rows between and after them."""
    table = dataset.episodes
    starts, stops, returns = [], [], []
    for number, (low, high) in enumerate(Streams.of(dataset).spans()):
        mine = table.stream == number
        start, stop = table.start[mine], table.start[mine] + table.length[mine]
        before, after = np.concatenate([[low], stop]), np.concatenate([start, [high]])
        gap = before < after
        starts += [start, before[gap]]
        stops += [stop, after[gap]]
        returns += [table.return_[mine], np.full(int(gap.sum()), np.nan)]
    if not starts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    start, stop, return_ = np.concatenate(starts), np.concatenate(stops), np.concatenate(returns)
    order = np.argsort(start, kind="stable")
    return start[order].astype(np.int64), stop[order].astype(np.int64), return_[order]
