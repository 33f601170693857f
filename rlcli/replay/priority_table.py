"""Priorities of a source's rows: follows what is committed and evicted, and may be kept beside the data."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli import _native
from rlcli.errors import IncompatibleError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.keys import check_key
from rlcli.format.mutable import SideColumn
from rlcli.replay.source import Source
from rlcli.replay.streams import ROW_BITS, Rows, Streams

NONE = -1.0  # the priority of a row that cannot be drawn
MOST = 1e100  # the greatest there may be


class PriorityTable:
    """One priority per row that can be drawn, in a tree of (priority + epsilon)^alpha.

    `unusable()` gives the logical rows that cannot be drawn for now; by default those whose next observation
    is unknown.

    With `keep` priorities are also written to the side column of that name, and rows that are there at the
    first `refresh` begin with those found in it. After `load_state` only the saved state counts: the side
    column then has that, too. Raises `BusyError` while another has it, and `UsageError` for a name that none
    can have, or an epsilon so small that rows of priority 0 would never be drawn.
    """

    def __init__(
        self,
        source: Source,
        alpha: float,
        epsilon: float,
        *,
        unusable: Callable[[], Rows] | None = None,
        keep: str | None = None,
    ) -> None:
        if epsilon**alpha < sys.float_info.min:
            raise UsageError(
                f"epsilon {epsilon:g} to the power of alpha {alpha:g} is 0 in float64: take more"
            )
        self.source = source
        self.unusable = unusable or source.unknown
        self.tree = _native.RowPriorities(alpha, epsilon)
        self.greatest = 1.0  # priority of any row so far, which a row that comes now gets: its first one is 1
        self._seen = -1
        self._covered: list[int] = []  # rows of each stream that were considered
        self._waiting: Rows = np.zeros(0, np.int64)  # identities of rows that could not be drawn
        self.streams = Streams([], [], [])
        self._side = None if keep is None else _side_column(source.dataset, keep)
        self._is_closed = False
        self._finds = True  # what another process kept counts, until rows were taken in
        self._turn = threading.Lock()  # a side column is for one thread at a time

    def refresh(self) -> None:
        """Takes in rows that were committed, or evicted, since."""
        if self._seen == self.source.snapshot:
            return
        self._check_open()
        self.streams = streams = Streams.of(self.source.dataset)
        unknown = streams.ids(self.unusable())
        newcomer = self.greatest  # once: another thread may tell a greater one meanwhile
        low, begins = self.source.low, []
        came: list[Rows] = []
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
                self.tree.cover(number, new, end - new, newcomer)
                if self._side is not None:
                    came.append(np.arange(new, end) | (number << ROW_BITS))
                self._covered[number] = end
        known = np.setdiff1d(self._waiting, unknown, assume_unique=True)
        for row in np.setdiff1d(unknown, self._waiting, assume_unique=True).tolist():
            self.tree.cover(row >> ROW_BITS, row & ((1 << ROW_BITS) - 1), 1, NONE)
        for row in known.tolist():
            stream, local = row >> ROW_BITS, row & ((1 << ROW_BITS) - 1)
            if local >= begins[stream]:
                self.tree.cover(stream, local, 1, newcomer)
        if self._side is not None:
            ids = np.concatenate([*came, known])
            self._keep(ids[~np.isin(ids, unknown)], newcomer)
        self._waiting = unknown
        self._seen = self.source.snapshot

    def take(self, ids: Rows) -> Rows:
        """The logical rows of drawn identities."""
        return self.streams.rows(ids)

    def update(self, ids: Rows, priorities: NDArray[np.float64]) -> None:
        """New priorities float64 `[B]` of rows int64 `[B]`; those that are gone are passed over.
        Raises `ValueError` for one that cannot be.
        """
        self._check_open()
        self.greatest = max(self.greatest, self.tree.set(ids, priorities))
        if self._side is not None:
            there = self.tree.get(ids) >= 0
            with self._turn:
                self._side.write(ids[there], priorities[there])

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
        self.greatest, self._covered = max(1.0, float(state["greatest"])), covered
        self._waiting = np.ascontiguousarray(state["waiting"], np.int64)
        self._seen = -1
        self._finds = False
        if self._side is not None:
            owners, values = self.tree.owners(), self.tree.priorities()
            ids = (owners[:, None] + np.arange(len(values) // max(len(owners), 1))).reshape(-1)
            with self._turn:
                self._side.write(ids[values >= 0], values[values >= 0])

    def close(self) -> None:
        """Lets go of the side column, for the next who wants it; it is of no use afterwards."""
        self._is_closed, self._seen = True, -1
        if self._side is not None:
            self._side.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError(f"a sampler of {self.source.dataset.path} is used after it was closed")

    def _keep(self, ids: Rows, newcomer: float) -> None:
        """Newcomers take the priorities that are found beside them; that of the others is kept there."""
        assert self._side is not None
        with self._turn:
            if self._finds:
                self._finds = False
                found = self._side.read(ids)
                known = (found >= 0) & (found <= MOST)
                self.greatest = max(self.greatest, self.tree.set(ids[known], found[known]))
                ids, newcomer = ids[~known], self.greatest
                self.tree.set(ids, np.full(len(ids), newcomer))
            self._side.write(ids, np.full(len(ids), newcomer))


def _side_column(dataset: Dataset, name: str) -> SideColumn:
    try:
        check_key([name])
    except IncompatibleError as err:
        raise UsageError(f"priorities cannot be kept under {name!r}: {err.message}") from err
    return SideColumn.open(dataset, name, "float64", NONE)
