"""Segments' files as memory: side by side in one address range where they fit, each for itself where not.

SPEC.md section 5.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from rlcli import _native
from rlcli.errors import ResourceError
from rlcli.format import bulk, files
from rlcli.format.heap_file import heap_end, heap_name
from rlcli.format.layout import SegmentPaths
from rlcli.format.manifest import MAX_SEGMENT_BYTES, Segment
from rlcli.format.schema import Column, Schema

Array = np.ndarray[Any, Any]
PAGE = os.sysconf("SC_PAGE_SIZE")


class _Range:
    """Addresses for `rows` rows of every plain column, column after column."""

    def __init__(self, row_bytes: Sequence[int], rows: int) -> None:
        sizes = [-(-rows * n // PAGE) * PAGE for n in row_bytes]
        self.rows = rows
        self.used = 0
        self.memory = _native.AddressRange(sum(sizes))
        self.starts = list(accumulate(sizes, initial=0))[:-1]
        address = self.memory.address
        self.addresses = [address + start for start in self.starts]


class MappedSegment:
    """A segment's place in memory; its columns are there after `map`, its finals after `map_finals`."""

    def __init__(self, streams: StreamMap, entry: Segment, place: _Range, at: int) -> None:
        self.entry = entry
        self.schema = streams.schema
        self._streams = streams
        self._names = streams.names
        self._row_bytes = streams.row_bytes
        self._range = place
        self._at = at
        self.is_mapped = False
        self.final_addresses: list[int] = []
        self._finals: list[tuple[_native.AddressRange, int]] = []
        self._heaps: dict[int, tuple[Array, bool]] = {}  # what was mapped, and whether of a sealed segment
        self._heap_ends: dict[int, tuple[int, int, int]] = {}  # rows and finals looked at, and their end

    @property
    def place(self) -> tuple[list[int], int]:
        """Addresses of the columns that it will be mapped to, and the row there at which it begins."""
        return self._range.addresses, self._at

    @cached_property
    def paths(self) -> SegmentPaths:
        return SegmentPaths(self._streams.folder_of(self.entry), self.entry.name)

    @cached_property
    def _offsets(self) -> list[int]:
        parts = zip(self._range.starts, self._row_bytes, strict=True)
        return [start + self._at * n for start, n in parts]

    @cached_property
    def _sizes(self) -> list[int]:
        return [self.entry.alloc * n for n in self._row_bytes]

    def map(self) -> None:
        """Makes the columns readable. Raises `CorruptError` if a file is missing, no regular file, or not
        exactly as long as it must be.
        """
        bulk.map_columns(self._range.memory, self.paths.columns, self._names, self._offsets, self._sizes)
        self.is_mapped = True
        if self._streams.expects_random:
            self.expect(True)

    def expect(self, random: bool) -> None:
        """Whether pages of the columns are read one by one from now on, or with their neighbours."""
        for offset, size in zip(self._offsets, self._sizes, strict=True):
            self._range.memory.expect(random, offset, _pages(size))

    def column(self, position: int) -> Array:
        """A view of a plain column, `[alloc, *shape]`, to be used while the segment is mapped."""
        column = self.schema.plain[position]
        return _typed(self._range.memory, self._offsets[position], self._sizes[position], column)

    def final(self, position: int) -> Array:
        """A view of the finals of a derived column that `map_finals` has mapped, `[…, *shape]`."""
        memory, size = self._finals[position]
        column = self.schema.derived[position]
        if self.entry.sealed:  # more was mapped if it was open then
            size = self.entry.finals * column.row_bytes
        return _typed(memory, 0, size, column)

    @property
    def columns(self) -> list[Array]:
        """All plain columns."""
        return [self.column(position) for position in range(len(self._sizes))]

    @property
    def finals(self) -> list[Array]:
        """All finals; none before `map_finals`."""
        return [self.final(position) for position in range(len(self._finals))]

    def map_finals(self, count: int) -> None:
        """Makes the first `count` finals readable. Raises `CorruptError` if a file is too short."""
        if not count:
            return
        for position, column in enumerate(self.schema.derived):
            path = self.paths.finals / column.file
            size = count * column.row_bytes
            if self.entry.sealed:
                fd = files.open_read(path, size)
            else:
                fd = files.open_read(path)
                found = files.size_of(fd)
                if found < size:
                    files.close(fd)
                    raise files.wrong_size(path, found, f"at least {size}")
            try:
                if position == len(self._finals):
                    # Every row may have a final; what is not in the file yet is not touched yet.
                    length = size if self.entry.sealed else self.entry.alloc * column.row_bytes
                    with files.resources(path):
                        memory = _native.AddressRange(_pages(length))
                        self.final_addresses.append(memory.map_file(fd, 0, length))
                    self._finals.append((memory, length))
            finally:
                files.close(fd)

    def heap(self, position: int) -> Array:
        """The bytes of a heap's file, all that is there by now; none if there is no file."""
        path = self.paths.heaps / heap_name(self.schema.heaps[position].key)
        known, is_whole = self._heaps.get(position, (None, False))
        if known is not None and is_whole:
            return known
        try:
            size = files.size(path)
        except FileNotFoundError:  # it has left the window since, or no value has bytes
            size = 0 if known is None else len(known)
        if known is None or len(known) != size:
            fd = files.open_read(path) if size else -1
            try:
                with files.resources(path):
                    memory = _native.AddressRange(_pages(max(size, 1)))
                    if size:
                        memory.map_file(fd, 0, size)
            finally:
                if size:
                    files.close(fd)
            known = memory.view(0, size)
        self._heaps[position] = (known, self.entry.sealed)
        return known

    def heap_end(self, position: int, rows: int, finals: int) -> int:
        """How many bytes of a heap the values of the first rows and finals reach to."""
        seen_rows, seen_finals, end = self._heap_ends.get(position, (0, 0, 0))
        if rows < seen_rows or finals < seen_finals:
            seen_rows = seen_finals = end = 0
        handles = self.schema.heaps[position].handles
        off, length = ([c.key for c in self.schema.plain].index(key) for key in handles)
        new = slice(seen_rows, rows)
        end = max(end, heap_end(self.column(off)[new], self.column(length)[new]))
        of = [column.of for column in self.schema.derived]
        if finals > seen_finals and handles[0] in of:
            off, length = (of.index(key) for key in handles)
            new = slice(seen_finals, finals)
            end = max(end, heap_end(self.final(off)[new], self.final(length)[new]))
        self._heap_ends[position] = (rows, finals, end)
        return end

    def release(self) -> None:
        """Gives the memory of its pages back; they are read from the files when touched again."""
        for offset, size in zip(self._offsets, self._sizes, strict=True):
            self._range.memory.release(offset, _pages(size))
        for memory, size in self._finals:
            memory.release(0, _pages(size))

    def unmap(self) -> None:
        """Gives up the files. Nobody may hold an address or a view of it any more."""
        for offset, size in zip(self._offsets, self._sizes, strict=True):
            self._range.memory.unmap(offset, _pages(size))
        self._finals.clear()
        self._heaps.clear()
        self.final_addresses.clear()
        self.is_mapped = False


