"""Deflated bytes made whole again: zlib, gzip and raw deflate streams, by ISA-L, at twice zlib's speed.

As strict as zlib: checksums hold, streams end, headers are those of their standards (RFC 1950, 1952). Only a
table of Huffman codes that zlib would refuse may pass where the checksum says that no byte is wrong. What a
stream claims costs nothing: at most as many bytes are made as were asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

from isal import isal_zlib

Wrapper = Literal["zlib", "gzip", "raw"]

_Error = cast("type[Exception]", isal_zlib.error)  # whose types call it an exception
_WINDOW_BITS: dict[Wrapper, int] = {"zlib": 15, "gzip": 31, "raw": -15}
_INPUT = 128 << 10  # compressed bytes that are taken at once
_OUTPUT = 128 << 10  # bytes that are made at once: they stay in a core's cache, in memory that is used again
_MAX_HEADER = 1 << 20  # of gzip, which may have names and comments of any length
_EXTRA, _NAME, _COMMENT, _CHECKSUM, _RESERVED = 4, 8, 16, 2, 0xE0  # flags of gzip


class InflateError(ValueError):
    """Bytes that are no sound stream of their kind, or not a whole one."""


def inflate(data: bytes | memoryview, wrapper: Wrapper, limit: int) -> bytes:
    """What the stream that `data` begins with stands for; bytes after its end are not looked at.

    Raises `InflateError` for damage, a stream that does not end, and one of more than `limit` bytes.
    """
    _check_header(data, wrapper)
    stream = isal_zlib.decompressobj(_WINDOW_BITS[wrapper])
    try:
        out: bytes = stream.decompress(data, limit + 1)  # one more, so that a stream of `limit` bytes ends
    except _Error as err:
        raise InflateError(str(err)) from err
    if len(out) > limit:
        raise InflateError(f"it stands for more than {limit:,} bytes")
    if not stream.eof:
        raise InflateError("the stream is cut short")
    return out


class Inflated:
    """The bytes of a stream that comes piece by piece, forwards.

    `source(n)` returns up to n bytes, none at the end. With `members`, streams follow one another until then,
    as those of gzip files may; else what follows the first is not looked at. `complete` says whether the last
    stream ended where its standard says; ask it once nothing more comes.
    """

    def __init__(self, source: Callable[[int], bytes], wrapper: Wrapper, *, members: bool = False) -> None:
        self._source, self._members = source, members
        self._wrapper: Wrapper = wrapper
        self._stream = isal_zlib.decompressobj(_WINDOW_BITS[wrapper])
        self._input: bytes = b""
        self._ready = memoryview(b"")
        self._has_header = False
        self.complete = False

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer at the end; memory grows with what is there. Raises `InflateError`."""
        parts, missing = [], size
        while missing and (part := self._next(missing)):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def readinto(self, room: memoryview) -> int:
        """Fills `room`, of bytes; returns how many there were. Raises `InflateError`."""
        filled = 0
        while filled < len(room) and (part := self._next(len(room) - filled)):
            room[filled : filled + len(part)] = part
            filled += len(part)
        return filled

    def _next(self, limit: int) -> memoryview:
        """Up to `limit` bytes; none at the end only."""
        if not self._ready:
            try:
                self._ready = memoryview(self._inflate())
            except _Error as err:
                raise InflateError(str(err)) from err
        part, self._ready = self._ready[:limit], self._ready[limit:]
        return part

    def _inflate(self) -> bytes:
        while True:
            if self.complete and not self._members:
                return b""
            self._input = self._input or self._source(_INPUT)
            if self.complete:
                if not self._input:
                    return b""
                self._stream = isal_zlib.decompressobj(_WINDOW_BITS[self._wrapper])
                self._has_header = self.complete = False
            if not self._has_header:
                self._take_header()
            at_end = not self._input
            out: bytes = self._stream.decompress(self._input, _OUTPUT)  # perhaps of input that it took before
            self.complete = self._stream.eof
            self._input = self._stream.unused_data if self.complete else self._stream.unconsumed_tail
            if out or at_end:
                return out

    def _take_header(self) -> None:
        """Waits for the whole header: its checksum is wrong to ISA-L if it comes in pieces."""
        while not _check_header(self._input, self._wrapper) and (more := self._source(_INPUT)):
            self._input += more
        self._has_header = True


def _check_header(data: bytes | memoryview, wrapper: Wrapper) -> bool:
    """Whether the header is there as a whole. Raises `InflateError` for what zlib alone refuses."""
    if wrapper == "zlib":
        if data and data[0] >> 4 > 7:
            raise InflateError("invalid window size")
        return True
    if wrapper == "raw" or len(data) < 4:
        return wrapper == "raw"
    flags = data[3]
    if flags & _RESERVED:
        raise InflateError("unknown header flags set")
    end = 10
    if flags & _EXTRA:
        end += 2 + int.from_bytes(data[end : end + 2], "little")
    for _ in range(bool(flags & _NAME) + bool(flags & _COMMENT)):
        end = bytes(data).find(b"\0", end) + 1 or len(data) + 1
    if end > _MAX_HEADER:
        raise InflateError(f"a header of more than {_MAX_HEADER:,} bytes")
    return len(data) >= end + (2 if flags & _CHECKSUM else 0)
