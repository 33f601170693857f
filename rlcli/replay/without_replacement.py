"""Epochs: every row once, in an order that costs no memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlcli import _native
from rlcli.config import opt
from rlcli.replay.sampler import RowSampler, State
from rlcli.replay.source import Eligible
from rlcli.replay.streams import Rows, Streams


@dataclass(frozen=True)
class Config:
    """Every row once per epoch, in a random order."""

    drop_last: bool = opt(
        True, "Leave out what does not fill a batch at an epoch's end; otherwise the next epoch fills it."
    )


class WithoutReplacement(RowSampler[Config]):
    """Rows in the order of a pseudo-random permutation, a new one for each epoch.

    An epoch is over the rows that are there when it begins. Rows that come later are in the next one; those
    that leave before it is their turn are passed over.
    """

    NAME = "without-replacement"
    STREAM = 1
    CONFIG = Config

    def prepare(self) -> None:
        self.epoch = 0
        self.given = 0  # rows of this epoch that were given out, or passed over
        self._begun: tuple[Eligible, Streams] | None = None  # what this epoch is over
        self._seen = -1  # the snapshot it began in, while that is the present one

    def rows(self, batch_size: int) -> Rows:
        eligible = self.source.some()
        if eligible.count < batch_size and self.config.drop_last:
            raise self.source.too_few(eligible.count, batch_size)
        parts, missing = [np.zeros(0, np.int64)], batch_size
        while missing:
            if self._begun is None:
                self._begun = (self.source.eligible(), Streams.of(self.source.dataset))
                self._seen = self.source.snapshot
            taken = min(missing, self._begun[0].count - self.given)
            if taken == 0:
                self.epoch, self.given, self._begun = self.epoch + 1, 0, None
                if self.config.drop_last:
                    parts, missing = parts[:1], batch_size
                continue
            positions = np.empty(taken, np.int64)
            _native.permuted(self.seed, self.STREAM, self.epoch, self._begun[0].count, self.given, positions)
            self.given += taken
            parts.append(self._now(*self._begun, positions))
            missing -= len(parts[-1])
        self.batches += 1
        return np.concatenate(parts)

    def state(self) -> State:
        state = {**super().state(), "epoch": self.epoch, "given": self.given}
        if self._begun is None:
            return state
        eligible, streams = self._begun
        return {
            **state,
            "low": eligible.low, "count": eligible.count, "gaps": eligible.gaps,
            "start": list(streams.start), "stop": list(streams.stop), "first": list(streams.first),
        }  # fmt: skip

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self.epoch, self.given, self._begun, self._seen = int(state["epoch"]), int(state["given"]), None, -1
        if "low" in state:
            eligible = Eligible(
                int(state["low"]), int(state["count"]), np.ascontiguousarray(state["gaps"], np.int64)
            )
            self._begun = (eligible, Streams(*(list(state[name]) for name in ("start", "stop", "first"))))

    def _now(self, eligible: Eligible, streams: Streams, positions: Rows) -> Rows:
        """The logical rows of those at these positions among an epoch's; fewer if some have left."""
        rows = eligible.row(positions)
        if self._seen == self.source.snapshot:
            return rows
        return Streams.of(self.source.dataset).rows_of(streams.ids(rows), self.source.low)
