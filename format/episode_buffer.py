"""Rows of a stream that are not written yet, and what is known of the episode they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlcli import _native
from rlcli.format.ends import Ended
from rlcli.format.given import Stored, Values
from rlcli.format.heap import encode
from rlcli.format.keys import Key
from rlcli.format.schema import Column, Schema
from rlcli.format.values import booleans

Array = np.ndarray[Any, Any]
Nested = Any  # an array, a number, or a mapping of names to these
_REWARD = ("next", "reward")
TERMINATED = ("next", "terminated")
TRUNCATED = ("next", "truncated")


class LayoutMismatch(Exception):
    """A next observation is not the observation that followed, so it cannot be derived.

    A dataset whose schema stores next observations plainly can hold these rows.
    """


class HeapRows:
    """The stored bytes of a heap column's values; equal ones in turn are encoded once."""

    def __init__(self, column: Column, rows: int) -> None:
        self.column = column
        self.stored: list[bytes | memoryview] = [b""] * rows
        self._last: Nested = None

    def __setitem__(self, at: int, value: Nested) -> None:
        if self._last is None or not _same(self._last[0], value):
            kept = value.copy() if isinstance(value, np.ndarray) else value
            self._last = (kept, encode(self.column, value))
        self.stored[at] = self._last[1]

    def put(self, at: int, values: Values) -> None:
        """Takes values from row `at` on."""
        if isinstance(values, list) and _is_one(values):
            self[at] = values[0]
            self.stored[at : at + len(values)] = [self.stored[at]] * len(values)
            return
        for row, value in enumerate(values, at):
            self[row] = value

    def __getitem__(self, rows: slice) -> list[bytes | memoryview]:
        return self.stored[rows]

    def clear(self) -> None:
        """Lets go of values that were written."""
        self.stored = [b""] * len(self.stored)


def _is_one(values: Sequence[Nested]) -> bool:
    """Whether there is one value, again and again, as what is said of an episode in each of its rows."""
    if not values:
        return False
    first = values[0]
    if type(first) is str:
        return values.count(first) == len(values)
    return all(value is first for value in values)


def _same(one: Nested, other: Nested) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, memoryview):  # to compare them is for the file, which does it faster
        return one is other
    if not isinstance(one, np.ndarray):
        return bool(one == other)
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


Rows = Array | HeapRows


def _rows_of(column: Column, rows: int) -> Rows:
    if column.heap is not None:
        return HeapRows(column, rows)
    return np.zeros((rows, *column.shape), column.numpy)


class Expected:
    """Next observations that were given although they follow from the next row, until that row is there."""

    def __init__(self, schema: Schema, rows: int) -> None:
        self._sources = [schema.column(column.of or ()) for column in schema.shifts]
        self.by_key = {s.key: _rows_of(s, rows) for s in self._sources}
        self.given = np.zeros(rows, bool)
        self._carried: dict[Key, Stored] | None = None  # of the row before the first

    def check(self, by_key: Mapping[Key, Rows], rows: int, first: Sequence[int], is_open: bool) -> None:
        """Compares what was given for `rows` rows with the rows that follow.

        `first` are the rows that begin episodes; `is_open` says that the last row's episode goes on. Raises
        `LayoutMismatch`.
        """
        begins = np.zeros(rows + 1, bool)
        begins[list(first)] = True
        begins[rows] = not is_open
        chosen = np.flatnonzero(self.given[:rows] & ~begins[1:])
        inside = chosen[chosen + 1 < rows]
        for source in self._sources:
            expected, found = self.by_key[source.key], by_key[source.key]
            if self._carried is not None and not begins[0]:
                self._compare(source, self._carried[source.key], found[0:1])
            if isinstance(expected, HeapRows):
                assert isinstance(found, HeapRows)
                for row in inside.tolist():
                    self._compare(source, expected[row : row + 1], found[row + 1 : row + 2])
            elif len(inside):
                assert isinstance(found, np.ndarray)
                self._compare(source, expected[inside], found[inside + 1])
        self._carried = None
        if len(chosen) > len(inside):
            last = slice(rows - 1, rows)
            self._carried = {
                key: values[last] if isinstance(values, HeapRows) else values[last].copy()
                for key, values in self.by_key.items()
            }
        self.given[:] = False

    @staticmethod
    def _compare(source: Column, expected: Stored, found: Stored) -> None:
        if isinstance(expected, np.ndarray) and isinstance(found, np.ndarray):
            same = expected.tobytes() == found.tobytes()
        else:
            same = list(expected) == list(found)
        if not same:
            raise LayoutMismatch(
                f"a next {'/'.join(source.key)} is not the one that followed; store next observations plainly"
            )


