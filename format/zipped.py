"""The one shape of ZIP file that a packed dataset has: stored, ZIP64, every payload at the start of a page.

Any unzip can read it. Headers follow from names, sizes and checksums alone, so equal contents are equal
files, and a reader rebuilds them and compares: nothing else that a ZIP file may say is believed or looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from rlcli.errors import CorruptError

PAGE = 4096
MAX_DIRECTORY = 1 << 28
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_ZIP64_SIZES = struct.Struct("<2H2Q")
_ZIP64_ENTRY = struct.Struct("<2H3Q")
_PADDING = struct.Struct("<2H")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")
TAIL = _END64.size + _LOCATOR.size + _END.size
_VERSION = 45  # of the ZIP specification: ZIP64
_DATE = 0x21  # 1 January 1980: a packed dataset does not say when it was packed
_OWN = 0x4C52  # extra field "RL": padding
_BIG = 0xFFFFFFFF


@dataclass(frozen=True)
class Entry:
    """A file: its name, its size and the CRC-32 of its bytes."""

    name: str
    size: int
    crc: int


def payload_offset(start: int, name: str) -> int:
    """Where the payload of an entry begins whose header begins at byte `start`."""
    least = start + _LOCAL.size + len(name) + _ZIP64_SIZES.size + _PADDING.size
    return -(-least // PAGE) * PAGE


def local_header(start: int, entry: Entry) -> bytes:
    """The header at byte `start`, up to the payload."""
    name = entry.name.encode("ascii")
    extra = payload_offset(start, entry.name) - start - _LOCAL.size - len(name)
    padding = extra - _ZIP64_SIZES.size - _PADDING.size
    return (
        _LOCAL.pack(b"PK\3\4", _VERSION, 0, 0, 0, _DATE, entry.crc, _BIG, _BIG, len(name), extra)
        + name
        + _ZIP64_SIZES.pack(1, 16, entry.size, entry.size)
        + _PADDING.pack(_OWN, padding)
        + bytes(padding)
    )


def directory(entries: Sequence[Entry]) -> bytes:
    """The central directory and everything after it, of entries that follow each other from byte 0."""
    parts, start = [], 0
    for entry in entries:
        name = entry.name.encode("ascii")
        parts.append(
            _CENTRAL.pack(
                b"PK\1\2", _VERSION, _VERSION, 0, 0, 0, _DATE, entry.crc, _BIG, _BIG, len(name),
                _ZIP64_ENTRY.size, 0, 0, 0, 0, _BIG,
            )
            + name
            + _ZIP64_ENTRY.pack(1, 24, entry.size, entry.size, start)
        )  # fmt: skip
        start = payload_offset(start, entry.name) + entry.size
    central = b"".join(parts)
    count, end = len(entries), start + len(central)
    return (
        central
        + _END64.pack(b"PK\6\6", 44, _VERSION, _VERSION, 0, 0, count, count, len(central), start)
        + _LOCATOR.pack(b"PK\6\7", 0, end, 1)
        + _END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, _BIG, _BIG, 0)
    )


def directory_size(tail: bytes, file_size: int) -> int:
    """How many bytes at the end of a file are its `directory`, from its last `TAIL` bytes.

    Raises `CorruptError` if it is no file of this shape.
    """
    if len(tail) != TAIL or tail[:4] != b"PK\6\6":
        raise CorruptError("not a packed dataset (no ZIP64 directory at its end)")
    size: int = _END64.unpack_from(tail)[8]
    if size > min(MAX_DIRECTORY, file_size - TAIL):
        raise CorruptError(f"its directory has {size} bytes, which cannot be")
    return size + TAIL


def parse(data: bytes) -> list[Entry]:
    """The entries of a `directory`. Raises `CorruptError` unless it is byte for byte what they make."""
    entries, at = [], 0
    try:
        while data[at : at + 4] == b"PK\1\2":
            fields = _CENTRAL.unpack_from(data, at)
            start = at + _CENTRAL.size
            name = data[start : start + fields[10]]
            size = _ZIP64_ENTRY.unpack_from(data, start + len(name))[2]
            entries.append(Entry(name.decode("ascii"), size, fields[7]))
            at = start + len(name) + _ZIP64_ENTRY.size
        if directory(entries) == data:
            return entries
    except (struct.error, UnicodeDecodeError):
        pass
    raise CorruptError("its directory is damaged, or was not written by `rl buffer pack`")