class StreamMap:
    """Places the segments of a stream in memory one after the other.

    Room for `capacity` rows is reserved at once, and twice as much whenever it is used up; as much again if
    it `slides`, as segments of a window come and go; less where there are not so many addresses. Only
    segments whose columns all fill whole pages lie side by side. Files are below `root`, or where `folder_of`
    says.
    """

    def __init__(
        self,
        root: Path,
        schema: Schema,
        *,
        capacity: int,
        single_range: bool = True,
        slides: bool = False,
        folder_of: Callable[[Segment], Path] | None = None,
    ) -> None:
        self.folder_of = folder_of or (lambda _: root)
        self.schema = schema
        self.names = [column.file for column in schema.plain]
        self.row_bytes = [column.row_bytes for column in schema.plain]
        self._capacity = capacity
        self._single_range = single_range
        self._slides = slides
        self._range: _Range | None = None
        self.expects_random = False  # of what is mapped from now on

    def place(self, entry: Segment) -> MappedSegment:
        """Gives a segment its addresses, behind the one before it where that is possible."""
        alloc = entry.alloc
        if not self._single_range or (alloc % PAGE and any(alloc * n % PAGE for n in self.row_bytes)):
            return MappedSegment(self, entry, self._reserve(entry), 0)
        if self._range is None or self._range.used + entry.alloc > self._range.rows:
            twice = 2 * self._range.rows if self._range is not None and not self._slides else 0
            self._range = self._reserve(entry, max(self._capacity, twice))
        mapped = MappedSegment(self, entry, self._range, self._range.used)
        self._range.used += entry.alloc
        return mapped

    def _reserve(self, entry: Segment, rows: int = 0) -> _Range:
        """Addresses for `rows` rows if there are so many, else for this segment alone.

        Raises `CorruptError` if there are not, and its files are shorter than they would have to be;
        `ResourceError` if they are not.
        """
        if rows > entry.alloc and rows * sum(self.row_bytes) <= MAX_SEGMENT_BYTES:
            with suppress(OSError):
                return _Range(self.row_bytes, rows)
        try:
            return _Range(self.row_bytes, entry.alloc)
        except OSError as err:
            folder = SegmentPaths(self.folder_of(entry), entry.name).columns
            for name, row_bytes in zip(self.names, self.row_bytes, strict=True):
                path, size = folder / name, entry.alloc * row_bytes
                found = files.size(path)
                if found != size:
                    raise files.wrong_size(path, found, size) from err
            raise ResourceError(f"{folder}: no addresses are left to map it", path=folder) from err

    def add(self, entry: Segment) -> MappedSegment:
        """Places a segment and maps it. Raises `CorruptError` as `MappedSegment.map` does."""
        mapped = self.place(entry)
        mapped.map()
        return mapped


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _typed(memory: _native.AddressRange, offset: int, size: int, column: Column) -> Array:
    return memory.view(offset, size).view(column.numpy).reshape(-1, *column.shape)
