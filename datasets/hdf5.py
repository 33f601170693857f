"""HDF5 files in bounded memory: opening, walking, rows in slices, and a copy of everything but the rows.

Nothing here knows a dataset layout. Damage found by the HDF5 library becomes `CorruptError`, which names the
file. Writing files is in `hdf5_output.py`, gzip by several threads in `hdf5_chunks.py`.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rlcli.datasets import slicing
from rlcli.datasets.hdf5_chunks import GzipChunks, is_gzip
from rlcli.datasets.regular import open_regular
from rlcli.datasets.rooms import Rooms
from rlcli.errors import CorruptError, IncompatibleError, InputError

_CACHE_BYTES = 1 << 20  # of one column's chunk cache; a slice takes whole chunks, so more gains nothing
_HEADER_BYTES = 2 << 20  # of groups and datasets in the library's cache; they take six times as much memory
_MAX_TEXT, _MAX_NUMBERS = 1 << 18, 4096  # of an attribute that becomes JSON
_MAX_DEPTH = 64
_TOO_DEEP = f"groups are nested more than {_MAX_DEPTH} deep, or in a circle"


def is_hdf5(path: Path) -> bool:
    """Whether the file begins like HDF5 (it may still be cut short). False for folders and missing files."""
    return path.is_file() and bool(h5py.is_hdf5(path))


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """The file, opened to read.

    Raises `InputError` if it is not HDF5, `CorruptError` if it is cut short or damaged, and the
    ordinary `OSError` if it is missing or may not be read.
    """
    with open_regular(path):
        pass  # missing, a folder, no permission: the usual errors, with their usual exit codes
    if not is_hdf5(path):
        raise InputError(f"{path}: not an HDF5 file", path=path)
    with damage(path):
        file = h5py.File(path, "r", rdcc_nbytes=_CACHE_BYTES)
        _bound(file.id)
    try:
        yield file
    finally:
        file.close()


def _bound(file: h5py.h5f.FileID) -> None:
    """Keeps the library from caching the headers of ever more groups."""
    config = file.get_mdc_config()
    config.max_size, config.min_size = _HEADER_BYTES, _HEADER_BYTES // 2
    config.set_initial_size, config.initial_size = True, _HEADER_BYTES // 2
    file.set_mdc_config(config)


@contextmanager
def damage(path: Path, what: str = "") -> Iterator[None]:
    """Turns what the HDF5 library says about broken bytes into a `CorruptError` that names `what`."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError) as err:
        if isinstance(err, OSError) and err.errno is not None:
            raise
        reason = re.sub(r"(Unable to|Can't) (synchronously )?(open file|read data)", "", str(err))
        where = f" {what}" if what else ""
        raise CorruptError(f"{path}:{where} damaged HDF5: {reason.strip(' ()')}", path=path) from err
    except TypeError as err:
        if "NumPy" not in str(err):
            raise
        raise IncompatibleError(f"{path}: a type of values that NumPy has not: {err}", path=path) from err


