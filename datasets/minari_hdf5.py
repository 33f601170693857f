"""The episodes of a Minari dataset in one HDF5 file: a group each, with a few small datasets.

Opening these costs more than reading them, so most episodes are told natively, see `hdf5_groups.py`. Others,
with text or encoded pictures, are opened at h5py's low level, and what a first look found (names, types) is
not asked again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from rlcli.datasets import hdf5
from rlcli.datasets.hdf5_groups import PlainGroup, PlainGroups
from rlcli.datasets.hdf5_safety import check_storage
from rlcli.datasets.minari_files import Field, Kind, Storage
from rlcli.errors import InputError

_EPISODE = re.compile(r"episode_(\d{1,15})")
_WHOLE_BYTES = 16 << 20  # values of one dataset that are read at once and kept while its episode is read
_UNPROVEN_BYTES = 1 << 30  # declared bytes that need no proof that the file can hold them
_NAMES = {"text": "", "bytes": "uint8"}  # of dtypes, where the kind tells


class _Type(NamedTuple):
    """A type in the file, the native-endian dtype of it, its name, and that as HDF5 has it."""

    stored: h5py.h5t.TypeID
    dtype: np.dtype[Any]
    name: str
    kind: Kind
    native: h5py.h5t.TypeID | None  # of numbers only

    @staticmethod
    def of(stored: h5py.h5t.TypeID, dtype: np.dtype[Any]) -> _Type:
        dtype = dtype if dtype.isnative else dtype.newbyteorder("=")
        is_plain = dtype.kind in "biufc" and dtype.metadata is None
        native = h5py.h5t.py_create(dtype) if is_plain else None
        return _Type(stored, dtype, str(dtype), _kind(dtype), native)


@dataclass(slots=True)
class _Array:
    """An open dataset; `whole` has its values once they were read at once."""

    id: h5py.h5d.DatasetID
    shape: tuple[int, ...] | None
    type: _Type
    kind: Kind
    whole: NDArray[Any] | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.type.dtype

    @property
    def field(self) -> Field:
        if self.shape is None:
            return Field("other", "", (), None)
        rows = self.shape[0] if self.shape else None
        name = _NAMES.get(self.kind, self.type.name)
        return Field(self.kind, name, self.shape[1:], rows)


class HDF5Storage(Storage):
    """`main_data.hdf5`: a group per episode."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.files = [path]
        self._reading = hdf5.reading(path)
        self.file = self._reading.__enter__()
        self._num_bytes = path.stat().st_size
        self._types: dict[str, _Type] = {}  # the latest of each path
        self._paths: dict[int, tuple[str, ...]] = {}  # of each episode that was looked at
        self._same_paths: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._plain = PlainGroups(self.file)
        self._plain_held: tuple[int, PlainGroup | None] = (-1, None)
        self._held: tuple[int, dict[str, _Array]] = (-1, {})
        self._group_held: tuple[int, Any] = (-1, None)
        with hdf5.damage(path):
            numbers = (_EPISODE.fullmatch(name) for name in self.file)
            self.episodes = sorted(int(found[1]) for found in numbers if found)

    def where(self, episode: int) -> str:
        return f"{self.path}: episode_{episode}"

    def fields(self, episode: int) -> dict[str, Field]:
        with hdf5.damage(self.path, f"episode_{episode}:"):
            if (plain := self._plain_group(episode)) is not None:
                return {path: _field_of(array.dtype, array.shape) for path, array in plain.arrays.items()}
            held = self._look(episode)
            for array in held.values():
                self._check(array)
            return {path: array.field for path, array in held.items()}

    def paths(self, episode: int) -> Collection[str]:
        with hdf5.damage(self.path, f"episode_{episode}:"):
            if (plain := self._plain_group(episode)) is not None:
                return plain.arrays.keys()
        if episode not in self._paths:
            with hdf5.damage(self.path, f"episode_{episode}:"):
                self._look(episode)
        return self._paths[episode]

    def attributes(self, episode: int) -> dict[str, Any]:
        with hdf5.damage(self.path, f"episode_{episode}:"):
            plain = self._plain_group(episode)
            if plain is not None and plain.attributes is not None:
                return dict(plain.attributes)
            return _attributes(self._group(episode), self._types)

    def read(self, episode: int, path: str, start: int, stop: int) -> NDArray[Any] | list[Any]:
        with hdf5.damage(self.path, f"episode_{episode}/{path}:"):
            if (plain := self._plain_group(episode)) is not None:
                return plain.arrays[path].read(start, stop, (str(self.path), f"episode_{episode}/{path}"))
            array = self._array(episode, path)
            if array.kind == "numbers" and array.shape:
                return self._numbers(array, start, stop)
            values = h5py.Dataset(array.id, readonly=True)
            if not values.shape:
                return _one(values.asstr()[()] if array.kind == "text" else values[()])
            if array.kind == "text":
                return [str(text) for text in values.asstr()[start:stop]]
            part = values[start:stop]
        if part.dtype.kind == "O":
            return [np.asarray(value, np.uint8).tobytes() for value in part]
        return np.asarray(part.astype(part.dtype.newbyteorder("="), copy=False))

    def close(self) -> None:
        self._held, self._group_held = (-1, {}), (-1, None)
        self._reading.__exit__(None, None, None)

    def _numbers(self, array: _Array, start: int, stop: int) -> NDArray[Any]:
        """Rows of numbers; small datasets are read once."""
        shape = array.shape or ()
        if array.whole is None:
            native = array.type.native
            if native is None or math.prod(shape) * array.dtype.itemsize > _WHOLE_BYTES:
                part = h5py.Dataset(array.id, readonly=True)[start:stop]
                return np.asarray(part.astype(array.dtype, copy=False))
            whole = np.empty(shape, array.dtype)
            if whole.size:
                array.id.read(h5py.h5s.ALL, h5py.h5s.ALL, whole, native)
            array.whole = whole
        return array.whole[start:stop]

    def _check(self, array: _Array) -> None:
        """What `check_storage` checks; nothing is asked twice of a small dataset in the file itself."""
        declared = math.prod(array.shape or ()) * max(1, array.dtype.itemsize)
        if (
            declared > _UNPROVEN_BYTES
            or not _is_inside(array.id)
            or array.id.get_storage_size() > self._num_bytes
        ):
            check_storage(self.path, h5py.Dataset(array.id, readonly=True))

    def _plain_group(self, episode: int) -> PlainGroup | None:
        """An episode as it is told without the library, None if it is not."""
        if self._plain_held[0] != episode:
            self._plain_held = (episode, self._plain.find(self.file.id, f"episode_{episode}".encode()))
        return self._plain_held[1]

    def _group(self, episode: int) -> h5py.h5g.GroupID:
        if self._group_held[0] == episode:
            return self._group_held[1]
        name, file = f"episode_{episode}".encode(), self.file.id
        is_hard = file.links.get_info(name).type == h5py.h5l.TYPE_HARD
        group = h5py.h5o.open(file, name) if is_hard else None
        if not isinstance(group, h5py.h5g.GroupID):
            raise InputError(f"{self.path}: episode_{episode} is no group of the file", path=self.path)
        self._group_held = (episode, group)
        return group

    def _look(self, episode: int) -> dict[str, _Array]:
        """All datasets of an episode, opened."""
        found = {path: self._opened(path, id_) for path, id_ in hdf5.walk_ids(self._group(episode))}
        paths = tuple(found)
        self._paths[episode] = self._same_paths.setdefault(paths, paths)
        self._held = (episode, found)
        return found

    def _array(self, episode: int, path: str) -> _Array:
        """A dataset of an episode. Raises `KeyError` for a path that no hard links lead to."""
        if self._held[0] != episode:
            self._held = (episode, {})
        held = self._held[1]
        if path not in held:
            if path not in self.paths(episode):
                raise KeyError(path)
            held = self._held[1]
        if path not in held:
            name = f"episode_{episode}/{path}".encode(errors="surrogateescape")
            held[path] = self._opened(path, h5py.h5d.open(self.file.id, name))
        return held[path]

    def _opened(self, path: str, id_: h5py.h5d.DatasetID) -> _Array:
        stored, known = id_.get_type(), self._types.get(path)
        if known is None or not known.stored.equal(stored):
            known = self._types[path] = _Type.of(stored, id_.dtype)
        shape: tuple[int, ...] | None = id_.shape
        if shape == () and id_.get_space().get_simple_extent_type() == h5py.h5s.NULL:
            shape = None
        kind = known.kind
        has_place = shape is not None and (
            kind == "numbers" or len(shape) == 1 or (kind == "text" and not shape)
        )
        return _Array(id_, shape, known, kind if has_place else "other")


