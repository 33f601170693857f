"""Plain HDF5 files, both ways: arrays of any names in any group. What is D4RL's is in `d4rl.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from rlcli.config import opt
from rlcli.datasets import hdf5
from rlcli.datasets.contract import Advance, NoOptions, Report, Request, Seen, Source
from rlcli.datasets.hdf5_episodes import episodes_of, open_episodes
from rlcli.datasets.hdf5_output import creating
from rlcli.datasets.hdf5_safety import check_storage
from rlcli.datasets.mapping import is_one_table
from rlcli.datasets.plain import PlainSource
from rlcli.datasets.plain_export import METADATA, Exporter
from rlcli.datasets.plain_folder import FolderTable, files_of
from rlcli.datasets.plain_pictures import look_at
from rlcli.datasets.plain_table import Arrays, Field, Table, told_plan
from rlcli.errors import CorruptError, InputError
from rlcli.format.dataset import Dataset

_SUFFIXES = (".hdf5", ".h5")
_SPEC = "rl_spec"
_ATTRIBUTES = "@"  # what the record has of the file's own
_OF_SCALES = {
    "CLASS",
    "NAME",
    "DIMENSION_LIST",
    "REFERENCE_LIST",
    "DIMENSION_LABELS",
}  # which HDF5 itself writes


@dataclass(frozen=True)
class ExportOptions:
    """Writing plain HDF5 files."""

    compression: Literal["gzip", "lzf", "none"] = opt("gzip", "How chunks are compressed.")


def detect(path: Path) -> Seen:
    """Whether `path` is HDF5 with arrays in it, or a folder with such files, of one table."""
    if path.is_dir():
        files = files_of(path, _SUFFIXES)
        if not files or not detect(files[0]).matches:
            return Seen(False, "a folder without HDF5 files")
        with hdf5.reading(files[0]) as file, hdf5.damage(files[0]):
            if not is_one_table([name for name, _ in hdf5.walk(file)]):
                return Seen(False, "a folder of HDF5 files that are no tables")
        return Seen(True, f"folder of {len(files):,} HDF5 files")
    if not hdf5.is_hdf5(path):
        return Seen(False, "not an HDF5 file")
    with hdf5.reading(path) as file, hdf5.damage(path):
        count = sum(1 for _, dataset in hdf5.walk(file) if dataset.shape)
    if not count:
        return Seen(False, "an HDF5 file without arrays")
    return Seen(True, f"HDF5 file, {count} arrays")


@contextmanager
def open_source(path: Path, request: Request, options: NoOptions) -> Iterator[Source]:
    """The file, or those of a folder, looked through once. Raises `CorruptError` for damage."""
    if path.is_dir():
        found = files_of(path, _SUFFIXES)
        with closing(FolderTable(path, found, _opened, told_plan(request))) as tables:
            yield PlainSource(tables, request)
        return
    with hdf5.reading(path) as file:
        with hdf5.damage(path):
            episodes = episodes_of(file)
            if episodes is not None:
                with closing(open_episodes(path, *episodes, request)) as source:
                    yield source
                return
        yield PlainSource(_table(path, file), request)


@contextmanager
def _opened(path: Path) -> Iterator[Hdf5Table]:
    with hdf5.reading(path) as file:
        yield _table(path, file)


def _table(path: Path, file: h5py.File) -> Hdf5Table:
    with hdf5.damage(path):
        try:
            return Hdf5Table(path, file)
        except InputError as err:
            raise InputError(f"{path}: {err.message}", path=path) from err


def export(dataset: Dataset, out: Path, options: ExportOptions, advance: Advance) -> Report:
    """A file with D4RL's names and `episode_id`; the attribute `rl.json` holds the spaces."""
    exporter = Exporter(dataset)
    compression = None if options.compression == "none" else options.compression
    with creating(out) as output:
        columns = {}
        for name, column in exporter.columns.items():
            dtype = h5py.string_dtype() if column.is_text else column.dtype
            columns[name] = output.file.create_dataset(
                name, column.shape, dtype, chunks=True, compression=compression
            )
        for start, stop in exporter.slices(list(columns)):
            for name, target in columns.items():
                values = exporter.read(name, start, stop)
                target[start:stop] = values
                output.check()
                advance(values.nbytes)
        output.file.attrs[METADATA] = json.dumps(exporter.metadata)
    return exporter.report


