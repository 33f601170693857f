"""Comparing a foreign source with a dataset by reading both anew, for formats that bring no comparison."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from rlcli.datasets.contract import Advance, Comparison, End, Part
from rlcli.datasets.parts import alone, num_rows
from rlcli.format import heap
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.schema import Column, Heap, Schema

_FLAGS: tuple[Key, Key] = (("next", "terminated"), ("next", "truncated"))
# Ours and an output's that has one flag only: an unfinished end is truncated, of both the first is there.
_SAID = {((False, False), (False, True)), ((True, True), (True, False))}


def compare_parts(
    parts: Iterator[Part], schema: Schema, dataset: Dataset, advance: Advance, *, all_keys: bool
) -> Comparison:
    """Every row that `parts` yield against the dataset's rows in order, bit for bit; also flags and finals.

    `schema` is the source's. With `all_keys` a column that only one side has is a problem, and so is another
    dtype; without, numbers may have another one that holds them exactly (CSV knows no uint8). Problems are
    sentences, one per column that differs; sums are of the columns that hold numbers.
    """
    found = Comparison(0)
    wrong: dict[str, tuple[int, str]] = {}
    ours = {column.key: column for column in dataset.schema.columns}
    theirs = {column.key: column for column in schema.columns}
    if all_keys and (odd := sorted("/".join(key) for key in ours.keys() ^ theirs.keys())):
        found.problems.append(f"only one of both has {', '.join(odd)}")
    keys = [key for key, column in theirs.items() if key in ours and column.encoding in ("plain", "heap")]
    for columns, end in alone(parts):
        size = num_rows(columns)
        start, stop = found.rows, found.rows + size
        if stop > dataset.num_rows:
            found.problems.append(f"the source has more than the dataset's {dataset.num_rows:,} rows")
            return found
        for key in keys:
            if key in columns:
                rows = _decoded(theirs[key], ours[key], columns[key])
                if not all_keys and _is_text(ours[key]) and not _is_text(theirs[key]):
                    rows = _as_text(rows, dataset.read(key, start, stop))
                elif not all_keys:
                    rows = _in_dtype(rows, ours[key])
                _compare_column(found, wrong, ours[key], rows, dataset, start, stop)
        if end is not None:
            _compare_end(wrong, end, schema, dataset, stop - 1, all_keys=all_keys)
        found.rows = stop
        advance(size * dataset.schema.row_bytes)
    if found.rows != dataset.num_rows:
        found.problems.append(f"the source has {found.rows:,} rows, the dataset {dataset.num_rows:,}")
    for name, (count, first) in wrong.items():
        found.problems.append(f"{name}: {count:,} of {found.rows:,} rows differ, first {first}")
    return found


def _compare_column(
    found: Comparison,
    wrong: dict[str, tuple[int, str]],
    column: Column,
    theirs: Any,
    dataset: Dataset,
    start: int,
    stop: int,
) -> None:
    name = "/".join(column.key)
    ours = _ours(dataset, column, theirs, start, stop)
    if all(isinstance(rows, np.ndarray) and rows.dtype.kind != "O" for rows in (theirs, ours)):
        if theirs.dtype != ours.dtype or theirs.size != ours.size:
            bad = np.ones(stop - start, np.bool_)
        else:
            bad = (_bits(theirs) != _bits(ours)).any(axis=1)
        sums = found.sums.setdefault(name, [0.0, 0.0])
        with np.errstate(over="ignore", invalid="ignore"):
            sums[0] += float(theirs.sum(dtype=np.complex128 if theirs.dtype.kind == "c" else np.float64).real)
            sums[1] += float(ours.sum(dtype=np.complex128 if ours.dtype.kind == "c" else np.float64).real)
    else:
        bad = np.array([not _equal(a, b) for a, b in zip(theirs, ours, strict=True)], np.bool_)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        first = f"row {start + row}: {_show(theirs[row])} in the source, {_show(ours[row])} in ours"
        _note(wrong, name, int(bad.sum()), first)


def _decoded(theirs: Column, ours: Column, rows: Any) -> Any:
    """Rows of the source; its encoded pictures as arrays where ours are arrays that nobody encoded."""
    if theirs.heap is None or theirs.heap.value != "array" or not (ours.heap is None or _is_raw(ours.heap)):
        return rows
    arrays = [heap.decode(theirs, row) if isinstance(row, bytes) else row for row in rows]
    return np.stack(arrays) if arrays and ours.heap is None else arrays


def _is_raw(ours: Heap) -> bool:
    return ours.value == "array" and ours.codec == "none"


def _in_dtype(theirs: Any, ours: Column) -> Any:
    """Numbers in our column's dtype if that loses nothing, else as they are."""
    if not isinstance(theirs, np.ndarray) or theirs.dtype.kind not in "biuf" or ours.dtype is None:
        return theirs
    if theirs.dtype == ours.numpy or ours.numpy.kind not in "biuf":
        return theirs
    with np.errstate(over="ignore", invalid="ignore"):
        cast = theirs.astype(ours.numpy)
        return cast if np.array_equal(cast.astype(theirs.dtype), theirs, equal_nan=True) else theirs


