"""Every row once, oldest first: a dataset as a queue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlcli.config import opt
from rlcli.replay.sampler import RowSampler, State
from rlcli.replay.streams import ROW_BITS, Rows, Streams


@dataclass(frozen=True)
class Config:
    """Every row once, oldest first."""

    acknowledge: bool = opt(
        False, "A batch counts as consumed only when `acknowledge` is called; else when it is given out."
    )


class Consuming(RowSampler[Config]):
    """Rows in the order of their streams, each given out once.

    With `acknowledge=True` the state counts a row as consumed only after `acknowledge()`, so that what was
    given out and not acknowledged comes again after a resume. Rows that are evicted unread, or no longer
    among the newest `capacity`, are lost, and counted in `missed`. A row whose next observation is unknown
    is waited for while its episode goes on, else skipped.
    """

    NAME = "consuming"
    STREAM = 9
    CONFIG = Config

    def prepare(self) -> None:
        self.missed = 0
        self._given: list[int] = []  # per stream the next row to give out
        self._consumed: list[int] = []

    def __len__(self) -> int:
        """How many rows are there to be given out."""
        return len(self._waiting(None))

    def rows(self, batch_size: int) -> Rows:
        ids = self._waiting(batch_size)
        if len(ids) < batch_size:
            raise self.source.too_few(len(ids), batch_size, " not given out")
        for stream in np.unique(ids >> ROW_BITS).tolist():
            local = ids[ids >> ROW_BITS == stream] & ((1 << ROW_BITS) - 1)
            self._given[stream] = int(local[-1]) + 1
        self.batches += 1
        if not self.config.acknowledge:
            self.acknowledge()
        return Streams.of(self.source.dataset).rows(ids)

    def acknowledge(self) -> None:
        """Everything given out so far is consumed."""
        self._consumed = list(self._given)

    def position(self) -> State:
        return {**super().state(), "given": list(self._given), "missed": self.missed}

    def seek(self, position: State) -> None:
        super().load_state(position)
        self._given, self.missed = list(position["given"]), position["missed"]
        if not self.config.acknowledge:
            self.acknowledge()

    def state(self) -> State:
        return {**super().state(), "consumed": list(self._consumed), "missed": self.missed}

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self._consumed = [int(row) for row in state["consumed"]]
        self._given, self.missed = list(self._consumed), int(state["missed"])

    def _waiting(self, most: int | None) -> Rows:
        """Identities of rows to be given out, the first `most` of them."""
        streams = Streams.of(self.source.dataset)
        unknown = streams.ids(self.source.unknown())
        found, count = [np.zeros(0, np.int64)], 0
        bounds = zip(streams.first, streams.start, streams.stop, strict=True)
        for number, (first, start, stop) in enumerate(bounds):
            start = min(max(start, start + self.source.low - first), stop)
            if number == len(self._given):
                self._given.append(start)
                self._consumed.append(start)
            self.missed += max(0, start - self._given[number])
            self._given[number] = max(self._given[number], start)
            begin = self._given[number]
            if most is not None:  # unknown rows come on top
                stop = min(stop, begin + most - count + len(unknown))
            ids = np.arange(begin, stop, dtype=np.int64) | (number << ROW_BITS)
            found.append(ids[~np.isin(ids, unknown)])
            count += len(found[-1])
        return np.concatenate(found)[:most]
