"""CSV files, both ways: a header, a row per step; columns `obs_0 … obs_n` are one vector.

Between the cells are commas, or semicolons or tabs where the header has these; then numbers may have decimal
commas. `text_table.py` says what becomes of the cells.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli.config import opt
from rlcli.datasets.contract import Advance, NoOptions, Report, Request, Seen
from rlcli.datasets.plain import PlainSource
from rlcli.datasets.plain_export import Exporter, lost_cuts, lost_seeds
from rlcli.datasets.regular import open_regular
from rlcli.datasets.text_table import KINDS, TextTable, bounded, holding
from rlcli.errors import CorruptError, UsageError
from rlcli.format.dataset import Dataset

_HEAD_BYTES = 4 << 20  # in which the header and the line after it are looked for
_MAX_CELLS = 1 << 16  # of one array in a row
_READ_AS_WRITTEN = {"bool", "int64", "float32", "float64", "object"}
_COMMA = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*")
_THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2}(,\d{3})+\s*")  # which 1,234 may be as well as 1.234
_POINT = re.compile(r"\s*[+-]?\d*\.\d*([eE][+-]?\d+)?\s*")
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


@dataclass(frozen=True)
class Options:
    """Reading CSV."""

    delimiter: str = opt("", "What is between cells: a character, or tab; what the header has if empty.")
    decimal: Literal["auto", "point", "comma"] = opt(
        "auto",
        "What decimals begin with; auto: a comma where none is between cells and no number has a point.",
    )


def detect(path: Path) -> Seen:
    """Whether `path` is text whose first line is a header of names and whose second has as many fields."""
    found = _sniff(path)
    if found is None:
        return Seen(False, "not a CSV file")
    delimiter, names = found
    told = "" if delimiter == "," else f", {_DELIMITERS[delimiter]} between them"
    return Seen(True, f"CSV file, {len(names)} columns{told}")


@contextmanager
def open_source(path: Path, request: Request, options: Options) -> Iterator[PlainSource]:
    """The file, read once to learn its types. Raises `CorruptError` for a line of another length."""
    with closing(CsvTable(path, delimiter=options.delimiter, decimal=options.decimal)) as table:
        yield PlainSource(table, request)


def export(dataset: Dataset, out: Path, options: NoOptions, advance: Advance) -> Report:
    """One line per row; vectors become `name_0 …`, larger arrays are flattened. Spaces are lost."""
    exporter = Exporter(dataset)
    exporter.report.lossy += [
        "the spaces: a CSV file has only columns",
        *lost_seeds(dataset),
        *lost_cuts(dataset),
    ]
    for name, column in list(exporter.columns.items()):
        if (size := int(np.prod(column.shape[1:], dtype=np.int64))) > _MAX_CELLS:
            exporter.leave_out(name, f"{size:,} numbers in a row are too many for a line")
        elif column.dtype.kind == "c":
            exporter.leave_out(name, "CSV has no complex numbers")
    told = {name: key for name, key in exporter.metadata["columns"].items() if name in exporter.columns}
    if told:
        named = ", ".join(f"{'/'.join(key)} as {name}" for name, key in told.items())
        exporter.report.lossy.append(f"keys: {named} are read as their names say")
    exporter.report.lossy += exporter.report.remarks
    exporter.report.remarks = []
    if others := sorted({str(c.dtype) for c in exporter.columns.values()} - _READ_AS_WRITTEN):
        exporter.report.lossy.append(f"dtypes: what is {', '.join(others)} is read as a wider one")
    with open(out, "x", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        header: list[str] = []
        for name, column in exporter.columns.items():
            size = int(np.prod(column.shape[1:], dtype=np.int64))
            header += [name] if len(column.shape) == 1 else [f"{name}_{n}" for n in range(size)]
            if len(column.shape) > 2:
                exporter.report.lossy.append(f"{name}: shape {list(column.shape[1:])} is flattened")
        writer.writerow(header)
        kinds = {name: KINDS for name, column in exporter.columns.items() if column.is_text}
        filled = dict.fromkeys(kinds, False)
        for start, stop in exporter.slices(list(exporter.columns)):
            cells: list[list[str]] = []
            for name in exporter.columns:
                values = exporter.read(name, start, stop)
                advance(values.nbytes)
                for values_of_element in values.reshape(stop - start, -1).T:
                    cells.append(_texts(values_of_element))
                if name in kinds:
                    kinds[name] = holding(cells[-1], kinds[name])
                    filled[name] = filled[name] or any(cells[-1])
            writer.writerows(zip(*cells, strict=True))
    if numbers := [name for name, kind in kinds.items() if kind and filled[name]]:
        exporter.report.lossy.append(
            f"text: {', '.join(numbers)} is read as numbers, which all of it could be"
        )
    return exporter.report


class CsvTable(TextTable):
    """The rows of a file whose cells are between `delimiter`, which is found out if empty.

    `decimal` is as in `Options`.
    """

    layout = "csv"

    def __init__(
        self, path: Path, *, delimiter: str = "", decimal: str = "auto", vectors: bool = True
    ) -> None:
        told = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
        if len(told) > 1 or told in ('"', "\n", "\r", "\0"):
            raise UsageError(f"delimiter={delimiter!r}: expected one character, or tab", path=path)
        found = None if told else _sniff(path)
        self._delimiter = told or (found[0] if found else ",")
        is_comma = decimal == "comma" or (decimal == "auto" and self._delimiter != ",")
        self._commas: dict[int, bool] | None = {} if is_comma else None  # column: 1,234 is no thousand in it
        self._points: set[int] = set()
        self._is_told = decimal == "comma"
        super().__init__(path, vectors=vectors)

    def kinds(self, column: int, cells: Sequence[str], before: str) -> str:
        """Those of the kinds in `before` that hold these cells, with decimal commas or without."""
        if self._commas is None:
            return super().kinds(column, cells, before)
        if not any("," in cell for cell in cells):
            found = super().kinds(column, cells, before)
            if found and any(map(_POINT.fullmatch, cells)):
                self._points.add(column)
            return found
        found = super().kinds(column, _with_points(cells), before)
        if found:
            plain = any(_COMMA.fullmatch(cell) and not _THOUSANDS.fullmatch(cell) for cell in cells)
            self._commas[column] = self._commas.get(column, False) or plain
            if any(map(_POINT.fullmatch, cells)):
                self._points.add(column)
        return found

    def look_through(self) -> tuple[list[np.dtype[Any]], int]:
        """See `TextTable`. Commas are decimal if nothing speaks against it, and text otherwise."""
        dtypes, rows = super().look_through()
        if self._commas is None:
            return dtypes, rows
        numbers = {column for column in self._commas if dtypes[column].kind in "iuf"}
        points = {column for column in self._points if dtypes[column].kind == "f"}
        sure = self._is_told or any(self._commas[column] for column in numbers)
        if numbers and sure and not points:
            self.remarks.append(f"{len(numbers):,} columns have decimal commas")
            self._commas = dict.fromkeys(numbers, True)
            return dtypes, rows
        self._commas = None
        return [np.dtype(object) if c in numbers else dtype for c, dtype in enumerate(dtypes)], rows

    def written(self, cells: list[str], column: int) -> list[str]:
        """The cells with points in place of decimal commas."""
        return _with_points(cells) if self._commas is not None and column in self._commas else cells

    def lines(self) -> Iterator[list[str]]:
        """The cells of each row. Raises `CorruptError` that names a row of another length."""
        number = 1
        try:
            with io.TextIOWrapper(open_regular(self.path), encoding="utf-8-sig", newline="") as stream:
                reader = csv.reader(bounded(stream, self.path), delimiter=self._delimiter)
                self.header = _named(next(reader, []))
                for line in filter(None, reader):
                    number += 1
                    if len(line) != len(self.header):
                        raise CorruptError(
                            f"{self.path}: row {number} has {len(line)} fields, the header "
                            f"{len(self.header)}",
                            path=self.path,
                        )
                    yield line
        except (csv.Error, UnicodeDecodeError) as err:
            raise CorruptError(f"{self.path}: not a CSV file: {err}", path=self.path) from err


def _with_points(cells: Sequence[str]) -> list[str]:
    return [cell.replace(",", ".") if _COMMA.fullmatch(cell) else cell for cell in cells]


def _sniff(path: Path) -> tuple[str, list[str]] | None:
    """The delimiter that gives a header the most names, which is what the second line has, too, and these."""
    if not path.is_file():
        return None
    with open_regular(path) as stream:
        head = stream.read(_HEAD_BYTES)
    if b"\0" in head or b"\n" not in head:
        return None
    text = head.decode("utf-8-sig", "replace")
    found = [(delimiter, names) for delimiter in _DELIMITERS if (names := _header(text, delimiter))]
    return max(found, key=lambda pair: len(pair[1]), default=None)


def _header(text: str, delimiter: str) -> list[str]:
    """The names in the header, none if the text is no table with this delimiter."""
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = list(itertools.islice(filter(None, lines), 2))
    except csv.Error:
        return []
    if not rows or (len(rows) > 1 and len(rows[1]) != len(rows[0])) or not any(rows[0]):
        return []
    named = len(rows[0]) > 1 and all(re.search(r"[A-Za-z]", name) for name in rows[0] if name)
    return rows[0] if named else []


def _named(header: list[str]) -> list[str]:
    """The names without spaces around them; `column_<i>` where there is none, as for the index of pandas."""
    return [name.strip() or f"column_{number}" for number, name in enumerate(header)]


def _texts(values: NDArray[Any]) -> list[str]:
    """Each value so that it reads back the same: the shortest digits that do."""
    if values.dtype.kind == "O":
        return [str(value) for value in values]
    if values.dtype == np.float16:  # whose shortest digits are another number in float32, as they are read
        values = values.astype(np.float32)
    if values.dtype.kind == "f":
        return ["nan" if value != value else str(value) for value in values]
    return [str(value) for value in values.tolist()]
