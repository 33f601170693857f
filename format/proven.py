"""Rows of a sealed segment, read and compared with the hashes of the commits that brought them.

A commit's hash stands in the journal, whose own hash stands in the sums, so it proves the same as the hash of
a block: but of the rows of one commit, where a block of each column may be a hundred times as much. It is of
all columns together. SPEC.md sections 7 and 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rlcli import _native
from rlcli.format.checking import hash_of_parts
from rlcli.format.journal import EPISODE, HAS_FINAL, RECORD, ROWS
from rlcli.format.keys import Key
from rlcli.format.schema import Column

if TYPE_CHECKING:
    from rlcli.format.stream_reader import SegmentReader

Array = np.ndarray[Any, Any]


class Proven:
    """Rows and finals of neighbouring commits, which have the right hashes."""

    def __init__(
        self, first: int, first_final: int, rows: Mapping[Key, Array], finals: Mapping[Key, Array]
    ) -> None:
        self._first, self._rows = first, rows
        self._first_final, self._finals = first_final, finals
        self._is_whole = True

    @classmethod
    def find(cls, segment: SegmentReader, low: int, high: int, most_bytes: int) -> Proven | None:
        """The commits that brought rows `low … high` of an inspected segment.

        None where they are more than `most_bytes`, have values in heaps, differ from their hashes, or the
        journal is not here.
        """
        mapped, entry = segment.mapped, segment.mapped.entry
        plain, derived = mapped.schema.plain, mapped.schema.derived
        if mapped.schema.heaps or not segment.records:
            return None
        commits = _Commits(segment.records)
        span = commits.covering(low, high)
        if not span:
            return None
        start, stop = int(commits.first[span[0]]), int(commits.stop[span[-1]])
        ends = [commits.finals(number) for number in range(span.start, span.stop + 1)]
        finals_start, finals_stop = ends[0], ends[-1]
        if not (0 <= start <= low and high <= stop <= entry.rows):
            return None
        count, final_count = stop - start, finals_stop - finals_start
        if count * mapped.schema.row_bytes + final_count * sum(c.row_bytes for c in derived) > most_bytes:
            return None
        rows = {column.key: np.empty((count, *column.shape), column.numpy) for column in plain}
        finals = {column.key: np.empty((final_count, *column.shape), column.numpy) for column in derived}
        read = [("segments", c, entry.alloc, start, rows[c.key]) for c in plain]
        if final_count:
            read += [("finals", c, entry.finals, finals_start, finals[c.key]) for c in derived]
        if not _native.read_parts(
            str(mapped.paths.root),
            [f"{tree}/{entry.name}/{column.file}" for tree, column, *_ in read],
            [total * column.row_bytes for _, column, total, *_ in read],
            [first * column.row_bytes for _, column, _, first, _ in read],
            [out for *_, out in read],
        ):
            return None
        for number, before, after in zip(span, ends, ends[1:], strict=False):
            own = slice(commits.first[number] - start, commits.stop[number] - start)
            last = slice(before - finals_start, after - finals_start)
            parts = [array[own].data for array in rows.values()]
            parts += [array[last].data for array in finals.values()]
            if hash_of_parts(parts) != commits.hash[number]:
                return None
        return cls(start, finals_start, rows, finals)

    def add_rows(self, column: Column, first: int, out: Array) -> None:
        """Copies rows of a plain column, or of what a shift shifts."""
        at = first - self._first
        out[...] = self._rows[column.of or column.key][at : at + len(out)]

    def add_final(self, column: Column, which: int, out: Array) -> None:
        """Copies one final, if it came with these rows."""
        at = which - self._first_final
        if 0 <= at < len(self._finals[column.key]):
            out[0] = self._finals[column.key][at]
        else:
            self._is_whole = False

    def read(self) -> bool:
        """Everything that was asked for was there."""
        return self._is_whole


class _Commits:
    """The commits of a sealed journal, which has the right hash."""

    def __init__(self, journal: bytes) -> None:
        words = np.frombuffer(journal, "<i8").reshape(-1, RECORD // 8)
        head = np.frombuffer(journal, "<u2")[2 :: RECORD // 2]  # kind, and flags above it
        self._records = np.flatnonzero(head & 0xFF == ROWS)
        self._has_final = head & (0xFF | HAS_FINAL << 8) == EPISODE | HAS_FINAL << 8
        rows = words[self._records]
        self.first = rows[:, 2]
        self.stop = self.first + rows[:, 3]
        self.hash = rows[:, 4].view(np.uint64)

    def covering(self, low: int, high: int) -> range:
        """Which ones have some of these rows."""
        return range(
            int(np.searchsorted(self.stop, low, side="right")), int(np.searchsorted(self.first, high))
        )

    def finals(self, number: int) -> int:
        """How many finals came before a commit."""
        return int(np.count_nonzero(self._has_final[: self._records[number - 1]])) if number else 0
