"""Rows by identity: the stream and the row in it, which never change, against logical rows, which move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlcli.format.dataset import Dataset

ROW_BITS = 40
_ROW = (1 << ROW_BITS) - 1

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Streams:
    """Per stream: the retained rows `start … stop - 1`, and the logical row `first` of the first of them."""

    start: list[int]
    stop: list[int]
    first: list[int]

    @staticmethod
    def of(dataset: Dataset) -> Streams:
        """Those of a dataset's present snapshot."""
        snapshot = dataset.snapshot
        stop = list(snapshot["rows"])
        start = list(snapshot.get("starts", [0] * len(stop)))
        counts = np.subtract(stop, start, dtype=np.int64)
        return Streams(start, stop, (np.cumsum(counts) - counts).tolist())

    def spans(self) -> list[tuple[int, int]]:
        """First and last + 1 logical row of each stream."""
        counts = zip(self.first, self.start, self.stop, strict=True)
        return [(first, first + stop - start) for first, start, stop in counts]

    def ids(self, rows: Rows) -> Rows:
        """`stream << 40 | row` of logical rows."""
        if len(self.start) == 1:
            return rows + self.start[0]
        stream = np.searchsorted(self.first, rows, side="right") - 1
        local = rows - np.asarray(self.first)[stream] + np.asarray(self.start)[stream]
        ids: Rows = (stream << ROW_BITS) | local
        return ids

    def rows(self, ids: Rows) -> Rows:
        """Logical rows of retained identities, maybe the same array. Precondition: each is retained."""
        if len(self.start) == 1:
            return ids - self.start[0] if self.start[0] else ids
        stream = ids >> ROW_BITS
        rows: Rows = (ids & _ROW) - np.asarray(self.start)[stream] + np.asarray(self.first)[stream]
        return rows

    def rows_of(self, ids: Rows, low: int) -> Rows:
        """Logical rows of those of these identities that are retained, from `low` on; in their order."""
        there = (ids & _ROW) >= np.asarray(self.start)[ids >> ROW_BITS]
        rows = self.rows(ids[there])
        return rows[rows >= low]
