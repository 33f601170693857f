"""Slices whose first counted step is drawn by priority (Kapturowski et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlcli.config import opt
from rlcli.replay import prioritized, slices
from rlcli.replay.block import Block, Layout
from rlcli.replay.streams import Rows


@dataclass(frozen=True)
class Config(prioritized.Config):
    """Slices of `length` consecutive rows, drawn by the priority of the first."""

    alpha: float = opt(0.9, "How much priorities count; 0 is uniform.", ge=0, le=2, source="R2D2, table 2")
    beta: float = opt(0.6, "How far weights undo the bias, in [0, 1].", ge=0, le=1, source="R2D2, table 2")
    length: int = opt(32, "Steps of a slice that count.", ge=1)
    burn_in: int = opt(0, "Steps before them, to warm a recurrent state up; they do not count.", ge=0)
    short: Literal["skip", "pad"] = opt("skip", "Episodes shorter than a slice: left out, or padded.")


class PrioritizedSlices(prioritized.Proportional[Config]):
    """As `Slices`, but the beginning is drawn as `Prioritized` draws rows; `update` takes a batch's `row`.

    `row` names the first row that counts. In R2D2 the priority of a slice is 0.9 of the greatest and 0.1 of
    the mean absolute TD error of its steps.
    """

    NAME = "prioritized-slices"
    STREAM = 5
    CONFIG = Config
    PLAIN = True

    def prepare(self) -> None:
        super().prepare()
        config = self.config
        self.cutter = slices.Cutter(
            self.source, slices.Config(config.length, burn_in=config.burn_in, short=config.short)
        )

    def layout(self, batch_size: int) -> Layout:
        return self.weighted(self.cutter.layout(batch_size), batch_size)

    def fill(self, block: Block, batch_size: int) -> None:
        runs, _ = self.cutter.places()
        start = self.draw(block)
        chosen = runs.of(start)
        self.cutter.cut(start, runs.start[chosen], runs.stop[chosen], block)

    def unusable(self) -> Rows:
        """The logical rows where no slice may begin, ascending."""
        allowed = np.zeros(self.source.dataset.num_rows + 1, np.int64)
        runs = self.source.runs()
        if self.config.short == "skip":
            runs = runs.select(runs.length >= self.config.length)
        places = np.maximum(runs.length - self.config.length + 1, 1)
        np.add.at(allowed, runs.start, 1)
        np.add.at(allowed, runs.start + places, -1)
        rows = np.flatnonzero(np.cumsum(allowed[:-1]) == 0)
        return rows[rows >= self.source.low]
