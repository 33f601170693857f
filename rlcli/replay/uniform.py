"""Uniform sampling with replacement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rlcli import _native
from rlcli.format.dataset import Dataset
from rlcli.format.specs import Key
from rlcli.replay.block import Block, Layout
from rlcli.replay.sampler import Sampler
from rlcli.replay.source import Source
from rlcli.replay.streams import Rows


@dataclass(frozen=True)
class Config:
    """Every row equally likely, with replacement."""


class Uniform(Sampler):
    """Rows drawn uniformly with replacement; see `Source` for `keys` and `capacity`."""

    NAME = "uniform"
    STREAM: ClassVar[int] = 0

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

    def layout(self, batch_size: int) -> Layout:
        return self.source.layout(batch_size)

    def rows(self, batch_size: int) -> Rows:
        """The logical rows `[B]` of the next batch."""
        eligible = self.source.some()
        rows = np.empty(batch_size, np.int64)
        _native.uniform_rows(
            self.seed, self.STREAM, self.batches, eligible.low, eligible.count, eligible.gaps, rows
        )
        self.batches += 1
        return rows

    def fill(self, block: Block, batch_size: int) -> None:
        self.source.gather(self.rows(batch_size), block)
