"""Time steps in, episodes out: what collecting, converting and online replay write through.

It fills in what follows from the rest (`done`, `is_init`, `episode`, `step`), keeps the rows of each stream
in preallocated arrays and writes them in chunks. What follows from the rest and is given all the same, the
next observation of a derived schema, is compared bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from rlcli.format.given import Stored, Values
from rlcli.format.heap import Encoded, encode
from rlcli.format.keys import Key
from rlcli.format.layout import STEPPED_ROWS
from rlcli.format.schema import FRAME, Column, Schema
from rlcli.format.values import booleans
from rlcli.format.writer import Writer

Array = np.ndarray[Any, Any]
Nested = Any  # an array, a number, or a mapping of names to these
_DERIVED_BY_US = (("next", "done"), ("is_init",), ("episode",), ("step",))
_OBSERVED = ("observation", FRAME)  # what these shift is given as parts of one next observation
_REWARD = ("next", "reward")
_TERMINATED = ("next", "terminated")
_TRUNCATED = ("next", "truncated")


class LayoutMismatch(Exception):
    """A next observation is not the observation that followed, so it cannot be derived.

    A dataset whose schema stores next observations plainly can hold these rows.
    """


class _HeapRows:
    """The stored bytes of a heap column's values; equal ones in turn are encoded once."""

    def __init__(self, column: Column, rows: int) -> None:
        self.column = column
        self.stored: list[bytes] = [b""] * rows
        self._last: Nested = None

    def __setitem__(self, at: int, value: Nested) -> None:
        if self._last is None or not _same(self._last[0], value):
            kept = value.copy() if isinstance(value, np.ndarray) else value
            self._last = (kept, encode(self.column, value))
        self.stored[at] = self._last[1]

    def __getitem__(self, rows: slice) -> list[bytes]:
        return self.stored[rows]


def _same(one: Nested, other: Nested) -> bool:
    if type(one) is not type(other):
        return False
    if not isinstance(one, np.ndarray):
        return bool(one == other)
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


Rows = Array | _HeapRows


def _rows_of(column: Column, rows: int) -> Rows:
    if column.heap is not None:
        return _HeapRows(column, rows)
    return np.zeros((rows, *column.shape), column.numpy)