@lru_cache
def _field_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Field:
    return Field("numbers", str(dtype), shape[1:], shape[0] if shape else None)


def _kind(dtype: np.dtype[Any]) -> Kind:
    if h5py.check_string_dtype(dtype) is not None:
        return "text"
    if h5py.check_vlen_dtype(dtype) == np.uint8:
        return "bytes"
    return "numbers" if dtype.kind in "biufc" and dtype.names is None else "other"


def _is_inside(id_: h5py.h5d.DatasetID) -> bool:
    """Whether a dataset's values are surely in its own file: in one place, or in chunks."""
    if id_.get_offset() is not None:
        return True
    try:
        return bool(id_.get_num_chunks() >= 0)
    except (RuntimeError, ValueError, OSError):
        return False


def _attributes(group: h5py.h5g.GroupID, types: dict[str, _Type]) -> dict[str, Any]:
    """The attributes of a group by name; single numbers, which most are, at h5py's low level."""
    found: dict[str, Any] = {}
    raw_names: list[bytes] = []
    h5py.h5a.iterate(group, raw_names.append)
    for raw_name in raw_names:
        attribute, name = h5py.h5a.open(group, raw_name), raw_name.decode(errors="surrogateescape")
        stored, known = attribute.get_type(), types.get(f"@{name}")
        if known is None or not known.stored.equal(stored):
            known = types[f"@{name}"] = _Type.of(stored, attribute.dtype)
        if attribute.shape == () and known.native is not None and known.dtype.kind in "biuf":
            value = np.empty((), known.dtype)
            attribute.read(value, known.native)
            found[name] = value[()]
        else:
            found[name] = _plain(h5py.Group(group).attrs[name], h5py.Group(group))
    return found


def _plain(value: Any, where: h5py.HLObject) -> Any:
    """An attribute as Python or NumPy has it; None for an empty one. See `hdf5.text_of` for text."""
    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, str | bytes):
        return hdf5.text_of(value, where)
    if isinstance(value, np.ndarray) and value.dtype.kind in "OS":
        return [
            hdf5.text_of(text, where) if isinstance(text, str | bytes) else str(text) for text in value.flat
        ]
    return str(value) if isinstance(value, h5py.Reference | h5py.RegionReference) else value


def _one(value: Any) -> NDArray[Any] | list[Any]:
    return [value] if isinstance(value, str) else np.asarray(value)[None]
