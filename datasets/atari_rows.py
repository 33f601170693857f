"""The rows of Dopamine's logs in the order they were added, slice by slice, and which of them are padding.

That order needs the end of a file before its beginning: where a log continues another one its observations
are decompressed twice, the first time by a second thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.ahead import next_ahead
from rlcli.datasets.atari_logs import GzArray, Log, Span, read_all
from rlcli.datasets.slicing import slice_rows

Flags = NDArray[np.bool_]
KEPT_ROWS = 64  # of a ring's end, which are read ahead by a thread
SMALL = ("action", "reward", "terminal")


@dataclass(frozen=True)
class Range:
    """Rows of one piece in one span."""

    span: Span
    start: int
    stop: int


class Padding:
    """Finds rows of zeros at the beginnings of episodes, at most `limit` each."""

    def __init__(self, limit: int) -> None:
        self.limit, self.left = limit, 0
        self.found = self.short = 0

    def keep(self, frames: NDArray[Any], idle: Flags, begins: NDArray[np.int64]) -> Flags:
        """Which rows of a slice are no padding; `idle` may be, and episodes start at `begins`."""
        keep = np.ones(len(frames), np.bool_)
        for at, limit in [(0, self.left), *((int(begin), self.limit) for begin in begins)]:
            stop = at
            while stop < len(frames) and stop < at + limit and idle[stop] and not frames[stop].any():
                stop += 1
            keep[at:stop] = False
            self.found += stop - at
            self.left = at + limit - stop if stop == len(frames) else 0
            self.short += bool(limit) and not self.left and stop < at + limit
        return keep


class Rows:
    """Rows of a range in the order they were added, with `extras` of the log."""

    def __init__(
        self, log: Log, each: Range, extras: Collection[str], ahead: Future[NDArray[Any]] | None
    ) -> None:
        self.log, self.each, self.ahead = log, each, ahead
        self.small = {name: read_all(log.files[name]) for name in SMALL}
        self.extras = {name: read_all(log.extras[name]) for name in extras}

    def slices(
        self, row_bytes: int
    ) -> Iterator[tuple[int, NDArray[Any], dict[str, NDArray[Any]], dict[str, NDArray[Any]]]]:
        """`(first row, frames, what is in SMALL, extras)`; a whole file's checksum is checked."""
        step = slice_rows(row_bytes)
        row = self.each.start
        for number, (low, high) in enumerate(self.each.span.ranges(self.each.start, self.each.stop)):
            if self.ahead is not None and number == 0:
                blocks: Iterator[NDArray[Any]] = iter([self.ahead.result()])
            else:
                is_own = self.each.stop == self.each.span.stop  # others read the rest of the file
                blocks = next_ahead(_blocks(self.log.files["observation"], low, high, step, to_end=is_own))
            for frames in blocks:
                at = slice(low, low + len(frames))
                small = {name: values[at] for name, values in self.small.items()}
                yield row, frames, small, {name: values[at] for name, values in self.extras.items()}
                low += len(frames)
                row += len(frames)


def _blocks(path: Path, low: int, high: int, step: int, *, to_end: bool = True) -> Iterator[NDArray[Any]]:
    """Positions `low … high - 1` of a file; the rest is read too if the checksum at its end is wanted."""
    array = GzArray(path)
    try:
        array.skip(low)
        for start in range(low, high, step):
            yield array.read(min(step, high - start))
        if to_end:
            array.skip(array.shape[0] - high)
            array.finish()
    finally:
        array.close()


def frames_at(path: Path, low: int, high: int) -> NDArray[Any]:
    """Positions `low … high - 1` of a file of observations. Raises `CorruptError` for damage."""
    return np.concatenate(list(_blocks(path, low, high, KEPT_ROWS)))
