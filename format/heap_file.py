"""The file that holds a heap column's values in one segment, while it is written. SPEC.md section 14."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from rlcli.errors import CorruptError
from rlcli.format import files, sums
from rlcli.format.keys import Key
from rlcli.format.schema import Column

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

    `size` is the number of bytes so far, `sums` are theirs; `hasher` has seen those since it was last reset.
    """

    def __init__(self, column: Column, path: Path) -> None:
        self.column = column
        self.path = path
        self.sums = sums.Growing()
        self.hasher = xxhash.xxh3_64()
        self.fd = -1
        self.is_new = False  # its name may not be on the disk yet
        self._is_text = column.is_text
        self._last: tuple[bytes, int] | None = None  # the newest value that was stored, and where
        self._offsets: dict[bytes, int] = {}  # of text
        self._table_bytes = 0

    @property
    def size(self) -> int:
        return self.sums.size

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
            self.sums.add(files.read_at(self.fd, min(sums.BLOCK, end - start), start))
        known = np.unique(np.stack([off, length], 1), axis=0) if self._is_text else [(off[-1], length[-1])]
        for first, count in known if len(off) else ():
            self._remember(files.read_at(self.fd, int(count), int(first)), int(first))

    def copy(self, data: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        """Begins the heap with another's bytes."""
        self._append(data.tobytes())

    def add(self, values: Sequence[bytes]) -> tuple[Handles, Handles]:
        """Stores values; returns where each begins and how many bytes it has."""
        off = np.empty(len(values), np.int64)
        length = np.empty(len(values), np.int64)
        new: list[bytes] = []
        end = self.size
        for row, value in enumerate(values):
            at = self._place(value)
            if at is None:
                at = end
                new.append(value)
                end += len(value)
                self._remember(value, at)
            off[row], length[row] = at, len(value)
        if new:
            self._append(b"".join(new))
        return off, length

    def _place(self, value: bytes) -> int | None:
        """Where an equal value is stored that can stand for this one."""
        if self._is_text:
            return self._offsets.get(value)
        return self._last[1] if self._last is not None and self._last[0] == value else None

    def _remember(self, value: bytes, at: int) -> None:
        if not self._is_text:
            self._last = value, at
            return
        if self._table_bytes + len(value) > _TABLE_BYTES:
            self._offsets.clear()
            self._table_bytes = 0
        self._offsets[value] = at
        self._table_bytes += len(value)

    def _append(self, data: bytes) -> None:
        if data:
            if self.fd < 0:
                files.make_folder(self.path.parent)
                self.fd = files.create(self.path)
                self.is_new = True
            files.write_at(self.fd, memoryview(data), self.size)
            self.hasher.update(data)
            self.sums.add(data)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            files.close(fd)
