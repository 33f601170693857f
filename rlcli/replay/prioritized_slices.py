"""Slices whose first counted step is drawn by priority (Kapturowski et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli.config import opt
from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.format.specs import Key
from rlcli.replay import prioritized, slices
from rlcli.replay.block import Block, Layout
from rlcli.replay.priority_table import PriorityTable
from rlcli.replay.sampler import Sampler, State
from rlcli.replay.source import Source
from rlcli.replay.streams import Rows


@dataclass(frozen=True)
class Config:
    """Slices of `length` consecutive rows, drawn by the priority of the first."""

    length: int = opt(32, "Steps of a slice that count.", ge=1)
    burn_in: int = opt(0, "Steps before them, to warm a recurrent state up; they do not count.", ge=0)
    short: Literal["skip", "pad"] = opt("skip", "Episodes shorter than a slice: left out, or padded.")
    alpha: float = opt(0.9, "How much priorities count; 0 is uniform.", ge=0, source="R2D2, table 2")
    beta: float = opt(0.6, "How far weights undo the bias, in [0, 1].", ge=0, le=1, source="R2D2, table 2")
    epsilon: float = opt(1e-6, "Added to a priority, so that none is 0.", gt=0)


class PrioritizedSlices(Sampler):
    """As `Slices`, but the beginning is drawn as `Prioritized` draws rows; `update` takes a batch's `row`.

    `row` int64 `[B]` names the first row that counts, `weight` is float32 `[B, 1]`. In R2D2 the priority of a
    slice is 0.9 of the greatest and 0.1 of the mean absolute TD error of its steps.
    """

    NAME = "prioritized-slices"
    STREAM = 5

    def __init__(
        self,
        dataset: Dataset,
        keys: Sequence[Key] | None = None,
        capacity: int | None = None,
        *,
        config: Config | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(Source(dataset, keys, capacity), seed)
        self.config = config = config or Config()
        self.cutter = slices.Cutter(
            self.source, slices.Config(config.length, burn_in=config.burn_in, short=config.short)
        )
        self.table = PriorityTable(self.source, config.alpha, config.epsilon, unusable=self._no_beginnings)

    def layout(self, batch_size: int) -> Layout:
        extra: Layout = {
            prioritized.ROW: (np.dtype(np.int64), (batch_size,)),
            prioritized.WEIGHT: (np.dtype(np.float32), (batch_size, 1)),
        }
        return {**self.cutter.layout(batch_size), **extra}

    def fill(self, block: Block, batch_size: int) -> None:
        runs, _ = self.cutter.places()
        self.table.refresh()
        ids, weights = block.arrays[prioritized.ROW], block.arrays[prioritized.WEIGHT].reshape(-1)
        if not self.table.tree.sample(
            self.seed, self.STREAM, self.batches, True, self.config.beta, ids, weights
        ):
            raise IncompatibleError(f"{self.source.dataset.path} has no place where a slice may begin")
        self.batches += 1
        start = self.table.take(ids)
        chosen = runs.of(start)
        self.cutter.cut(start, runs.start[chosen], runs.stop[chosen], block)

    def update(self, rows: NDArray[np.int64], priorities: Any) -> None:
        """Gives slices (a batch's `row`) new priorities, at least 0; evicted rows are passed over."""
        self.table.update(rows, np.ascontiguousarray(priorities, np.float64).reshape(-1))

    def position(self) -> State:
        return super().state()

    def seek(self, position: State) -> None:
        super().load_state(position)

    def state(self) -> State:
        return {**super().state(), "table": self.table.state()}

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self.table.load_state(state["table"])

    def _no_beginnings(self) -> Rows:
        """Rows where no slice may begin, ascending."""
        allowed = np.zeros(self.source.dataset.num_rows + 1, np.int64)
        runs = self.source.runs()
        if self.config.short == "skip":
            runs = runs.select(runs.length >= self.config.length)
        places = np.maximum(runs.length - self.config.length + 1, 1)
        np.add.at(allowed, runs.start, 1)
        np.add.at(allowed, runs.start + places, -1)
        rows = np.flatnonzero(np.cumsum(allowed[:-1]) == 0)
        return rows[rows >= self.source.low]
