"""A first, small read of a sealed segment without mapping it: mapping costs more than reading an episode.

Who reads from the segment again gets it mapped. Only for datasets whose hashes are not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlcli import _native
from rlcli.format.keys import path_of
from rlcli.format.schema import Column
from rlcli.format.stream_reader import SegmentReader, StreamReader

Array = np.ndarray[Any, Any]
_MANY_BYTES = 1 << 20
_MANY_ENDS = 4


def read(stream: StreamReader, low: int, high: int, columns: Sequence[Column]) -> list[Array] | None:
    """Stream rows `low … high` of plain columns and shifts, or None where they should be read otherwise."""
    segment = stream.segments[stream.position(low)]
    entry, count = segment.mapped.entry, high - low
    row_bytes = sum(column.row_bytes for column in columns)
    if segment.is_touched or segment.was_read or not entry.sealed or high > segment.stop:
        return None
    segment.was_read = True
    if count * row_bytes > _MANY_BYTES:
        return None
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
    parts = _Parts()
    found = []
    for column in columns:
        array = np.empty((count, *column.shape), column.numpy)
        found.append(array)
        skipped = 1 if column.of else 0
        target = array[: count - skipped + following] if column.of else array
        name = f"segments/{entry.name}/{path_of(column.of or column.key)}"
        size = entry.alloc * column.row_bytes
        parts.add(name, size, (low - segment.first + skipped) * column.row_bytes, target)
    unknown = [] if following or count - 1 in rows else [count - 1]
    for end, row in zip(ends, rows, strict=True):
        if not _add_finals(parts, segment, end, row, columns, found):
            unknown.append(row)
    if not parts.read(segment.mapped.paths.root):
        return None
    for column, array in zip(columns, found, strict=True):
        if column.of:
            array[unknown] = 0
    return found


class _Parts:
    """What is read of which files, in this order."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sizes: list[int] = []
        self._offsets: list[int] = []
        self._out: list[Array] = []

    def add(self, name: str, size: int, offset: int, out: Array) -> None:
        self._names.append(name)
        self._sizes.append(size)
        self._offsets.append(offset)
        self._out.append(out)

    def read(self, root: Path) -> bool:
        """False if a file is not there, or not of its size."""
        return _native.read_parts(str(root), self._names, self._sizes, self._offsets, self._out)


def _add_finals(
    parts: _Parts,
    segment: SegmentReader,
    end: int,
    row: int,
    columns: Sequence[Column],
    found: Sequence[Array],
) -> bool:
    """Adds the final values of an episode that ends at `row` of the arrays; False if it has none."""
    entry, has_final = segment.mapped.entry, segment.episodes.column("has_final")
    if not has_final[end]:
        return False
    which = int(np.count_nonzero(has_final[:end]))
    for column, array in zip(columns, found, strict=True):
        if column.of:
            name = f"finals/{entry.name}/{path_of(column.key)}"
            size = entry.finals * column.row_bytes
            parts.add(name, size, which * column.row_bytes, array[row : row + 1])
    return True
