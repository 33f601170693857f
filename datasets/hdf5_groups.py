"""Groups of HDF5 files read past the library, where episodes are groups of small datasets.

Opening a dataset costs the library more than reading a small one does. What the native reader knows is told
by one call per group: datasets of plain numbers in the library's usual format, in one place or in chunks
without filters, all of which the file can hold; values come from the file itself, in any thread. Of anything
else nothing is told, and the library has to be asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from rlcli import _native
from rlcli.datasets.hdf5_chunks import descriptor

_NUMBERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


class PlainArray(NamedTuple):
    """A dataset of numbers. `dtype` is native-endian, `shape` empty for a single one."""

    dataset: _native.Hdf5Dataset
    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    file: tuple[int, int]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows, of a single value that as one. Raises `RuntimeError` if they are not there."""
        values = np.empty((stop - start, *self.shape[1:]), self.stored)
        self.dataset.read_into(*self.file, start, stop, values)
        return values.astype(self.dtype, copy=False)


class PlainGroup(NamedTuple):
    """`arrays` by path, of groups below it too; `attributes` if all are single numbers."""

    arrays: Mapping[str, PlainArray]
    attributes: Mapping[str, Any] | None


class PlainGroups:
    """Reads groups of a file."""

    def __init__(self, file: h5py.File, num_bytes: int) -> None:
        found, sizes = descriptor(file), file.id.get_create_plist().get_sizes()
        self._file = None if found is None or sizes != (8, 8) else (found, num_bytes)

    def find(self, parent: h5py.h5g.GroupID, name: bytes) -> PlainGroup | None:
        """The group of that name, None if the library has to be asked. Raises what h5py does."""
        if self._file is None:
            return None
        link = parent.links.get_info(name)
        told = _native.hdf5_group(*self._file, link.u) if link.type == h5py.h5l.TYPE_HARD else None
        if told is None:
            return None
        datasets, singles, has_others = told
        types, arrays = _types(), {}
        for dataset in datasets:
            known = types.get(dataset.type)
            if known is None:
                return None
            path = dataset.path.decode(errors="surrogateescape")
            arrays[path] = PlainArray(dataset, *known, dataset.shape, self._file)
        attributes: dict[str, Any] = {}
        for raw, kind, value in singles:
            known = types.get(kind)
            if known is None or has_others:
                return PlainGroup(arrays, None)
            attributes[raw.decode(errors="surrogateescape")] = np.frombuffer(value, known[0]).astype(
                known[1]
            )[0]
        return PlainGroup(arrays, None if has_others else attributes)


@cache
def _types() -> dict[bytes, tuple[np.dtype[Any], np.dtype[Any]]]:
    """What the file has of a type -> as it is stored, and native-endian."""
    found = {}
    for name in ("bool", *(f"{order}{number}" for order in "<>" for number in _NUMBERS)):
        dtype = np.dtype(name)
        encoded = h5py.h5t.py_create(dtype, logical=True).encode()[2:]  # after two bytes of the library's own
        for padding in {0, -len(encoded) % 8}:
            found[encoded + bytes(padding)] = dtype, dtype.newbyteorder("=")
    return found
