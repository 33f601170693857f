"""All streams of a dataset as a reader sees them: which rows there are, in logical order, and how that
moves on.

SPEC.md sections 4, 10 and 11.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.format import snapshot
from rlcli.format.checking import Checker
from rlcli.format.layout import MANY_ROWS
from rlcli.format.manifest import Manifest, Segment
from rlcli.format.mapping import StreamMap
from rlcli.format.row_plan import table_of
from rlcli.format.schema import Schema
from rlcli.format.snapshot import Limits, OpenJournal
from rlcli.format.stream_reader import StreamReader

Rows = np.ndarray[Any, np.dtype[np.int64]]
ROW_BITS = 40  # of a row's identity; the stream is above them
_ROW = (1 << ROW_BITS) - 1


class Gap(Exception):
    """The newest manifest does not list what is known: it has left the window, or was replaced.

    A recovery replaces the last sealed segment of a stream if the cut episode ended there.
    """


class StreamSet:
    """The streams of one dataset. `limits` hold it at an older snapshot; `folder_of` says where the files of
    each segment are if not all are in the dataset's folder.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        checker: Checker | None,
        *,
        single_range: bool,
        limits: Limits | None,
        folder_of: Callable[[Segment], Path] | None = None,
    ) -> None:
        table, self.numbers = table_of(schema)
        self.table = table.empty()
        self.streams: list[StreamReader] = []
        self._path = path
        self._schema = schema
        self._checker = checker
        self._single_range = single_range
        self._limits = limits
        self._folder_of = folder_of

    def close(self) -> None:
        """Closes the journals; maps live as long as the object."""
        for stream in self.streams:
            stream.stop_following()

    # Moving on.

    def advance(self, *, window: bool) -> bool:
        """Takes over what journals have got. Returns whether there was anything. Files of a `window` may go
        away.
        """
        moved = False
        for stream in self.streams:
            if stream.journal is not None and stream.journal.advance():
                stream.advance(stream.journal.state)
                if window:
                    stream.keep(len(stream.segments) - 1)
                moved = True
        return moved

    def adopt(self, newest: Manifest, journals: Mapping[str, OpenJournal]) -> None:
        """Lists what a manifest names and is not listed yet, and lets go of what has left its window.

        The segments of a window are touched at once, because their files go away. Raises `Gap` if the
        manifest does not continue what is listed.
        """
        entries: list[list[Segment]] = [[] for _ in newest.streams]
        for entry in newest.segments:
            entries[entry.stream].append(entry)
        for number, own in enumerate(entries):
            if number == len(self.streams):
                self._add_stream(newest, own)
            self._adopt_stream(self.streams[number], own, newest, journals)
        self.slide(newest.window)
        if newest.window is not None:
            for stream in self.streams:
                for position in range(len(stream.segments)):
                    stream.keep(position)

    def slide(self, window: int | None) -> None:
        """Lets the rows leave that are no longer in a window of so many."""
        for stream in self.streams if window is not None else ():
            stream.evict(max(stream.start, stream.rows - (window or 0)))

    def _add_stream(self, newest: Manifest, entries: Sequence[Segment]) -> None:
        number = len(self.streams)
        capacity = max(sum(entry.alloc for entry in entries), newest.window or 0)
        if newest.streams[number].get("owner"):
            capacity += max(capacity, 4 * MANY_ROWS)
        streams = StreamMap(
            self._path,
            self._schema,
            capacity=capacity,
            single_range=self._single_range,
            slides=newest.window is not None,
            folder_of=self._folder_of,
        )
        start = entries[0].first if entries else 0
        limit = None if self._limits is None else self._limits.of(number)
        self.streams.append(
            StreamReader(number, streams, self.table, self._checker, start=start, limit=limit)
        )

    def _adopt_stream(
        self,
        stream: StreamReader,
        entries: Sequence[Segment],
        newest: Manifest,
        journals: Mapping[str, OpenJournal],
    ) -> None:
        names = [entry.name for entry in entries]
        if stream.segments and stream.segments[-1].rows == 0 and stream.segments[-1].name not in names:
            stream.drop_empty()  # its writer was killed before it got a row
        gone = 0
        if newest.window is not None:
            while gone < len(stream.segments) and stream.segments[gone].name not in names:
                gone += 1
            if gone == len(stream.segments) and (gone or (entries and entries[0].first != stream.rows)):
                raise Gap
        kept = stream.segments[gone:]
        if [segment.name for segment in kept] != names[: len(kept)]:
            raise Gap
        for segment, entry in zip(kept, entries, strict=False):
            if entry.sealed and not segment.mapped.entry.sealed:
                stream.seal(entry)
        if further := entries[len(kept) :]:
            stream.list_segments(further)
            if not further[-1].sealed:
                found = journals.get(further[-1].name)
                stream.follow(found or snapshot.open_journal(self._path, newest.dataset, further[-1]))
        start = entries[0].first if entries else stream.start
        if self._limits is not None:
            start = min(self._limits.starts[stream.number], stream.rows)
        stream.evict(max(stream.start, start))

    # Logical rows.

    @property
    def starts(self) -> list[int]:
        """The first logical row of each stream."""
        starts, at = [], 0
        for stream in self.streams:
            starts.append(at)
            at += stream.rows - stream.start
        return starts

    def parts(self, start: int, stop: int) -> Iterator[tuple[StreamReader, int, int]]:
        """The stream rows that logical rows `start … stop` are."""
        for stream in self.streams:
            low, high = max(start, 0) + stream.start, min(stop + stream.start, stream.rows)
            if low < high:
                yield stream, low, high
            count = stream.rows - stream.start
            start, stop = start - count, stop - count

    def ids(self, rows: Rows) -> Rows:
        """Identities of logical rows that exist."""
        begin = np.array([stream.start for stream in self.streams], np.int64)
        starts = np.array(self.starts, np.int64)
        number = np.searchsorted(starts, rows, side="right") - 1
        found: Rows = number << ROW_BITS | (rows - starts[number] + begin[number])
        return found

    def rows_of(self, ids: Rows) -> Rows:
        """Logical rows of identities, −1 where a row is not, or no longer, there."""
        number, row = ids >> ROW_BITS, ids & _ROW
        known = (number >= 0) & (number < len(self.streams))
        number = np.where(known, number, 0)
        begin = np.array([stream.start for stream in self.streams] or [0], np.int64)[number]
        end = np.array([stream.rows for stream in self.streams] or [0], np.int64)[number]
        at = np.array(self.starts or [0], np.int64)[number]
        return np.where(known & (row >= begin) & (row < end), row - begin + at, -1)
