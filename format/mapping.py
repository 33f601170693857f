"""Segments' files as memory: side by side in one address range where they fit, each for itself where not.

SPEC.md section 5.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from rlcli import _native
from rlcli.format import files
from rlcli.format.keys import path_of
from rlcli.format.layout import SegmentPaths
from rlcli.format.manifest import Segment
from rlcli.format.schema import Column, Schema

Array = np.ndarray[Any, Any]
PAGE = os.sysconf("SC_PAGE_SIZE")


class MappedSegment:
    """Read-only arrays over a segment's columns, `[alloc, *shape]`, and over its finals."""

    def __init__(self, root: Path, entry: Segment, schema: Schema) -> None:
        self.entry = entry
        self.schema = schema
        self.paths = SegmentPaths(root, entry.name)
        self.columns: list[Array] = []
        self.addresses: list[int] = []
        self.finals: list[Array] = []
        self.final_addresses: list[int] = []

    def map_finals(self, count: int) -> None:
        """Makes the first `count` finals readable. Raises `CorruptError` if a file is too short."""
        derived = self.schema.derived
        if not count:
            return
        for position, column in enumerate(derived):
            path = self.paths.finals / path_of(column.key)
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
                if position == len(self.finals):
                    # Every row may have a final; what is not in the file yet is not touched yet.
                    length = size if self.entry.sealed else self.entry.alloc * column.row_bytes
                    address_range = _native.AddressRange(_pages(length))
                    self.final_addresses.append(address_range.map_file(fd, 0, length))
                    self.finals.append(_typed(address_range, 0, length, column))
            finally:
                files.close(fd)

    def end_addresses(self, has_final: list[bool], first: int) -> list[list[int]]:
        """Per episode end the addresses of its finals, 0 where unknown; the first final is number `first`."""
        found = []
        for known in has_final:
            if known:
                strides = zip(self.final_addresses, self.schema.derived, strict=True)
                found.append([base + first * column.row_bytes for base, column in strides])
                first += 1
            else:
                found.append([0] * len(self.schema.derived))
        return found


class StreamMap:
    """Maps the segments of one stream in order. `capacity` is a hint: the rows that are certain to come."""

    def __init__(self, root: Path, schema: Schema, *, capacity: int, single_range: bool = True) -> None:
        self._root = root
        self._schema = schema
        self._capacity = capacity
        self._single_range = single_range
        self._ranges: list[_native.AddressRange] = []
        self._used = 0
        self._total = 0

    def add(self, entry: Segment) -> MappedSegment:
        """Maps a segment behind the one before it where that is possible.

        Raises `CorruptError` if a file is missing, no regular file, or not exactly as long as it must be.
        """
        mapped = MappedSegment(self._root, entry, self._schema)
        plain = self._schema.plain
        whole = self._single_range and all(entry.alloc * c.row_bytes % PAGE == 0 for c in plain)
        if whole and self._used + entry.alloc > self._total:
            self._total = max(self._capacity, entry.alloc, 2 * self._total)
            self._capacity = 0
            self._ranges = [_native.AddressRange(_pages(self._total * c.row_bytes)) for c in plain]
            self._used = 0
        for position, column in enumerate(plain):
            size = entry.alloc * column.row_bytes
            fd = files.open_read(mapped.paths.columns / path_of(column.key), size)
            try:
                address_range = self._ranges[position] if whole else _native.AddressRange(_pages(size))
                offset = self._used * column.row_bytes if whole else 0
                mapped.addresses.append(address_range.map_file(fd, offset, size))
            finally:
                files.close(fd)
            mapped.columns.append(_typed(address_range, offset, size, column))
        if whole:
            self._used += entry.alloc
        return mapped


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _typed(address_range: _native.AddressRange, offset: int, size: int, column: Column) -> Array:
    return address_range.view(offset, size).view(column.numpy).reshape(-1, *column.shape)
