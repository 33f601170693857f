"""ARFF, the text tables of Weka and OpenML: declared attributes, then rows, dense or sparse.

Numbers are what `text_table.py` finds them to be; nominal values, strings and dates are text. `?` is NaN
among numbers and stays `?` in text. In a sparse row, `{3 0.5, 7 yes}`, what is not named is 0, or the first
of the declared values.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlcli.datasets.regular import open_regular
from rlcli.datasets.text_table import TextTable, bounded
from rlcli.errors import CorruptError, InputError

_CELL = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,\t'"]*"""
_CELLS = re.compile(rf"\s*({_CELL})\s*(,|\t|$)")
_SPARSE = re.compile(rf"\s*(\d{{1,9}})\s+({_CELL})\s*(,|\t|$)")
_ATTRIBUTE = re.compile(
    r"""@attribute\s+('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s{]+)(\s*\{.*\}|\s+[a-z]+)""", re.IGNORECASE
)
_RELATION = re.compile(rb"(\xef\xbb\xbf)?(\s*(%[^\n]*)?\n)*\s*@relation\b", re.IGNORECASE)
_NUMBERS, _TEXTS = ("numeric", "real", "integer"), ("string", "date")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def is_arff(path: Path) -> bool:
    """Whether a file begins with `@relation`, but for comments."""
    if not path.is_file():
        return False
    with open_regular(path) as stream:
        return _RELATION.match(stream.read(1 << 16)) is not None


class ArffTable(TextTable):
    """The rows of a file; `nominal` has the declared values of each attribute that has such."""

    layout = "arff"

    def __init__(self, path: Path) -> None:
        self.nominal: dict[str, list[str]] = {}
        self._kinds: list[str] = []
        self._ranks: list[dict[str, int] | None] = []
        super().__init__(path, vectors=False)

    def lines(self) -> Iterator[list[str]]:
        """The cells of each row. Raises `CorruptError` for what the declarations do not allow."""
        try:
            with io.TextIOWrapper(open_regular(self.path), encoding="utf-8-sig") as stream:
                told = bounded(stream, self.path)
                self._read_header(told)
                number = 0
                for line in map(str.strip, told):
                    if line and not line.startswith("%"):
                        number += 1
                        yield self._row(line, number)
        except UnicodeDecodeError as err:
            raise CorruptError(f"{self.path}: not an ARFF file: {err}", path=self.path) from err

    def kinds(self, column: int, cells: Sequence[str], before: str) -> str:
        """Text for what is declared so. Raises `CorruptError` for cells that are not what is declared."""
        name, ranks = self.header[column], self._ranks[column]
        if self._kinds[column] != "number":
            wrong = next((c for c in cells if ranks is not None and c not in ranks and c != "?"), None)
            if wrong is not None:
                raise self._damage(f"{name} has {wrong[:40]!r}, which is none of its declared values")
            return ""
        if found := super().kinds(column, cells, before.replace("b", "")):
            return found
        raise self._damage(f"{name} is declared numeric, but not all its values are numbers")

    def _read_header(self, lines: Iterator[str]) -> None:
        names: list[str] = []
        kinds: list[str] = []
        self.nominal = {}
        for line in map(str.strip, lines):
            keyword = line.split(None, 1)[0].lower() if line else "%"
            if keyword == "@data":
                break
            if keyword == "@attribute":
                name, kind = self._attribute(line)
                names.append(name)
                kinds.append(kind)
            elif not keyword.startswith("%") and keyword != "@relation":
                raise self._damage(f"{line[:40]!r} among the attributes")
        else:
            raise self._damage("the file ends before @data")
        self.header, self._kinds = names, kinds
        self._ranks = [
            {value: n for n, value in enumerate(self.nominal[name])} if name in self.nominal else None
            for name in names
        ]

    def _attribute(self, line: str) -> tuple[str, str]:
        match = _ATTRIBUTE.match(line)
        if match is None:
            raise self._damage(f"{line[:60]!r} declares no attribute")
        name, kind = _unquoted(match[1]), match[2].strip()
        if kind.startswith("{"):
            self.nominal[name] = self._cells(kind[1:-1], line)
            return name, "nominal"
        if kind.lower() in _NUMBERS:
            return name, "number"
        if kind.lower() not in _TEXTS:
            raise InputError(f"{self.path}: {name}: attributes of type {kind} are not read", path=self.path)
        return name, "text"

    def _row(self, line: str, number: int) -> list[str]:
        if line.startswith("{"):
            cells = self._sparse(line, number)
        elif any(mark in line for mark in "'\"\\\t"):
            cells = self._cells(line, f"row {number}")
        else:
            cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(self.header):
            raise self._damage(f"row {number} has {len(cells)} values, {len(self.header)} are declared")
        return [
            "" if cell == "?" and kind == "number" else cell
            for cell, kind in zip(cells, self._kinds, strict=True)
        ]

    def _sparse(self, line: str, number: int) -> list[str]:
        if not line.endswith("}"):
            raise self._damage(f"row {number} has no closing brace")
        if "text" in self._kinds:
            raise InputError(f"{self.path}: sparse rows with text are not read", path=self.path)
        cells = ["0" if ranks is None else next(iter(ranks), "?") for ranks in self._ranks]
        inner, at = line[1:-1].strip(), 0
        while at < len(inner):
            match = _SPARSE.match(inner, at)
            if match is None or int(match[1]) >= len(cells):
                raise self._damage(f"row {number} is no sparse row of {len(cells)} attributes")
            cells[int(match[1])] = _unquoted(match[2])
            at = match.end()
        return cells

    def _cells(self, text: str, where: str) -> list[str]:
        """The values of a list with commas or tabs between them."""
        cells, at = [], 0
        while True:
            match = _CELLS.match(text, at)
            if match is None:
                raise self._damage(f"{where[:60]}: a quotation mark that is not closed")
            cells.append(_unquoted(match[1]))
            at = match.end()
            if not match[2]:
                return cells

    def _damage(self, what: str) -> CorruptError:
        return CorruptError(f"{self.path}: not an ARFF file: {what}", path=self.path)


def _unquoted(text: str) -> str:
    """A value without quotation marks and what they hide."""
    if text[:1] not in ("'", '"'):
        return text.strip()
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), text[1:-1])
