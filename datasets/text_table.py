"""Tables of text as rows of columns: what kind of number each column holds, and which columns are a vector.

How a line becomes cells is the business of `csv_text.py` and `arff.py`. A file is read twice, some thousand
cells at a time: once to learn its types, once for its rows.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.plain_table import Arrays, Field, Table
from rlcli.datasets.stopping import heeding
from rlcli.errors import CorruptError, InputError

Lines = list[list[str]]

_MAX_LINE = 16 << 20
_MAX_COLUMNS = 100_000
_MAX_LINES = 8192
_CHUNK_CELLS = 1 << 18  # cells that are text at once
_ELEMENT = re.compile(r"(.+?)[_.]?\[?(\d+)\]?")
_UNSIGNED = re.compile(r"\d{1,20}")
_MAX_FLOAT32_INT = 1 << 24
_BOOLEANS = {"true": True, "false": False}
KINDS = "biufd"  # what a column may be, the narrowest first; text if it is none of these
_DTYPES = {
    "b": np.dtype(bool),
    "i": np.dtype(np.int64),
    "u": np.dtype(np.uint64),
    "f": np.dtype(np.float32),
    "d": np.dtype(np.float64),
    "": np.dtype(object),
}


class TextTable(Table):
    """The columns of a file as rows. See `plain_table.Table`.

    Numbers are float32 where that gives every written number back, else float64; whole numbers int64, or
    uint64 where they are too large for it; `True`/`False` bool; anything else is text. An empty cell among
    numbers is NaN, a column of nothing else is text. `vectors`: columns `x_0, x_1, …` are the vector x.
    """

    def __init__(self, path: Path, *, vectors: bool = True) -> None:
        super().__init__(path)
        self.header: list[str] = []
        self._reader: Iterator[Lines] | None = None
        self._at = 0
        self._held: Lines = []
        self.unsigned: set[int] = set()  # columns of which every cell is a uint64
        dtypes, rows = self.look_through()
        self._groups = (
            _vectors(self.header, dtypes, self.unsigned) if vectors else _singles(self.header, dtypes)
        )
        self.fields = {
            name: Field(dtype, () if single else (len(columns),), rows)
            for name, (columns, dtype, single) in self._groups.items()
        }

    @abstractmethod
    def lines(self) -> Iterator[list[str]]:
        """The cells of each row, as many as `header`, which is set before the first.

        Raises `CorruptError` for a row that cannot be.
        """

    def kinds(self, column: int, cells: Sequence[str], before: str) -> str:
        """Those of the kinds in `before` that hold these cells of a column, too."""
        return holding(cells, before)

    def written(self, cells: list[str], column: int) -> list[str]:
        """The cells of a column with numbers as Python writes them."""
        return cells

    def read(self, names: Sequence[str], start: int, stop: int) -> Arrays:
        """Rows of some columns; going back reads the file from its beginning."""
        found: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        for lines in self._rows(start, stop):
            for name in names:
                columns, dtype, single = self._groups[name]
                parts = [_parsed(self.written([line[c] for line in lines], c), dtype) for c in columns]
                found[name].append(parts[0] if single else np.stack(parts, axis=1))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def close(self) -> None:
        self._reader = None

    def _rows(self, start: int, stop: int) -> Iterator[Lines]:
        if self._reader is None or start < self._at:
            self._reader, self._at, self._held = self._chunks(), 0, []
        while start < stop:
            if self._at + len(self._held) <= start:
                self._at += len(self._held)
                self._held = next(self._reader, [])
                if not self._held:
                    raise InputError(f"{self.path}: changed while it was converted", path=self.path)
                continue
            lines = self._held[start - self._at : stop - self._at]
            start += len(lines)
            yield lines

    def _chunks(self) -> Iterator[Lines]:
        held: Lines = []
        for line in self.lines():
            held.append(line)
            if len(held) == _MAX_LINES or len(held) * len(line) >= _CHUNK_CELLS:
                yield held
                held = []
        if held:
            yield held

    def look_through(self) -> tuple[list[np.dtype[Any]], int]:
        """The dtype of each column, and the number of rows."""
        kinds: list[str] = []
        filled: set[int] = set()
        rows = 0
        for lines in heeding(self._chunks()):
            if not kinds:
                self._check_header()
                kinds = [KINDS] * len(self.header)
            for column, cells in enumerate(zip(*lines, strict=True)):
                kinds[column] = self.kinds(column, cells, kinds[column])
                if column not in filled and any(cells):
                    filled.add(column)
            rows += len(lines)
        self._check_header()
        kinds = [kind if column in filled else "" for column, kind in enumerate(kinds)]
        self.unsigned = {column for column, kind in enumerate(kinds) if "u" in kind}
        return [_DTYPES[kind[:1]] for kind in kinds or ["d"] * len(self.header)], rows

    def _check_header(self) -> None:
        names = self.header
        if not names or len(names) > _MAX_COLUMNS:
            raise InputError(f"{self.path}: a header of {len(names):,} columns", path=self.path)
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise InputError(f"{self.path}: {', '.join(twice)} in the header twice", path=self.path)


def bounded(stream: Any, path: Path) -> Iterator[str]:
    """The lines of a text file, none longer than 16 MiB."""
    while line := stream.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise CorruptError(f"{path}: a line of more than {_MAX_LINE:,} characters", path=path)
        yield line


def holding(cells: Sequence[str], before: str) -> str:
    """Those of the kinds in `before` of which every cell is a value that comes back from it."""
    if "b" in before and all(cell.lower() in _BOOLEANS for cell in cells):
        return "b"
    if any("_" in cell for cell in cells):  # which Python reads as a digit's neighbour
        return ""
    found = ""
    try:
        if "i" in before:
            with suppress(ValueError, OverflowError):
                whole = np.array(cells).astype(np.int64)
                is_narrow = bool(((whole >= -_MAX_FLOAT32_INT) & (whole <= _MAX_FLOAT32_INT)).all())
                possible = "id" + "u" * bool((whole >= 0).all()) + "f" * is_narrow
                return "".join(kind for kind in before if kind in possible)
        if "u" in before and all(map(_UNSIGNED.fullmatch, cells)):
            with suppress(OverflowError):
                np.array([int(cell) for cell in cells], np.uint64)
                return "".join(kind for kind in before if kind in "ud")
        wide = _floats(cells)
        if "f" in before:
            with np.errstate(over="ignore"):
                back = wide.astype(np.float32).astype("U32").astype(np.float64)
            found = "f" if ((back == wide) | (np.isnan(back) & np.isnan(wide))).all() else ""
    except (ValueError, OverflowError):
        return ""
    return found + ("d" if "d" in before else "")


def _floats(cells: Sequence[str]) -> NDArray[np.float64]:
    return np.array([float(cell) if cell else np.nan for cell in cells])


def _parsed(cells: list[str], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "O":
        values = np.empty(len(cells), object)
        values[:] = cells
        return values
    if dtype.kind == "b":
        return np.array([_BOOLEANS[cell.lower()] for cell in cells], np.bool_)
    if dtype.kind == "i":
        return np.array(cells).astype(np.int64)
    if dtype.kind == "u":
        return np.array([int(cell) for cell in cells], np.uint64)
    return _floats(cells).astype(dtype)


_Groups = dict[str, tuple[list[int], np.dtype[Any], bool]]


def _singles(header: list[str], dtypes: list[np.dtype[Any]]) -> _Groups:
    return {name: ([column], dtypes[column], True) for column, name in enumerate(header)}


def _vectors(header: list[str], dtypes: list[np.dtype[Any]], unsigned: set[int]) -> _Groups:
    """Name -> (its columns, dtype, whether it is a single column).

    `x_0, x_1, …` are the vector x; `x/0, x/1` are parts of x.
    """
    elements: dict[str, dict[int, int]] = {}
    for column, name in enumerate(header):
        match = _ELEMENT.fullmatch(name)
        if match is not None and not match[1].endswith("/") and dtypes[column].kind in "biuf":
            elements.setdefault(match[1], {})[int(match[2])] = column
    groups: _Groups = {}
    used: set[int] = set()
    for name, columns in elements.items():
        if sorted(columns) == list(range(len(columns))) and name not in header:
            order = [columns[n] for n in range(len(columns))]
            dtype = np.result_type(*(dtypes[column] for column in order))
            is_unsigned = dtype.kind == "f" and unsigned.issuperset(order)
            groups[name] = order, np.dtype(np.uint64) if is_unsigned else dtype, False
            used.update(order)
    singles = _singles(header, dtypes)
    return groups | {name: singles[name] for column, name in enumerate(header) if column not in used}
