"""Zarr groups, both ways: replay buffers (`data/…`, `meta/episode_ends`) and any other named arrays.

Version 2 folders, version 2 zip files, version 3. Chunks that are missing read as the fill value without a
word in zarr; here they are counted and the report says so.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import json
import math
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli.config import opt
from rlcli.datasets import zip_archives
from rlcli.datasets.ahead import SideBySide
from rlcli.datasets.contract import Advance, NoOptions, Report, Request, Seen
from rlcli.datasets.plain import PlainSource
from rlcli.datasets.plain_export import METADATA, Exporter
from rlcli.datasets.plain_table import Arrays, Field, Table
from rlcli.datasets.regular import check_folder
from rlcli.datasets.slicing import SLICE_BYTES
from rlcli.datasets.stopping import heeding
from rlcli.datasets.zarr_chunks import missing_chunks
from rlcli.datasets.zarr_rows import Chunks, Read, reading
from rlcli.errors import CorruptError, IncompatibleError, InputError, MissingExtraError
from rlcli.format.dataset import Dataset

_MAX_CHUNKS = 50_000_000
_CHUNK_BYTES = 4 << 20
_MAX_CHUNK_BYTES = 1 << 31
_CACHE_BYTES = 32 << 20  # of decoded chunks that wait for the rest of their rows, if the largest is smaller
_SIGNS = (".zgroup", "zarr.json")


@dataclass(frozen=True)
class ExportOptions:
    """Writing zarr groups."""

    version: Literal["2", "3"] = opt("2", "The version of the zarr format.")


def detect(path: Path) -> Seen:
    """Whether `path` is a zarr group: a folder, or a zip file of one."""
    if path.is_dir():
        names = [name for name in _SIGNS if (path / name).is_file()]
        is_buffer = (path / "meta" / "episode_ends").is_dir()
    elif path.is_file() and zipfile.is_zipfile(path):
        with zip_archives.opened(path) as archive:
            held = set(archive.namelist())
        names = [name for name in _SIGNS if name in held]
        is_buffer = any(name.startswith("meta/episode_ends/") for name in held)
    else:
        return Seen(False, "not a zarr group")
    if not names:
        return Seen(False, "not a zarr group")
    version = 2 if names[0] == ".zgroup" else 3
    kind = "replay buffer" if is_buffer else "group"
    return Seen(True, f"zarr {kind}, version {version}{', zip' if path.is_file() else ''}")


@contextmanager
def open_source(path: Path, request: Request, options: NoOptions) -> Iterator[PlainSource]:
    """The group, looked through once. Raises `CorruptError` for damage, `InputError` for a pipe in it."""
    import zarr

    if importlib.util.find_spec("imagecodecs"):  # UMI keeps its pictures as JPEG XL
        importlib.import_module("imagecodecs.numcodecs").register_codecs(verbose=False)
    if path.is_dir():
        check_folder(path)
    with reading(path) as read:
        if path.is_dir():
            store: Any = zarr.storage.LocalStore(path, read_only=True)
        else:
            store = zarr.storage.ZipStore(path, mode="r")
        try:
            with _damage(path):
                table = ZarrTable(path, _opened(path, store), read)
            with closing(table):
                yield PlainSource(table, request)
        finally:
            store.close()


def export(dataset: Dataset, out: Path, options: ExportOptions, advance: Advance) -> Report:
    """A replay buffer: `data/…` with D4RL's names, `meta/episode_ends`, spaces in the attributes."""
    import zarr

    exporter = Exporter(dataset)
    root = zarr.open_group(out, mode="w-", zarr_format=2 if options.version == "2" else 3)
    config: Any = {"write_empty_chunks": True}  # a chunk that is not there would be a missing one
    root.attrs[METADATA] = json.dumps(exporter.metadata)
    arrays = {}
    for name, column in list(exporter.columns.items()):
        if column.is_text:
            exporter.leave_out(name, "a zarr array has no place for text")
            continue
        rows = max(1, min(column.shape[0], _CHUNK_BYTES // max(1, column.row_bytes)))
        arrays[name] = root.create_array(
            f"data/{name}",
            shape=column.shape,
            chunks=(rows, *column.shape[1:]),
            dtype=column.dtype,
            config=config,
        )
    for name, target in arrays.items():
        step = int(target.chunks[0])
        for start in range(0, dataset.num_rows, step):
            stop = min(start + step, dataset.num_rows)
            values = exporter.read(name, start, stop)
            target[start:stop] = values
            advance(values.nbytes)
    ends = exporter.last_rows + 1
    target = root.create_array(
        "meta/episode_ends", shape=ends.shape, chunks=ends.shape, dtype=ends.dtype, config=config
    )
    target[:] = ends
    return exporter.report


class ZarrTable(Table):
    """The arrays of a group as rows. See `plain_table.Table`."""

    can_seek = True
    slice_bytes = SLICE_BYTES // 2  # the last chunk of each array is there, too

    def __init__(self, path: Path, root: Any, read: Read) -> None:
        super().__init__(path)
        self._arrays: dict[str, Any] = {}
        self._chunks: dict[str, Chunks | None] = {}
        self._side_by_side = SideBySide()
        self._decoded: dict[str, tuple[int, Any]] = {}  # of some arrays the last chunk that was cut
        self.layout = f"zarr-{root.metadata.zarr_format}"
        self.metadata = _metadata(root)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = list(_walk(root))
        for sentence in dict.fromkeys(str(warning.message).rstrip(".") for warning in told):
            self.remarks.append(f"zarr: {sentence[:1].lower()}{sentence[1:]}")
        for name, array in found:
            self._check(name, array)
            if not array.shape or 0 in array.shape:
                self.others[name] = f"{array.dtype}{list(array.shape)}"
                continue
            self._arrays[name] = array
            self._chunks[name] = Chunks.of(read, name, array)
            self.fields[name] = Field(_dtype(array), tuple(array.shape[1:]), array.shape[0])
        self._keeps = self._kept()
        self.replay_buffer = "meta/episode_ends" in self.fields and any(
            name.startswith("data/") for name in self.fields
        )
        self.chunk_rows = max((int(array.chunks[0]) for array in self._arrays.values()), default=1)
        if path.is_dir():
            self.files = sorted(file for file in heeding(path.rglob("*")) if file.is_file())
        missing = {
            name: count
            for name, array in self._arrays.items()
            if (count := missing_chunks(path, name, array))
        }
        for name, count in missing.items():
            self.remarks.append(
                f"{name}: {count:,} of {math.prod(array_chunks(self._arrays[name])):,} chunks are missing; "
                f"their values are the fill value {self._arrays[name].fill_value}"
            )

    def read(self, names: Sequence[str], start: int, stop: int) -> Arrays:
        """Rows of some arrays. Raises `CorruptError` that names the array and its rows."""
        calls = {name: partial(self._rows, name, start, stop) for name in names}
        ours = {name: call for name, call in calls.items() if self._chunks[name] is not None}
        sizes = {name: self.fields[name].row_bytes * (stop - start) for name in ours}
        found = self._side_by_side(ours, sizes)
        return {name: found[name] if name in found else calls[name]() for name in names}

    def close(self) -> None:
        """Ends its threads."""
        self._side_by_side.close()

    def _rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        with _damage(self.path, f"{name} rows {start}..{stop - 1}: "):
            return self._decoded_rows(name, start, stop)

    def _decoded_rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of one array. A chunk that all go out is decoded in its place; of others the last one stays
        if there is room, so that in order each is decoded once.
        """
        array, field, chunks = self._arrays[name], self.fields[name], self._chunks[name]
        rows = _chunk_rows(array)
        if chunks is None and name not in self._keeps:
            return _native(array[start:stop], field.dtype)
        out = self.empty(name, stop - start)
        for number in heeding(range(start // rows, -(-stop // rows))):
            first = number * rows
            low, high = max(start, first), min(stop, first + rows)
            place = out[low - start : high - start]
            found = chunks.get(number, place) if chunks is not None and len(place) == rows else None
            if found is None:
                found = self._chunk(name, number, rows)[low - first : high - first]
            if found is not place:
                place[...] = found
        return out

    def _chunk(self, name: str, number: int, rows: int) -> NDArray[Any]:
        """The rows of a chunk of `rows` rows, perhaps fewer at the array's end; valid until the next."""
        array, chunks = self._arrays[name], self._chunks[name]
        known, room = self._decoded.pop(name, (-1, None))
        found = room if known == number else None
        if found is None and chunks is not None:
            found = chunks.get(number, room)
        if found is None:
            last = min((number + 1) * rows, int(array.shape[0]))
            found = _native(array[number * rows : last], self.fields[name].dtype)
        if name in self._keeps:
            self._decoded[name] = number, found
        return found

    def _kept(self) -> set[str]:
        """The arrays of which a chunk stays: as many as there is room for, those of large chunks first."""
        sizes = {
            name: _chunk_rows(array) * self.fields[name].row_bytes for name, array in self._arrays.items()
        }
        for name, array in self._arrays.items():
            if getattr(array, "shards", None) and sizes[name] <= self.slice_bytes:
                del sizes[name]  # zarr takes long for each call, and little for a chunk more
        room = max(_CACHE_BYTES, *sizes.values()) if sizes else 0  # the largest is decoded in any case
        kept = set()
        for name in sorted(sizes, key=lambda name: -sizes[name]):
            if sizes[name] <= room:
                room -= sizes[name]
                kept.add(name)
        return kept

    def _check(self, name: str, array: Any) -> None:
        """Refuses shapes and chunks that no file of ours would have, and codecs that run code."""
        told = array.metadata.to_dict()
        codecs = [told.get(part) for part in ("filters", "compressor", "codecs")]
        if "pickle" in json.dumps(codecs, default=str).lower():
            raise IncompatibleError(f"{self.path}: {name} holds pickles, which may run code", path=self.path)
        chunk = math.prod(array.chunks) * array.dtype.itemsize
        if 0 in array.chunks or chunk > _MAX_CHUNK_BYTES or math.prod(array_chunks(array)) > _MAX_CHUNKS:
            raise CorruptError(
                f"{self.path}: {name} declares {list(array.shape)} values in chunks of {chunk:,} bytes",
                path=self.path,
            )


def _dtype(array: Any) -> np.dtype[Any]:
    """What a table gives of an array: numbers native-endian, text as objects, void for other objects."""
    if array.dtype.kind in "TUS" and array.ndim == 1:
        return np.dtype(object)
    return np.dtype("V1") if array.dtype.kind in "TO" else array.dtype.newbyteorder("=")


def _native(values: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """What zarr read, in a table's dtype."""
    values = np.asarray(values)
    if dtype.kind != "O":
        return np.asarray(values.astype(dtype, copy=False))
    values = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
    return np.array(values.tolist(), object)


def _chunk_rows(array: Any) -> int:
    """Rows that are decoded together; of a shard, which may be large, zarr reads the wanted chunks."""
    return int(array.chunks[0])


def array_chunks(array: Any) -> list[int]:
    """How many chunks an array has along each axis."""
    return [-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True)]


def _walk(group: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > 16:
        raise InputError("groups are nested more than 16 deep")
    for name, array in sorted(group.arrays()):
        yield f"{prefix}{name}", array
    for name, child in sorted(group.groups()):
        yield from _walk(child, f"{prefix}{name}/", depth + 1)


def _metadata(root: Any) -> dict[str, Any]:
    try:
        found = json.loads(root.attrs[METADATA])
    except (KeyError, ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _opened(path: Path, store: Any) -> Any:
    import zarr

    try:
        return zarr.open_group(store, mode="r")
    except (zarr.errors.ContainsArrayError, FileNotFoundError) as err:
        if isinstance(err, FileNotFoundError) and not (path / ".zarray").is_file():
            raise
        raise InputError(f"{path}: a zarr array alone, expected a group of named ones", path=path) from err


@contextmanager
def _damage(path: Path, what: str = "") -> Iterator[None]:
    """Turns what zarr and its codecs say about broken bytes into errors that name the array."""
    try:
        yield
    except OSError as err:
        if err.errno not in (None, errno.EINVAL):  # EINVAL: a member's place before the file's beginning
            raise
        raise CorruptError(f"{path}: {what}damaged zarr: {err}", path=path) from err
    except (ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile) as err:
        if "codec not available" in str(err):
            if "imagecodecs" in str(err):
                raise MissingExtraError(
                    "imagecodecs", "imagecodecs", needed_for=f"reading {path}, whose arrays it encoded"
                ) from err
            raise IncompatibleError(f"{path}: {what}{err}", path=path) from err
        reason = " ".join(str(err).split())[:200]
        raise CorruptError(f"{path}: {what}damaged zarr: {type(err).__name__}: {reason}", path=path) from err