class EpisodeBuffer:
    """Rows of one stream that are not written yet, and its unfinished episode.

    What follows from the rest is filled in for all rows at once by `complete`. Until then `terminated` and
    `truncated` are False but where an episode ended, and `parts` says which rows belong to which episode.
    """

    def __init__(self, schema: Schema, rows: int) -> None:
        self.by_key = {column.key: _rows_of(column, rows) for column in schema.given}
        self._lent: dict[Key, Array] = {}  # in place of our own, until the next `clear`
        self.expected: Expected | None = None  # made when there is something to compare
        flat = {
            key: array.reshape(rows, -1)[:, 0]
            for key, array in self.by_key.items()
            if isinstance(array, np.ndarray) and array[0].size == 1
        }
        self.terminated, self.truncated, self.done, self.is_init, self.episode, self.step, self.reward = (
            flat.get(key, np.zeros(rows, dtype))
            for key, dtype in (
                (TERMINATED, bool), (TRUNCATED, bool), (("next", "done"), bool), (("is_init",), bool),
                (("episode",), np.int64), (("step",), np.int64), (_REWARD, np.float32),
            )
        )  # fmt: skip
        self.rows = 0  # in the arrays
        self.parts: list[tuple[int, int, int]] = []  # of each part of an episode: first row, its step, number
        self.ended = Ended()  # rows before each end: those in the arrays
        self.length = 0  # steps of the unfinished episode
        self.number = 0
        self.has_number = False  # `number` is that of the next step's episode
        self.seed: int | None = None

    def ended_before(self, row: int) -> None:
        """An episode has ended before `row`; rows behind it are of the next one."""
        self.length = self.rows - row
        self.has_number = False
        self.seed = None

    def take_ended(self, before: int) -> Ended:
        """The ends so far, once; `before` rows of the stream lie before those that are here."""
        ended, self.ended = self.ended, Ended()
        ended.rows = [before + row for row in ended.rows]
        return ended

    def take(self, key: Key, values: Values, rows: range, *, lend: bool) -> None:
        """Takes `rows` of a column's values behind the rows that are here.

        With `lend`, which needs that none are here, they stay where they are until `clear` if they can be
        written from there. Raises `ValueError` for another dtype or shape.
        """
        held = self.by_key[key]
        if isinstance(held, HeapRows):
            held.put(self.rows, values[rows.start : rows.stop])
            return
        array = np.asarray(values)
        part = array if len(rows) == len(array) else array[rows.start : rows.stop]
        if part.shape[1:] != held.shape[1:] and part.size == len(rows) * held[0].size:
            part = part.reshape(len(rows), *held.shape[1:])
        if part.dtype != held.dtype or part.shape[1:] != held.shape[1:]:
            shape = (len(values), *held.shape[1:])
            raise ValueError(f"column {key} is {array.dtype}{array.shape}, expected {held.dtype}{shape}")
        if lend and part.flags.c_contiguous:
            self._lent[key] = part
        else:
            held[self.rows : self.rows + len(rows)] = part

    def complete(self, rows: int) -> None:
        """Fills in `done`, `is_init`, `episode` and `step` of the first `rows` rows."""
        parts = np.array(self.parts, np.int64)
        _native.number_rows(parts, self.step[:rows], self.episode[:rows], self.is_init[:rows])
        np.logical_or(self.terminated[:rows], self.truncated[:rows], out=self.done[:rows])

    def clear(self) -> None:
        """Forgets rows that were written."""
        self.terminated[:] = self.truncated[:] = False
        self.parts.clear()
        self._lent.clear()
        for values in self.by_key.values():
            if isinstance(values, HeapRows):
                values.clear()

    def stored(self, rows: int) -> list[Stored]:
        """The first `rows` rows as they are written. Raises `LayoutMismatch`."""
        self.complete(rows)
        by_key: dict[Key, Rows] = {**self.by_key, **self._lent}
        if self.expected is not None:
            first = [at for at, step, _ in self.parts if not step]
            self.expected.check(by_key, rows, first, self.length > 0)
        held = [array[:rows] for array in by_key.values()]
        return [booleans(values) if isinstance(values, np.ndarray) else values for values in held]
