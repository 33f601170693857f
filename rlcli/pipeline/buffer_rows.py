"""`rl buffer head` and `tail`: the first or last rows, shortened to fit a terminal, or whole as JSON."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli import console
from rlcli.errors import UsageError, nearest
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.location import Location
from rlcli.format.spans import EPISODE, Chunk, Spans, chunks
from rlcli.format.values import as_numbers
from rlcli.pipeline.expressions import Expression

Array = NDArray[Any]

MAX_SHOWN = 40  # elements of a vector, however wide the terminal
_STEP = ("step",)
_REWARD = ("next", "reward")
_ENDS = (("next", "terminated"), ("next", "truncated"))


def head(
    path: Location,
    num_rows: int,
    *,
    keys: str | None = None,
    episode: int | None = None,
    where: str | None = None,
    last: bool = False,
) -> tuple[dict[str, Any], str]:
    """The first (or `last`) `num_rows` rows of the dataset, or of the episode with that number, or of those
    `where` an expression per step holds: facts and a table.

    `keys` is a comma-separated list such as `action,next/reward`; a name with columns below it means all of
    them. Without it the table leaves out what follows from the rest (next observations, is_init, done); the
    facts never do. Unknown next values are None. Raises `UsageError` for an unknown key or episode and for a
    wrong expression.
    """
    if num_rows < 0:
        raise UsageError(f"--rows must not be negative, got {num_rows}")
    with Dataset.open(path) as dataset:
        known = [column.key for column in dataset.schema.columns]
        chosen = None if keys is None else choose_columns(dataset, keys)
        start, stop = (0, dataset.num_rows) if episode is None else _rows_of(dataset, episode)
        if where is not None:
            at = _matching(dataset, where, start, stop, num_rows, last=last)
        elif last:
            at = np.arange(max(start, stop - num_rows), stop)
        else:
            at = np.arange(start, min(stop, start + num_rows))
        values = {key: _read(dataset, key, at) for key in chosen or known}
        derived = [column.key for column in dataset.schema.columns if column.encoding == "derived"]
        unknown = {key: np.isin(at, dataset.unknown_next) for key in derived}
        total = dataset.num_rows
    rows = [_json_row(row, i, values, unknown) for i, row in enumerate(at.tolist())]
    columns: list[_Column] = [_Text("row", at.tolist())]
    if chosen is not None:
        columns += [_column(key, values[key], unknown.get(key)) for key in chosen]
    else:
        columns += _usual(values)
    return {"path": path, "num_rows": total, "rows": rows}, _fit(columns, shutil.get_terminal_size().columns)


def _usual(values: dict[Key, Array]) -> list[_Column]:
    """What a step is, in the order one reads it, and then what else is stored."""
    main = [key for key in values if key[0] in ("observation", "action")]
    main = [key for key in (EPISODE, _STEP, *main, _REWARD) if key in values]
    columns: list[_Column] = [_column(key, values[key]) for key in main]
    if all(key in values for key in _ENDS):
        columns.append(_Text("end", _ends(values)))
    follows = {*main, *_ENDS, ("is_init",), ("next", "done")}
    others = [key for key in values if key not in follows and not (key[0] == "next" and key[1:] in values)]
    return columns + [_column(key, values[key]) for key in others]


def choose_columns(dataset: Dataset, text: str) -> list[Key]:
    """The columns that a comma-separated list names, in that order."""
    return choose_keys([column.key for column in dataset.schema.columns], text)


def choose_keys(keys: Iterable[Key], text: str) -> list[Key]:
    """Those of `keys` that a comma-separated list names, in its order."""
    known = ["/".join(key) for key in keys]
    chosen: list[str] = []
    for name in (part.strip().strip("/") for part in text.split(",")):
        found = [key for key in known if key == name or key.startswith(f"{name}/")]
        if not found:
            raise UsageError(f"--keys: there is no column {name!r}; {nearest(name, known)}")
        chosen += found
    return [tuple(key.split("/")) for key in dict.fromkeys(chosen)]


def _rows_of(dataset: Dataset, episode: int) -> tuple[int, int]:
    spans = Spans(dataset)
    found = np.flatnonzero(spans.number == episode)
    if not len(found):
        known = f"{spans.number.min():,} to {spans.number.max():,}" if len(spans.number) else "none"
        raise UsageError(f"--episode: there is no episode {episode:,}; there are {known}")
    return int(spans.start[found[0]]), int(spans.stop[found[0]])


def _matching(dataset: Dataset, where: str, start: int, stop: int, count: int, *, last: bool) -> Array:
    """The first (or `last`) `count` rows in `start … stop` for which the expression holds, ascending."""
    expression = Expression(where, dataset.schema, per="step")
    spans = Spans(dataset)
    condition = expression.on(dataset, spans)
    found = np.zeros(0, np.int64)
    bounds = [(max(low, start), min(high, stop)) for low, high in chunks(dataset, dataset.schema.columns)]
    for low, high in reversed(bounds) if last else bounds:
        if len(found) >= count:
            break
        if low < high:
            hit = low + np.flatnonzero(condition.steps(Chunk(dataset, spans, low, high)))
            found = np.concatenate([hit, found] if last else [found, hit])
    return found[len(found) - min(count, len(found)) :] if last else found[:count]


def _read(dataset: Dataset, key: Key, rows: Array) -> Array:
    """`[rows, *shape]` of ascending rows, of a heap column `[rows]` of objects."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if len(rows) else []
    parts = [dataset.read(key, int(run[0]), int(run[-1]) + 1) for run in runs]
    values = np.concatenate(parts) if parts else dataset.read(key, 0, 0)
    return as_numbers(dataset.schema.column(key), values)