def _is_text(column: Column) -> bool:
    return column.heap is not None and column.heap.value == "text"


def _as_text(numbers: Any, texts: Iterable[str]) -> list[str]:
    """The texts that a reader of CSV takes for these numbers, which its output says; or others."""
    return [
        text if _reads_as(text, number) else str(number) for number, text in zip(numbers, texts, strict=True)
    ]


def _reads_as(text: str, number: Any) -> bool:
    if number.dtype.kind == "b":
        return text.lower() == str(number).lower()
    with suppress(ValueError, OverflowError):
        if number.dtype.kind in "iu":
            return int(text) == int(number)
        read = np.array(float(text) if text else np.nan).astype(number.dtype)
        return bool(read == number or (read != read and number != number))
    return False


def _ours(dataset: Dataset, column: Column, theirs: Any, start: int, stop: int) -> Any:
    """Our rows of a column; where theirs are bytes that stand for an array, ours are too."""
    is_encoded = column.heap is not None and column.heap.value == "array"
    if not is_encoded or not any(isinstance(value, bytes) for value in theirs):
        return dataset.read(column.key, start, stop)
    stored = dataset.encoded(column.key, np.arange(start, stop))
    return [
        data if isinstance(value, bytes) else dataset.read(column.key, row, row + 1)[0]
        for row, (value, data) in enumerate(zip(theirs, stored, strict=True), start)
    ]


def _compare_end(
    wrong: dict[str, tuple[int, str]],
    end: End,
    schema: Schema,
    dataset: Dataset,
    row: int,
    *,
    all_keys: bool,
) -> None:
    """The flags and the final observation of the episode that ends at `row`, if `end` has it or must."""
    told = end.terminated, end.truncated
    found = tuple(bool(dataset.read(key, row, row + 1)[0]) for key in _FLAGS if key in dataset.schema.by_key)
    if all_keys or (found, told) not in _SAID:
        for key, flag, ours in zip(_FLAGS, told, found, strict=False):
            if flag != ours:
                _note(wrong, "/".join(key), 1, f"row {row}: {flag} in the source, {ours} in ours")
    if not schema.derived:
        return
    unknown = dataset.unknown_next
    at = int(np.searchsorted(unknown, row))
    is_unknown = at < len(unknown) and int(unknown[at]) == row
    if end.final is None and not all_keys:
        return  # an output that has no place for it, which its report says
    if is_unknown != (end.final is None):
        sides = ("unknown", "known") if end.final is None else ("known", "unknown")
        _note(wrong, "next/observation", 1, f"row {row}: {sides[0]} in the source, {sides[1]} in ours")
    elif end.final is not None:
        for column in dataset.schema.columns:
            if column.encoding != "derived" or column.of is None:
                continue
            other = schema.by_key.get(column.key)
            if other is None or other.encoding != "derived":
                continue  # what the source has not, or as a column
            value = end.final
            for name in column.of[1:]:
                value = value[name] if isinstance(value, Mapping) else value
            if column.of in schema.by_key:
                value = _decoded(schema.column(column.of), dataset.schema.column(column.of), [value])[0]
            ours = _ours(dataset, column, [value], row, row + 1)[0]
            if not _equal(np.asarray(value, column.numpy) if isinstance(ours, np.ndarray) else value, ours):
                first = f"row {row}: {_show(value)} in the source, {_show(ours)} in ours"
                _note(wrong, "/".join(column.key), 1, first)


def _note(wrong: dict[str, tuple[int, str]], name: str, count: int, first: str) -> None:
    before, told = wrong.get(name, (0, first))
    wrong[name] = (before + count, told)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        x, y = np.asarray(a), np.asarray(b)
        return x.dtype == y.dtype and x.size == y.size and x.tobytes() == y.tobytes()
    return bool(a == b) or (a != a and b != b)


def _bits(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """`[n, row bytes]`."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)


def _show(row: Any) -> str:
    if isinstance(row, str | bytes):
        return repr(row[:20])
    values = np.asarray(row).reshape(-1)
    return f"{values[:3].tolist()}{' …' if len(values) > 3 else ''}"
