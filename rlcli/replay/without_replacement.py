"""Epochs: every row once, in an order that costs no memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlcli import _native
from rlcli.config import opt
from rlcli.errors import IncompatibleError
from rlcli.replay.sampler import RowSampler, State
from rlcli.replay.streams import Rows


@dataclass(frozen=True)
class Config:
    """Every row once per epoch, in a random order."""

    drop_last: bool = opt(
        True, "Leave out what does not fill a batch at an epoch's end; otherwise the next epoch fills it."
    )


class WithoutReplacement(RowSampler[Config]):
    """Rows in the order of a pseudo-random permutation, a new one for each epoch.

    An epoch is over the rows that are there when it begins; rows that come later are in the next one.
    An epoch begins anew if its rows have been evicted.
    """

    NAME = "without-replacement"
    STREAM = 1
    CONFIG = Config

    def prepare(self) -> None:
        self.epoch = 0
        self.given = 0  # rows of this epoch that were given out
        self._count = 0  # rows of this epoch

    def rows(self, batch_size: int) -> Rows:
        eligible = self.source.some()
        if eligible.count < batch_size and self.config.drop_last:
            raise IncompatibleError(
                f"{self.source.dataset.path} has {eligible.count} rows, fewer than a batch of {batch_size}"
            )
        rows = np.empty(batch_size, np.int64)
        filled = 0
        while filled < batch_size:
            if self._count == 0 or self._count > eligible.count:
                self._count, self.given = eligible.count, 0
            left = self._count - self.given
            if left == 0 or (self.config.drop_last and left < batch_size):
                self.epoch, self.given, self._count = self.epoch + 1, 0, 0
                continue
            taken = min(left, batch_size - filled)
            part = rows[filled : filled + taken]
            _native.permuted(self.seed, self.STREAM, self.epoch, self._count, self.given, part)
            self.given += taken
            filled += taken
        self.batches += 1
        return eligible.row(rows)

    def state(self) -> State:
        return {**super().state(), "epoch": self.epoch, "given": self.given, "count": self._count}

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self.epoch, self.given = int(state["epoch"]), int(state["given"])
        self._count = int(state["count"])