def walk(group: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """`(path, dataset)` of everything that is reached by hard links, in name order."""
    for path, found in walk_ids(group.id):
        yield path, h5py.Dataset(found, readonly=True)  # which lets it remember its shape


def walk_ids(group: h5py.h5g.GroupID, prefix: str = "") -> Iterator[tuple[str, h5py.h5d.DatasetID]]:
    """What `walk` finds, at h5py's low level: a third of the time, which counts where episodes are groups."""
    if prefix.count("/") > _MAX_DEPTH:
        raise InputError(_TOO_DEEP)
    names: list[bytes] = []

    def note(name: bytes, link: h5py.h5l.LinkInfo) -> None:
        if link.type == h5py.h5l.TYPE_HARD:
            names.append(name)

    group.links.iterate(note, info=True)
    for name in names:
        child, path = h5py.h5o.open(group, name), f"{prefix}{name.decode(errors='surrogateescape')}"
        if isinstance(child, h5py.h5g.GroupID):
            yield from walk_ids(child, f"{path}/")
        elif isinstance(child, h5py.h5d.DatasetID):
            yield path, child


def links(group: h5py.Group) -> list[str]:
    """The paths of soft and external links among what `walk` reaches; it does not follow them."""
    found: list[str] = []

    def note(name: bytes, link: h5py.h5l.LinkInfo) -> None:
        if link.type != h5py.h5l.TYPE_HARD:
            found.append(name.decode(errors="surrogateescape"))

    group.id.links.visit(note, info=True)
    return found


def text_of(value: Any, where: h5py.HLObject) -> str:
    """A string of HDF5, which may come as bytes, or with surrogates in place of bytes that are not UTF-8.

    Raises `CorruptError` for such.
    """
    raw = value if isinstance(value, bytes) else str(value).encode(errors="surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError as err:
        raise CorruptError(
            f"{where.file.filename}: {where.name}: text that is not UTF-8: {err.reason}",
            path=where.file.filename,
        ) from err


def attributes_of(place: h5py.HLObject) -> dict[str, Any]:
    """Attributes as JSON: text, numbers and lists of these; anything else as its type."""
    found: dict[str, Any] = {}
    for key in place.attrs:
        name = key.decode(errors="replace") if isinstance(key, bytes) else key
        try:
            value = place.attrs[key]
        except TypeError as err:  # a type that NumPy has not
            found[name] = str(err)
            continue
        if isinstance(value, str | bytes):
            found[name] = text_of(value, place)[:_MAX_TEXT]
            continue
        array = np.asarray(value)
        is_plain = array.dtype.kind in "biuf" and array.itemsize <= 8 and array.size < _MAX_NUMBERS
        found[name] = array.tolist() if is_plain else str(array.dtype)
    return found


class Rows:
    """One logical column: datasets with equal trailing axes, one after the other, read in slices.

    `dtype` is native-endian, `shape` that of a row.
    """

    def __init__(self, parts: Sequence[h5py.Dataset]) -> None:
        self.parts = list(parts)
        self.dtype = self.parts[0].dtype.newbyteorder("=")
        self.shape = tuple(self.parts[0].shape[1:])
        self.gzip = [GzipChunks.of(part) if is_gzip(part) else None for part in self.parts]
        self.starts = np.cumsum([0, *(part.shape[0] for part in self.parts)]).tolist()

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def row_bytes(self) -> int:
        return int(math.prod(self.shape) * self.dtype.itemsize)

    @property
    def chunk_rows(self) -> int:
        """Rows per chunk on disk; 1 where the file is not chunked."""
        return max(int(part.chunks[0]) if part.chunks else 1 for part in self.parts)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """A fresh array `[stop - start, *shape]`. Raises `CorruptError` that names the column and rows."""
        return read_columns({"": self}, start, stop)[""]

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """`(n, low, high, first)`: rows `low … high - 1` of part n are row `first` and on of the range."""
        for number, (part, begin) in enumerate(zip(self.parts, self.starts, strict=False)):
            low, high = max(start, begin), min(stop, begin + part.shape[0])
            if low < high:
                yield number, low - begin, high - begin, low - start

    def write(self, start: int, values: NDArray[Any]) -> None:
        """The inverse of `read`: `values` become rows `start …`, cast to each dataset's own dtype."""
        for number, low, high, first in self.pieces(start, start + len(values)):
            part = self.parts[number]
            piece = values[first : first + high - low].reshape(high - low, *self.shape)
            part.write_direct(
                np.ascontiguousarray(piece.astype(part.dtype, copy=False)), dest_sel=np.s_[low:high]
            )


def read_columns(
    columns: Mapping[str, Rows], start: int, stop: int, rooms: Rooms | None = None
) -> dict[str, NDArray[Any]]:
    """Rows `start … stop - 1` of several columns, in `rooms`; gzip chunks are decompressed on all cores."""
    rooms = rooms or Rooms()
    arrays = {name: rooms.take(name, stop - start, c.shape, c.dtype) for name, c in columns.items()}
    where: Callable[[], AbstractContextManager[None]]
    coming: list[tuple[Callable[[], AbstractContextManager[None]], list[Future[None]]]] = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for name, column in columns.items():
            for number, low, high, first in column.pieces(start, stop):
                part, chunks = column.parts[number], column.gzip[number]
                out = arrays[name][first : first + high - low]
                where = partial(damage, Path(part.file.filename), f"{part.name} rows {low}..{high - 1}:")
                if chunks is not None:  # of all columns before any is waited for: many have a chunk or two
                    coming.append((where, [pool.submit(task) for task in chunks.tasks(low, high, out)]))
                    continue
                with where():
                    part.read_direct(out, np.s_[low:high])
        for where, tasks in coming:
            with where():
                for task in tasks:
                    task.result()
    return arrays


def slice_rows(columns: Collection[Rows]) -> int:
    """Rows of a slice of all columns, in whole chunks where they fit."""
    rows = slicing.slice_rows(sum(column.row_bytes for column in columns))
    chunk = max((column.chunk_rows for column in columns if column.chunk_rows <= rows), default=1)
    return rows - rows % chunk


def skeleton(file: h5py.File, rows: Collection[str]) -> bytes:
    """An HDF5 image of the whole file in which the datasets named in `rows` have no values.

    Everything else is as in the source: groups, attributes, links, types, chunks, filters, other datasets'
    values. `revive` makes the file again. It is read by any HDF5 library.
    """
    with h5py.File("skeleton", "w", driver="core", backing_store=False, libver="latest") as image:
        _copy(file, image, "", frozenset(rows), None)
        image.flush()
        return bytes(image.id.get_file_image())


def revive(image: bytes, out: h5py.File, rows: Collection[str], num_rows: int | None = None) -> None:
    """Fill the empty file `out` with what `skeleton` kept; datasets in `rows` are there, without values.

    `num_rows` replaces the length of those datasets.
    """
    with h5py.File(io.BytesIO(image), "r") as source:
        _copy(source, out, "", frozenset(rows), num_rows)


def _copy(source: Any, target: Any, prefix: str, rows: frozenset[str], num_rows: int | None) -> None:
    if prefix.count("/") > _MAX_DEPTH:
        raise InputError(_TOO_DEEP)
    _copy_attributes(source, target)
    for name in source:
        link = source.get(name, getlink=True)
        if isinstance(link, h5py.SoftLink | h5py.ExternalLink):
            target[name] = link
        elif isinstance(source[name], h5py.Group):
            _copy(source[name], target.create_group(name), f"{prefix}{name}/", rows, num_rows)
        elif f"{prefix}{name}" in rows:
            _create_like(source[name], target, name, num_rows)
            _copy_attributes(source[name], target[name])
        else:
            source.copy(name, target, name)


def _create_like(source: Any, target: Any, name: str, num_rows: int | None) -> None:
    """A dataset with the source's type, space, chunks and filters, and no values."""
    properties = source.id.get_create_plist()
    if source.is_virtual:  # its values lie elsewhere; here they get a place of their own
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    space = source.id.get_space()
    if num_rows is not None and num_rows != source.shape[0]:
        limits = (None if source.chunks else num_rows, *source.shape[1:])
        space = h5py.h5s.create_simple(
            (num_rows, *source.shape[1:]), tuple(h5py.h5s.UNLIMITED if n is None else n for n in limits)
        )
    h5py.h5d.create(target.id, name.encode(), source.id.get_type(), space, dcpl=properties)


def _copy_attributes(source: Any, target: Any) -> None:
    """Attributes with their exact types; the high-level interface would change string types."""
    for name in source.attrs:
        found = source.attrs.get_id(name)
        kind, space = found.get_type(), found.get_space()
        raw = name if isinstance(name, bytes) else name.encode()  # as it is where it is not text
        copied = h5py.h5a.create(target.id, raw, kind, space)
        if space.get_simple_extent_type() != h5py.h5s.NULL and space.get_simple_extent_npoints():
            value = np.empty(found.shape, found.dtype)
            found.read(value)
            copied.write(value)
