"""TFRecord files: length-prefixed records, each guarded by masked CRC32C, the whole file perhaps compressed.

A record is `u64 length | u32 masked_crc(length) | payload | u32 masked_crc(payload)`, all little-endian. The
mask is a rotation by 15 bits plus a constant, so that the checksum of data that holds checksums stays good
(TensorFlow, `tsl/lib/hash/crc32c.h`). Nothing here knows what a payload means; `example.py` does.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from rlcli import _native
from rlcli.datasets.inflating import Inflated, InflateError
from rlcli.datasets.regular import open_regular
from rlcli.errors import CorruptError, InputError, ResourceError, RLError
from rlcli.format import files

Compression = Literal["none", "gzip", "zlib"]

MAX_RECORD_BYTES = (1 << 31) - 1  # protobuf's own limit: no message is larger
_BLOCK = 1 << 20
_SMALL_BLOCK = 32 << 10  # larger records are read past it, without a copy
_ROOM = 2 << 20  # of records that are checked at once; a larger one is alone
_ALONE = _ROOM // 8  # larger ones are not begun at the end of a block
_HEADER = struct.Struct("<QI")
_MASK = 0xA282EAD8
_WINDOW_BITS: dict[Compression, int] = {"gzip": 31, "zlib": 15}


def masked_crc(data: bytes) -> int:
    """The masked CRC32C of `data`, as it stands in a file."""
    crc = int(google_crc32c.value(data))
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


def sniff(path: Path) -> Compression | None:
    """How `path` is compressed, None if it does not begin as a TFRecord file. An empty file is `"none"`.

    The plain form is tried first, by the checksum of its first length: a length may look like the magic
    bytes of gzip or zlib, a checksum does not hold by chance. Raises `InputError` if it cannot be read,
    `CorruptError` for gzip that is damaged or cut before it says what it holds; what merely looks like zlib
    is something else.
    """
    with _opened(path) as file:
        head = file.read(_HEADER.size)
        compression = _compression(head)
        if compression is None or compression == "none":
            return compression
        file.seek(0)
        try:
            data = Inflated(file.read, compression, members=True)
            inner = data.read(_HEADER.size)
        except InflateError as err:
            if compression == "zlib":
                return None
            raise _damaged(path, compression, err) from err
        if len(inner) < _HEADER.size and not data.complete and compression == "gzip":
            raise _truncated(path, 0, len(inner), "the compressed data")
    return compression if not inner or _compression(inner) == "none" else None


def read_records(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
    """`(offset, payload)` of each record in order; the offset counts decompressed bytes.

    Of a file that is not compressed perhaps only the records from offset `start` on, and those before `stop`.
    One record is in memory at a time. Raises `CorruptError` that names file and offset for a truncated
    file, a checksum that does not hold or a length that cannot be; `InputError` for what is no TFRecord file.
    """
    with _opened(path) as file:
        compression = _compression_of(path, file)
        if compression == "none":
            file.seek(start)
            yield from _plain(path, file, start, stop)
        else:
            try:
                yield from _compressed(path, Inflated(file.read, compression, members=True))
            except InflateError as err:
                raise _damaged(path, compression, err) from err


class Block(NamedTuple):
    """Records that are in memory together: the i-th is `data[starts[i] :][: sizes[i]]`.

    `positions` are those of `read_records`.
    """

    data: memoryview
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    positions: Sequence[int] | NDArray[np.int64]

    def record(self, index: int) -> bytes:
        """A copy of one record."""
        start = int(self.starts[index])
        return bytes(self.data[start : start + int(self.sizes[index])])


def read_blocks(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Block]:
    """The records of `read_records`, a few MiB or one record at a time.

    Raises what that raises, after the records before the damage.
    """
    with _opened(path) as file:
        if _compression_of(path, file) == "none":
            yield from _plain_blocks(path, file, start, stop)
            return
    yield from gathered(read_records(path))


def gathered(records: Iterator[tuple[int, bytes]]) -> Iterator[Block]:
    """`records` in blocks. An error comes after the records before it."""
    taken: list[tuple[int, bytes]] = []
    room, error, is_over = _ROOM, None, False
    while not is_over:
        try:
            taken.append(next(records))
            room -= len(taken[-1][1])
            if room > 0:
                continue
        except StopIteration:
            is_over = True
        except RLError as err:
            error, is_over = err, True
        if taken:
            sizes = np.array([len(record) for _, record in taken], np.int64)
            data = memoryview(b"".join([record for _, record in taken]))
            yield Block(data, np.cumsum(sizes) - sizes, sizes, [position for position, _ in taken])
        taken, room = [], _ROOM
    if error is not None:
        raise error


class RecordWriter:
    """Writes a new file of records. Raises `FileExistsError` if `path` is there.

    As a context manager it closes the file; an exception leaves it unfinished for the caller to remove.
    Raises `ResourceError` when the disk is full.
    """

    def __init__(self, path: Path, compression: Compression = "none") -> None:
        self.path = path
        self.num_records = 0
        self.num_bytes = 0  # of records, before compression
        self._deflate = (
            None if compression == "none" else zlib.compressobj(6, zlib.DEFLATED, _WINDOW_BITS[compression])
        )
        self._file = path.open("xb", buffering=_BLOCK)

    def write(self, payload: bytes) -> None:
        """Append one record. Raises `ValueError` above 2 GiB."""
        if len(payload) > MAX_RECORD_BYTES:
            raise ValueError(f"a record of {len(payload):,} bytes, at most {MAX_RECORD_BYTES:,} are allowed")
        length = struct.pack("<Q", len(payload))
        header = length + struct.pack("<I", masked_crc(length))
        for chunk in (header, payload, struct.pack("<I", masked_crc(payload))):
            self._put(chunk if self._deflate is None else self._deflate.compress(chunk))
        self.num_records += 1
        self.num_bytes += len(payload) + 16

    def close(self) -> None:
        """Finish the file."""
        if self._deflate is not None and not self._file.closed:
            self._put(self._deflate.flush())
        try:
            self._file.close()
        except OSError as err:
            raise _full(self.path, err) from err

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()

    def _put(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as err:
            raise _full(self.path, err) from err


def _compression(head: bytes) -> Compression | None:
    if not head:
        return "none"
    if len(head) == _HEADER.size and _HEADER.unpack(head)[1] == masked_crc(head[:8]):
        return "none"
    if head[:3] == b"\x1f\x8b\x08":
        return "gzip"
    if len(head) > 1 and head[0] & 0x8F == 0x08 and int.from_bytes(head[:2], "big") % 31 == 0:
        return "zlib"
    return None


def _compression_of(path: Path, file: IO[bytes]) -> Compression:
    """How a file, which is at its beginning then, is compressed. Raises `CorruptError` if it is none."""
    head = file.read(_HEADER.size)
    file.seek(0)
    compression = _compression(head)
    if compression is None and len(head) == _HEADER.size:
        raise CorruptError(
            f"{path}: byte 0: the checksum of the first record's length does not hold, "
            "and the file is neither gzip nor zlib",
            path=path,
        )
    return compression or "none"


def _plain_blocks(path: Path, file: IO[bytes], start: int, stop: int | None) -> Iterator[Block]:
    """Whatever is not a whole and right record is left to `_plain`, which says what it is."""
    size = os.fstat(file.fileno()).st_size
    size = size if stop is None else min(size, stop)
    rooms = _Rooms()
    offset, wanted = start, _ROOM
    while offset < size:
        wanted = min(wanted, size - offset)
        data = rooms.filled(file.fileno(), offset, wanted)
        starts, sizes, end, following = _native.whole_records(data)
        if len(starts):
            yield Block(data, starts, sizes, starts + (offset - _HEADER.size))
        elif not wanted < following <= size - offset:
            file.seek(offset)
            yield from gathered(_plain(path, file, offset, stop))
            return
        del data
        offset += end
        wanted = following + _HEADER.size if following > _ALONE or not len(starts) else _ROOM


class _Rooms:
    """Memory for blocks: what no view is left of is used again."""

    def __init__(self) -> None:
        self._rooms: list[bytearray] = []

    def filled(self, file: int, offset: int, size: int) -> memoryview:
        """At most so many bytes of the file, not to be changed."""
        room = next((room for room in self._rooms if len(room) >= size and _is_free(room)), None)
        if room is None:
            self._rooms = [room for room in self._rooms if not _is_free(room)]
            self._rooms.append(room := bytearray(size))
        memory = memoryview(room)[:size]
        return memory[: files.read_into(file, memory, offset)].toreadonly()


def _is_free(room: bytearray) -> bool:
    """Whether no view of it is left: it could be made longer."""
    try:
        room.append(room.pop())
    except BufferError:
        return False
    return True


def _plain(path: Path, file: IO[bytes], offset: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
    size = os.fstat(file.fileno()).st_size
    while (stop is None or offset < stop) and (header := file.read(_HEADER.size)):
        length = _length(path, offset, header)
        if offset + length + 16 > size:
            raise _truncated(path, offset, size, f"its record of {length:,} bytes")
        yield offset, _payload(path, offset, length, file.read(length), file.read(4))
        offset += length + 16


def _compressed(path: Path, data: Inflated) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while header := data.read(_HEADER.size):
        length = _length(path, offset, header)
        yield offset, _payload(path, offset, length, data.read(length), data.read(4))
        offset += length + 16
    if not data.complete:
        raise _truncated(path, offset, offset, "the compressed data")


def _length(path: Path, offset: int, header: bytes) -> int:
    if len(header) < _HEADER.size:
        raise _truncated(path, offset, offset + len(header), "a record's header")
    length, crc = _HEADER.unpack(header)
    if crc != masked_crc(header[:8]):
        raise CorruptError(
            f"{path}: byte {offset:,}: the checksum of a record's length does not hold", path=path
        )
    if length > MAX_RECORD_BYTES:
        raise CorruptError(
            f"{path}: byte {offset:,}: a record of {length:,} bytes, at most {MAX_RECORD_BYTES:,} can be",
            path=path,
        )
    return int(length)


def _payload(path: Path, offset: int, length: int, payload: bytes, footer: bytes) -> bytes:
    if len(payload) < length or len(footer) < 4:
        found = offset + _HEADER.size + len(payload) + len(footer)
        raise _truncated(path, offset, found, f"its record of {length:,} bytes")
    if int.from_bytes(footer, "little") != masked_crc(payload):
        raise CorruptError(
            f"{path}: byte {offset:,}: the checksum of the record's {length:,} bytes does not hold", path=path
        )
    return payload


def _truncated(path: Path, offset: int, end: int, what: str) -> CorruptError:
    return CorruptError(f"{path}: byte {offset:,}: the file ends at byte {end:,} inside {what}", path=path)


def _damaged(path: Path, compression: str, err: InflateError) -> CorruptError:
    return CorruptError(f"{path}: the {compression} data is damaged: {err}", path=path)


def _full(path: Path, err: OSError) -> ResourceError:
    return ResourceError(f"{path}: cannot be written: {err.strerror}", path=path)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = open_regular(path, _SMALL_BLOCK)
    except OSError as err:
        raise InputError(f"{path}: cannot be read: {err.strerror}", path=path) from err
    with file:
        yield file
