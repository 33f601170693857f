"""Prioritised sampling with replacement (Schaul et al., 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.config import opt
from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.format.specs import Key
from rlcli.replay.block import Block, Layout
from rlcli.replay.priority_table import PriorityTable
from rlcli.replay.sampler import Sampler, State
from rlcli.replay.source import Source
from rlcli.replay.streams import Rows

WEIGHT: Key = ("weight",)
ROW: Key = ("row",)


@dataclass(frozen=True)
class Config:
    """Rows drawn in proportion to (priority + epsilon)^alpha, with importance weights."""

    alpha: float = opt(0.6, "How much priorities count; 0 is uniform.", ge=0, source="Schaul et al., table 3")
    beta: float = opt(0.4, "How far weights undo the bias at the beginning, in [0, 1].", ge=0, le=1)
    beta_batches: int = opt(0, "Batches over which beta rises linearly to 1; 0 keeps it.", ge=0)
    epsilon: float = opt(1e-6, "Added to a priority, so that none is 0.", gt=0)
    stratified: bool = opt(True, "One row from each of B equal parts of the sum, as in the paper's appendix.")
    distinct: bool = opt(False, "No row twice in a batch.")


class Prioritized(Sampler):
    """Row i is drawn with P(i) proportional to (p_i + epsilon)^alpha.

    A batch has two more leaves: `row` int64 `[B]`, the rows' identities for `update`, and `weight` float32
    `[B, 1]`, (P(i) / least P of all rows)^-beta: the paper's weights over the largest in the buffer.
    New rows get the greatest priority ever given, 1 before the first.
    """

    NAME = "prioritized"
    STREAM = 3

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
        self.config = config or Config()
        self.table = PriorityTable(self.source, self.config.alpha, self.config.epsilon)

    @property
    def beta(self) -> float:
        """The exponent of the next batch's weights."""
        config = self.config
        if not config.beta_batches:
            return config.beta
        return min(1.0, config.beta + (1.0 - config.beta) * self.batches / config.beta_batches)

    def layout(self, batch_size: int) -> Layout:
        extra: Layout = {
            ROW: (np.dtype(np.int64), (batch_size,)),
            WEIGHT: (np.dtype(np.float32), (batch_size, 1)),
        }
        return {**self.source.layout(batch_size), **extra}

    def fill(self, block: Block, batch_size: int) -> None:
        self.source.gather(self.draw(block), block)

    def draw(self, block: Block) -> Rows:
        """Draws rows into the block's `row` and `weight`; returns their logical rows."""
        ids, weights = block.arrays[ROW], block.arrays[WEIGHT].reshape(-1)
        table, config = self.table, self.config
        table.refresh()
        at = (self.seed, self.STREAM, self.batches)
        if config.distinct:
            found = table.tree.sample_distinct(*at, self.beta, ids, weights)
            if found < len(ids):
                raise IncompatibleError(
                    f"{self.source.dataset.path} has {found} rows, fewer than a batch of {len(ids)}"
                )
        elif not table.tree.sample(*at, config.stratified, self.beta, ids, weights):
            self.source.some()
            raise IncompatibleError(f"{self.source.dataset.path} has no row to draw")
        self.batches += 1
        return table.take(ids)

    def update(self, rows: NDArray[np.int64], priorities: Any) -> None:
        """Gives rows (a batch's `row`) new priorities, at least 0; rows that were evicted are passed over.

        Raises `ValueError` for a negative, infinite or undefined priority; nothing is changed then.
        """
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