class Hdf5Table(Table):
    """The arrays of a file as rows. See `plain_table.Table`."""

    can_seek = True
    layout = "hdf5"

    def __init__(self, path: Path, file: h5py.File) -> None:
        super().__init__(path)
        self.metadata = _metadata(file)
        self._rows: dict[str, hdf5.Rows] = {}
        self._texts: dict[str, h5py.Dataset] = {}
        self._pictures: dict[str, h5py.Dataset] = {}
        attributed = []
        for name, dataset in hdf5.walk(file):
            check_storage(path, dataset)
            if set(dataset.attrs) - _OF_SCALES:
                attributed.append(name)
            if not dataset.shape or not dataset.size:
                self.others[name] = _shown(dataset)
            elif h5py.check_string_dtype(dataset.dtype) is not None or dataset.dtype.kind == "S":
                self._texts[name] = dataset
                self.fields[name] = Field(np.dtype(object), tuple(dataset.shape[1:]), int(dataset.shape[0]))
                if dataset.ndim == 1 and look_at(first := _first(dataset)):
                    self._take_pictures(name, dataset, first)
            elif _may_be_pictures(dataset) and look_at(first := _first(dataset)):
                self._take_pictures(name, dataset, first)
            elif dataset.dtype.kind == "O":
                self.unreadable[name] = "holds references or lists, which cannot be stored"
            else:
                self._rows[name] = hdf5.Rows([dataset])
                self.fields[name] = Field(
                    self._rows[name].dtype, self._rows[name].shape, int(dataset.shape[0])
                )
        told = hdf5.attributes_of(file)
        if kept := {name: value for name, value in told.items() if name not in (METADATA, _SPEC)}:
            self.others[_ATTRIBUTES] = kept
        self.unreadable |= {f"link {name}:": "it is not followed" for name in hdf5.links(file)}
        if attributed:
            self.unreadable["attributes"] = f"of {', '.join(attributed[:4])}{', …' * (len(attributed) > 4)}"
        self.chunk_rows = max((rows.chunk_rows for rows in self._rows.values()), default=1)

    def _take_pictures(self, name: str, dataset: h5py.Dataset, first: bytes) -> None:
        self._pictures[name] = dataset
        self.fields[name] = Field.of_bytes(first, int(dataset.shape[0]))

    def read(self, names: Sequence[str], start: int, stop: int) -> Arrays:
        """Rows of some arrays. Raises `CorruptError` that names the array and its rows."""
        numeric = {name: self._rows[name] for name in names if name in self._rows}
        arrays = hdf5.read_columns(numeric, start, stop, self.rooms)
        for name in names:
            if name in self._pictures:
                with hdf5.damage(self.path, f"{name} rows {start}..{stop - 1}:"):
                    encoded = self._pictures[name][start:stop]
                arrays[name] = np.empty(stop - start, object)
                arrays[name][:] = [_without_padding(value) for value in encoded]
            elif name in self._texts:
                with hdf5.damage(self.path, f"{name} rows {start}..{stop - 1}:"):
                    raw = self._texts[name][start:stop]
                try:
                    texts = [v.decode() if isinstance(v, bytes) else str(v) for v in raw.reshape(-1)]
                except UnicodeDecodeError as err:
                    raise CorruptError(f"{self.path}: {name} is not UTF-8: {err}", path=self.path) from err
                arrays[name] = np.empty(stop - start, object)
                arrays[name][:] = texts
        return arrays


def _may_be_pictures(dataset: h5py.Dataset) -> bool:
    """Whether a row is bytes of any length, or as many as the longest row has."""
    if (kind := h5py.check_vlen_dtype(dataset.dtype)) is not None:
        return bool(dataset.ndim == 1 and np.dtype(kind) == np.uint8)
    return bool(dataset.ndim == 2 and dataset.dtype == np.uint8)


def _first(dataset: h5py.Dataset) -> bytes:
    return _without_padding(dataset[0])


def _without_padding(value: Any) -> bytes:
    """An encoded picture, which does not end with a zero, as bytes."""
    if isinstance(value, str):
        return b""
    return (bytes(value) if isinstance(value, bytes) else np.asarray(value, np.uint8).tobytes()).rstrip(b"\0")


def _metadata(file: h5py.File) -> dict[str, Any]:
    for name in (METADATA, _SPEC):
        try:
            found = json.loads(str(file.attrs[name]))
        except (KeyError, ValueError, OSError):
            continue
        if isinstance(found, dict):
            return found if name == METADATA else {"spec": found}
    return {}


def _shown(dataset: h5py.Dataset) -> Any:
    """A single value as JSON, anything else as its dtype and shape."""
    if dataset.shape == () and dataset.dtype.kind in "biufSO":
        value = dataset[()]
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        plain = np.asarray(value).tolist()
        return plain if isinstance(plain, bool | int | str) or np.isfinite(plain) else str(plain)
    return f"{dataset.dtype}{list(dataset.shape or ())}"
