"""Parquet files, both ways (extra `arrow`): a row per step, vectors as lists; a file or a folder of them.
Tables with a row per episode are read, too (`parquet_episodes.py`).

Files of a folder, or of its folder `data`, follow each other by name. Lists of one length become vectors,
nested ones matrices; the fields of a struct are columns by themselves, with slashes in their names, but for
pictures, of which the name of the file is left out. Dates and times are whole numbers of their unit. Where
rows of a column of text, bools or integers are empty (null), they are "", False or 0, and `<name>_valid`
tells which; floats are NaN there. An empty action, observation, reward or flag is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.arrow_damage import damage
from rlcli.datasets.contract import Advance, NoOptions, Report, Request, Seen
from rlcli.datasets.mapping import LEFT_OUT
from rlcli.datasets.parquet_batches import Batches, read_bytes
from rlcli.datasets.parquet_episodes import episodes_of
from rlcli.datasets.plain import PlainSource
from rlcli.datasets.plain_export import METADATA, Exporter
from rlcli.datasets.plain_table import Arrays, Field, Table
from rlcli.datasets.regular import open_regular
from rlcli.datasets.slicing import SLICE_BYTES
from rlcli.datasets.stopping import heeding
from rlcli.errors import InputError
from rlcli.format.dataset import Dataset
from rlcli.plugins import require

_MAGIC = b"PAR1"
_BATCH_BYTES = 1 << 20  # of all columns that are decoded at once
_SHARD = re.compile(r"(.+)-\d+-of-\d+.*\.parquet")  # Hugging Face's names of files
_VALID = "_valid"  # the column beside one that has empty rows


def detect(path: Path) -> Seen:
    """Whether `path` is a Parquet file, or a folder whose files all are."""
    files = _files(path)
    if not files or not all(_is_parquet(file) for file in files[:4]):
        return Seen(False, "not a Parquet file")
    return Seen(True, "Parquet file" if path.is_file() else f"folder of {len(files)} Parquet files")


@contextmanager
def open_source(path: Path, request: Request, options: NoOptions) -> Iterator[PlainSource]:
    """The files, looked through once. Raises `MissingExtraError` without pyarrow."""
    with closing(ParquetTable(path)) as table:
        if (episodes := episodes_of(table, request)) is not None:
            yield PlainSource(episodes, request)
            return
        source = PlainSource(table, request)
        roles = source.roles
        needed = {**roles.below("observation"), **roles.below("action"), **roles.below("next", "observation")}
        for name in [*needed, *roles.single.values()]:
            if name in table.nulls:
                raise InputError(f"{path}: {name} has {table.nulls[name]:,} empty rows", path=path)
        yield source


def export(dataset: Dataset, out: Path, options: NoOptions, advance: Advance) -> Report:
    """One file with D4RL's names; arrays are lists of a fixed size; the metadata holds the spaces."""
    arrow = require("pyarrow", "arrow", needed_for="writing Parquet")
    writing = require("pyarrow.parquet", "arrow", needed_for="writing Parquet")
    exporter = Exporter(dataset)
    fields = []
    for name, column in list(exporter.columns.items()):
        if column.dtype.kind == "c":
            exporter.leave_out(name, "Parquet has no complex numbers")
            continue
        kind = arrow.string() if column.is_text else arrow.from_numpy_dtype(column.dtype)
        for size in reversed(column.shape[1:]):
            kind = arrow.list_(kind, size)
        fields.append(arrow.field(name, kind, nullable=False))
    metadata = {METADATA: json.dumps(exporter.metadata)}
    schema = arrow.schema(fields, metadata=metadata)
    with writing.ParquetWriter(out, schema, compression="zstd") as writer:
        for start, stop in exporter.slices(list(exporter.columns)):
            arrays = []
            for field in schema:
                values = exporter.read(field.name, start, stop)
                advance(values.nbytes)
                arrays.append(_arrow_array(arrow, values, field.type))
            writer.write_batch(arrow.record_batch(arrays, schema=schema))
    return exporter.report


