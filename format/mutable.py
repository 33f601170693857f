"""Side columns: values per row that change after the row was committed, priorities and counters. SPEC.md 15.

They are no part of any snapshot, digest or sum. They are read and written through a map of a file whose
space is reserved: a killed owner loses nothing. Where a store could fail for want of room, as on a file
system that copies on write, bytes go out with `pwrite` instead, so that a full disk is an error there.
"""

from __future__ import annotations

import errno
import fcntl
import math
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rlcli import _native
from rlcli.errors import BusyError, CorruptError, IncompatibleError
from rlcli.format import files, folders, layer, strictjson
from rlcli.format.dataset import Dataset
from rlcli.format.keys import DTYPES, check_dtype, check_key
from rlcli.format.location import local
from rlcli.format.locks import check_folders, lock_now
from rlcli.format.manifest import Segment
from rlcli.format.mapping import PAGE
from rlcli.format.schema import MAX_AXES
from rlcli.format.stream_set import ROW_BITS
from rlcli.format.values import booleans

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.int64]]
_CHUNK = 1 << 20


class SideColumn:
    """One value per row of a dataset, by row identity, of segments that are there.

    A row whose segment has left, or is not known to the dataset yet (`refresh` it), has no value: it reads as
    the default, and a write to it is dropped. One owner at a time; not thread-safe. A forked child must not
    use it.
    """

    def __init__(
        self, dataset: Dataset, folder: Path, lock: int, dtype: str, shape: tuple[int, ...], default: float
    ):
        self.folder = folder
        self.dtype = dtype
        self.shape = shape
        self.default = default
        self._dataset = dataset
        self._lock = lock
        self._known: tuple[Segment, ...] | None = None
        self._segments: list[Segment] = []
        self._firsts: Rows = np.zeros(0, np.int64)
        self._ends: Rows = np.zeros(0, np.int64)
        self._open: dict[str, tuple[int, Array]] = {}  # descriptor and view of a segment's file

    @classmethod
    def open(
        cls,
        dataset: Dataset,
        name: str,
        dtype: str = "float64",
        default: float = 0,
        shape: tuple[int, ...] = (),
    ) -> SideColumn:
        """The side column `name`, made if it is missing.

        Raises `BusyError` while another process (or object) has it, `IncompatibleError` if it is there with
        another dtype, shape or default, or its name is none, `CorruptError` if its description is damaged or
        a folder is a link.
        """
        (name,) = check_key([name])
        check_dtype(dtype)
        if len(shape) > MAX_AXES or any(n < 1 for n in shape):
            raise IncompatibleError(f"side column {name!r} has shape {shape}: each axis needs 1 or more")
        root = local(dataset.path, "a side column")
        check_folders(root)
        folder = root / "mutable" / name
        meta = folder / "meta.json"
        wanted = {
            "magic": "rl-mutable", "format": [1, 0], "dataset": dataset.uuid, "dtype": dtype,
            "shape": list(shape), "default": default,
        }  # fmt: skip
        if not files.exists(meta):
            folders.make(folder)
            temporary = folder / f".meta.{uuid.uuid4().hex}"
            files.write_new(temporary, strictjson.dump(wanted), durable=False)
            with suppress(FileExistsError):
                files.link_new(temporary, meta)
            files.remove(temporary)
        try:
            fd = lock_now(meta, fcntl.LOCK_EX)
        except OSError as err:
            if err.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BusyError(
                    f"{folder}: another process has it", hint="wait for it or stop it", path=folder
                ) from err
            raise
        try:
            found = strictjson.load(files.read(meta), meta)
            if found.get("magic") != "rl-mutable" or found.get("dataset") != dataset.uuid:
                raise CorruptError(f"{meta}: not a side column of this dataset", path=meta)
            if found != wanted:
                kinds = [[value.get(k) for k in ("dtype", "shape", "default")] for value in (found, wanted)]
                raise IncompatibleError(f"{meta}: (dtype, shape, default) {kinds[0]}, asked for {kinds[1]}")
        except BaseException:
            files.close(fd)
            raise
        return cls(dataset, folder, fd, dtype, shape, default)

    def read(self, ids: Rows) -> Array:
        """The values `[B, *shape]` of rows with these identities `[B]`, the default where there is none."""
        values = np.full((len(ids), *self.shape), self.default, DTYPES[self.dtype])
        for segment, inside, rows in self._parts(ids):
            if (view := self._view(segment, make=False)) is not None:
                values[inside] = view[rows]
        return values

    def write(self, ids: Rows, values: Array) -> int:
        """Sets the values `[B, *shape]` of rows with these identities; of equal ones the last counts.

        They survive this process from here on. Returns how many rows are there.
        """
        given = np.broadcast_to(values, (len(ids), *self.shape))
        array = booleans(np.ascontiguousarray(given, DTYPES[self.dtype]))
        written = 0
        for segment, inside, rows in self._parts(ids):
            view = self._view(segment, make=True)
            assert view is not None
            if view.flags.writeable:
                view[rows] = array[inside]
            else:
                self._write_out(segment, rows, array[inside])
            written += len(rows)
        return written

    def sync(self) -> None:
        """What was written survives a power cut from here on."""
        for fd, _ in self._open.values():
            files.sync(fd)
        folders.sync(self.folder)

    def close(self) -> None:
        """Lets go of it. Views and descriptors end here."""
        for fd, _ in self._open.values():
            files.close(fd)
        self._open.clear()
        if self._lock >= 0:
            files.close(self._lock)
            self._lock = -1

    def __enter__(self) -> SideColumn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def _parts(self, ids: Rows) -> list[tuple[Segment, Rows, Rows]]:
        """Per segment which of `ids` are in it, and their rows in it."""
        if self._lock < 0:
            raise ValueError(f"{self.folder}: closed")
        self._follow()
        if not self._segments:
            return []
        at = np.searchsorted(self._firsts, ids, side="right") - 1
        at[(at >= 0) & (ids >= self._ends[at])] = -1
        found = []
        for number in np.flatnonzero(np.bincount(at + 1)[1:]).tolist():
            chosen = np.flatnonzero(at == number)
            found.append((self._segments[number], chosen, ids[chosen] - self._firsts[number]))
        return found

    def _write_out(self, segment: Segment, rows: Rows, values: Array) -> None:
        """Each run of rows in one call."""
        order = np.argsort(rows, kind="stable")
        rows, values = rows[order], values[order]
        last = np.append(rows[1:] != rows[:-1], True)
        rows, values = rows[last], values[last]
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        fd = self._open[segment.name][0]
        with files.resources(self.folder):
            for low, high in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
                files.write_at(fd, values[low:high], int(rows[low]) * self._row_bytes)

    def _follow(self) -> None:
        """Takes over which segments the dataset has now."""
        if self._dataset.segments is self._known:
            return
        self._known = self._dataset.segments
        self._segments = sorted(self._known, key=lambda segment: (segment.stream, segment.first))
        starts = [segment.stream << ROW_BITS | segment.first for segment in self._segments]
        rows = [segment.rows if segment.sealed else segment.alloc for segment in self._segments]
        self._firsts = np.array(starts, np.int64)
        self._ends = self._firsts + np.array(rows, np.int64)
        names = {segment.name for segment in self._segments}
        for name in [name for name in self._open if name not in names]:
            files.close(self._open.pop(name)[0])

    def _view(self, segment: Segment, *, make: bool) -> Array | None:
        """The values of a segment `[alloc, *shape]`, live; None if its file is missing and not to be made."""
        if segment.name not in self._open:
            path = self.folder / f"{segment.name}.memmap"
            size = segment.alloc * self._row_bytes
            if not files.exists(path):
                if not make:
                    return None
                self._create(path, size)
            files.close(files.open_read(path, size))
            fd = files.open_write(path)
            try:
                with files.resources(path):
                    held = _mapped(fd, size)
            except BaseException:
                files.close(fd)
                raise
            self._open[segment.name] = (fd, held.view(DTYPES[self.dtype]).reshape(-1, *self.shape))
        return self._open[segment.name][1]

    def _create(self, path: Path, size: int) -> None:
        """A whole file of defaults, or none."""
        temporary = path.with_name(f".{path.name}.tmp")
        files.remove(temporary)
        fd = files.create(temporary, size)
        try:
            value = np.full(_CHUNK // 16, self.default, DTYPES[self.dtype]).tobytes()
            with files.resources(path):
                for at in range(0, size if any(value) else 0, len(value)):
                    files.write_at(fd, memoryview(value)[: size - at], at)
        finally:
            files.close(fd)
        folders.rename_new(temporary, path)


def _mapped(fd: int, size: int) -> Array:
    """The bytes of a file, live; writable where a store is as good as a write."""
    held = _native.stored_file(fd, size) if layer.current().is_direct else None
    if held is None:
        memory = _native.AddressRange(-(-size // PAGE) * PAGE)
        memory.map_file(fd, 0, size)
        held = memory.view(0, size)
    return held
