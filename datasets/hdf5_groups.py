"""Groups of HDF5 files read past the library, where episodes are groups of small datasets.

Opening a dataset costs the library more than reading a small one does. What the native reader knows is told
by one call per group: datasets of plain numbers in the library's usual format, in one place or in chunks,
perhaps compressed by gzip, all of which the file can hold; values come from the file itself, in any thread.
Of anything else nothing is told, and the library has to be asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from rlcli import _native
from rlcli.datasets import hdf5
from rlcli.datasets.hdf5_chunks import GZIP, GzipChunks, Stored, descriptor
from rlcli.datasets.hdf5_safety import check_storage
from rlcli.datasets.plain_pictures import look_at
from rlcli.errors import InputError

_FAST_BYTES = 1 << 20  # below, one thread is faster than several
_FILTERS = ((), *GZIP)
_NUMBERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


class PlainArray:
    """A dataset of numbers. `dtype` is native-endian, `shape` empty for a single one."""

    __slots__ = ("_chunks", "_dataset", "_file", "_stored", "dtype", "shape")

    def __init__(
        self, dataset: _native.Hdf5Dataset, stored: np.dtype[Any], dtype: np.dtype[Any], file: tuple[int, int]
    ) -> None:
        self._dataset, self._stored, self._file = dataset, stored, file
        self.dtype, self.shape = dtype, dataset.shape
        self._chunks: GzipChunks | None = None

    def read(self, start: int, stop: int, where: tuple[str, str] = ("", "")) -> NDArray[Any]:
        """Rows, of a single value that as one; large compressed ones by several threads.

        Raises `RuntimeError` if they are not there, `CorruptError` with `where`, the file and the name, if
        they are damaged.
        """
        values = np.empty((stop - start, *self.shape[1:]), self._stored)
        dataset = self._dataset
        if not (filters := dataset.filters):
            dataset.read_into(*self._file, start, stop, values)
            return values.astype(self.dtype, copy=False)
        if self._chunks is None:
            stored = Stored(*where, self.shape, dataset.chunk, self._stored, filters)
            self._chunks = GzipChunks(stored._replace(file=self._file[0], places=dataset.places))
        tasks = self._chunks.tasks(start, stop, values)
        if values.nbytes < _FAST_BYTES:
            for task in tasks:
                task()
        else:
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                for done in [pool.submit(task) for task in tasks]:
                    done.result()
        return values.astype(self.dtype, copy=False)


class PlainGroup(NamedTuple):
    """`arrays` by path, of groups below it too; `attributes` if all are single numbers."""

    arrays: Mapping[str, PlainArray]
    attributes: Mapping[str, Any] | None


class PlainGroups:
    """Reads groups of a file."""

    def __init__(self, file: h5py.File) -> None:
        found, sizes = descriptor(file), file.id.get_create_plist().get_sizes()
        self._file = None if found is None or sizes != (8, 8) else (found, os.fstat(found).st_size)

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
            if known is None or dataset.filters not in _FILTERS:
                return None
            path = dataset.path.decode(errors="surrogateescape")
            arrays[path] = PlainArray(dataset, *known, self._file)
        attributes: dict[str, Any] = {}
        for raw, kind, value in singles:
            known, text = types.get(kind), raw.decode(errors="replace")
            if known is None or has_others or text.encode() != raw:
                return PlainGroup(arrays, None)
            attributes[text] = np.frombuffer(value, known[0]).astype(known[1])[0]
        return PlainGroup(arrays, None if has_others else attributes)


class Array:
    """A dataset of a group, with or without the library. `dtype` is native-endian, of text the library's."""

    def __init__(self, path: Path, name: str, found: PlainArray | h5py.Dataset) -> None:
        self.path, self.name, self._found = path, name, found
        self.shape: tuple[int, ...] = found.shape
        self.dtype: np.dtype[Any] = (
            found.dtype.newbyteorder("=") if found.dtype.kind in "iufc" else found.dtype
        )

    @property
    def size(self) -> int:
        """How many values."""
        return int(np.prod(self.shape, dtype=np.int64)) if self.shape is not None else 0

    @property
    def is_text(self) -> bool:
        return h5py.check_string_dtype(self.dtype) is not None or self.dtype.kind == "S"

    def is_pictures(self) -> bool:
        """Whether the first text is an encoded picture."""
        if isinstance(self._found, PlainArray) or not self._found.shape or not self._found.size:
            return False
        return look_at(self._found[(0,) * self._found.ndim]) is not None

    def whole(self) -> Any:
        """All values."""
        if isinstance(self._found, PlainArray):
            return self.read(0, (*self.shape, 1)[0]).reshape(self.shape)
        return self._found[()]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows of numbers; large ones by several threads."""
        found = self._found
        if isinstance(found, PlainArray):
            return found.read(start, stop, (str(self.path), self.name))
        values = np.empty((stop - start, *self.shape[1:]), self.dtype)
        if found.chunks is not None and values.nbytes >= _FAST_BYTES:
            return hdf5.Rows([found]).read(start, stop)
        found.read_direct(values, np.s_[start:stop])
        return values

    def texts(self, start: int, stop: int) -> list[str]:
        """Text of rows, or of a single value. Raises `CorruptError` if it is not UTF-8."""
        found: Any = self._found
        raw = np.asarray(found[start:stop] if self.shape else [found[()]]).reshape(-1)
        return [hdf5.text_of(value, found) for value in raw.tolist()]


class EpisodeGroup:
    """The group `name` of a group, with all datasets that hard links below it lead to."""

    def __init__(self, groups: PlainGroups, parent: h5py.Group, name: str) -> None:
        self.path, self.name = Path(parent.file.filename), f"{parent.name.rstrip('/')}/{name}"
        self._groups, self._parent, self._key = groups, parent, name

    @cached_property
    def _plain(self) -> PlainGroup | None:
        return self._groups.find(self._parent.id, self._key.encode(errors="surrogateescape"))

    @cached_property
    def group(self) -> h5py.Group:
        """As the library has it. Raises `InputError` if it is an array."""
        found = self._parent[self._key]
        if not isinstance(found, h5py.Group):
            raise InputError(f"{self.path}: {self.name} is an array, expected a group", path=self.path)
        return found

    @cached_property
    def arrays(self) -> Mapping[str, Array]:
        """All datasets by path. Raises `InputError`."""
        found = hdf5.walk(self.group) if self._plain is None else self._plain.arrays.items()
        return {path: Array(self.path, f"{self.name}/{path}", array) for path, array in found}

    @cached_property
    def links(self) -> Sequence[str]:
        """Paths of links that are not followed; plain groups have none."""
        return hdf5.links(self.group) if self._plain is None else ()

    def check_storage(self) -> None:
        """Raises what `hdf5_safety.check_storage` does; plain datasets are what the file can hold."""
        if self._plain is None:
            for _, dataset in hdf5.walk(self.group):
                check_storage(self.path, dataset)

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """Its own attributes, as h5py has them."""
        told = None if self._plain is None else self._plain.attributes
        return self.group.attrs if told is None else told


def members(parent: h5py.Group) -> Callable[[str], EpisodeGroup]:
    """What gives the groups of a group by their names."""
    return partial(EpisodeGroup, PlainGroups(parent.file), parent)


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