class ParquetTable(Table):
    """The columns of one or more files as rows. See `plain_table.Table`.

    `nulls` are the columns of text, bools and integers that have empty rows, and how many.
    """

    layout = "parquet"
    slice_bytes = SLICE_BYTES // 2  # a decoded row group is there, too
    can_seek = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._arrow = require("pyarrow", "arrow", needed_for="reading Parquet")
        self._damage = partial(damage, self._arrow, "Parquet")
        reading = require("pyarrow.parquet", "arrow", needed_for="reading Parquet")
        self.files = _files(path)
        if not self.files:
            raise InputError(f"{path}: no *.parquet file there", path=path)
        self._compute = require("pyarrow.compute", "arrow", needed_for="reading Parquet")
        self._opened: list[Any] = []
        self._tops: dict[str, str] = {}  # path of a column or field -> the column it is in
        for file in heeding(self.files):
            with open_regular(file), self._damage(file):
                metadata = reading.read_metadata(file)
                opened = reading.ParquetFile(
                    file, metadata=metadata, pre_buffer=False, buffer_size=read_bytes(metadata)
                )
            self._opened.append(opened)
            if opened.schema_arrow.remove_metadata() != self._opened[0].schema_arrow.remove_metadata():
                raise InputError(f"{file}: its columns differ from those of {self.files[0]}", path=file)
        self.rows = Batches(self.files, self._opened, self._damage)
        names = self._opened[0].schema_arrow.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"{path}: has {', '.join(twice)} more than once", path=path)
        self.metadata = _metadata(self._opened[0].schema_arrow)
        self.nulls = self._nulls()
        self.remarks += self._times()
        splits = {match[1] for file in self.files if (match := _SHARD.fullmatch(file.name))}
        if len(splits) > 1:
            self.remarks.append(f"the files of splits {', '.join(sorted(splits))} follow each other")
        self.remarks += [
            f"{name}: {count:,} rows are empty; {name}{_VALID} tells which"
            for name, count in self.nulls.items()
        ]
        if not len(self.rows):
            raise InputError(f"{path}: has no rows", path=path)
        for file, batch in self.rows.read(None, 0, 1, 1):
            for name, values in self._arrays(batch, None, file).items():
                if name not in self.unreadable:
                    self.fields[name] = Field.of(values, len(self.rows))

    def read(self, names: Sequence[str], start: int, stop: int) -> Arrays:
        """Rows of some columns; a batch is decoded once while rows come in order, and not copied if it has
        them all.
        """
        tops = sorted({self._tops[name] for name in names})
        row_bytes = sum(self.fields[name].row_bytes for name in names)
        arrays: Arrays = {}
        done = 0
        batches = self.rows.read(tops, start, stop, max(1, _BATCH_BYTES // max(1, row_bytes)))
        for file, batch in heeding(batches):
            found = self._arrays(batch, names, file)
            for name, values in found.items():
                field, are_objects = self.fields[name], values.dtype.kind == "O"
                if not are_objects and values.shape[1:] != field.shape:
                    raise InputError(
                        f"{file}: {name} has {list(values.shape[1:])} values per row, elsewhere "
                        f"{list(field.shape)}",
                        path=file,
                    )
                if len(batch) == stop - start:
                    arrays[name] = values if are_objects else values.astype(field.dtype, copy=False)
                    continue
                if name not in arrays:
                    arrays[name] = self.empty(name, stop - start)
                arrays[name][done : done + len(values)] = values
            done += len(batch)
            del batch, values, found  # before the next is decoded
        return arrays

    def slices(self, start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
        """See `Table.slices`."""
        return self.rows.slices(start, stop, rows)

    def close(self) -> None:
        """Lets go of the files."""
        self.rows.close()
        for opened in self._opened:
            opened.close()

    def _times(self) -> list[str]:
        """Which columns are of dates or times, which are read as whole numbers."""
        kinds = self._arrow.types
        return [
            f"{field.name}: {field.type} is stored as whole numbers"
            for field in self._opened[0].schema_arrow
            if kinds.is_temporal(field.type) and not kinds.is_interval(field.type)
        ]

    def _nulls(self) -> dict[str, int]:
        """Empty rows by column, from the files' own counts, or by reading where a file does not count."""
        kinds, found = self._arrow.types, dict[str, int]()
        names = []
        for field in self._opened[0].schema_arrow:
            kind = field.type.value_type if kinds.is_dictionary(field.type) else field.type
            is_counted = _is_text(kinds, kind) or _is_whole(kinds, kind)
            names += [field.name] if is_counted and field.nullable else []
        with self._damage(self.files[0]):
            schema = self._opened[0].schema  # that of all files
            places = {schema.column(at).path: at for at in range(len(schema))} if names else {}
        counted = {name: places[name] for name in names if name in places}
        for number, group in heeding(self.rows.groups if counted else ()):
            with self._damage(self.files[number]):
                for name, count in self._nulls_of(self._opened[number], group, counted):
                    found[name] = found.get(name, 0) + count
        return {name: count for name, count in found.items() if count}

    def _nulls_of(self, opened: Any, group: int, names: Mapping[str, int]) -> Iterator[tuple[str, int]]:
        """Of some columns of a row group, by name and place."""
        # Damage in what is said of a column is an error where it is read, and the end of the process below.
        next(opened.iter_batches(1, row_groups=[group], columns=list(names)), None)
        told = opened.metadata.row_group(group)
        for name, at in names.items():
            statistics = told.column(at).statistics
            if statistics is not None and statistics.has_null_count:
                yield name, statistics.null_count
            else:
                yield name, opened.read_row_group(group, columns=[name]).column(0).null_count

    def _arrays(self, batch: Any, names: Sequence[str] | None, file: Path) -> Arrays:
        """The columns `names` of a batch, or all of them."""
        columns: dict[str, Any] = {}
        for top in batch.schema.names:
            found = dict(self.leaves(top, batch.column(top), file))
            if top in self.nulls and f"{top}{_VALID}" not in self._opened[0].schema_arrow.names:
                column = found[top]
                found[f"{top}{_VALID}"] = column.is_valid()
                found[top] = self._filled(column)
            columns |= found
            self._tops |= dict.fromkeys(found, top)
        arrays: Arrays = {}
        for name in columns if names is None else names:
            with self._damage(file):
                arrays[name] = self.values(columns[name], f"{file}: {name}", name)
        return arrays

    def _filled(self, column: Any) -> Any:
        """A column of text, bools or integers with something in its empty rows."""
        kinds = self._arrow.types
        if kinds.is_dictionary(column.type):
            column = column.dictionary_decode()
        if kinds.is_temporal(column.type):
            column = self._whole(column)
        if kinds.is_boolean(column.type):
            return column.fill_null(False)
        return column.fill_null(0 if kinds.is_integer(column.type) else "")

    def columns(self, batch: Any, file: Path) -> Iterator[tuple[str, Any]]:
        """The columns of a batch, and the fields of those that are structs."""
        for top in batch.schema.names:
            yield from self.leaves(top, batch.column(top), file)

    def is_list(self, kind: Any) -> bool:
        """Whether values of this type are lists."""
        kinds = self._arrow.types
        return bool(kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind))

    def lengths(self, column: Any) -> NDArray[np.int64]:
        """How long each list of a column is; 0 where a row is empty."""
        found = self._compute.list_value_length(column).fill_null(0)
        return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)

    @property
    def schema(self) -> Any:
        """The Arrow schema of the files."""
        return self._opened[0].schema_arrow

    def fields_of(self, kind: Any) -> list[str]:
        """The names of what each value of a list of structs has; none for other types."""
        if not self.is_list(kind) or not self._arrow.types.is_struct(kind.value_type):
            return []
        return [field.name for field in kind.value_type]

    def leaves(self, path: str, column: Any, file: Path) -> Iterator[tuple[str, Any]]:
        """The column, or those of the fields of a struct."""
        if not self._arrow.types.is_struct(column.type):
            yield path, column
            return
        if column.null_count:
            raise InputError(f"{file}: {path} has empty rows", path=file)
        fields = {field.name: child for field, child in zip(column.type, column.flatten(), strict=True)}
        if fields.keys() == {"bytes", "path"} and self._arrow.types.is_binary(fields["bytes"].type):
            self.unreadable[f"{path}/path"] = "names the files that the bytes were"
            yield path, fields["bytes"]
            return
        for name, child in fields.items():
            yield from self.leaves(f"{path}/{name}", child, file)

    def values(self, column: Any, what: str, name: str) -> NDArray[Any]:
        """An Arrow column as `[n, *shape]`, objects for text and bytes. Raises `InputError` for ragged lists.

        `unreadable` is told what has no place.
        """
        arrow, size = self._arrow, len(column)
        kinds = arrow.types
        if isinstance(column.type, arrow.BaseExtensionType):
            column = column.storage
        if column.null_count and not (kinds.is_floating(column.type) or kinds.is_null(column.type)):
            raise InputError(f"{what} has empty rows", hint=f"--map {name}={LEFT_OUT} leaves it out")
        if _is_text(kinds, column.type) or _is_bytes(kinds, column.type):
            values = np.empty(size, object)
            values[:] = column.to_pylist()
            return values
        if kinds.is_dictionary(column.type):
            return self.values(column.dictionary_decode(), what, name)
        shape: list[int] = []
        while self.is_list(column.type):
            shape.append(self._list_size(column, what, name))
            column = column.flatten()
            if column.null_count and not kinds.is_floating(column.type):
                raise InputError(f"{what} has lists with empty values")
        if kinds.is_temporal(column.type) and not kinds.is_interval(column.type):
            column = self._whole(column)
        if kinds.is_boolean(column.type) or _is_number(kinds, column.type):
            values = column.to_numpy(zero_copy_only=False)
        else:
            self.unreadable[name] = f"has values of type {column.type}, which cannot be stored"
            values = np.empty(len(column), "V1")
        return np.asarray(values).reshape(size, *shape)

    def _whole(self, column: Any) -> Any:
        """Dates, times and durations as whole numbers of their unit."""
        return column.cast(self._arrow.int32() if column.type.bit_width == 32 else self._arrow.int64())

    def _list_size(self, column: Any, what: str, name: str) -> int:
        """How long each list of a column without empty rows is. Raises `InputError` if they differ."""
        if self._arrow.types.is_fixed_size_list(column.type):
            return int(column.type.list_size)
        ends = self._compute.min_max(self._compute.list_value_length(column))
        low, high = ends["min"].as_py(), ends["max"].as_py()
        if low is None or low != high:
            hint = f"--map {name}={LEFT_OUT} leaves it out"
            raise InputError(f"{what} has lists of different lengths", hint=hint)
        return int(low)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix == ".parquet" and file.is_file())
    return _files(path / "data") if not found and (path / "data").is_dir() else found


def _is_whole(kinds: Any, kind: Any) -> bool:
    is_time = kinds.is_temporal(kind) and not kinds.is_interval(kind)
    return bool(kinds.is_boolean(kind) or kinds.is_integer(kind) or is_time)


def _is_number(kinds: Any, kind: Any) -> bool:
    return bool(kinds.is_integer(kind) or kinds.is_floating(kind))


def _is_text(kinds: Any, kind: Any) -> bool:
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _is_bytes(kinds: Any, kind: Any) -> bool:
    is_any = kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind)
    return bool(is_any or kinds.is_fixed_size_binary(kind)) and not kinds.is_decimal(kind)


def _is_parquet(file: Path) -> bool:
    with open_regular(file) as stream:
        return stream.read(4) == _MAGIC


def _metadata(schema: Any) -> dict[str, Any]:
    try:
        found = json.loads((schema.metadata or {})[METADATA.encode()])
    except (KeyError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _arrow_array(arrow: Any, values: NDArray[Any], kind: Any) -> Any:
    flat = arrow.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(values.shape[1:]):
        flat = arrow.FixedSizeListArray.from_arrays(flat, size)
    return flat.cast(kind)
