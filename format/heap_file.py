"""The file that holds a heap column's values in one segment, while it is written. SPEC.md section 14."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlcli import _native
from rlcli.errors import CorruptError
from rlcli.format import files, folders, layer, sums
from rlcli.format.keys import Key
from rlcli.format.schema import Column

Value = bytes | memoryview  # as it is stored
Handles = np.ndarray[Any, np.dtype[np.int64]]
_TABLE_BYTES = 1 << 24  # text beyond this is compared with the value before it only


def heap_name(key: Key) -> str:
    """Relative path of a heap's file inside its tree."""
    return "/".join(key) + ".heap"


def heap_end(off: Handles, length: Handles) -> int:
    """The first byte of a heap that none of these values reaches; 0 without values."""
    return int((off + length).max(initial=0))


class HeapWriter:
    """Appends values. Equal text is stored once per segment, other values once per run of equal ones.

    `end` is the file's: how large it is, and the hash of what was appended since it was last reset.
    """

    def __init__(self, column: Column, path: Path) -> None:
        self.column = column
        self.path = path
        self.end = _native.HeapEnd()
        self.fd = -1
        self.is_new = False  # its name may not be on the disk yet
        self._is_text = column.is_text
        self._last: tuple[Value, int] | None = None  # the newest value that was stored, and where
        self._offsets: dict[Value, int] = {}  # of text
        self._table_bytes = 0

    @property
    def size(self) -> int:
        return self.end.size

    def total(self) -> sums.FileSum:
        """Of all bytes so far."""
        return sums.of_heap(self.end, self.fd)

    def resume(self, off: Handles, length: Handles) -> None:
        """Goes on after values that were committed; bytes behind them are cut."""
        end = heap_end(off, length)
        if not self.path.exists():
            if end:
                raise CorruptError(f"{self.path}: missing; rows have {end} bytes in it", path=self.path)
            return
        self.fd = files.open_write(self.path)
        files.truncate(self.fd, end)
        for start in range(0, end, sums.BLOCK):
            self.end.resume(files.read_at(self.fd, min(sums.BLOCK, end - start), start))
        known = np.unique(np.stack([off, length], 1), axis=0) if self._is_text else [(off[-1], length[-1])]
        for first, count in known if len(off) else ():
            self._remember(files.read_at(self.fd, int(count), int(first)), int(first))

    def copy(self, data: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Begins the heap with another's bytes."""
        self._append([data.tobytes()])

    def add(self, values: Sequence[Value]) -> tuple[Handles, Handles]:
        """Stores values; returns where each begins and how many bytes it has."""
        length = np.fromiter(map(len, values), np.int64, len(values))
        return self._add_text(values) if self._is_text else self._add_runs(values, length), length

    def _add_text(self, values: Sequence[Value]) -> Handles:
        off = np.empty(len(values), np.int64)
        new: list[Value] = []
        end = self.size
        for row, value in enumerate(values):
            at = self._offsets.get(value)
            if at is None:
                at = end
                new.append(value)
                end += len(value)
                self._remember(value, at)
            off[row] = at
        self._append(new)
        return off

    def _add_runs(self, values: Sequence[Value], length: Handles) -> Handles:
        if not len(values):
            return length
        last, at = self._last or (None, 0)
        is_new = _native.differ(values, last)
        starts = self.size + np.cumsum(length * is_new) - length  # of what is new
        newest = np.maximum.accumulate(np.where(is_new, np.arange(len(values)), -1))
        off = np.where(newest < 0, at, starts[newest])
        self._append([value for value, wanted in zip(values, is_new.tolist(), strict=True) if wanted])
        self._remember(values[-1], int(off[-1]))
        return off

    def _remember(self, value: Value, at: int) -> None:
        if not self._is_text:
            self._last = value, at
            return
        if self._table_bytes + len(value) > _TABLE_BYTES:
            self._offsets.clear()
            self._table_bytes = 0
        self._offsets[value] = at
        self._table_bytes += len(value)

    def _append(self, values: Sequence[Value]) -> None:
        if not any(map(len, values)):
            return
        if self.fd < 0:
            folders.make(self.path.parent)
            self.fd = files.create(self.path)
            self.is_new = True
        if not layer.current().is_direct:
            data = b"".join(values)
            files.write_at(self.fd, memoryview(data), self.size)
            self.end.hash(data)
            return
        try:
            self.end.write(self.fd, values)
        except OSError as err:
            err.filename = str(self.path)
            raise

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            files.close(fd)
