"""Gzip chunks of HDF5 datasets, decompressed by several threads; the HDF5 library uses one.

Only for chunks that went through gzip, shuffle, or nothing; everything else is HDF5's own business.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rlcli.errors import CorruptError

_SHUFFLE, _DEFLATE = h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE


def can_read(dataset: h5py.Dataset) -> bool:
    """Whether `tasks` can read this dataset: gzip chunks of plain numbers."""
    if not dataset.chunks or dataset.dtype.kind not in "biuf":
        return False
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(n)[0] for n in range(properties.get_nfilters())]
    same_bytes = dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype, logical=True))
    return filters in ([_DEFLATE], [_SHUFFLE, _DEFLATE]) and bool(same_bytes)


def tasks(dataset: h5py.Dataset, low: int, high: int, out: NDArray[Any]) -> Iterator[Callable[[], None]]:
    """One call per chunk that holds some of rows `low … high - 1`; each fills its part of `out`.

    `out` is `[high - low, *shape]`. The calls may run in any threads. They raise `CorruptError` for bytes
    that are no gzip stream of the chunk's size, and `OSError` or `RuntimeError` as h5py does.
    """
    rows, *trailing = dataset.chunks
    starts = [range(low - low % rows, high, rows)]
    starts += [range(0, axis, chunk) for axis, chunk in zip(dataset.shape[1:], trailing, strict=True)]
    for corner in itertools.product(*starts):
        yield _Chunk(dataset, corner, low, high, out)


class _Chunk:
    def __init__(
        self, dataset: h5py.Dataset, corner: tuple[int, ...], low: int, high: int, out: NDArray[Any]
    ) -> None:
        self.dataset = dataset
        self.corner = corner
        self.low, self.high = low, high
        self.out = out

    def __call__(self) -> None:
        first, *others = self.corner
        rows, *trailing = self.dataset.chunks
        start, stop = max(first, self.low), min(first + rows, self.high)
        target = self.out[start - self.low : stop - self.low]
        for axis, (at, size) in enumerate(zip(others, trailing, strict=True), start=1):
            target = target[(slice(None),) * axis + (slice(at, at + size),)]
        if self.dataset.id.get_chunk_info_by_coord(self.corner).byte_offset is None:
            target[...] = self.dataset.fillvalue  # never written
            return
        values = self._values()[start - first : stop - first]
        target[...] = values[tuple(slice(size) for size in target.shape)]

    def _values(self) -> NDArray[Any]:
        """The whole chunk `[*chunks]`, also what lies beyond the dataset's edge."""
        dtype, shape = self.dataset.dtype, self.dataset.chunks
        size = math.prod(shape) * dtype.itemsize
        skipped, data = self.dataset.id.read_direct_chunk(self.corner)
        properties = self.dataset.id.get_create_plist()
        used = [
            properties.get_filter(n)[0] for n in range(properties.get_nfilters()) if not skipped & (1 << n)
        ]
        if _DEFLATE in used:
            stream = zlib.decompressobj()
            try:
                data = stream.decompress(data, size + 1)
            except zlib.error as err:
                raise self._damaged(str(err)) from err
        if len(data) != size:
            raise self._damaged(f"a chunk of {len(data):,} bytes, expected {size:,}")
        if _SHUFFLE in used:
            data = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, -1).T.tobytes()
        return np.frombuffer(data, dtype).reshape(shape)

    def _damaged(self, reason: str) -> CorruptError:
        last = min(self.corner[0] + self.dataset.chunks[0], len(self.dataset)) - 1
        path = self.dataset.file.filename
        where = f"{self.dataset.name} rows {self.corner[0]}..{last}"
        return CorruptError(f"{path}: {where}: damaged HDF5: {reason}", path=path)
