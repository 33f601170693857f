"""All rows of a dataset cut into episodes, and read a chunk at a time: how `semantics` and statistics stream.

Unlike the episode table this also covers episodes that have not ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.schema import Column
from rlcli.format.values import as_numbers

CHUNK_BYTES = 8 << 20
MAX_CHUNK_ROWS = 1 << 17
EPISODE = ("episode",)
STEP = ("step",)

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]


class Spans:
    """The episodes of the table and, per stream, the rows after its last end, and those before the first
    whole episode, whose beginning has left a window.

    Arrays over spans, in row order: `start`, `stop` are logical rows, `lost` how many rows of the episode are
    no longer there, `entry` the index in the episode table or -1 if it is not whole, `number` its number, -1
    if no column says; whether it has `ended`, `terminated`, was `truncated`, and has next values in its last
    row (`final_known`). `table` is the episode table, `unknown_next` as the dataset's. Per stream,
    `stream_start` and `stream_stop` are its logical rows.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.table = table = dataset.episodes
        self.unknown_next: Rows = dataset.unknown_next
        retained = np.subtract(dataset.snapshot["rows"], dataset.snapshot["starts"], dtype=np.int64)
        self.stream_stop: Rows = np.cumsum(retained)
        self.stream_start: Rows = self.stream_stop - retained
        every = dataset.episodes_all()
        first = self.stream_start[every.stream]
        partial = np.flatnonzero((every.start < first) & (every.start + every.length > first))
        heads = first[partial]
        head_stop = every.start[partial] + every.length[partial]
        whole_start = np.asarray(table.start, np.int64)
        whole_stop = whole_start + table.length
        covered = self.stream_start.copy()
        np.maximum.at(covered, every.stream[partial], head_stop)
        np.maximum.at(covered, table.stream, whole_stop)
        tails = np.flatnonzero(covered < self.stream_stop)
        start = np.concatenate((whole_start, heads, covered[tails]))
        order = np.argsort(start, kind="stable")
        none = np.full(len(partial) + len(tails), -1)
        gone = heads - every.start[partial]
        self.start: Rows = start[order]
        self.stop: Rows = np.concatenate((whole_stop, head_stop, self.stream_stop[tails]))[order]
        self.entry: Rows = np.concatenate((np.arange(len(whole_start)), none))[order]
        self.number: Rows = np.concatenate((table.number, every.number[partial], none[len(partial) :]))[order]
        self.lost: Rows = np.concatenate((np.zeros_like(whole_start), gone, np.zeros_like(tails)))[order]
        self.ended: Mask = order < len(whole_start) + len(partial)
        endless = np.zeros(len(tails), np.bool_)

        def flags(name: str) -> Mask:
            found = np.concatenate((getattr(table, name), getattr(every, name)[partial], endless))
            return np.asarray(found[order])

        self.terminated, self.truncated = flags("terminated"), flags("truncated")
        self.final_known = flags("has_final")
        started = np.array(dataset.snapshot["starts"]) > 0
        for span in np.flatnonzero(~self.ended).tolist():
            at = int(self.start[span])
            if EPISODE in dataset.schema.by_key:
                self.number[span] = int(dataset.read(EPISODE, at, at + 1)[0])
            if STEP in dataset.schema.by_key and at in self.stream_start[started]:
                self.lost[span] = int(dataset.read(STEP, at, at + 1)[0])

    @property
    def finished(self) -> Mask:
        """Which are whole: they have an end, and their beginning is there."""
        return self.entry >= 0


class Chunk:
    """Rows `start … stop` and where each lies in its episode. Each column is read once."""

    def __init__(self, dataset: Dataset, spans: Spans, start: int, stop: int) -> None:
        self.dataset, self.spans, self.start, self.stop = dataset, spans, start, stop
        self._columns: dict[Key, Array] = {}

    def __len__(self) -> int:
        return self.stop - self.start

    @cached_property
    def span(self) -> Rows:
        """Index into the spans, per row."""
        rows = np.arange(self.start, self.stop)
        return np.searchsorted(self.spans.start, rows, side="right") - 1

    @cached_property
    def step(self) -> Rows:
        """0 in an episode's first row, counting up."""
        spans = self.spans
        return np.arange(self.start, self.stop) - (spans.start - spans.lost)[self.span]

    @cached_property
    def is_last(self) -> Mask:
        """Last row of its episode, or so far of one that has not ended."""
        return np.asarray(np.arange(self.start, self.stop) == self.spans.stop[self.span] - 1)

    def read(self, key: Key) -> Array:
        """`[rows, *shape]` as numbers (`as_numbers`)."""
        if key not in self._columns:
            column = self.dataset.schema.column(key)
            self._columns[key] = as_numbers(column, self.dataset.read(key, self.start, self.stop))
        return self._columns[key]

    def flag(self, key: Key) -> Mask:
        """A boolean column as `[rows]`."""
        return self.read(key).reshape(len(self))

    @cached_property
    def unknown_next(self) -> Mask:
        """Rows whose derived next values are unknown."""
        unknown = self.spans.unknown_next
        inside = unknown[np.searchsorted(unknown, self.start) : np.searchsorted(unknown, self.stop)]
        mask = np.zeros(len(self), np.bool_)
        mask[inside - self.start] = True
        return mask


def chunks(dataset: Dataset, columns: Iterable[Column] | None = None) -> Iterator[tuple[int, int]]:
    """`(start, stop)` over all rows, so that `columns` (default: all) of one chunk fill about 8 MiB."""
    wanted = dataset.schema.columns if columns is None else columns
    row_bytes = sum(column.row_bytes for column in wanted)
    rows = min(max(1, CHUNK_BYTES // max(1, row_bytes)), MAX_CHUNK_ROWS)
    for start in range(0, dataset.num_rows, rows):
        yield start, min(start + rows, dataset.num_rows)
