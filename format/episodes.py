"""Time steps in, episodes out: what collecting, converting and online replay write through.

It fills in what follows from the rest (`done`, `is_init`, `episode`, `step`), keeps the rows of each stream
in preallocated arrays and writes them in chunks. What follows from the rest and is given all the same, the
next observation of a derived schema, is compared bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from types import TracebackType
from typing import Any

import numpy as np

from rlcli.format.ends import Ends, flags_of
from rlcli.format.episode_buffer import TERMINATED, TRUNCATED, EpisodeBuffer, Expected, HeapRows, Nested, Rows
from rlcli.format.given import Stored, Values, stored_finals
from rlcli.format.keys import Key
from rlcli.format.layout import STEPPED_ROWS
from rlcli.format.nested import pick
from rlcli.format.schema import FRAME
from rlcli.format.writer import Writer

Array = np.ndarray[Any, Any]
_DERIVED_BY_US = (("next", "done"), ("is_init",), ("episode",), ("step",))
_LARGE = 8  # so many times as many rows would be a full chunk: worth a write of their own
_OBSERVED = ("observation", FRAME)  # what these shift is given as parts of one next observation


class EpisodeWriter:
    """Adds steps to a `Writer`. Leaves commit policy to `flush`; full chunks are committed by themselves.

    Closing it closes the writer. As a context manager an exception aborts instead: the last commit stays.
    `expected_rows` is how many rows each stream may get; few of them fit into its first segment. `watch` is
    shown rows as they are written: the stored values of `schema.given`, and how many rows they are.
    """

    def __init__(
        self,
        writer: Writer,
        *,
        chunk_rows: int = 1024,
        expected_rows: int = STEPPED_ROWS,
        watch: Callable[[Sequence[Stored], int], None] = lambda arrays, rows: None,
    ) -> None:
        self.writer = writer
        self._watch = watch
        writer.expected_rows = expected_rows
        self.chunk_rows = chunk_rows
        schema = writer.schema
        self._keys = [column.key for column in schema.given]
        self._plain_next = any(key[:2] == ("next", "observation") for key in self._keys)
        self._final_keys = [c.of for c in schema.shifts if c.of is not None]
        if strange := [key for key in self._final_keys if key[0] not in _OBSERVED]:
            raise ValueError(f"columns {strange} are shifted: what follows an episode is an observation")
        self._required = set(self._keys) - set(_DERIVED_BY_US) - {TERMINATED, TRUNCATED}
        self._children: dict[Key, int] = {}  # how many names a nested value must have
        nodes = {key[: depth + 1] for key in self._keys for depth in range(len(key))}
        for node in nodes:
            self._children[node[:-1]] = self._children.get(node[:-1], 0) + 1
        ours = {("observation",), ("action",), ("next",), *_DERIVED_BY_US}
        self._num_extra = sum(len(node) == 1 and node not in ours for node in nodes)
        self._buffers = [EpisodeBuffer(schema, chunk_rows) for _ in writer.streams]
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

    def add_rows(self, stream: int, columns: Mapping[Key, Values], ends: Ends | None = None) -> None:
        """Adds contiguous rows, values copied, and ends the episodes that end among them.

        `columns` has every plain column, `[n, …]`, and n values of every heap column, except those that
        follow from the rest (`done`, `is_init`, `episode`, `step`); `terminated` and `truncated` may be left
        out and are False then, but where an episode ends. Without `ends` the rows are of one episode; call
        `end` where it ends. With `ends` all ends among the rows are known: many rows are written and
        committed at once, from where they are. An episode's number is the next one at its first row.

        Raises `ValueError` for columns or ends that are not so.
        """
        b = self._buffers[stream]
        if columns.keys() != self._required:
            if missing := self._required - columns.keys():
                raise ValueError(f"columns {sorted(missing)} are missing")
            if unknown := columns.keys() - set(self._keys):
                raise ValueError(f"unknown columns {sorted(unknown)}")
        total = len(next(iter(columns.values())))
        for key, values in columns.items():
            if len(values) != total:
                raise ValueError(f"column {key} has {len(values)} rows, expected {total}")
        if ends:
            ends.check(total)
        done = 0
        while done < total:
            is_large = ends is not None and _LARGE * min(total - done, self.chunk_rows) >= self.chunk_rows
            if b.rows == self.chunk_rows or (b.rows and is_large):
                self.flush()
            rows = range(done, min(total, done + self.chunk_rows - b.rows))
            for key, values in columns.items():
                b.take(key, values, rows, lend=is_large and key in self._required)
            self._mark(b, rows, ends)
            if is_large:
                self.flush()
            done = rows.stop

    def _mark(self, b: EpisodeBuffer, rows: range, ends: Ends | None) -> None:
        """Says which episodes the next rows are of; `ends` counts them as `rows` does."""
        if not b.length or not b.rows:
            self._start_part(b)
        at, b.rows = b.rows, b.rows + len(rows)
        inside = None if ends is None else ends.within(rows, at)
        if not inside:
            b.length += len(rows)
            return
        stops = inside.rows
        for stop, terminated, truncated in zip(stops, inside.terminated, inside.truncated, strict=True):
            b.terminated[stop - 1], b.truncated[stop - 1] = terminated, truncated
        following = range(self._next_number, self._next_number + len(stops) - 1)
        self._next_number = following.stop
        known = inside.known if self._final_keys else [False] * len(stops)
        flags = map(flags_of, inside.terminated, inside.truncated, inside.cut, known)
        first, *seeds = inside.seeds or [None] * len(stops)
        b.ended.extend(stops, flags, (b.number, *following), (b.seed if first is None else first, *seeds))
        if any(known):
            self._keep_finals(b, {key: inside.known_finals(key) for key in self._final_keys})
        b.parts += zip(stops, repeat(0), following)
        b.ended_before(stops[-1])
        if b.length:
            self._start(b)
            b.parts.append((stops[-1], 0, b.number))

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
                self._watch(stored, rows)
                writer.write_arrays(stream, stored, rows)
                b.clear()
            if b.ended:
                writer.end_episodes(stream, b.take_ended(before))
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

    def _start_part(self, b: EpisodeBuffer) -> None:
        self._start(b)
        b.parts.append((b.rows, b.length, b.number))

    def _start(self, b: EpisodeBuffer) -> None:
        if not b.has_number:
            b.number, b.has_number = self._next_number, True
            self._next_number += 1

    def _end(self, b: EpisodeBuffer, *, terminated: bool, truncated: bool, cut: bool, final: Nested) -> None:
        known = final is not None and bool(self._final_keys)
        b.ended.extend((b.rows,), (flags_of(terminated, truncated, cut, known),), (b.number,), (b.seed,))
        if known:
            self._keep_finals(b, {key: [pick(final, key[1:])] for key in self._final_keys})
        b.ended_before(b.rows)

    def _keep_finals(self, b: EpisodeBuffer, final: Mapping[Key, Values]) -> None:
        """Copies of values that follow episodes' ends, each as the column's dtype."""
        given = {
            key: values if isinstance(held := b.by_key[key], HeapRows) else np.array(values, held.dtype)
            for key, values in final.items()
        }
        b.ended.keep(stored_finals(self.writer.schema, given, len(next(iter(given.values())))))

    def _expected(self, b: EpisodeBuffer) -> Expected:
        if b.expected is None:
            b.expected = Expected(self.writer.schema, self.chunk_rows)
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
