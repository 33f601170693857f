"""Parquet as LeRobot uses it: columns as arrays of one shape, lists of several, strings and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.arrow_damage import damage
from rlcli.datasets.regular import open_regular
from rlcli.errors import CorruptError
from rlcli.plugins import require

_MAX_ROWS = 1 << 40


class Tables:
    """Reads Parquet files; raises `MissingExtraError` without pyarrow."""

    def __init__(self) -> None:
        self.arrow = require("pyarrow", "lerobot", needed_for="reading LeRobot")
        self.damage = partial(damage, self.arrow, "Parquet")  # of a path
        self.parquet = require("pyarrow.parquet", "lerobot", needed_for="reading LeRobot")
        self.compute = require("pyarrow.compute", "lerobot", needed_for="reading LeRobot")

    def open(self, path: Path) -> Any:
        """The file. Raises `CorruptError` if it is damaged."""
        with open_regular(path):
            pass  # missing or no permission: the usual errors
        with self.damage(path):
            opened = self.parquet.ParquetFile(path)
            if not 0 <= opened.metadata.num_rows <= _MAX_ROWS:
                raise ValueError(f"{opened.metadata.num_rows:,} rows")
            names = opened.schema_arrow.names
            if len(set(names)) < len(names):
                raise ValueError("a column that is there twice")
            return opened

    def columns(self, path: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Columns of a whole small file, those of `names` that are there."""
        with self.open(path) as opened, self.damage(path):
            chosen = None if names is None else [n for n in names if n in opened.schema_arrow.names]
            table = opened.read(columns=chosen, use_threads=False)
            table.validate(full=True)
            return {name: table.column(name).combine_chunks() for name in table.column_names}

    def batches(self, opened: Any, path: Path, names: Sequence[str], rows: int) -> Iterator[dict[str, Any]]:
        """Columns of an opened file of any length, so many rows of them at a time."""
        with self.damage(path):
            found = 0
            for batch in opened.iter_batches(rows, columns=list(names), use_threads=False):
                batch.validate(full=True)
                found += len(batch)
                if len(batch):
                    yield {name: batch.column(name) for name in batch.schema.names}
            if found != opened.metadata.num_rows:
                raise ValueError(f"{found:,} rows, not as declared")

    def numbers(self, column: Any, where: str | Path) -> NDArray[Any]:
        """A column of one number per row, in a list or not. Raises `CorruptError` for anything else."""
        found = self.values(column, f"{where}: a column of {column.type}")
        if len(found) != len(column) or (isinstance(found, np.ndarray) and found.size != len(column)):
            raise CorruptError(f"{where}: a column of {column.type}, expected one number in each row")
        return np.asarray(found).reshape(-1)

    def integers(self, column: Any, where: str | Path) -> NDArray[np.int64]:
        """A column of one whole number per row. Raises `CorruptError` for anything else."""
        found = self.numbers(column, where)
        if found.dtype.kind == "f" and not (np.abs(found) < _MAX_ROWS).all():
            raise CorruptError(f"{where}: {column.type} values that are no whole numbers")
        return found.astype(np.int64)

    def values(self, column: Any, what: str) -> NDArray[Any] | list[NDArray[Any]]:
        """Numbers per row: `[n, *shape]`, or a list of arrays where only their first axis differs.

        Empty numbers are NaN. Raises `CorruptError` for empty rows, and for lists of other kinds.
        """
        shape: list[int] = []
        lengths: NDArray[Any] | None = None
        while self.is_list(column.type):
            if column.null_count:
                raise CorruptError(f"{what} has empty rows")
            sizes = self.compute.list_value_length(column).to_numpy(zero_copy_only=False)
            if len(sizes) and (sizes == sizes[0]).all():
                shape.append(int(sizes[0]))
            elif not shape and lengths is None:
                lengths = sizes
            else:
                raise CorruptError(f"{what} has lists of different lengths")
            column = column.flatten()
        if self.dtype(column.type) is None:
            raise CorruptError(f"{what} has values of {column.type}, expected numbers")
        if column.null_count and not self.arrow.types.is_floating(column.type):
            raise CorruptError(f"{what} has empty rows")
        flat = np.asarray(column.to_numpy(zero_copy_only=False))
        if lengths is None:
            size = math.prod(shape)
            return flat.reshape(len(flat) // size if size else 0, *shape)
        rows = flat.reshape(-1, *shape)
        return np.split(rows, np.cumsum(lengths)[:-1])

    def is_text(self, kind: Any) -> bool:
        """Whether a type is text, numbered by its different values or not."""
        kinds = self.arrow.types
        if kinds.is_dictionary(kind):
            kind = kind.value_type
        return bool(kinds.is_string(kind) or kinds.is_large_string(kind))

    def is_list(self, kind: Any) -> bool:
        """Whether a type is a list of any sort."""
        kinds = self.arrow.types
        return bool(kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind))

    def dtype(self, kind: Any) -> str | None:
        """The dtype of the numbers in a type, lists of them or not; None if there are none."""
        kinds = self.arrow.types
        while self.is_list(kind):
            kind = kind.value_type
        if not (kinds.is_boolean(kind) or kinds.is_integer(kind) or kinds.is_floating(kind)):
            return None
        return str(np.dtype(kind.to_pandas_dtype()))
