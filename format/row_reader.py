"""Reading the rows of a dataset: contiguous, in runs, at any rows, stacked, of heaps.

Where hashes are compared, they are before anything is handed out. SPEC.md sections 4 to 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rlcli.format import direct
from rlcli.format.bound import Bound
from rlcli.format.checking import Waiting
from rlcli.format.composed import Composer, rows_before, run_rows
from rlcli.format.heap import Encoded
from rlcli.format.keys import Key
from rlcli.format.nested import nest, pick, put
from rlcli.format.row_plan import RowPlan, plan_of
from rlcli.format.schema import Schema
from rlcli.format.view import View

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.int64]]


class RowReader:
    """The rows of a view, in logical order, whichever way they are asked for."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._plans: dict[tuple[Key, ...] | None, RowPlan] = {}
        self._reads_directly = True  # until segments are read again

    @property
    def schema(self) -> Schema:
        return self._view.schema

    @property
    def num_rows(self) -> int:
        return self._view.stream_set.table.num_rows

    def read(self, key: Iterable[str], start: int = 0, stop: int | None = None) -> Array:
        """Rows `start … stop` of a column, `[stop - start, *shape]`, a copy. Unknown next values are zero."""
        wanted = (tuple(key),)
        plan = self._plans.get(wanted) or self._plan(wanted)
        start, stop = self._range(start, stop)
        if plan.composed:
            with self._view.reading:
                return self._composer.values(plan.composed[0], np.arange(start, stop))
        return self._read(start, stop, plan)[0]

    def read_rows(
        self, start: int = 0, stop: int | None = None, keys: Iterable[Key] | None = None
    ) -> dict[str, Any]:
        """Rows `start … stop` of all columns (or `keys`) as a nested dict of copies."""
        wanted = None if keys is None else tuple(keys)
        plan = self._plans.get(wanted) or self._plan(wanted)
        start, stop = self._range(start, stop)
        if not plan.composed:
            return nest(plan.keys, self._read(start, stop, plan))
        with self._view.reading:
            nested = nest(plan.keys, self._read_steadily(start, stop, plan))
            self._compose(nested, plan, np.arange(start, stop))
        return nested

    def text(self, key: Iterable[str], rows: Rows) -> tuple[Rows, list[str]]:
        """A text column at `rows` `[B]` as an index `[B]` and a table of the different texts."""
        with self._view.reading:
            return self._composer.text(self.schema.column(key), np.ascontiguousarray(rows, np.int64))

    def encoded(self, key: Iterable[str], rows: Rows) -> list[Encoded | None]:
        """The values of a heap column at `rows` `[B]` in their codec, as they were stored; None where a next
        value is unknown. This is what copies a column without decoding it.
        """
        with self._view.reading:
            return self._composer.encoded(self.schema.column(key), np.ascontiguousarray(rows, np.int64))

    @property
    def _composer(self) -> Composer:
        # Not kept: it refers to this object, which is to go, with its maps, when nobody refers to it.
        return Composer(
            self.schema, self._view.stream_set.streams, self._view.checker, self._gather, self._stack
        )

    def _compose(self, nested: dict[str, Any], plan: RowPlan, rows: Rows) -> None:
        for column in plan.composed:
            put(nested, column.key, self._composer.values(column, rows))

    def _range(self, start: int, stop: int | None) -> tuple[int, int]:
        stop = self.num_rows if stop is None else stop
        if not 0 <= start <= stop <= self.num_rows:
            raise IndexError(f"rows {start} to {stop} of {self.num_rows}")
        return start, stop

    def _read(self, start: int, stop: int, plan: RowPlan) -> list[Array]:
        if self._view.checker is None:
            arrays = self._view.stream_set.table.read(start, stop, plan.numbers)
            if arrays is not None:
                return arrays
        with self._view.reading:
            return self._read_steadily(start, stop, plan)

    # What is called `…_steadily`, and what the composer calls, is called inside `reading`: which rows logical
    # ones are stays the same from the first look at them to the last.

    def _read_steadily(self, start: int, stop: int, plan: RowPlan) -> list[Array]:
        table, checked = self._view.stream_set.table, self._view.checker is not None
        arrays = None
        if self._reads_directly:
            parts = list(self._view.stream_set.parts(start, stop))
            if len(parts) == 1:
                arrays = direct.read(table, *parts[0], plan.numbers, derived=plan.derived, checked=checked)
            self._reads_directly = arrays is not None or not checked
        if arrays is None:
            self._prepare(start, stop, plan)
            arrays = table.read(start, stop, plan.numbers)
        assert arrays is not None, "prepared rows can be read"
        return arrays

    def _prepare(self, start: int, stop: int, plan: RowPlan) -> None:
        if not self._view.ready.issuperset(plan.numbers):
            waiting: Waiting = []
            checker = self._view.checker
            before = 0 if checker is None else checker.num_compared
            for stream, low, high in self._view.stream_set.parts(start, stop):
                stream.prepare(low, high, plan.columns, waiting)
            self._settle(waiting)
            if checker is not None and checker.num_compared != before:
                self._note_ready(plan)

    def _settle(self, waiting: Waiting) -> None:
        if waiting and self._view.checker is not None:
            self._view.checker.settle(waiting)

    def views(self, key: Iterable[str]) -> list[Array]:
        """All rows of a plain column where they lie, checked: a read-only array `[rows, *shape]` per segment.

        They are mapped files: valid until `release`, and to be used while the dataset is open.
        """
        column = self.schema.column(key)
        position = self.schema.plain.index(column)
        found = []
        with self._view.reading:
            self._prepare(0, self.num_rows, self._plan((column.key,)))
            for stream in self._view.stream_set.streams:
                for segment in stream.segments:
                    low = max(stream.start - segment.first, 0)
                    if low < segment.rows:
                        found.append(segment.mapped.column(position)[low : segment.rows])
        return found

    def gather(
        self, rows: Rows, keys: Iterable[Key] | None = None, out: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The values at `rows` `[B]` as a nested dict of arrays `[B, *shape]`: fresh ones, or those of `out`.

        `keys` defaults to every column. Unknown next values are zero; see `unknown_next`. Text, bytes and
        arrays of any length come as an object array `[B]`. Raises `IndexError` for an uncommitted row.
        """
        wanted = None if keys is None else tuple(keys)
        plan = self._plans.get(wanted) or self._plan(wanted)
        index = np.ascontiguousarray(rows, np.int64)
        targets = None if out is None else [pick(out, key) for key in plan.keys]
        if not plan.composed:
            arrays = self._gather_plan(index, plan, targets)
            return nest(plan.keys, arrays) if out is None else out
        with self._view.reading:
            arrays = self._gather_steadily(index, plan, targets) if plan.keys else []
            nested = nest(plan.keys, arrays) if out is None else out
            self._compose(nested, plan, index)
        return nested

    def _gather(self, rows: Rows, keys: Sequence[Key], out: Sequence[Array] | None) -> Sequence[Array]:
        wanted = tuple(keys)
        return self._gather_steadily(rows, self._plans.get(wanted) or self._plan(wanted), out)

    def _gather_plan(self, index: Rows, plan: RowPlan, targets: Sequence[Array] | None) -> Sequence[Array]:
        if self._view.checker is None:
            arrays = self._view.stream_set.table.gather(index, plan.numbers, targets)
            if arrays is not None:
                return arrays
        with self._view.reading:
            return self._gather_steadily(index, plan, targets)

    def _gather_steadily(
        self, index: Rows, plan: RowPlan, targets: Sequence[Array] | None
    ) -> Sequence[Array]:
        if self._view.checker is not None:
            self._prepare_rows(index, plan)
        arrays = self._view.stream_set.table.gather(index, plan.numbers, targets)
        if arrays is None:
            self._prepare_rows(index, plan)
            arrays = self._view.stream_set.table.gather(index, plan.numbers, targets)
        assert arrays is not None, "prepared rows can be read"
        return arrays

    def _stack(
        self, rows: Rows, keys: tuple[Key, ...], frames: tuple[int, ...], out: Sequence[Array]
    ) -> None:
        plan = self._plans.get(keys) or self._plan(keys)
        table = self._view.stream_set.table
        if self._view.checker is not None:
            self._prepare_rows(rows_before(rows, max(frames)), plan)
        if not table.stacks(rows, plan.numbers, frames, out):
            self._prepare_rows(rows_before(rows, max(frames)), plan)
            is_done = table.stacks(rows, plan.numbers, frames, out)
            assert is_done, "prepared rows can be read"

    def gather_into(self, rows: Rows, keys: tuple[Key, ...], out: Sequence[Array]) -> None:
        """Writes the values at `rows` int64 `[B]` of each key into its array of `out`, `[B, *shape]`."""
        plan = self._plans.get(keys) or self._plan(keys)
        if not plan.composed:
            self._gather_plan(rows, plan, out)
            return
        with self._view.reading:
            self._composer.fill(keys, rows, slice(None), out)

    def bind(self, keys: tuple[Key, ...], out: Sequence[Array]) -> Bound | None:
        """The arrays of `gather_into`, for many times; None if a column is made of others."""
        plan = self._plans.get(keys) or self._plan(keys)
        return None if plan.composed or not keys else Bound(self._view, keys, out)

    def stack_into(self, rows: Rows, key: Key, frames: int, out: Array) -> None:
        """Writes the stacks of a column at `rows` int64 `[B]` into `out` `[B, frames, *shape]`: the last
        values of the episode, oldest first, as a stack column of the schema has them (SPEC.md 6).

        Raises `IncompatibleError` for a column that is neither plain nor a shift of a plain one.
        """
        with self._view.reading:
            self._composer.stacks([self.schema.stack_of(key, frames)], rows, [out])

    def read_runs(
        self, starts: Rows, counts: Rows, at: Rows, keys: tuple[Key, ...], out: Sequence[Array]
    ) -> None:
        """Writes `counts[b]` rows from `starts[b]` on to rows `at[b]` and following of each key's array.

        Runs cover different rows of `out`, whose other rows stay as they are; none crosses a stream's end.
        Raises `IndexError` where one does, or is not committed.
        """
        plan = self._plans.get(keys) or self._plan(keys)
        size = len(out[0])
        is_plain = self._view.checker is None and not plan.composed
        if is_plain and self._view.stream_set.table.read_runs(starts, counts, at, size, plan.numbers, out):
            return
        with self._view.reading:
            if plan.composed:
                self._composer.fill(keys, run_rows(starts, counts), run_rows(at, counts), out)
                return
            if not self._view.ready.issuperset(plan.numbers):
                self._prepare_rows(run_rows(starts, counts), plan)
            is_done = self._view.stream_set.table.read_runs(starts, counts, at, size, plan.numbers, out)
            assert is_done, "prepared rows can be read"

    def set_threads(self, count: int) -> None:
        """How many threads share the copying of a large batch (from 1 MiB on), 1 to 256; 1 by default."""
        self._view.stream_set.table.set_threads(count)

    def _prepare_rows(self, index: Rows, plan: RowPlan) -> None:
        if self._view.ready.issuperset(plan.numbers):
            return
        waiting: Waiting = []
        at = 0
        for stream in self._view.stream_set.streams:
            count = stream.rows - stream.start
            inside = index[(index >= at) & (index < at + count)]
            if len(inside):
                stream.prepare_rows(inside - at + stream.start, plan.keys, plan.derived, waiting)
            at += count
        self._settle(waiting)
        self._note_ready(plan)

    def _note_ready(self, plan: RowPlan) -> None:
        if all(stream.is_ready(plan.keys) for stream in self._view.stream_set.streams):
            self._view.ready.update(plan.numbers)

    def _plan(self, wanted: tuple[Key, ...] | None) -> RowPlan:
        plan = self._plans[wanted] = plan_of(self._view.schema, wanted)
        return plan
