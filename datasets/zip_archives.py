"""Zip archives, which npz files and some zarr groups are."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isal import isal_zlib

from rlcli.datasets.inflating import Inflated
from rlcli.errors import CorruptError, InputError
from rlcli.format import files

_HEADER = struct.Struct("<26xHH")  # of a member: the lengths of its name and of its extra fields
_BLOCK = 1 << 20


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive at `path`. Raises `InputError` for a folder or nothing, `CorruptError` for damage."""
    if not path.is_file():
        raise InputError(f"{path}: not a file", path=path)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as err:
        raise CorruptError(f"{path}: damaged archive: {err}", path=path) from err
    with archive:
        yield archive


class MemberBytes:
    """The bytes of a member, forwards; deflated ones are inflated by ISA-L, faster than `zipfile` does.

    Several members may be read by a thread each. Raises what `zipfile` does for a member that it cannot
    read, `BadZipFile` for a wrong checksum, `InflateError` for damage.
    """

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self._name, self._size, self._sum = info.filename, info.file_size, info.CRC
        self.left = info.file_size
        self._crc = 0
        stream: Any = archive.open(info)  # which checks the member's header
        self._stream, self._fill = stream, stream.readinto
        if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            self._stream.close()
            self._file = archive.fp.fileno() if archive.fp is not None else -1
            lengths = _HEADER.unpack(files.read_at(self._file, _HEADER.size, info.header_offset))
            self._at = info.header_offset + _HEADER.size + sum(lengths)
            self._end = self._at + info.compress_size
            is_stored = info.compress_type == zipfile.ZIP_STORED
            self._fill = self._stored_into if is_stored else Inflated(self._stored, "raw").readinto

    def readinto(self, room: memoryview) -> int:
        """Fills `room`, of bytes, unless the member ends; returns how many there were."""
        room = room[: self.left]
        filled = 0
        while filled < len(room) and (count := self._fill(room[filled:])):
            filled += count
        self._crc = isal_zlib.crc32(room[:filled], self._crc)
        self.left -= filled
        if not self.left and self._crc != self._sum:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {self._name!r}")
        return filled

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer at the end; memory grows with what is there."""
        found = bytearray()
        while len(found) < size:
            room = bytearray(min(size - len(found), self.left, _BLOCK))
            count = self.readinto(memoryview(room))
            found += room[:count]
            if count < len(room) or not room:
                break
        return bytes(found)

    def tell(self) -> int:
        """How many bytes were read."""
        return self._size - self.left

    def close(self) -> None:
        """Lets go of the archive."""
        self._stream.close()

    def _stored(self, size: int) -> bytes:
        data = os.pread(self._file, min(size, self._end - self._at), self._at)
        self._at += len(data)
        return data

    def _stored_into(self, room: memoryview) -> int:
        count = os.preadv(self._file, [room[: self._end - self._at]], self._at)
        self._at += count
        return count
