"""Uniform sampling with replacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rlcli import _native
from rlcli.replay.block import Block
from rlcli.replay.sampler import RowSampler, Sampler
from rlcli.replay.streams import Rows


@dataclass(frozen=True)
class Config:
    """Every row equally likely, with replacement."""


class Uniform(RowSampler[Config]):
    """Rows drawn uniformly with replacement."""

    NAME = "uniform"
    STREAM: ClassVar[int] = 0
    CONFIG = Config

    def rows(self, batch_size: int) -> Rows:
        rows = uniform_rows(self, batch_size)
        self.batches += 1
        return rows

    def fill(self, block: Block, batch_size: int) -> None:
        rows = np.empty(batch_size, np.int64)
        filled = _draw(self, rows, self.source.target(block))
        self.batches += 1
        if not filled:
            self.source.gather(rows, block)


def uniform_rows(sampler: Sampler, batch_size: int) -> Rows:
    """The logical rows `[B]` that `Uniform` draws where `sampler` stands: same source, seed and batch.

    Raises `IncompatibleError` if nothing can be drawn.
    """
    rows = np.empty(batch_size, np.int64)
    _draw(sampler, rows, None)
    return rows


def _draw(sampler: Sampler, rows: Rows, into: _native.Target | None) -> bool:
    """Draws `rows`, and copies them `into` there. Returns whether they were copied."""
    eligible = sampler.source.some()
    return _native.uniform_rows(
        sampler.seed, Uniform.STREAM, sampler.batches, eligible.low, eligible.count, eligible.gaps, rows, into
    )
