"""The episodes of a Minari dataset as they lie on disk: a folder of Arrow or Parquet files each.

One HDF5 file of all is in `minari_hdf5.py`. Paths of values are those of the HDF5 layout in all three:
`observations/a/_index_0`, `actions`, `rewards`, `infos/x`. What the values mean is `minari.py`'s business.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.arrow_damage import damage
from rlcli.datasets.json_files import read_object
from rlcli.datasets.regular import open_regular
from rlcli.errors import InputError
from rlcli.plugins import require

MAIN_FILE = "main_data.hdf5"
METADATA = "metadata.json"
_FOLDER = re.compile(r"\d{1,15}")
_ROWS = ("rewards", "terminations", "truncations")

Kind = Literal["numbers", "text", "bytes", "other"]


class Field(NamedTuple):
    """Values of an episode: what they are, the shape of one, how many; `rows` is None for a single one."""

    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    rows: int | None


class Storage(ABC):
    """The episodes of a dataset, by number. `files` are all that are read."""

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.episodes: list[int] = []

    @abstractmethod
    def where(self, episode: int) -> str:
        """The episode's place, for messages."""

    @abstractmethod
    def fields(self, episode: int) -> dict[str, Field]:
        """All values of an episode by path. Raises `CorruptError`, `InputError`."""

    def paths(self, episode: int) -> Collection[str]:
        """The paths of all values of an episode that `fields` looked at before."""
        return self.fields(episode).keys()

    @abstractmethod
    def attributes(self, episode: int) -> dict[str, Any]:
        """What is said of an episode; nested names are joined by slashes."""

    @abstractmethod
    def read(self, episode: int, path: str, start: int, stop: int) -> NDArray[Any] | list[Any]:
        """Values `start … stop - 1`: an array `[n, *shape]`, strings or byte strings."""

    @abstractmethod
    def close(self) -> None:
        """Closes what is open."""

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ArrowStorage(Storage):
    """A folder per episode of `part-0.arrow` or `.parquet` and `metadata.json`; all padded to T+1 rows."""

    def __init__(self, folder: Path, suffix: str, leaves: Iterable[str]) -> None:
        super().__init__()
        self.folder, self.suffix = folder, suffix
        self._tree = {path[: end.start()] for path in leaves for end in re.finditer("/|$", path)}
        self._arrow = require("pyarrow", "minari", needed_for=f"reading Minari's {suffix} files")
        self._damage = partial(damage, self._arrow, f"{suffix} file")
        require("pyarrow.parquet", "minari", needed_for="reading Minari's parquet files")
        require("pyarrow.ipc", "minari", needed_for="reading Minari's arrow files")
        self.episodes = sorted(
            int(path.name) for path in folder.iterdir() if _FOLDER.fullmatch(path.name) and path.is_dir()
        )
        for episode in self.episodes:
            self.files += self._parts(episode)
            if (told := folder / str(episode) / METADATA).is_file():
                self.files.append(told)
        self._held: tuple[int, dict[str, Any]] = (-1, {})
        self._attributes: tuple[int, dict[str, Any]] = (-1, {})

    def where(self, episode: int) -> str:
        return str(self.folder / str(episode))

    def fields(self, episode: int) -> dict[str, Field]:
        columns = self._columns(episode)
        found = {path: self._field(column) for path, column in columns.items()}
        padded = max((field.rows or 0 for field in found.values()), default=0)
        told = self.attributes(episode).get("total_steps")
        rows = told if type(told) is int else padded - 1
        if rows not in (padded, padded - 1):
            where = self.where(episode)
            raise InputError(f"{where}: {padded:,} rows, {METADATA} says {rows:,} steps", path=where)
        for path, field in found.items():
            if path in _ROWS or path.split("/")[0] == "actions":
                found[path] = Field(field.kind, field.dtype, field.shape, rows)
        return found

    def attributes(self, episode: int) -> dict[str, Any]:
        if self._attributes[0] != episode:
            path = self.folder / str(episode) / METADATA
            told = read_object(path) if path.is_file() else {}
            self._attributes = (episode, _flattened(told))
        return self._attributes[1]

    def read(self, episode: int, path: str, start: int, stop: int) -> NDArray[Any] | list[Any]:
        column = self._columns(episode)[path].slice(start, stop - start)
        field = self._field(column)
        with self._damage(self.folder / str(episode)):
            if field.kind == "text":
                return ["" if text is None else text for text in column.to_pylist()]
            if field.kind == "bytes":
                return [b"" if data is None else data for data in column.to_pylist()]
            while self._arrow.types.is_fixed_size_list(column.type):
                if column.null_count:
                    raise ValueError(f"{path} has empty rows")
                column = column.flatten()
            if column.null_count:
                raise ValueError(f"{path} has empty values")
            return np.asarray(column.to_numpy(zero_copy_only=False)).reshape(stop - start, *field.shape)

    def close(self) -> None:
        """Forgets the episode that is in memory; nothing stays open."""
        self._held = (-1, {})

    def _parts(self, episode: int) -> list[Path]:
        return sorted((self.folder / str(episode)).glob(f"*.{self.suffix}"))

    def _columns(self, episode: int) -> dict[str, Any]:
        """Arrow arrays by path; the whole episode is in memory, or mapped."""
        if self._held[0] != episode:
            parts = self._parts(episode)
            if not parts:
                where = self.where(episode)
                raise InputError(f"{where}: no *.{self.suffix} file there", path=where)
            tables = [self._table(part) for part in parts]
            with self._damage(parts[0]):
                table = self._arrow.concat_tables(tables)
                columns: dict[str, Any] = {}
                if len(set(table.column_names)) < len(table.column_names):
                    raise ValueError("a column that is there twice")
                for name in table.column_names:
                    if name != "episode_id":
                        self._walk(name, table.column(name).combine_chunks(), columns)
            self._held = (episode, columns)
        return self._held[1]

    def _table(self, path: Path) -> Any:
        with open_regular(path):
            pass  # missing or no permission: the usual errors
        with self._damage(path):
            if self.suffix == "parquet":
                table = self._arrow.parquet.ParquetFile(path).read(use_threads=False)
            else:
                with self._arrow.memory_map(str(path)) as file:
                    table = self._arrow.ipc.open_file(file).read_all()
            table.validate(full=True)
        return table

    def _walk(self, path: str, column: Any, found: dict[str, Any], metadata: Any = None) -> None:
        if self._arrow.types.is_struct(column.type):
            for index, field in enumerate(column.type):
                item = f"{path}/_index_{field.name}"
                child = item if item in self._tree else f"{path}/{field.name}"
                self._walk(child, column.field(index), found, field.metadata)
            return
        shape = _told_shape(metadata)
        is_flat = self._arrow.types.is_fixed_size_list(column.type)
        if shape is not None and is_flat and math.prod(shape) == column.type.list_size:
            column = column.flatten()
            for size in reversed(shape):
                column = self._arrow.FixedSizeListArray.from_arrays(column, size)
        found[path] = column

    def _field(self, column: Any) -> Field:
        kinds, kind, shape = self._arrow.types, column.type, []
        while kinds.is_fixed_size_list(kind):
            shape.append(kind.list_size)
            kind = kind.value_type
        if not shape and (kinds.is_string(kind) or kinds.is_large_string(kind)):
            return Field("text", "", (), len(column))
        if not shape and (kinds.is_binary(kind) or kinds.is_large_binary(kind)):
            return Field("bytes", "uint8", (), len(column))
        if not (kinds.is_boolean(kind) or kinds.is_integer(kind) or kinds.is_floating(kind)):
            return Field("other", "", (), len(column))
        return Field("numbers", str(np.dtype(kind.to_pandas_dtype())), tuple(shape), len(column))


def _flattened(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, child in value.items():
        if isinstance(child, dict) and child:
            found |= _flattened(child, f"{prefix}{name}/")
        else:
            found[f"{prefix}{name}"] = child
    return found


def _told_shape(metadata: Any) -> Sequence[int] | None:
    """The shape that the writer of an info left beside its flat list."""
    told = (metadata or {}).get(b"shape")
    try:
        return None if told is None else [int(n) for n in told.split(b",") if n]
    except ValueError:
        return None
