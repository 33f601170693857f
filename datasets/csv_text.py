"""CSV files, both ways: a header, a row per step; columns `obs_0 … obs_n` are one vector.

Numbers are float32 where that gives every written number back, else float64; whole numbers int64;
`True`/`False` bool; anything else is text. An empty cell among numbers is NaN.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.contract import Advance, NoOptions, Report, Request, Seen
from rlcli.datasets.plain import Arrays, Field, PlainSource, Table
from rlcli.datasets.plain_export import Exporter
from rlcli.errors import CorruptError, InputError
from rlcli.format.dataset import Dataset

_MAX_LINE = 16 << 20
_MAX_COLUMNS = 100_000
_CHUNK = 8192  # lines that are parsed at once
_ELEMENT = re.compile(r"(.+?)[_.]?\[?(\d+)\]?")
_BOOLEANS = {"true": True, "false": False}


def detect(path: Path) -> Seen:
    """Whether `path` is text whose first line is a header of names and whose second has as many fields."""
    if not path.is_file():
        return Seen(False, "not a CSV file")
    with open(path, "rb") as stream:
        head = stream.read(1 << 16)
    if b"\0" in head or b"," not in head or b"\n" not in head:
        return Seen(False, "not a CSV file")
    try:
        lines = csv.reader(io.StringIO(head.decode("utf-8-sig", "replace"), newline=""))
        rows = list(itertools.islice(filter(None, lines), 2))
    except csv.Error:
        return Seen(False, "not a CSV file")
    named = rows and all(re.search(r"[A-Za-z]", name) for name in rows[0] if name) and any(rows[0])
    if not named or (len(rows) > 1 and len(rows[1]) != len(rows[0])):
        return Seen(False, "not a CSV file")
    return Seen(True, f"CSV file, {len(rows[0])} columns")


@contextmanager
def open_source(path: Path, request: Request, options: NoOptions) -> Iterator[PlainSource]:
    """The file, read once to learn its types. Raises `CorruptError` for a line of another length."""
    with closing(CsvTable(path)) as table:
        yield PlainSource(table, request)


def export(dataset: Dataset, out: Path, options: NoOptions, advance: Advance) -> Report:
    """One line per row; vectors become `name_0 …`, larger arrays are flattened. Spaces are lost."""
    exporter = Exporter(dataset)
    exporter.report.lossy.append("the spaces: a CSV file has only columns")
    with open(out, "x", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        header: list[str] = []
        for name, column in exporter.columns.items():
            size = int(np.prod(column.shape[1:], dtype=np.int64))
            header += [name] if len(column.shape) == 1 else [f"{name}_{n}" for n in range(size)]
            if len(column.shape) > 2:
                exporter.report.lossy.append(f"{name}: shape {list(column.shape[1:])} is flattened")
            if column.dtype.kind == "c":
                raise InputError(f"{dataset.path}: {name} is complex, which CSV has no numbers for")
        writer.writerow(header)
        for start, stop in exporter.slices(list(exporter.columns)):
            cells: list[list[str]] = []
            for name in exporter.columns:
                values = exporter.read(name, start, stop)
                advance(values.nbytes)
                for values_of_element in values.reshape(stop - start, -1).T:
                    cells.append(_texts(values_of_element))
            writer.writerows(zip(*cells, strict=True))
    return exporter.report


class CsvTable(Table):
    """The columns of a file as rows. See `plain.Table`."""

    layout = "csv"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._header: list[str] = []
        self._reader: Iterator[list[list[str]]] | None = None
        self._at = 0
        self._held: list[list[str]] = []
        kinds, rows = self._look_through()
        self._groups = _vectors(self._header, kinds)
        self.fields = {
            name: Field(dtype, () if single else (len(columns),), rows)
            for name, (columns, dtype, single) in self._groups.items()
        }

    def read(self, names: Sequence[str], start: int, stop: int) -> Arrays:
        """Rows of some columns; going back reads the file from its beginning."""
        lines = self._lines(start, stop)
        arrays: Arrays = {}
        for name in names:
            columns, dtype, single = self._groups[name]
            parts = [_parsed([line[column] for line in lines], dtype) for column in columns]
            arrays[name] = parts[0] if single else np.stack(parts, axis=1)
        return arrays

    def close(self) -> None:
        self._reader = None

    def _lines(self, start: int, stop: int) -> list[list[str]]:
        if self._reader is None or start < self._at:
            self._reader, self._at, self._held = self._chunks(), 0, []
        while self._at + len(self._held) <= start:
            self._at += len(self._held)
            self._held = next(self._reader, [])
            if not self._held:
                break
        while self._at + len(self._held) < stop and (more := next(self._reader, [])):
            self._held = self._held + more
        low = start - self._at
        lines = self._held[low : stop - self._at]
        if len(lines) != stop - start:
            raise InputError(f"{self.path}: changed while it was converted", path=self.path)
        self._at, self._held = stop, self._held[stop - self._at :]
        return lines

    def _chunks(self) -> Iterator[list[list[str]]]:
        """Lists of lines, each a list of cells. Raises `CorruptError` that names a line of another length."""
        number = 1
        try:
            with open(self.path, newline="", encoding="utf-8-sig") as stream:
                reader = csv.reader(_bounded(stream, self.path))
                self._header = _named(next(reader, []))
                while lines := list(itertools.islice(reader, _CHUNK)):
                    lines = [line for line in lines if line]
                    for line in lines:
                        number += 1
                        if len(line) != len(self._header):
                            raise CorruptError(
                                f"{self.path}: row {number} has {len(line)} fields, the header "
                                f"{len(self._header)}",
                                path=self.path,
                            )
                    if lines:
                        yield lines
        except (csv.Error, UnicodeDecodeError) as err:
            raise CorruptError(f"{self.path}: not a CSV file: {err}", path=self.path) from err

    def _look_through(self) -> tuple[list[np.dtype[Any]], int]:
        kinds: list[str] = []
        rows = 0
        for lines in self._chunks():
            if not kinds:
                self._check_header()
                kinds = ["b"] * len(self._header)
            for column, cells in enumerate(zip(*lines, strict=True)):
                kinds[column] = _kind(cells, kinds[column])
            rows += len(lines)
        self._check_header()
        kinds = kinds or ["d"] * len(self._header)
        return [_DTYPES[kind] for kind in kinds], rows

    def _check_header(self) -> None:
        names = self._header
        if not names or len(names) > _MAX_COLUMNS:
            raise InputError(f"{self.path}: a header of {len(names):,} columns", path=self.path)
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise InputError(f"{self.path}: {', '.join(twice)} in the header twice", path=self.path)


def _named(header: list[str]) -> list[str]:
    """The names without spaces around them; `column_<i>` where there is none, as for the index of pandas."""
    return [name.strip() or f"column_{number}" for number, name in enumerate(header)]


_DTYPES = {
    "b": np.dtype(bool),
    "i": np.dtype(np.int64),
    "f": np.dtype(np.float32),
    "d": np.dtype(np.float64),
    "O": np.dtype(object),
}


def _kind(cells: tuple[str, ...], before: str) -> str:
    """The narrowest kind, from `before` on, that holds these cells too: b, i, f, d, O."""
    if before == "b":
        if all(cell.lower() in _BOOLEANS for cell in cells):
            return "b"
        before = "i" if all(cell.lower() not in _BOOLEANS for cell in cells) else "O"
    if before == "i":
        try:
            np.array(cells).astype(np.int64)
            if all("_" not in cell for cell in cells):
                return "i"
        except (ValueError, OverflowError):
            pass
        before = "f"
    if before in "fd":
        try:
            wide = np.array([float(cell) if cell else np.nan for cell in cells])
        except ValueError:
            return "O"
        if any("_" in cell for cell in cells):
            return "O"
        if before == "f":
            with np.errstate(over="ignore"):
                narrow = wide.astype(np.float32)
            back = narrow.astype("U32").astype(np.float64)
            if ((back == wide) | (np.isnan(back) & np.isnan(wide))).all():
                return "f"
        return "d"
    return "O"


def _parsed(cells: list[str], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "O":
        values = np.empty(len(cells), object)
        values[:] = cells
        return values
    if dtype.kind == "b":
        return np.array([_BOOLEANS[cell.lower()] for cell in cells], np.bool_)
    if dtype.kind == "i":
        return np.array(cells).astype(np.int64)
    return np.array([float(cell) if cell else np.nan for cell in cells]).astype(dtype)


def _vectors(
    header: list[str], dtypes: list[np.dtype[Any]]
) -> dict[str, tuple[list[int], np.dtype[Any], bool]]:
    """Name -> (its columns, dtype, whether it is a single column). `x_0, x_1, …` are the vector x."""
    elements: dict[str, dict[int, int]] = {}
    for column, name in enumerate(header):
        match = _ELEMENT.fullmatch(name)
        if match is not None and dtypes[column].kind in "bifd":
            elements.setdefault(match[1], {})[int(match[2])] = column
    groups: dict[str, tuple[list[int], np.dtype[Any], bool]] = {}
    used: set[int] = set()
    for name, columns in elements.items():
        if sorted(columns) == list(range(len(columns))) and name not in header:
            order = [columns[n] for n in range(len(columns))]
            groups[name] = order, np.result_type(*(dtypes[column] for column in order)), False
            used.update(order)
    for column, name in enumerate(header):
        if column not in used:
            groups[name] = [column], dtypes[column], True
    return groups


def _bounded(stream: Any, path: Path) -> Iterator[str]:
    """The lines of a text file, none longer than 16 MiB."""
    while line := stream.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise CorruptError(f"{path}: a line of more than {_MAX_LINE:,} characters", path=path)
        yield line


def _texts(values: NDArray[Any]) -> list[str]:
    """Each value so that it reads back the same: the shortest digits that do."""
    if values.dtype.kind == "O":
        return [str(value) for value in values]
    if values.dtype.kind == "f":
        return ["nan" if value != value else str(value) for value in values]
    return [str(value) for value in values.tolist()]
