"""Gzip chunks of HDF5 datasets, decompressed by several threads; the HDF5 library uses one.

Only for chunks that went through gzip, with or without shuffle; everything else is HDF5's own business.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rlcli.errors import CorruptError

_SHUFFLE, _DEFLATE = h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE


class GzipChunks:
    """The chunks of one dataset. Raises `ValueError` for a dataset of another kind; see `is_gzip`."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        if not is_gzip(dataset):
            raise ValueError(f"{dataset.name} is not made of gzip chunks of plain numbers")
        self._dataset = dataset
        self._id = dataset.id
        self._shape: tuple[int, ...] = dataset.shape
        self._chunk: tuple[int, ...] = dataset.chunks or ()
        self._dtype: np.dtype[Any] = dataset.dtype
        self._fill = dataset.fillvalue
        self._filters = _filters(dataset)
        self._bytes = math.prod(self._chunk) * self._dtype.itemsize

    def tasks(self, low: int, high: int, out: NDArray[Any]) -> Iterator[Callable[[], None]]:
        """One call per chunk that holds some of rows `low … high - 1`; each fills its part of `out`.

        `out` is `[high - low, *shape]`. The calls may run in any threads. They raise `CorruptError` for bytes
        that are no gzip stream of the chunk's size, and `OSError` or `RuntimeError` as h5py does.
        """
        rows = self._chunk[0]
        starts = [range(low - low % rows, high, rows)]
        trailing = zip(self._shape[1:], self._chunk[1:], strict=True)
        starts += [range(0, axis, chunk) for axis, chunk in trailing]
        for corner in itertools.product(*starts):
            first = corner[0]
            start, stop = max(first, low), min(first + rows, high)
            across = tuple(slice(at, at + n) for at, n in zip(corner[1:], self._chunk[1:], strict=True))
            target = out[(slice(start - low, stop - low), *across)]
            yield partial(self._read, corner, slice(start - first, stop - first), target)

    def _read(self, corner: tuple[int, ...], rows: slice, target: NDArray[Any]) -> None:
        if self._id.get_chunk_info_by_coord(corner).byte_offset is None:
            target[...] = self._fill  # never written
        else:
            across = tuple(slice(size) for size in target.shape[1:])
            target[...] = self._decode(corner)[(rows, *across)]

    def _decode(self, corner: tuple[int, ...]) -> NDArray[Any]:
        """The whole chunk, also what lies beyond the dataset's edge."""
        skipped, data = self._id.read_direct_chunk(corner)
        used = [kind for n, kind in enumerate(self._filters) if not skipped & (1 << n)]
        if _DEFLATE in used:
            try:
                data = zlib.decompressobj().decompress(data, self._bytes + 1)
            except zlib.error as err:
                raise self._damaged(corner, str(err)) from err
        if len(data) != self._bytes:
            raise self._damaged(corner, f"a chunk of {len(data):,} bytes, expected {self._bytes:,}")
        if _SHUFFLE in used:
            data = np.frombuffer(data, np.uint8).reshape(self._dtype.itemsize, -1).T.tobytes()
        return np.frombuffer(data, self._dtype).reshape(self._chunk)

    def _damaged(self, corner: tuple[int, ...], reason: str) -> CorruptError:
        path = self._dataset.file.filename
        rows = f"{corner[0]}..{min(corner[0] + self._chunk[0], self._shape[0]) - 1}"
        message = f"{path}: {self._dataset.name} rows {rows}: damaged HDF5: {reason}"
        return CorruptError(message, path=path)


def is_gzip(dataset: h5py.Dataset) -> bool:
    """Whether `GzipChunks` can read this dataset: gzip chunks of plain numbers."""
    if not dataset.chunks or dataset.dtype.kind not in "biuf":
        return False
    same_bytes = dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype, logical=True))
    return bool(same_bytes) and _filters(dataset) in ([_DEFLATE], [_SHUFFLE, _DEFLATE])


def _filters(dataset: h5py.Dataset) -> list[int]:
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(n)[0] for n in range(properties.get_nfilters())]