def _json_row(row: int, index: int, values: dict[Key, Array], unknown: dict[Key, Array]) -> dict[str, Any]:
    nested: dict[str, Any] = {"row": row}
    for key, column in values.items():
        node = nested
        for part in key[:-1]:
            node = node.setdefault(part, {})
        known = key not in unknown or not unknown[key][index]
        node[key[-1]] = plain_value(column[index]) if known else None
    return nested


def plain_value(value: Any) -> Any:
    """A value of a row for JSON: bytes as hexadecimal digits, arrays and NumPy's numbers as Python's."""
    return value.hex() if isinstance(value, bytes) else value.tolist() if hasattr(value, "tolist") else value


def _ends(values: dict[Key, Array]) -> list[str]:
    flags = [(key[1], values[key].reshape(-1)) for key in _ENDS]
    return ["+".join(name for name, found in flags if found[i]) for i in range(len(flags[0][1]))]


class _Column:
    """A column of the table; `shown` is how many elements of a vector are, which fitting lowers."""

    is_core = True  # stays when there is no room for all

    def __init__(self, name: str, elements: int = 1) -> None:
        self.name = name
        self.elements = min(elements, MAX_SHOWN)
        self.shown = self.elements

    def cells(self) -> list[Any]:
        raise NotImplementedError

    @property
    def width(self) -> int:
        return max(len(line) for line in console.table([self.name], [[c] for c in self.cells()]).split("\n"))


class _Text(_Column):
    def __init__(self, name: str, cells: list[Any]) -> None:
        super().__init__(name)
        self._cells = cells

    def cells(self) -> list[Any]:
        return self._cells


class _Values(_Column):
    """Numbers; vectors in brackets with what does not fit left out, arrays as their extremes."""

    def __init__(self, key: Key, values: Array, unknown: Array | None = None) -> None:
        size = math.prod(values.shape[1:])
        super().__init__("/".join(key), size if values.ndim == 2 else 1)
        self.is_core = key[0] in ("observation", "action", "next", *EPISODE, *_STEP)
        known = np.ones(len(values), np.bool_) if unknown is None else ~unknown
        rows = values.reshape(len(values), size)
        if values.ndim > 2:
            shape = "×".join(map(str, values.shape[1:]))
            self._parts = [[f"{shape} {_short(row.min())} to {_short(row.max())}"] for row in rows]
        else:
            self._parts = [[_short(value) for value in row[: self.elements]] for row in rows.tolist()]
        self._scalars = rows[:, 0].tolist() if size == 1 else None
        self._known, self._size = known.tolist(), size
        self._widths = [max(map(len, part)) for part in zip(*self._parts, strict=True)]

    def cells(self) -> list[Any]:
        if self._scalars is not None:
            pairs = zip(self._scalars, self._known, strict=True)
            return [value if known else None for value, known in pairs]
        return [
            self._vector(parts) if known else "unknown"
            for parts, known in zip(self._parts, self._known, strict=True)
        ]

    def _vector(self, parts: list[str]) -> str:
        if self.elements == 1:
            return parts[0]
        aligned = [part.rjust(width) for part, width in zip(parts, self._widths, strict=True)]
        more = " …" if self.shown < self._size else ""
        return f"[{' '.join(aligned[: self.shown])}{more}]"


def _column(key: Key, values: Array, unknown: Array | None = None) -> _Column:
    """The column of the table that shows values; those of any length as text."""
    if values.dtype != object:
        return _Values(key, values, unknown)
    known = np.ones(len(values), np.bool_) if unknown is None else ~unknown
    cells = [_shorten(value) if there else "unknown" for value, there in zip(values, known, strict=True)]
    return _Text("/".join(key), cells)


def _shorten(value: Any) -> str:
    if isinstance(value, str):
        text = value if value.isprintable() else repr(value)
    elif isinstance(value, bytes):
        text = f"{len(value):,} B"
    else:
        shape = "×".join(map(str, value.shape))
        text = str(value.tolist()) if value.size <= 4 else f"{value.dtype} {shape}"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value).lower()


def _fit(columns: list[_Column], width: int) -> str:
    """The table in at most `width` characters: columns that are not core go, then vectors' last elements.

    A vector keeps three elements as long as there is a column that can go.
    """
    left_out: list[str] = []
    for column in columns:
        column.shown = min(3, column.elements)
    while _width(columns) > width and (extra := [column for column in columns if not column.is_core]):
        columns.remove(extra[-1])
        left_out.insert(0, extra[-1].name)
    for column in columns:
        column.shown = column.elements
    while _width(columns) > width:
        vectors = [c for c in columns if c.shown > 1 and c.width > len(c.name)]
        if vectors:
            max(vectors, key=lambda column: column.width).shown -= 1
        elif len(columns) > 2:
            left_out.insert(0, columns.pop().name)
        else:
            break
    cells = zip(*(column.cells() for column in columns), strict=True)
    text = console.table([column.name for column in columns], [list(row) for row in cells])
    if left_out:
        names = left_out[0] + (f" and {len(left_out) - 1} more" if len(left_out) > 1 else "")
        text += f"\n(no room for {names}; see --keys and --json)"
    return text


def _width(columns: list[_Column]) -> int:
    return sum(column.width + 2 for column in columns) - 2
