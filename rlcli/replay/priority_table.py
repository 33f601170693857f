"""Priorities of a source's rows: follows what is committed and evicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlcli import _native
from rlcli.errors import IncompatibleError
from rlcli.replay.source import Source
from rlcli.replay.streams import ROW_BITS, Rows, Streams

NONE = -1.0  # the priority of a row that cannot be drawn


class Side(Protocol):
    """Values beside the rows that outlive the process, by identity; a new row's is negative."""

    def read(self, ids: NDArray[np.int64]) -> NDArray[Any]: ...

    def write(self, ids: NDArray[np.int64], values: NDArray[np.float64]) -> None: ...


class PriorityTable:
    """One priority per row that can be drawn, in a tree of (priority + epsilon)^alpha.

    `unusable()` gives the logical rows that cannot be drawn for now; by default those whose next observation
    is unknown.
    With `side` priorities are read from there when a row is first seen, and every change is written through.
    """

    def __init__(
        self,
        source: Source,
        alpha: float,
        epsilon: float,
        *,
        unusable: Callable[[], Rows] | None = None,
        side: Side | None = None,
    ) -> None:
        self.source = source
        self.unusable = unusable or source.unknown
        self.side = side
        self.tree = _native.RowPriorities(alpha, epsilon)
        self.greatest = 0.0  # priority ever given
        self._seen = -1
        self._covered: list[int] = []  # rows of each stream that were considered
        self._waiting: Rows = np.zeros(0, np.int64)  # identities of rows that could not be drawn
        self.streams = Streams([], [], [])

    @property
    def newcomer(self) -> float:
        """What a row gets that comes now: the greatest priority given, 1 before the first."""
        return self.greatest or 1.0

    def refresh(self) -> None:
        """Takes in rows that were committed, or evicted, since."""
        if self._seen == self.source.snapshot:
            return
        self.streams = streams = Streams.of(self.source.dataset)
        unknown = streams.ids(self.unusable())
        low, begins = self.source.low, []
        for number, (first, begin, end) in enumerate(
            zip(streams.first, streams.start, streams.stop, strict=True)
        ):
            if number == len(self._covered):
                self._covered.append(begin)
            begin = min(max(begin, begin + low - first), end)
            begins.append(begin)
            self.tree.evict(number, begin)
            new = max(self._covered[number], begin)
            if new < end:
                self._cover(number, new, end)
                self._covered[number] = end
        known = np.setdiff1d(self._waiting, unknown, assume_unique=True)
        for row in np.setdiff1d(unknown, self._waiting, assume_unique=True).tolist():
            self.tree.cover(row >> ROW_BITS, row & ((1 << ROW_BITS) - 1), 1, NONE)
        for row in known.tolist():
            stream, local = row >> ROW_BITS, row & ((1 << ROW_BITS) - 1)
            if local >= begins[stream]:
                self._cover(stream, local, local + 1)
        self._waiting = unknown
        self._seen = self.source.snapshot

    def take(self, ids: Rows) -> Rows:
        """The logical rows of drawn identities."""
        return self.streams.rows(ids)

    def update(self, ids: Rows, priorities: NDArray[np.float64]) -> None:
        """New priorities; rows that are gone are passed over. Raises `ValueError` for one that cannot be."""
        self.greatest = max(self.greatest, self.tree.set(ids, priorities))
        if self.side is not None:
            self.side.write(ids, priorities)

    def state(self) -> dict[str, Any]:
        """All of it, as numbers and arrays."""
        self.refresh()
        return {
            "greatest": self.greatest,
            "covered": list(self._covered),
            "waiting": self._waiting,
            "owners": self.tree.owners(),
            "priorities": self.tree.priorities(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Priorities as they were; rows that came since are taken in by the next `refresh`."""
        rows = Streams.of(self.source.dataset).stop
        covered = [int(row) for row in state["covered"]]
        if len(covered) > len(rows) or any(row > rows[k] for k, row in enumerate(covered)):
            path = self.source.dataset.path
            raise IncompatibleError(f"{path} has fewer rows than the priorities were saved with")
        self.tree.restore(
            np.ascontiguousarray(state["owners"], np.int64),
            np.ascontiguousarray(state["priorities"], np.float64),
        )
        self.greatest, self._covered = float(state["greatest"]), covered
        self._waiting = np.ascontiguousarray(state["waiting"], np.int64)
        self._seen = -1

    def _cover(self, stream: int, start: int, stop: int) -> None:
        self.tree.cover(stream, start, stop - start, self.newcomer)
        if self.side is None:
            return
        ids = np.arange(start, stop, dtype=np.int64) | (stream << ROW_BITS)
        kept = np.asarray(self.side.read(ids), np.float64)
        stored = kept >= 0
        if stored.any():
            self.greatest = max(self.greatest, self.tree.set(ids[stored], kept[stored]))
        new = ids[~stored]
        self.side.write(new, np.full(len(new), self.newcomer))
