"""A first, small read of a sealed segment without mapping it: mapping costs more than reading an episode.

Who reads from the segment again gets it mapped. Where hashes are compared, they are those of the commits that
brought the rows (`proven`), of which there is mostly less than a block of 1 MiB of each column.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlcli import _native
from rlcli.format.keys import path_of
from rlcli.format.proven import Proven
from rlcli.format.schema import Column
from rlcli.format.stream_reader import SegmentReader, StreamReader

Array = np.ndarray[Any, Any]
_MANY_BYTES = 1 << 20
_MANY_ENDS = 4


class _Source(Protocol):
    """Where rows come from: `add_…` asks for rows of a column, `read` says whether they are all there."""

    def add_rows(self, column: Column, first: int, out: Array) -> None: ...
    def add_final(self, column: Column, which: int, out: Array) -> None: ...
    def read(self) -> bool: ...


def read(
    stream: StreamReader, low: int, high: int, columns: Sequence[Column], *, checked: bool
) -> list[Array] | None:
    """Stream rows `low … high` of plain columns and shifts, or None where they should be read otherwise."""
    segment = stream.segments[stream.position(low)]
    entry, count = segment.mapped.entry, high - low
    row_bytes = sum(column.row_bytes for column in columns)
    if segment.is_touched or segment.was_read or not entry.sealed or high > segment.stop:
        return None
    segment.was_read = True
    if count * row_bytes > _MANY_BYTES:
        return None
    if checked:
        stream.inspect(segment)
    following, ends = 0, range(0)  # rows behind the last that are needed; episodes that end
    rows: list[int] = []  # where they end
    if any(column.of for column in columns):
        all_ends = segment.episodes.ends
        ends = range(*np.searchsorted(all_ends, (low, high)).tolist())
        rows = [int(all_ends[end]) - low for end in ends[:_MANY_ENDS]]
        goes_on = not rows or rows[-1] != count - 1
        following = int(goes_on and high < stream.rows)
        if len(ends) > len(rows) or high + following > segment.stop:
            return None
    first = low - segment.first
    source: _Source | None = _Parts(segment)
    if checked:
        source = Proven.find(segment, first, first + count + following, _MANY_BYTES)
    if source is None:
        return None
    found = []
    for column in columns:
        array = np.empty((count, *column.shape), column.numpy)
        found.append(array)
        skipped = 1 if column.of else 0
        target = array[: count - skipped + following] if column.of else array
        source.add_rows(column, first + skipped, target)
    unknown = [] if following or count - 1 in rows else [count - 1]
    for end, row in zip(ends, rows, strict=True):
        if not _add_finals(source, segment, end, row, columns, found):
            unknown.append(row)
    if not source.read():
        return None
    for column, array in zip(columns, found, strict=True):
        if column.of:
            array[unknown] = 0
    return found


class _Parts:
    """What is read of which files of a segment, in this order."""

    def __init__(self, segment: SegmentReader) -> None:
        entry = self._entry = segment.mapped.entry
        self._root: Path = segment.mapped.paths.root
        self._trees = {"segments": f"segments/{entry.name}/", "finals": f"finals/{entry.name}/"}
        self._names: list[str] = []
        self._sizes: list[int] = []
        self._offsets: list[int] = []
        self._out: list[Array] = []

    def add_rows(self, column: Column, first: int, out: Array) -> None:
        file = column.file if column.of is None else path_of(column.of)
        self._add("segments", file, column.row_bytes, self._entry.alloc, first, out)

    def add_final(self, column: Column, which: int, out: Array) -> None:
        self._add("finals", column.file, column.row_bytes, self._entry.finals, which, out)

    def _add(self, tree: str, file: str, row_bytes: int, rows: int, first: int, out: Array) -> None:
        self._names.append(self._trees[tree] + file)
        self._sizes.append(rows * row_bytes)
        self._offsets.append(first * row_bytes)
        self._out.append(out)

    def read(self) -> bool:
        """False if a file is not there, or not of its size."""
        return _native.read_parts(str(self._root), self._names, self._sizes, self._offsets, self._out)


def _add_finals(
    source: _Source,
    segment: SegmentReader,
    end: int,
    row: int,
    columns: Sequence[Column],
    found: Sequence[Array],
) -> bool:
    """Adds the final values of an episode that ends at `row` of the arrays; False if it has none."""
    has_final = segment.episodes.column("has_final")
    if not has_final[end]:
        return False
    which = int(np.count_nonzero(has_final[:end]))
    for column, array in zip(columns, found, strict=True):
        if column.of:
            source.add_final(column, which, array[row : row + 1])
    return True
