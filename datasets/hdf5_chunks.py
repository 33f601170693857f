"""Gzip chunks of HDF5 datasets, decompressed by several threads; the HDF5 library uses one, and zlib.

Only for chunks that went through gzip, with or without shuffle; everything else is HDF5's own business. Where
chunks are is asked once for all: the library walks its index anew for each. What is decoded and not wanted
yet is remembered, so that rows in order decode each chunk once, however large.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import IO, Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.inflating import InflateError, inflate
from rlcli.errors import CorruptError
from rlcli.format import files

_SHUFFLE, _DEFLATE = h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE
_OTHER = -1  # what is no filter's number
GZIP = ((_DEFLATE,), (_SHUFFLE, _DEFLATE))  # the filters that are known
_MAX_CHUNKS = 1 << 18  # whose places are remembered, 6 MiB; HDF5 itself reads datasets of more
_TASK_BYTES = 256 << 10  # decoded bytes of a call whose chunks are small
_BAND_BYTES = 1 << 20  # of all chunks that hold the same rows, which one call decodes if they are no more
_KEPT_BYTES = 32 << 20  # of a larger band, which is remembered in memory; of one beyond that, in a file
_NARROW_BYTES = 16  # of a row in a chunk, if those of a band are joined before they are laid out by rows

_ALL = slice(None)
Bytes = bytes | memoryview
_NOWHERE = (1 << 64) - 1  # the offset of a chunk that was never written


class Stored(NamedTuple):
    """A chunked dataset as it is stored: `filters` by their numbers, `fill` is what was never written.

    `file` is an open file that holds the chunks at `places`, `[chunks, 3]` in C order: offset, size, and a
    bit for each filter that was skipped. Without `places` the library, which has the `dataset`, is asked for
    them, without `file` for the chunks.
    """

    path: str
    name: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype[Any]
    filters: Sequence[int]
    fill: Any = 0
    file: int | None = None
    places: NDArray[np.uint64] | None = None
    dataset: h5py.h5d.DatasetID | None = None


class GzipChunks:
    """The chunks of a dataset of plain numbers that went through no other filters than gzip and shuffle."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._shape, self._chunk, self._dtype = stored.shape, stored.chunk, stored.dtype
        self._grid = [-(-size // chunk) for size, chunk in zip(self._shape, self._chunk, strict=True)]
        self._bytes = math.prod(self._chunk) * self._dtype.itemsize
        self._across = math.prod(self._grid[1:])  # chunks that hold the same rows, a band
        self._is_narrow = (
            self._across > 1
            and self._bytes // self._chunk[0] <= _NARROW_BYTES
            and self._bytes * self._across <= _BAND_BYTES
            and all(size % chunk == 0 for size, chunk in zip(self._shape[1:], self._chunk[1:], strict=True))
        )
        self._places = stored.places
        self._kept: tuple[int, NDArray[Any]] | None = None  # the band that the last rows ended in
        self._large: dict[int, _Remembered] = {}  # the same of a large one

    @staticmethod
    def of(dataset: h5py.Dataset) -> GzipChunks:
        """Those of a dataset of the library. Raises `ValueError` for one of another kind; see `is_gzip`."""
        if not is_gzip(dataset):
            raise ValueError(f"{dataset.name} is not made of gzip chunks of plain numbers")
        return GzipChunks(
            Stored(
                dataset.file.filename,
                dataset.name,
                dataset.shape,
                dataset.chunks,
                dataset.dtype,
                _filters(dataset),
                dataset.fillvalue,
                descriptor(dataset.file),
                dataset=dataset.id,
            )
        )

    def tasks(self, low: int, high: int, out: NDArray[Any]) -> Iterator[Callable[[], None]]:
        """Calls that fill `out` `[high - low, *shape]`, which is contiguous, with rows `low … high - 1`.

        The calls may run in any threads. They raise `CorruptError` for bytes that are no gzip stream of the
        chunk's size, and `OSError` or `RuntimeError` as h5py does.
        """
        if not out.flags.c_contiguous:
            raise ValueError("room that is not contiguous")
        if not out.size:
            return
        if self._places is None:
            self._places = self._look()
        rows = self._chunk[0]
        first, stop = low // rows, -(-high // rows)
        bands = []
        for number in range(first, stop):
            begin = number * rows
            there = slice(max(begin, low) - begin, min(begin + rows, high) - begin)
            bands.append((number, there, out[begin + there.start - low : begin + there.stop - low]))
        size = self._bytes * self._across
        if size > _BAND_BYTES:
            large, self._large = self._large, {}
            for number, there, target in bands:
                band = large.get(number)
                if there.stop < min(rows, self._shape[0] - number * rows):  # its rest may be wanted next
                    band = self._large[number] = band or _Remembered(self._bytes, self._across)
                for at in range(number * self._across, (number + 1) * self._across):
                    yield partial(self._read_large, at, there, target, band)
        else:
            together = max(1, _TASK_BYTES // size)
            for start in range(0, len(bands), together):
                some = bands[start : start + together]
                yield partial(self._read_bands, some, self._kept, size <= out.nbytes)

    def _read_bands(
        self,
        bands: Sequence[tuple[int, slice, NDArray[Any]]],
        kept: tuple[int, NDArray[Any]] | None,
        keeps: bool,
    ) -> None:
        """Fills what is wanted of some bands; one whose rest may be wanted next is remembered."""
        for number, there, target in bands:
            height = min(self._chunk[0], self._shape[0] - number * self._chunk[0])
            if kept is not None and kept[0] == number:
                band = kept[1]
            elif len(target) == height:
                self._read_band(number, target)
                continue
            else:
                band = np.empty((height, *self._shape[1:]), self._dtype)
                self._read_band(number, band)
            target[...] = band[there]
            if keeps and there.stop < height:
                self._kept = number, band

    def _read_band(self, number: int, out: NDArray[Any]) -> None:
        """All rows of a band."""
        numbers = range(number * self._across, (number + 1) * self._across)
        rows = slice(len(out))
        decoded = [self._decode(at) for at in numbers] if self._is_narrow else []
        chunks = [data for data in decoded if data is not None]
        if len(chunks) < self._across:
            for at in numbers:
                self._read(at, rows, out)
            return
        joined = np.frombuffer(b"".join(chunks), self._dtype).reshape(*self._grid[1:], *self._chunk)
        side = len(self._grid) - 1
        order = [side, *itertools.chain(*((axis, side + 1 + axis) for axis in range(side)))]
        by_rows = joined.transpose(order)[rows]  # [rows, grid, chunk, grid, chunk, …]
        out.reshape(by_rows.shape)[...] = by_rows

    def _read_large(self, number: int, rows: slice, out: NDArray[Any], band: _Remembered | None) -> None:
        """As `_read` of a large chunk, which `band` has or is told."""
        place, row_bytes = number % self._across, self._bytes // self._chunk[0]
        wanted = slice(rows.start * row_bytes, rows.stop * row_bytes)
        data = None if band is None else band.read(place, wanted)
        if data is None and (whole := self._decode(number)) is not None:
            data = memoryview(whole)[wanted]
            if band is not None:
                band.put(place, whole)
        self._lay(number, data, out)

    def _read(self, number: int, rows: slice, out: NDArray[Any]) -> None:
        """Fills a chunk's part of `out`, which has those rows of its band."""
        self._lay(number, self._decode(number), out, rows)

    def _lay(self, number: int, data: Bytes | None, out: NDArray[Any], rows: slice = _ALL) -> None:
        corner = self._corner(number)[1:]
        across = tuple(slice(at, at + n) for at, n in zip(corner, self._chunk[1:], strict=True))
        target = out[(slice(None), *across)]
        if data is None:
            target[...] = self._stored.fill
            return
        chunk = np.frombuffer(data, self._dtype).reshape(-1, *self._chunk[1:])
        target[...] = chunk[(rows, *(slice(size) for size in target.shape[1:]))]

    def _look(self) -> NDArray[np.uint64]:
        """The places of all chunks. Raises what h5py does for a damaged index."""
        places = np.full((math.prod(self._grid), 3), _NOWHERE, np.uint64)
        steps = [math.prod(self._grid[axis + 1 :]) for axis in range(len(self._grid))]

        def note(found: Any) -> None:
            at = [start // size for start, size in zip(found.chunk_offset, self._chunk, strict=True)]
            if all(n < count for n, count in zip(at, self._grid, strict=True)):
                number = sum(n * step for n, step in zip(at, steps, strict=True))
                places[number] = (found.byte_offset, found.size, found.filter_mask)

        assert self._stored.dataset is not None
        self._stored.dataset.chunk_iter(note)
        return places

    def _decode(self, number: int) -> bytes | None:
        """The bytes of a whole chunk, also of what lies beyond the dataset's edge; None if never written."""
        assert self._places is not None
        offset, size, skipped = self._places[number].tolist()
        if offset == _NOWHERE:
            return None
        file = self._stored.file
        if file is None:
            assert self._stored.dataset is not None
            data = bytes(self._stored.dataset.read_direct_chunk(self._corner(number))[1])
        elif offset + size > os.fstat(file).st_size:
            raise self._damaged(number, "a chunk beyond the end of the file")
        else:
            data = files.read_at(file, size, offset)
        used = [kind for n, kind in enumerate(self._stored.filters) if not skipped & (1 << n)]
        if _DEFLATE in used:
            try:
                data = inflate(data, "zlib", self._bytes)
            except InflateError as err:
                raise self._damaged(number, str(err)) from err
        if len(data) != self._bytes:
            raise self._damaged(number, f"a chunk of {len(data):,} bytes, expected {self._bytes:,}")
        if _SHUFFLE in used:
            data = np.frombuffer(data, np.uint8).reshape(self._dtype.itemsize, -1).T.tobytes()
        return data

    def _corner(self, number: int) -> tuple[int, ...]:
        """The first row and place of a chunk."""
        at = np.unravel_index(number, self._grid)
        return tuple(int(n) * size for n, size in zip(at, self._chunk, strict=True))

    def _damaged(self, number: int, reason: str) -> CorruptError:
        path, first = self._stored.path, self._corner(number)[0]
        rows = f"{first}..{min(first + self._chunk[0], self._shape[0]) - 1}"
        message = f"{path}: {self._stored.name} rows {rows}: damaged HDF5: {reason}"
        return CorruptError(message, path=path)


class _Remembered:
    """The decoded chunks of a band, while only some of its rows were wanted.

    Those of one too large for memory are in a file without a name, as long as there is room for it.
    """

    def __init__(self, chunk_bytes: int, across: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._held: dict[int, bytes] = {}  # empty for those in the file
        self._fits = chunk_bytes * across <= _KEPT_BYTES
        self._file: IO[bytes] | None = None
        if not self._fits:
            with contextlib.suppress(OSError):
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - as long as the band

    def put(self, place: int, data: bytes) -> None:
        if self._fits:
            self._held[place] = data
        elif self._file is not None:
            with contextlib.suppress(OSError):  # no room: it is decoded again
                files.write_at(self._file.fileno(), memoryview(data), place * self._chunk_bytes)
                self._held[place] = b""

    def read(self, place: int, wanted: slice) -> Bytes | None:
        """Some bytes of a chunk, None of one that was not put."""
        data = self._held.get(place)
        if data is None or self._file is None:
            return None if data is None else memoryview(data)[wanted]
        return files.read_at(
            self._file.fileno(), wanted.stop - wanted.start, place * self._chunk_bytes + wanted.start
        )


def is_gzip(dataset: h5py.Dataset) -> bool:
    """Whether `GzipChunks` can read this dataset: gzip chunks of plain numbers."""
    if not dataset.chunks or dataset.dtype.kind not in "biuf":
        return False
    grid = [-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
    if math.prod(grid) > _MAX_CHUNKS:
        return False
    same_bytes = dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype, logical=True))
    return bool(same_bytes) and tuple(_filters(dataset)) in GZIP


def _filters(dataset: h5py.Dataset) -> list[int]:
    """Their numbers; `_OTHER` for a shuffle of other items than the values."""
    properties, size = dataset.id.get_create_plist(), dataset.dtype.itemsize
    told = [properties.get_filter(n) for n in range(properties.get_nfilters())]
    return [_OTHER if number == _SHUFFLE and values != (size,) else number for number, _, values, _ in told]


def descriptor(file: h5py.File) -> int | None:
    """The open file itself, where what HDF5 tells are places in it: no driver in between, nothing that is yet
    to be written, and no bytes of others before its own, which its versions count differently.
    """
    is_plain = file.driver == "sec2" and file.mode == "r" and file.userblock_size == 0
    return int(file.id.get_vfd_handle()) if is_plain else None
