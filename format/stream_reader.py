"""One stream of a dataset as a reader sees it: its segments are listed at once and read when first touched.

SPEC.md sections 5, 7 and 8.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from threading import RLock
from typing import Any

import numpy as np

from rlcli import _native
from rlcli.errors import CorruptError
from rlcli.format.checking import Checker, Waiting
from rlcli.format.episode_table import episode_arrays, select
from rlcli.format.journal import Journal
from rlcli.format.keys import Key
from rlcli.format.manifest import Segment
from rlcli.format.mapping import StreamMap
from rlcli.format.schema import Column
from rlcli.format.segment_reader import SegmentReader
from rlcli.format.snapshot import OpenJournal

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.int64]]


class StreamReader:
    """Retained are the stream rows `start … rows`. `limit` holds it at an older snapshot: the stream row
    where that ends, and the one behind its last ended episode.
    """

    def __init__(
        self,
        number: int,
        streams: StreamMap,
        table: _native.RowMap,
        checker: Checker | None,
        *,
        start: int = 0,
        limit: tuple[int, int] | None = None,
    ) -> None:
        self.number = number
        self.start = start
        self.limit = limit
        self.segments: list[SegmentReader] = []
        self.journal: OpenJournal | None = None
        self._map = streams
        self._table = table
        self._checker = checker
        self._firsts: list[int] = []
        self._counts: list[int] | None = None  # episodes before each segment
        self._lock = RLock()
        table.add_stream(start)

    @property
    def rows(self) -> int:
        return self.segments[-1].stop if self.segments else self.start

    @property
    def is_touched(self) -> bool:
        return all(segment.is_touched for segment in self.segments)

    def list_segments(self, entries: Sequence[Segment]) -> None:
        """Adds sealed or open segments behind the others; nothing is read yet."""
        found: list[tuple[list[int], list[tuple[int, int, int, int]]]] = []
        for entry in entries:
            mapped = self._map.place(entry)
            rows, ended = entry.rows, None
            if self.limit is not None:
                rows, ended = min(rows, self.limit[0] - entry.first), self.limit[1]
            self.segments.append(SegmentReader(mapped, rows, ended))
            self._firsts.append(entry.first)
            addresses, at = mapped.place
            if not found or found[-1][0] is not addresses:
                found.append((addresses, []))
            found[-1][1].append((entry.first, rows, entry.alloc, at))
        self._table.add_segments(self.number, found)
        self._counts = None

    def position(self, row: int) -> int:
        """Which segment a stream row is in."""
        return bisect_right(self._firsts, row) - 1

    def positions(self, rows: Rows) -> Rows:
        """Which segments stream rows are in."""
        return np.searchsorted(np.array(self._firsts), rows, side="right") - 1

    def touch(self, position: int) -> SegmentReader:
        """Makes a segment's rows readable. Raises `CorruptError` naming a file that is not as it must be."""
        segment = self.segments[position]
        if segment.is_touched and (segment.is_inspected or self._checker is None):
            return segment
        with self._lock:
            self.inspect(segment)
            if not segment.is_touched:
                segment.fill(self._table, self.number)
        return segment

    def keep(self, position: int) -> None:
        """Maps everything of a segment of a window, whose files may go away at any time.

        Raises `CorruptError` if they have.
        """
        self.touch(position).keep()

    def inspect(self, segment: SegmentReader) -> None:
        """Compares the small files of a sealed segment with their hashes, once."""
        if self._checker is None or segment.is_inspected or not segment.mapped.entry.sealed:
            return
        with self._lock:
            segment.inspect(self._checker)

    def prepare(self, low: int, high: int, columns: Iterable[Column], waiting: Waiting) -> None:
        """Touches the segments of stream rows `low … high`, and compares these columns' blocks there, but for
        those that are `waiting` to be fetched.
        """
        derived = any(column.of for column in columns)
        keys = [column.key for column in columns]
        if self._checker is not None:
            parts = self.segments[self.position(low) : self.position(high - 1) + 1]
            self._checker.begin([segment.mapped for segment in parts])
        for position in range(self.position(low), self.position(high - 1) + 1):
            segment = self.touch(position)
            if self._checker is not None and not self._checker.is_whole(segment.mapped, keys):
                first, stop = max(low, segment.first), min(high, segment.stop)
                for column in columns:
                    further = 1 if column.of and stop < segment.stop else 0
                    self._checker.rows(
                        segment.mapped, column, first - segment.first, stop + further - segment.first, waiting
                    )
        if derived and high == self.segments[position].stop and self._goes_on(position):
            segment = self.touch(position + 1)
            for column in columns:
                if column.of and self._checker is not None:
                    self._checker.rows(segment.mapped, column, 0, 1, waiting)

    def prepare_rows(self, rows: Rows, keys: Sequence[Key], derived: bool, waiting: Waiting) -> None:
        """Touches the segments of these stream rows, and compares these columns of them: wholly, or where
        they have to be fetched the blocks of these rows, which may be `waiting`.
        """
        found = self.positions(rows)
        needed = set(np.unique(found).tolist())
        if derived:
            following = self.positions(np.minimum(rows + 1, self.rows - 1))
            for position in np.unique(found[following > found]).tolist():
                if self._goes_on(position):
                    needed.add(position + 1)
        if self._checker is not None:
            self._checker.begin([self.segments[position].mapped for position in needed])
        for position in sorted(needed):
            segment = self.touch(position)
            if self._checker is None or self._checker.is_whole(segment.mapped, keys):
                continue
            if self._checker.is_remote:
                self._pick(self._checker, segment, rows, keys, waiting)
            else:
                self._checker.columns(segment.mapped, keys)

    def _pick(
        self, checker: Checker, segment: SegmentReader, rows: Rows, keys: Sequence[Key], waiting: Waiting
    ) -> None:
        """Compares what these stream rows need of one sealed segment."""
        ends, has_final = segment.episodes.ends, segment.episodes.column("has_final")
        inside = rows[(rows >= segment.first) & (rows < segment.stop)]
        before = rows[(rows >= segment.first - 1) & (rows < segment.stop - 1)]
        after = before[~np.isin(before, ends)] + 1
        finals = np.flatnonzero(np.isin(ends[has_final], inside))
        checker.pick(segment.mapped, keys, inside - segment.first, after - segment.first, finals, waiting)

    def _goes_on(self, position: int) -> bool:
        """The episode of a segment's last row has its next row in the next segment."""
        segment = self.touch(position)
        return segment.stop < self.rows and segment.episodes.last_end != segment.stop - 1

    def is_ready(self, keys: Sequence[Key]) -> bool:
        """Every segment was touched, and these columns compared wholly."""
        return self.is_touched and (
            self._checker is None
            or all(self._checker.is_whole(segment.mapped, keys) for segment in self.segments)
        )

    # What a live segment gets.

    def follow(self, journal: OpenJournal) -> None:
        """Reads the last segment, which is open, by its journal from here on; not beyond `limit`."""
        self.journal = journal
        segment = self.segments[-1]
        segment.mapped.map()
        segment.is_touched = True
        if self.limit is not None:
            journal.state.cut(*self.limit)
        self.advance(journal.state)
        if self.limit is not None:
            self.stop_following()

    def advance(self, state: Journal) -> None:
        """Takes over what the open segment's journal says beyond what is known."""
        segment = self.segments[-1]
        mapped = segment.mapped
        new = state.episodes[len(segment.episodes.live) :]
        records = episode_arrays(new)
        if new:
            mapped.map_finals(state.finals)
            segment.episodes.add(new)
            self._counts = None
        segment.rows = state.rows
        ends = records["start"] + records["length"] - 1
        self._table.fill(
            self.number, segment.first, state.rows, ends, records["has_final"], mapped.final_addresses
        )
        if self._checker is not None:
            self._checker.commits(mapped, state.commits)
        else:
            state.commits.clear()

    def seal(self, entry: Segment) -> None:
        """The last segment, which was open, is sealed now. Raises `CorruptError` if it should hold something
        else.
        """
        journal, segment = self.journal, self.segments[-1]
        assert journal is not None
        if journal.advance():
            self.advance(journal.state)
        state = journal.state
        if (state.rows, len(state.episodes), state.finals) != (entry.rows, entry.episodes, entry.finals):
            raise CorruptError(
                f"{journal.path}: {state.rows} rows, {len(state.episodes)} episodes, the manifest says "
                f"{entry.rows} and {entry.episodes}",
                path=journal.path,
            )
        segment.episodes.seal(entry)
        segment.mapped.entry = entry
        if self._checker is not None:
            self._checker.forget(segment.mapped)
        self.stop_following()

    def stop_following(self) -> None:
        """Closes the journal of the open segment, if there is one."""
        if self.journal is not None:
            self.journal.close()
            self.journal = None

    def drop_empty(self) -> None:
        """Forgets the last segment, which never got a row."""
        self._table.drop_empty(self.number)
        self.stop_following()
        segment = self.segments.pop()
        self._firsts.pop()
        self._counts = None
        if self._checker is not None:
            self._checker.forget(segment.mapped)

    def evict(self, start: int) -> int:
        """Rows before `start` leave, and segments that lie wholly before it. Returns how many rows left."""
        left = start - self.start
        if left <= 0:
            return 0
        self._table.evict(self.number, start)
        self.start = start
        gone = self.position(start) if start < self.rows else len(self.segments) - 1
        for segment in self.segments[:gone]:
            if segment.is_touched:
                segment.mapped.unmap()
            if self._checker is not None:
                self._checker.forget(segment.mapped)
        del self.segments[:gone], self._firsts[:gone]
        self._counts = None
        return left

    # Episodes. Those that began before the first retained row come first.

    def _before(self) -> list[int]:
        if self._counts is None:
            self._counts = list(accumulate((len(s.episodes) for s in self.segments), initial=0))
        return self._counts

    @property
    def num_partial(self) -> int:
        """Ended episodes of which rows have left."""
        count = 0
        for segment in self.segments if self.start else ():
            if len(segment.episodes):
                self.inspect(segment)
                count += (partial := int(np.searchsorted(segment.episodes.column("start"), self.start)))
                if partial < len(segment.episodes):
                    break
        return count

    @property
    def num_episodes(self) -> int:
        """Ended ones, whole or not."""
        return self._before()[-1]

    def episode(self, index: int) -> tuple[int, int]:
        """First stream row and length of an ended episode."""
        before = self._before()
        position = bisect_right(before, index) - 1
        segment = self.segments[position]
        self.inspect(segment)
        at = index - before[position]
        return int(segment.episodes.column("start")[at]), int(segment.episodes.column("length")[at])

    def tables(self, *, whole: bool) -> list[dict[str, Array]]:
        """The episodes of each segment of which any row is there; `whole`: every row."""
        found = []
        for segment in self.segments:
            self.inspect(segment)
            arrays = segment.episodes.arrays()
            if self.start and len(arrays["start"]) and arrays["start"][0] < self.start:
                first = arrays["start"] + (0 if whole else arrays["length"] - 1)
                arrays = select(arrays, first >= self.start)
            found.append(arrays)
        return found

    @property
    def unknown_next(self) -> list[int]:
        """Stream rows whose successor is unknown."""
        unknown: list[int] = []
        for segment in self.segments:
            if not segment.episodes.is_complete:
                self.inspect(segment)
                unknown += segment.episodes.unknown
        if self.start:
            unknown = [row for row in unknown if row >= self.start]
        if self.start < self.rows and self.last_end != self.rows - 1:
            unknown.append(self.rows - 1)
        return unknown

    @property
    def ended(self) -> int:
        """The row behind the last ended episode; the first retained one if none has ended."""
        last = self.last_end
        return self.start if last is None else last + 1

    def release(self) -> None:
        """Gives back the memory of the pages that were read."""
        for segment in self.segments:
            if segment.is_touched:
                segment.mapped.release()

    def expect_random(self, random: bool) -> None:
        """Whether rows will be read at random, of segments that come later too."""
        self._map.expects_random = random
        for segment in self.segments:
            if segment.mapped.is_mapped:
                segment.mapped.expect(random)

    @property
    def last_end(self) -> int | None:
        """The last row of the last ended episode of which a segment is still there."""
        for segment in reversed(self.segments):
            if len(segment.episodes):
                self.inspect(segment)
                return segment.episodes.last_end
        return None