class _Expected:
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
            if isinstance(expected, _HeapRows):
                assert isinstance(found, _HeapRows)
                for row in inside.tolist():
                    self._compare(source, expected[row : row + 1], found[row + 1 : row + 2])
            elif len(inside):
                assert isinstance(found, np.ndarray)
                self._compare(source, expected[inside], found[inside + 1])
        self._carried = None
        if len(chosen) > len(inside):
            last = slice(rows - 1, rows)
            self._carried = {
                key: values[last] if isinstance(values, _HeapRows) else values[last].copy()
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


class _Buffer:
    """Rows of one stream that are not written yet, and its unfinished episode.

    What follows from the rest is filled in for all rows at once by `complete`. Until then `terminated` and
    `truncated` are False but where an episode ended, and `parts` says which rows belong to which episode.
    """

    def __init__(self, schema: Schema, rows: int) -> None:
        self.by_key = {column.key: _rows_of(column, rows) for column in schema.given}
        self.expected: _Expected | None = None  # made when there is something to compare
        flat = {
            key: array.reshape(rows, -1)[:, 0]
            for key, array in self.by_key.items()
            if isinstance(array, np.ndarray) and array[0].size == 1
        }
        self.terminated, self.truncated, self.done, self.is_init, self.episode, self.step, self.reward = (
            flat.get(key, np.zeros(rows, dtype))
            for key, dtype in (
                (_TERMINATED, bool), (_TRUNCATED, bool), (("next", "done"), bool), (("is_init",), bool),
                (("episode",), np.int64), (("step",), np.int64), (_REWARD, np.float32),
            )
        )  # fmt: skip
        self.rows = 0  # in the arrays
        self.parts: list[tuple[int, int, int]] = []  # of each part of an episode: first row, its step, number
        self.ends: list[tuple[int, dict[str, Any]]] = []  # (rows before the end, arguments of end_episode)
        self.length = 0  # steps of the unfinished episode
        self.number = 0
        self.has_number = False  # `number` is that of the next step's episode
        self.seed: int | None = None

    def complete(self, rows: int) -> None:
        """Fills in `done`, `is_init`, `episode` and `step` of the first `rows` rows."""
        first, step, number = np.array(self.parts, np.int64).T
        lengths = np.diff(first, append=rows)
        np.subtract(np.arange(rows), np.repeat(first - step, lengths), out=self.step[:rows])
        self.episode[:rows] = np.repeat(number, lengths)
        np.equal(self.step[:rows], 0, out=self.is_init[:rows])
        np.logical_or(self.terminated[:rows], self.truncated[:rows], out=self.done[:rows])

    def clear(self) -> None:
        """Forgets rows that were written."""
        self.terminated[:] = self.truncated[:] = False
        self.parts.clear()

    def stored(self, rows: int) -> list[Stored]:
        """The first `rows` rows as they are written. Raises `LayoutMismatch`."""
        self.complete(rows)
        if self.expected is not None:
            first = [at for at, step, _ in self.parts if not step]
            self.expected.check(self.by_key, rows, first, self.length > 0)
        held = [array[:rows] for array in self.by_key.values()]
        return [booleans(values) if isinstance(values, np.ndarray) else values for values in held]


class EpisodeWriter:
    """Adds steps to a `Writer`. Leaves commit policy to `flush`; full chunks are committed by themselves.

    Closing it closes the writer. As a context manager an exception aborts instead: the last commit stays.
    `expected_rows` is how many rows each stream may get; few of them fit into its first segment.
    """

    def __init__(self, writer: Writer, *, chunk_rows: int = 1024, expected_rows: int = STEPPED_ROWS) -> None:
        self.writer = writer
        writer.expected_rows = expected_rows
        self.chunk_rows = chunk_rows
        schema = writer.schema
        self._keys = [column.key for column in schema.given]
        self._plain_next = any(key[:2] == ("next", "observation") for key in self._keys)
        self._final_keys = [c.of for c in schema.shifts if c.of is not None]
        if strange := [key for key in self._final_keys if key[0] not in _OBSERVED]:
            raise ValueError(f"columns {strange} are shifted: what follows an episode is an observation")
        self._required = set(self._keys) - set(_DERIVED_BY_US) - {_TERMINATED, _TRUNCATED}
        self._children: dict[Key, int] = {}  # how many names a nested value must have
        nodes = {key[: depth + 1] for key in self._keys for depth in range(len(key))}
        for node in nodes:
            self._children[node[:-1]] = self._children.get(node[:-1], 0) + 1
        ours = {("observation",), ("action",), ("next",), *_DERIVED_BY_US}
        self._num_extra = sum(len(node) == 1 and node not in ours for node in nodes)
        self._buffers = [_Buffer(schema, chunk_rows) for _ in writer.streams]
        self._next_number = writer.next_episode
        for stream, b in zip(writer.streams, self._buffers, strict=True):
            if stream.unfinished is not None:
                b.length = stream.rows - stream.unfinished.start
                b.number, b.has_number = stream.unfinished.number, True
                self._next_number = max(self._next_number, b.number + 1)

    @property
    def num_steps(self) -> int:
        """Steps added to the dataset in all, committed or not."""
        written = sum(stream.rows for stream in self.writer.streams)
        return written + sum(buffer.rows for buffer in self._buffers)

    def begin(self, stream: int, seed: int | None) -> None:
        """The seed of the episode that starts with the stream's next step.

        The episode gets its number here, so that numbers follow the order of these calls whatever the order
        in which streams hand over their rows. Without this call it gets one at its first step.
        """
        b = self._buffers[stream]
        b.seed = seed
        self._start(b)

    def add(
        self,
        stream: int,
        *,
        observation: Nested,
        action: Nested,
        reward: float,
        terminated: bool,
        truncated: bool,
        next_observation: Nested = None,
        **extra: Nested,
    ) -> None:
        """Adds one step. Values are copied.

        `next_observation` is needed where the episode ends (it becomes the exact final value), and in every
        step if the schema stores next observations; where it is missing at an end, it is unknown. Where it
        is derived and given all the same, it is compared with the observation that follows: a later call, or
        `flush`, raises `LayoutMismatch` if they differ in a bit; these rows are not written then.

        A heap column takes `str`, `bytes` or an array, see `heap.encode`.
        """
        b = self._buffers[stream]
        at = b.rows
        if at == self.chunk_rows:
            self.flush()
            at = 0
        by_key = b.by_key
        self._put(by_key, ("observation",), observation, at)
        self._put(by_key, ("action",), action, at)
        if self._plain_next:
            self._put(by_key, ("next", "observation"), next_observation, at)
        elif self._final_keys and next_observation is not None and not (terminated or truncated):
            expected = self._expected(b)
            self._put(expected.by_key, ("observation",), next_observation, at)
            expected.given[at] = True
        if len(extra) != self._num_extra:
            raise ValueError(f"{len(extra)} extra columns {sorted(extra)}, the schema has {self._num_extra}")
        for name, value in extra.items():
            self._put(by_key, (name,), value, at)
        b.reward[at] = reward
        if not b.length or not at:
            self._start_part(b)
        b.length += 1
        b.rows = at + 1
        if terminated or truncated:
            b.terminated[at], b.truncated[at] = terminated, truncated
            self._end(b, terminated=terminated, truncated=truncated, cut=False, final=next_observation)

    def add_rows(self, stream: int, columns: Mapping[Key, Values]) -> None:
        """Adds contiguous rows of one episode; call `end` where it ends.

        `columns` has every plain column, `[n, …]`, and n values of every heap column, except those that
        follow from the rest (`done`, `is_init`, `episode`, `step`); `terminated` and `truncated` may be left
        out and are False then, until `end`.
        """
        b = self._buffers[stream]
        if columns.keys() != self._required:
            if missing := self._required - columns.keys():
                raise ValueError(f"columns {sorted(missing)} are missing")
            if unknown := columns.keys() - set(self._keys):
                raise ValueError(f"unknown columns {sorted(unknown)}")
        total = len(next(iter(columns.values())))
        done = 0
        while done < total:
            if b.rows == self.chunk_rows:
                self.flush()
            if not b.length or not b.rows:
                self._start_part(b)
            count = min(total - done, self.chunk_rows - b.rows)
            rows = slice(b.rows, b.rows + count)
            for key, values in columns.items():
                if len(values) != total:
                    raise ValueError(f"column {key} has {len(values)} rows, expected {total}")
                held = b.by_key[key]
                if (
                    (type(values) is type(held) is np.ndarray and count == total)
                    and values.dtype == held.dtype
                    and values.shape[1:] == held.shape[1:]
                ):  # as nearly all are: short episodes make many calls
                    held[rows] = values
                    continue
                if isinstance(held, _HeapRows):
                    for at, value in enumerate(values[done : done + count], b.rows):
                        held[at] = value
                    continue
                array = np.asarray(values)
                part = array[done : done + count]
                target = held[rows]
                if part.dtype != target.dtype or part.size != target.size:
                    shape = (total, *target.shape[1:])
                    raise ValueError(
                        f"column {key} is {array.dtype}{array.shape}, expected {target.dtype}{shape}"
                    )
                target[...] = part.reshape(target.shape)
            b.length += count
            b.rows += count
            done += count

    def end(
        self, stream: int, *, terminated: bool, truncated: bool, final: Nested = None, cut: bool = False
    ) -> None:
        """Ends the stream's episode after its last row, setting that row's flags.

        `final` is the observation after that row.

        Raises `ValueError` if there is no step, or if the flags would change a row that was flushed.
        """
        b = self._buffers[stream]
        if not b.length:
            raise ValueError(f"stream {stream} has no unfinished episode")
        if b.rows:
            at = b.rows - 1
            b.terminated[at], b.truncated[at] = terminated, truncated
        elif terminated or truncated:
            raise ValueError("the last row was flushed as neither terminated nor truncated")
        self._end(b, terminated=terminated, truncated=truncated, cut=cut, final=final)

    def flush(self, tag: int = 0, *, sync: bool = False) -> None:
        """Writes and commits all rows of all streams; with `sync` they survive a power cut from here on."""
        writer = self.writer
        for stream, b in enumerate(self._buffers):
            before = writer.streams[stream].rows
            if b.rows:
                rows = b.rows
                stored = b.stored(rows)
                b.rows = 0
                writer.write_arrays(stream, stored, rows)
                b.clear()
            for at, arguments in b.ends:
                writer.end_episode(stream, at=before + at, **arguments)
            b.ends.clear()
        writer.commit(tag, sync=sync)

    def close(self, finals: Mapping[int, Nested] | None = None) -> None:
        """Marks unfinished episodes as cut, flushes and closes the writer.

        `finals` has, per stream, the observation after its last step, where it is known.
        """
        for stream, b in enumerate(self._buffers):
            if b.length:
                final = None if finals is None else finals.get(stream)
                self._end(b, terminated=False, truncated=False, cut=True, final=final)
        self.flush()
        self.writer.close()

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.writer.abort()

    def _start_part(self, b: _Buffer) -> None:
        self._start(b)
        b.parts.append((b.rows, b.length, b.number))

    def _start(self, b: _Buffer) -> None:
        if not b.has_number:
            b.number, b.has_number = self._next_number, True
            self._next_number += 1

    def _end(self, b: _Buffer, *, terminated: bool, truncated: bool, cut: bool, final: Nested) -> None:
        values: dict[Key, Any] | None = None
        if final is not None and self._final_keys:
            values = {}
            for key in self._final_keys:
                value = final
                for name in key[1:]:
                    value = value[name]
                held = b.by_key[key]
                if isinstance(held, _HeapRows):
                    values[key] = Encoded(encode(held.column, value))
                else:
                    values[key] = np.array(value, held.dtype)
        b.ends.append(
            (b.rows, {
                "terminated": bool(terminated), "truncated": bool(truncated), "cut": cut, "final": values,
                "seed": b.seed, "number": b.number,
            })
        )  # fmt: skip
        b.length = 0
        b.has_number = False
        b.seed = None

    def _expected(self, b: _Buffer) -> _Expected:
        if b.expected is None:
            b.expected = _Expected(self.writer.schema, self.chunk_rows)
        return b.expected

    def _put(self, by_key: Mapping[Key, Rows], key: Key, value: Nested, at: int) -> None:
        target = by_key.get(key)
        if target is not None:
            target[at] = value
        elif isinstance(value, Mapping) and len(value) == self._children.get(key):
            for name, child in value.items():
                self._put(by_key, (*key, name), child, at)
        else:
            found = sorted(value) if isinstance(value, Mapping) else type(value).__name__
            raise ValueError(
                f"{key} is {found}; stored are {[k for k in self._keys if k[: len(key)] == key]}"
            )
