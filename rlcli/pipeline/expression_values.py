"""The arithmetic of expressions: what a term comes to when its parts are known.

A value is a Python constant, an array `[n]` or `[n, size]`, or `Text`. Columns keep their dtype when they are
compared, so that `reward == 0.1` finds a stored float32 0.1; anything computed is float64, or int64 where it
fits.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.format.keys import Key
from rlcli.format.spans import Chunk
from rlcli.pipeline.expression_terms import Term

Array = NDArray[Any]

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
    "!=": operator.ne, "contains": lambda text, part: part in text,
}  # fmt: skip
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.true_divide, "%": np.remainder,
}  # fmt: skip
_INT64 = np.iinfo(np.int64)


@dataclass(frozen=True)
class Text:
    """Many texts of few kinds: value i is `table[codes[i]]`."""

    codes: Array
    table: list[str]

    def __getitem__(self, chosen: Array) -> Text:
        return Text(self.codes[chosen], self.table)

    def objects(self) -> Array:
        """`[n]` of str."""
        table = np.empty(len(self.table), object)
        table[:] = self.table
        return table[self.codes]

    def test(self, holds: Callable[[str], bool]) -> Array:
        """`[n]` of bool, asked once per kind."""
        return np.array([holds(text) for text in self.table], np.bool_)[self.codes]

    @staticmethod
    def of(texts: list[str]) -> Text:
        """One code per different text."""
        kinds: dict[str, int] = {}
        codes = [kinds.setdefault(text, len(kinds)) for text in texts]
        return Text(np.array(codes, np.int64), list(kinds))


def column(chunk: Chunk, key: Key, element: int | None) -> Array | Text:
    """`[rows]` of a scalar column or an element of one, `[rows, size]` of a vector.

    Unknown next values are NaN; a flag is False there.
    """
    declared = chunk.dataset.schema.column(key)
    if declared.heap is not None:
        index, table = chunk.dataset.text(key, np.arange(chunk.start, chunk.stop))
        return Text(index, table)
    rows = chunk.read(key).reshape(len(chunk), -1)
    found = rows[:, element] if element is not None else rows[:, 0] if rows.shape[1] == 1 else rows
    if declared.encoding == "derived" and found.dtype != np.bool_ and chunk.unknown_next.any():
        found = found.astype(np.result_type(found, np.float16) if found.dtype.kind == "f" else np.float64)
        found[chunk.unknown_next] = np.nan
    return found


def compute(term: Term, parts: list[Any]) -> Any:
    """The value of an elementwise term."""
    if term.op == "compare":
        return _compare(term.value, *parts)
    if term.op == "in":
        return _is_in(parts[0], term.value)
    if any(isinstance(part, np.ndarray) and part.ndim == 2 for part in parts):
        parts = [p[:, None] if isinstance(p, np.ndarray) and p.ndim == 1 else p for p in parts]
    if term.op in ("and", "or"):
        join = np.logical_and if term.op == "and" else np.logical_or
        found = parts[0]
        for part in parts[1:]:
            found = join(found, part)
        return _plain(found, parts)
    if term.op == "not":
        return _plain(np.logical_not(parts[0]), parts)
    if term.op == "finite":
        return _plain(np.isfinite(_wide(parts[0])), parts)
    if term.op == "minus":
        return _plain(_arithmetic("-", 0, parts[0]), parts)
    if term.op == "abs":
        negative = _arithmetic("-", 0, parts[0])
        return _plain(np.maximum(_wide(parts[0]), negative), parts)
    return _plain(_arithmetic(term.value, *parts), parts)


def _plain(found: Any, parts: list[Any]) -> Any:
    """What was computed of literals alone stays a Python number, which takes the precision of a column."""
    literal = not any(isinstance(part, np.ndarray | np.generic) for part in parts)
    return found.item() if literal and isinstance(found, np.ndarray | np.generic) else found


def _compare(sign: str, left: Any, right: Any) -> Any:
    test = _COMPARE[sign]
    if isinstance(left, Text) and isinstance(right, Text):
        return test(left.objects(), right.objects()).astype(np.bool_)
    if isinstance(left, Text):
        return left.test(lambda text: test(text, right))
    if isinstance(right, Text):
        return right.test(lambda text: test(left, text))
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray) and left.ndim != right.ndim:
        left, right = (side[:, None] if side.ndim == 1 else side for side in (left, right))
    return test(left, right)


def _is_in(value: Any, choices: tuple[Any, ...]) -> Any:
    if isinstance(value, Text):
        return value.test(lambda text: text in choices)
    if not isinstance(value, np.ndarray):
        return value in choices
    if value.dtype.kind == "f":
        return np.isin(value, np.array(choices, np.float64).astype(value.dtype))
    whole = [int(choice) for choice in choices if np.isfinite(choice) and choice == int(choice)]
    wide = value.astype(np.uint8) if value.dtype == np.bool_ else value
    bounds = np.iinfo(wide.dtype)
    return np.isin(wide, np.array([n for n in whole if bounds.min <= n <= bounds.max], wide.dtype))


def _wide(value: Any) -> Array:
    """As int64 where it fits, else as float64."""
    array = np.asarray(value)
    if array.dtype.kind == "f":
        return array.astype(np.float64)
    if array.dtype.kind in "biu" and not (array.dtype == np.uint64 and (array > _INT64.max).any()):
        return array.astype(np.int64)
    return array.astype(np.float64)


def _arithmetic(sign: str, left: Any, right: Any) -> Array:
    """Whole numbers stay exact as long as int64 holds them; a remainder by zero is NaN."""
    a, b = _wide(left), _wide(right)
    compute = _ARITHMETIC[sign]
    if a.dtype == b.dtype == np.int64 and sign != "/" and (sign != "%" or b.all()):
        exact: Array = compute(a, b)
        if sign == "%":
            return exact
        rough = compute(a.astype(np.float64), b.astype(np.float64))
        if not (np.abs(exact - rough) > 2.0**62).any():  # else it wrapped
            return exact
    found: Array = compute(a.astype(np.float64), b.astype(np.float64))
    return found
