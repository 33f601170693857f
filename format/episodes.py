"""Time steps in, episodes out: what collecting, converting and online replay write through.

It fills in what follows from the rest (`done`, `is_init`, `episode`, `step`), keeps the rows of each stream
in preallocated arrays and writes them in chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np

from rlcli.format.keys import Key
from rlcli.format.writer import Writer

Array = np.ndarray[Any, Any]
Nested = Any  # an array, a number, or a mapping of names to these
_DERIVED_BY_US = (("next", "done"), ("is_init",), ("episode",), ("step",))
_REWARD = ("next", "reward")
_TERMINATED = ("next", "terminated")
_TRUNCATED = ("next", "truncated")


class _Buffer:
    """Rows of one stream that are not written yet, and its unfinished episode.

    What follows from the rest is filled in for all rows at once by `complete`. Until then `terminated` and
    `truncated` are False but where an episode ended, and `parts` says which rows belong to which episode.
    """

    def __init__(self, schema_columns: list[tuple[Key, np.dtype[Any], tuple[int, ...]]], rows: int) -> None:
        self.arrays = [np.zeros((rows, *shape), dtype) for _, dtype, shape in schema_columns]
        self.by_key = {key: array for (key, _, _), array in zip(schema_columns, self.arrays, strict=True)}
        flat = {
            key: array.reshape(rows, -1)[:, 0] for key, array in self.by_key.items() if array[0].size == 1
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


class EpisodeWriter:
    """Adds steps to a `Writer`. Leaves commit policy to `flush`; full chunks are committed by themselves.

    Closing it closes the writer. As a context manager an exception aborts instead: the last commit stays.
    """

    def __init__(self, writer: Writer, *, chunk_rows: int = 1024) -> None:
        self.writer = writer
        self.chunk_rows = chunk_rows
        columns = [(c.key, c.numpy, c.shape) for c in writer.schema.plain]
        self._keys = [key for key, _, _ in columns]
        self._plain_next = any(key[:2] == ("next", "observation") for key in self._keys)
        self._final_keys = [c.of for c in writer.schema.derived if c.of is not None]
        self._required = set(self._keys) - set(_DERIVED_BY_US) - {_TERMINATED, _TRUNCATED}
        self._children: dict[Key, int] = {}  # how many names a nested value must have
        nodes = {key[: depth + 1] for key in self._keys for depth in range(len(key))}
        for node in nodes:
            self._children[node[:-1]] = self._children.get(node[:-1], 0) + 1
        ours = {("observation",), ("action",), ("next",), *_DERIVED_BY_US}
        self._num_extra = sum(len(node) == 1 and node not in ours for node in nodes)
        self._buffers = [_Buffer(columns, chunk_rows) for _ in writer.streams]
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
        step if the schema stores next observations; where it is missing at an end, it is unknown.
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

    def add_rows(self, stream: int, columns: Mapping[Key, Array]) -> None:
        """Adds contiguous rows of one episode; call `end` where it ends.

        `columns` has every plain column, `[n, …]`, except those that follow from the rest (`done`, `is_init`,
        `episode`, `step`); `terminated` and `truncated` may be left out and are False then, until `end`.
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
                target = b.by_key[key][rows]
                part = values[done : done + count]
                if part.dtype != target.dtype or len(values) != total or part.size != target.size:
                    shape = (total, *target.shape[1:])
                    raise ValueError(
                        f"column {key} is {values.dtype}{values.shape}, expected {target.dtype}{shape}"
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
                rows, b.rows = b.rows, 0
                b.complete(rows)
                writer.write_arrays(stream, [array[:rows] for array in b.arrays], rows)
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
        values = None
        if final is not None and self._final_keys:
            values = {}
            for key in self._final_keys:
                value = final
                for name in key[1:]:
                    value = value[name]
                values[key] = np.array(value, b.by_key[key].dtype)
        b.ends.append(
            (b.rows, {
                "terminated": bool(terminated), "truncated": bool(truncated), "cut": cut, "final": values,
                "seed": b.seed, "number": b.number,
            })
        )  # fmt: skip
        b.length = 0
        b.has_number = False
        b.seed = None

    def _put(self, by_key: dict[Key, Array], key: Key, value: Nested, at: int) -> None:
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
