"""Values that are made of several stored columns: what heaps hold, and frame stacks. SPEC.md 6 and 14."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlcli.errors import CorruptError
from rlcli.format import heap
from rlcli.format.checking import Checker, Waiting
from rlcli.format.heap_file import heap_name
from rlcli.format.keys import Key
from rlcli.format.schema import Column, Schema
from rlcli.format.stream_reader import StreamReader

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.int64]]
Gather = Callable[[Rows, Sequence[Key], Sequence[Array] | None], Sequence[Array]]
Stack = Callable[[Rows, tuple[Key, ...], tuple[int, ...], Sequence[Array]], None]


class _Place(NamedTuple):
    """Where a value's bytes are: stream, segment's first row, offset, length."""

    stream: int
    first: int
    off: int
    length: int


def run_rows(starts: Rows, counts: Rows) -> Rows:
    """The rows of runs that begin at `starts` and have `counts` rows each, one after the other."""
    before = np.repeat(np.cumsum(counts) - counts, counts)
    return np.arange(len(before)) - before + np.repeat(starts, counts)


def rows_before(rows: Rows, frames: int) -> Rows:
    """The last `frames` rows up to each of `rows`, whatever episode they are of."""
    return np.unique(np.maximum(rows[:, None] - np.arange(frames), 0))


class Composer:
    """Makes values of heap and stack columns at logical rows. `gather` gives stored columns, checked, and
    `stack` stacks of so many frames of each.
    """

    def __init__(
        self,
        schema: Schema,
        streams: Sequence[StreamReader],
        checker: Checker | None,
        gather: Gather,
        stack: Stack,
    ) -> None:
        self._schema = schema
        self._streams = streams
        self._checker = checker
        self._gather = gather
        self._stack = stack
        self._position = {column.key: n for n, column in enumerate(schema.heaps)}

    def values(self, column: Column, rows: Rows) -> Array:
        """`[n, *shape]`: a copy. Text, bytes and arrays with an open axis are an object array `[n]`."""
        if column.encoding == "stack":
            array = np.empty((len(rows), *column.shape), column.numpy)
            self.stacks([column], rows, [array])
            return array
        unknown = heap.missing(column)
        found = self._decoded(column, rows)
        if isinstance(unknown, np.ndarray) and -1 not in column.shape:
            array = np.empty((len(rows), *column.shape), column.numpy)
        else:
            array = np.empty(len(rows), object)
        for at, value in enumerate(found):
            array[at] = unknown if value is None else value
        return array

    def fill(self, keys: Sequence[Key], rows: Rows, places: Rows | slice, out: Sequence[Array]) -> None:
        """Writes the values at `rows` to `places` of each key's array, composed ones and others."""
        stacked: list[tuple[Column, Array]] = []
        stored: list[tuple[Key, Array]] = []
        for key, target in zip(keys, out, strict=True):
            column = self._schema.column(key)
            if column.heap is not None or not isinstance(places, slice) or not target.flags.c_contiguous:
                composed = column.encoding == "stack" or column.heap is not None
                target[places] = self.values(column, rows) if composed else self._gather(rows, [key], None)[0]
            elif column.encoding == "stack":
                stacked.append((column, target))
            else:
                stored.append((key, target))
        if stored:
            self._gather(rows, [key for key, _ in stored], [target for _, target in stored])
        if stacked:
            self.stacks([column for column, _ in stacked], rows, [target for _, target in stacked])

    def encoded(self, column: Column, rows: Rows) -> list[heap.Encoded | None]:
        """The stored bytes, as they came; None where the value is unknown."""
        places = self._places(column, rows)
        self._bring(column, places)
        return [None if place is None else heap.Encoded(self._bytes(column, place)) for place in places]

    def text(self, column: Column, rows: Rows) -> tuple[Rows, list[str]]:
        """Per row an index `[n]` in a table of the different texts, in order of their first row."""
        table: dict[str, int] = {}
        index = [table.setdefault(text or "", len(table)) for text in self._decoded(column, rows)]
        return np.array(index, np.int64), list(table)

    def stacks(self, columns: Sequence[Column], rows: Rows, out: Sequence[Array]) -> None:
        """Fills arrays `[n, frames, …]` with stack columns, each frame straight from where it is stored.

        The schema has what a column stacks; it need not have the column.
        """
        of = tuple(self._schema.column(column.of or ()).key for column in columns)
        self._stack(rows, of, tuple(column.frames for column in columns), out)

    def _parts(self, rows: Rows) -> Iterable[tuple[int, StreamReader, int, Rows]]:
        """Per stream: its number, itself, its first logical row, and which of `rows` are its."""
        at = 0
        for number, stream in enumerate(self._streams):
            count = stream.rows - stream.start
            inside = np.flatnonzero((rows >= at) & (rows < at + count))
            if len(inside):
                yield number, stream, at, inside
            at += count
        if len(rows) and not 0 <= rows.min() <= rows.max() < at:
            raise IndexError(f"a row is outside 0 to {at - 1}")

    def _places(self, column: Column, rows: Rows) -> list[_Place | None]:
        """Where the values are; None where they are unknown."""
        off, length = self._gather(rows, column.handles, None)
        firsts = np.zeros(len(rows), np.int64)
        numbers = np.zeros(len(rows), np.int64)
        known = np.ones(len(rows), bool)
        for number, stream, at, inside in self._parts(rows):
            own = rows[inside] - at + stream.start
            if column.encoding == "derived":
                own, known[inside] = self._following(stream, own)
            numbers[inside] = number
            firsts[inside] = [stream.segments[p].first for p in stream.positions(own).tolist()]
        table = zip(numbers.tolist(), firsts.tolist(), off.tolist(), length.tolist(), strict=True)
        return [_Place(*place) if is_known else None for place, is_known in zip(table, known, strict=True)]

    @staticmethod
    def _following(stream: StreamReader, own: Rows) -> tuple[Rows, Array]:
        """The row whose segment holds each one's next value: the next one, or where an episode ends itself,
        and whether there is one.
        """
        row = np.minimum(own + 1, stream.rows - 1)
        known = own + 1 < stream.rows
        positions = stream.positions(own)
        for position in np.unique(positions).tolist():
            episodes = stream.touch(position).episodes
            ends, has_final = episodes.ends, episodes.column("has_final")
            at = np.minimum(np.searchsorted(ends, own), max(len(ends) - 1, 0))
            is_end = (positions == position) & (len(ends) > 0)
            if len(ends):
                is_end &= ends[at] == own
                known[is_end] = has_final[at[is_end]]
            row[is_end] = own[is_end]
        return row, known

    def _bytes(self, column: Column, place: _Place) -> bytes:
        """A value's stored bytes, compared with their hash. Raises `CorruptError` if they are not there."""
        source = self._schema.column(column.of or column.key)
        stream = self._streams[place.stream]
        mapped = stream.touch(stream.position(place.first)).mapped
        position = self._position[source.key]
        stop = place.off + place.length
        if not place.length:
            return b""
        if min(place.off, place.length) < 0 or stop > len(data := mapped.heap(position)):
            path = self._path(column, place)
            raise CorruptError(f"{path}: a value reaches to byte {stop}, behind the end", path=path)
        if self._checker is not None:
            self._checker.heap(mapped, position, place.off, stop)
        return data[place.off : stop].tobytes()

    def _bring(self, column: Column, places: Iterable[_Place | None]) -> None:
        """Fetches what these values take, all at once, if their heap is elsewhere."""
        if self._checker is None or not self._checker.is_remote:
            return
        spans: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for place in filter(None, places):
            spans.setdefault((place.stream, place.first), []).append((place.off, place.off + place.length))
        waiting: Waiting = []
        position = self._position[column.of or column.key]
        for (number, first), own in spans.items():
            stream = self._streams[number]
            self._checker.heap_spans(stream.touch(stream.position(first)).mapped, position, own, waiting)
        self._checker.settle(waiting)

    def _path(self, column: Column, place: _Place) -> Path:
        stream = self._streams[place.stream]
        mapped = stream.touch(stream.position(place.first)).mapped
        return mapped.paths.heaps / heap_name(column.of or column.key)

    def _decoded(self, column: Column, rows: Rows) -> list[Any]:
        """The values, equal places decoded once; None where they are unknown."""
        done: dict[_Place | None, Any] = {None: None}
        found = []
        places = self._places(column, rows)
        self._bring(column, places)
        for place in places:
            if place not in done:
                assert place is not None
                data = self._bytes(column, place)
                try:
                    done[place] = heap.decode(column, data)
                except ValueError as err:
                    path = self._path(column, place)
                    raise CorruptError(f"{path}: the value at byte {place.off}: {err}", path=path) from err
            found.append(done[place])
        return found
