"""Chunks of zarr arrays that hold whole rows of plain numbers, decoded without zarr's event loop and copies.

zarr reads any array; this reads those that nearly all are: chunks along the first axis, each one a buffer of
values that is stored as it is, or went through blosc or zstd. For any other `Chunks.of` is None.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets import zip_archives

BLOSC_HEADER = 16  # version, flags, …, bytes 4-8 decoded size, bytes 12-16 encoded size

_ZSTD = bytes.fromhex("28b52ffd")
_ZSTD_HEADER = 18  # bytes at most
_MORE = 1 << 20

Bytes = bytes | memoryview
Read = Callable[[str], AbstractContextManager[Bytes | None]]  # what is read is valid in the block
Decode = Callable[[Bytes, NDArray[Any]], object]  # into an array


class Chunks:
    """The chunks of one array by number; rows are those of the array's own `[first:stop]`.

    `read` gives the stored bytes of a key, None if there are none.
    """

    def __init__(self, read: Read, name: str, array: Any, dtype: np.dtype[Any], kinds: list[str]) -> None:
        self._read, self._name, self._array = read, name, array
        self._dtype = dtype  # as stored
        self._shape = tuple(int(size) for size in array.chunks)
        self._bytes = math.prod(self._shape) * dtype.itemsize
        self._kind = kinds[0] if kinds else None
        self._decode = _DECODERS[self._kind]() if self._kind is not None else None

    @staticmethod
    def of(read: Read, name: str, array: Any) -> Chunks | None:
        """The chunks of `array`, whose keys begin with `name`; None if zarr has to read it."""
        dtype = _stored_dtype(array)
        kinds = [type(codec).__name__.removesuffix("Codec") for codec in array.compressors]
        is_whole_rows = tuple(array.chunks[1:]) == tuple(array.shape[1:]) and not array.filters
        if dtype is None or not is_whole_rows or getattr(array, "shards", None):
            return None
        return Chunks(read, name, array, dtype, kinds) if kinds in ([], *([k] for k in _DECODERS)) else None

    def get(self, number: int, room: NDArray[Any] | None = None) -> NDArray[Any] | None:
        """Rows of a chunk, also those beyond the array's end; None if it is not stored.

        They are in `room`, whatever was there, if that is an array like them. Raises `ValueError` or
        `RuntimeError` for damage, and what `read` raises.
        """
        key = self._array.metadata.encode_chunk_key((number, *[0] * (len(self._shape) - 1)))
        with self._read(f"{self._name}/{key}") as data:
            return None if data is None else self._decoded(data, room)

    def _decoded(self, data: Bytes, room: NDArray[Any] | None) -> NDArray[Any]:
        """What the bytes of a chunk hold, see `get`."""
        size = len(data)
        if self._kind == "Blosc":
            check_blosc(data[:BLOSC_HEADER], size, self._bytes)
        elif self._kind == "Zstd":
            said = zstd_bytes(data[:_ZSTD_HEADER])
            size = self._bytes if said is None else said
        if self._kind != "Blosc" and size != self._bytes:
            raise ValueError(f"a chunk of {size:,} bytes, expected {self._bytes:,}")
        if room is None or not room.flags.carray or (room.shape, room.dtype) != (self._shape, self._dtype):
            room = np.empty(self._shape, self._dtype)
        if self._decode is None:
            room[...] = np.frombuffer(data, self._dtype).reshape(self._shape)
        else:
            self._decode(data, room)
        return room


def check_blosc(head: Bytes, size: int, decoded_bytes: int) -> None:
    """Raises `ValueError` if a blosc buffer of `size` bytes that begins with `head` has other sizes in it.

    Blosc itself would read beyond the end of a short one. `decoded_bytes` 0 is any.
    """
    decoded, encoded = int.from_bytes(head[4:8], "little"), int.from_bytes(head[12:16], "little")
    if len(head) < BLOSC_HEADER or encoded != size or decoded != (decoded_bytes or decoded):
        raise ValueError(f"{size:,} bytes")


def zstd_bytes(frame: Bytes) -> int | None:
    """How many bytes a Zstandard frame says it holds (RFC 8878, 3.1.1.1), None if it does not say.

    Compressors believe it, and take as much memory. Raises `ValueError` for something else.
    """
    if frame[:4] != _ZSTD or len(frame) < 5:
        raise ValueError("no Zstandard frame")
    flags = frame[4]
    is_single_segment = flags >> 5 & 1
    size = (is_single_segment, 2, 4, 8)[flags >> 6]
    at = 6 - is_single_segment + (0, 1, 2, 4)[flags & 3]
    said = int.from_bytes(frame[at : at + size], "little") + (256 if size == 2 else 0)
    return said if size else None


@contextmanager
def reading(path: Path) -> Iterator[Read]:
    """What reads the keys of a group in a folder or a zip file."""
    rooms: list[bytearray] = []  # that nobody uses

    @contextmanager
    def of_folder(key: str) -> Iterator[Bytes | None]:
        room, found = rooms.pop() if rooms else bytearray(), None
        with suppress(FileNotFoundError), open(path / key, "rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > len(room):  # growing by little would leave holes in memory that nothing fits into
                room = bytearray(size + _MORE - size % _MORE)
            taken, left = 0, memoryview(room)[:size]
            while count := stream.readinto(left[taken:]):
                taken += count
            found = left[:taken]
        yield found
        rooms.append(room)

    if path.is_dir():
        yield of_folder
        return
    with zip_archives.opened(path) as archive:

        @contextmanager
        def of_archive(key: str) -> Iterator[Bytes | None]:
            try:
                member = archive.getinfo(key)
            except KeyError:
                yield None
            else:
                yield archive.read(member)

        yield of_archive


def _stored_dtype(array: Any) -> np.dtype[Any] | None:
    """The dtype of a chunk's values in their bytes; None where they are not plain numbers in C order."""
    dtype: np.dtype[Any] = array.dtype
    if dtype.kind not in "biufc" or dtype.names is not None or array.ndim == 0:
        return None
    if array.metadata.zarr_format == 2:
        return dtype if array.ndim == 1 or array.order == "C" else None
    if type(array.serializer).__name__ != "BytesCodec":
        return None
    endian = array.serializer.endian
    return dtype if endian is None else dtype.newbyteorder("<" if endian.value == "little" else ">")


def _blosc() -> Decode:
    from numcodecs.blosc import decompress

    return decompress  # type: ignore[no-any-return]


def _zstd() -> Decode:
    from numcodecs.zstd import decompress

    return decompress  # type: ignore[no-any-return]


_DECODERS: dict[str, Callable[[], Decode]] = {"Blosc": _blosc, "Zstd": _zstd}
