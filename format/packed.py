"""A packed dataset, `x.rlz`, read where it is: like one at a URL, of which every file is a part of this one.

Blocks that are touched are compared with their hashes and kept in the cache, as those from a URL are; nothing
is unpacked. SPEC.md sections 16 and 17.
"""

from __future__ import annotations

import os
from pathlib import Path

from rlcli.format import files
from rlcli.format.origin import Missing, Origin, Short
from rlcli.format.pack import read_entries
from rlcli.format.zipped import payload_offset


class PackedOrigin(Origin):
    """The files in the packed one at `path`, which is opened once in each process.

    Raises `CorruptError` unless its directory is exactly one that `pack` writes.
    """

    def __init__(self, path: Path) -> None:
        self.url = path
        self.bytes_read = 0
        self.has_ranges = True
        self.is_http = False
        self._fd = files.open_read(path)
        self._places: dict[str, tuple[int, int]] = {}  # where a file begins, and its size
        at = 0
        for entry in read_entries(self._fd, path):
            start = payload_offset(at, entry.name)
            self._places[entry.name] = start, entry.size
            at = start + entry.size

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def read(self, name: str) -> bytes:
        start, size = self._place(name)
        return self._bytes(name, start, size)

    def read_range(self, name: str, start: int, stop: int) -> tuple[int, bytes]:
        place, size = self._place(name)
        if stop > size:
            raise Short(f"{self.path(name)}: ends early, at byte {size}", path=self.path(name))
        return start, self._bytes(name, place + start, stop - start)

    def exists(self, name: str) -> bool:
        return name in self._places

    def names(self, folder: str) -> list[str] | None:
        inside = [name.removeprefix(f"{folder}/") for name in self._places if name.startswith(f"{folder}/")]
        return sorted({name.partition("/")[0] for name in inside}) or None

    def _place(self, name: str) -> tuple[int, int]:
        if name not in self._places:
            raise Missing(f"{self.path(name)}: missing", path=self.path(name))
        return self._places[name]

    def _bytes(self, name: str, start: int, size: int) -> bytes:
        data = files.read_at(self._fd, size, start)
        if len(data) != size:
            raise Short(f"{self.path(name)}: ends early", path=self.path(name))
        self.bytes_read += size
        return data
