"""Reading a dataset: its description, its episodes, contiguous rows, random rows, and what is committed
later.

Everything is checked before it is believed; nothing is ever written. SPEC.md sections 4 to 9 and 11.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np

from rlcli import _native
from rlcli.errors import CorruptError, InputError, nearest
from rlcli.format import digests, interop, manifest, snapshot
from rlcli.format.checking import Checker
from rlcli.format.episode_table import EpisodeRows, Episodes
from rlcli.format.keys import Key
from rlcli.format.layout import MANY_ROWS
from rlcli.format.manifest import Manifest, Segment
from rlcli.format.mapping import StreamMap
from rlcli.format.schema import Column, Schema
from rlcli.format.stream_reader import SegmentReader, StreamReader

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.int64]]


class _Plan(NamedTuple):
    """Columns to read, and their numbers in the row map."""

    keys: tuple[Key, ...]
    columns: tuple[Column, ...]
    numbers: tuple[int, ...]
    derived: bool


class Dataset:
    """A snapshot of a dataset, moved on by `refresh`. Logical rows number its streams' rows one after the
    other.

    Opening reads the manifest and the journals of open segments; a sealed segment is opened when it is first
    touched. With `check="touch"` no byte is returned whose hash was not compared before; with `"none"` only
    structure and sizes are. Reading may run in several threads; `refresh` beside it is safe for checks of
    `"none"`.
    """

    def __init__(
        self, path: Path, found: snapshot.Snapshot, check: Literal["touch", "none"], single_range: bool
    ) -> None:
        self.path = path
        self.uuid: str = found.identity["uuid"]
        self.schema: Schema = found.manifest.schema
        self._manifest = found.manifest
        self._checker = Checker(path, self.schema) if check == "touch" else None
        self._single_range = single_range
        self._table = _native.RowMap()
        self._numbers: dict[Key, int] = {}
        for column in self.schema.plain:
            self._numbers[column.key] = self._table.add_plain(column.numpy, column.shape)
        for column in self.schema.derived:
            self._numbers[column.key] = self._table.add_shift(self._numbers[column.of or ()])
        self._plans: dict[tuple[Key, ...] | None, _Plan] = {}
        self._ready: set[Key] = set()  # columns of which every row was touched and compared
        self._streams: list[StreamReader] = []
        self.changes = 0  # how often other rows were seen; what is worked out from the rows holds until then
        self._adopt(found.manifest, found.journals)

    @classmethod
    def open(
        cls, path: str | Path, *, check: Literal["touch", "none"] = "touch", single_range: bool = True
    ) -> Dataset:
        """The newest snapshot at `path`.

        Raises `InputError` if it is no dataset, `IncompatibleError` for another version, `CorruptError`
        naming the file where something is wrong. `single_range=False` maps each segment for itself, which is
        slower.
        """
        path = Path(path)
        found = snapshot.load(path)
        try:
            return cls(path, found, check, single_range)
        except BaseException:
            found.close()
            raise

    def close(self) -> None:
        """Closes the journals; maps live as long as the object."""
        for stream in self._streams:
            if stream.journal is not None:
                stream.journal.close()
                stream.journal = None

    def __enter__(self) -> Dataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def generation(self) -> int:
        return self._manifest.generation

    @property
    def spec(self) -> dict[str, Any]:
        return self._manifest.spec

    @property
    def lineage(self) -> list[dict[str, Any]]:
        return self._manifest.lineage

    @property
    def extra(self) -> dict[str, Any]:
        return self._manifest.extra

    @property
    def segments(self) -> tuple[Segment, ...]:
        return self._manifest.segments

    @property
    def state(self) -> Literal["sealed", "open"]:
        """`open` while a writer is at work, or after it was killed."""
        open_ = any(not s.sealed for s in self.segments) or any(
            s.get("owner") for s in self._manifest.streams
        )
        return "open" if open_ else "sealed"

    @property
    def num_rows(self) -> int:
        return self._table.num_rows

    @property
    def stream_rows(self) -> list[int]:
        """Committed rows per stream."""
        return [stream.rows for stream in self._streams]

    @property
    def num_episodes(self) -> int:
        """Episodes with an end, also cut ones."""
        return sum(stream.num_episodes - stream.num_partial for stream in self._streams)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of its segments; what was never written counts in an open one."""
        sealed = sum(segment.bytes for segment in self.segments)
        return sealed + sum(s.alloc * self.schema.row_bytes for s in self.segments if not s.sealed)

    @property
    def snapshot(self) -> dict[str, Any]:
        """What identifies the state: generation and rows per stream."""
        return {"generation": self.generation, "rows": self.stream_rows}

    @property
    def digest(self) -> str:
        """SHA-256 of schema, spec and content; independent of time, place and commits. SPEC.md section 9."""
        parts = []
        for stream in self._streams:
            for segment in stream.segments:
                entry = segment.mapped.entry
                if segment.rows:
                    whole = entry.sealed and segment.rows == entry.rows
                    content = entry.content if whole else self._content(stream, segment)
                    parts.append((entry.stream, entry.first, segment.rows, content))
        return digests.dataset_digest(self.schema, self.spec, parts)

    def _content(self, stream: StreamReader, segment: SegmentReader) -> str:
        stream.touch(stream.position(segment.first))
        if self._checker is not None:
            self._checker.everything(segment.mapped)
        return digests.segment_content(segment.mapped, segment.rows, segment.episodes.arrays())

    @property
    def episodes(self) -> Episodes:
        """Every episode that has an end, in logical order."""
        starts = self._stream_starts()
        return Episodes.join(
            [
                (at - stream.start, stream.tables(whole=True))
                for at, stream in zip(starts, self._streams, strict=True)
            ]
        )

    def episode(self, index: int) -> EpisodeRows:
        """Where the episode of that place in `episodes` is. Only its segment's table is read.

        Raises `IndexError` if there is none.
        """
        at, left = 0, index
        for stream in self._streams:
            partial = stream.num_partial
            count = stream.num_episodes - partial
            if 0 <= left < count:
                start, length = stream.episode(left + partial)
                return EpisodeRows(at + start - stream.start, length, stream.number)
            left -= count
            at += stream.rows - stream.start
        raise IndexError(f"episode {index} of {self.num_episodes}")

    @property
    def unknown_next(self) -> Rows:
        """Logical rows whose next observation is unknown, ascending: unless it is stored, these are episode
        ends without a final value, and the newest row of an unfinished episode.
        """
        found: list[int] = []
        if self.schema.derived:
            for at, stream in zip(self._stream_starts(), self._streams, strict=True):
                found += [row - stream.start + at for row in stream.unknown_next]
        return np.array(found, np.int64)

    def _stream_starts(self) -> list[int]:
        """The first logical row of each stream."""
        starts, at = [], 0
        for stream in self._streams:
            starts.append(at)
            at += stream.rows - stream.start
        return starts

    def read(self, key: Iterable[str], start: int = 0, stop: int | None = None) -> Array:
        """Rows `start … stop` of a column, `[stop - start, *shape]`, a copy. Unknown next values are zero."""
        wanted = (tuple(key),)
        plan = self._plans.get(wanted) or self._plan(wanted)
        return self._read(start, stop, plan)[0]

    def read_rows(
        self, start: int = 0, stop: int | None = None, keys: Iterable[Key] | None = None
    ) -> dict[str, Any]:
        """Rows `start … stop` of all columns (or `keys`) as a nested dict of copies."""
        wanted = None if keys is None else tuple(keys)
        plan = self._plans.get(wanted) or self._plan(wanted)
        return _nest(plan.keys, self._read(start, stop, plan))

    def _read(self, start: int, stop: int | None, plan: _Plan) -> list[Array]:
        stop = self.num_rows if stop is None else stop
        if not 0 <= start <= stop <= self.num_rows:
            raise IndexError(f"rows {start} to {stop} of {self.num_rows}")
        if self._checker is not None:
            self._prepare(start, stop, plan)
        arrays = self._table.read(start, stop, plan.numbers)
        if arrays is None:
            self._prepare(start, stop, plan)
            arrays = self._table.read(start, stop, plan.numbers)
        assert arrays is not None, "prepared rows can be read"
        return arrays

    def _prepare(self, start: int, stop: int, plan: _Plan) -> None:
        if not self._ready.issuperset(plan.keys):
            for stream, low, high in self._parts(start, stop):
                stream.prepare(low, high, plan.columns)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[StreamReader, int, int]]:
        """The stream rows that logical rows `start … stop` are."""
        for stream in self._streams:
            low, high = max(start, 0) + stream.start, min(stop + stream.start, stream.rows)
            if low < high:
                yield stream, low, high
            count = stream.rows - stream.start
            start, stop = start - count, stop - count

    def gather(
        self, rows: Rows, keys: Iterable[Key] | None = None, out: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The values at `rows` `[B]` as a nested dict of arrays `[B, *shape]`: fresh ones, or those of `out`.

        `keys` defaults to every column. Unknown next values are zero; see `unknown_next`. Raises `IndexError`
        for a row that is not committed.
        """
        wanted = None if keys is None else tuple(keys)
        plan = self._plans.get(wanted) or self._plan(wanted)
        index = np.ascontiguousarray(rows, np.int64)
        targets = None if out is None else [_pick(out, key) for key in plan.keys]
        if self._checker is not None:
            self._prepare_rows(index, plan)
        arrays = self._table.gather(index, plan.numbers, targets)
        if arrays is None:
            self._prepare_rows(index, plan)
            arrays = self._table.gather(index, plan.numbers, targets)
        assert arrays is not None, "prepared rows can be read"
        return _nest(plan.keys, arrays) if out is None else out

    def gather_into(self, rows: Rows, keys: tuple[Key, ...], out: Sequence[Array]) -> None:
        """Writes the values at `rows` int64 `[B]` of each key into its array of `out`, `[B, *shape]`."""
        plan = self._plans.get(keys) or self._plan(keys)
        if self._checker is not None:
            self._prepare_rows(rows, plan)
        if self._table.gather(rows, plan.numbers, out) is None:
            self._prepare_rows(rows, plan)
            self._table.gather(rows, plan.numbers, out)

    def read_runs(
        self, starts: Rows, counts: Rows, at: Rows, keys: tuple[Key, ...], out: Sequence[Array]
    ) -> None:
        """Writes `counts[b]` rows from `starts[b]` on to rows `at[b]` and following of each key's array.

        Runs cover different rows of `out`, whose other rows stay as they are; none crosses a stream's end.
        Raises `IndexError` where one does, or is not committed.
        """
        plan = self._plans.get(keys) or self._plan(keys)
        size = len(out[0])
        if self._checker is not None:
            self._prepare_runs(starts, counts, plan)
        if not self._table.read_runs(starts, counts, at, size, plan.numbers, out):
            self._prepare_runs(starts, counts, plan)
            self._table.read_runs(starts, counts, at, size, plan.numbers, out)

    def _prepare_runs(self, starts: Rows, counts: Rows, plan: _Plan) -> None:
        if not self._ready.issuperset(plan.keys):
            for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
                self._prepare(start, start + count, plan)
            if all(stream.is_ready(plan.keys) for stream in self._streams):
                self._ready.update(plan.keys)

    def set_threads(self, count: int) -> None:
        """How many threads share the copying of a large batch (from 1 MiB on); 1 by default."""
        self._table.set_threads(count)

    def _prepare_rows(self, index: Rows, plan: _Plan) -> None:
        if self._ready.issuperset(plan.keys):
            return
        at = 0
        for stream in self._streams:
            count = stream.rows - stream.start
            inside = index[(index >= at) & (index < at + count)]
            if len(inside):
                stream.prepare_rows(inside - at + stream.start, plan.keys, plan.derived)
            at += count
        if all(stream.is_ready(plan.keys) for stream in self._streams):
            self._ready.update(plan.keys)

    def _plan(self, wanted: tuple[Key, ...] | None) -> _Plan:
        columns = self.schema.columns if wanted is None else tuple(self.schema.column(key) for key in wanted)
        keys = tuple(column.key for column in columns)
        numbers = tuple(self._numbers[key] for key in keys)
        plan = _Plan(keys, columns, numbers, any(column.of for column in columns))
        self._plans[wanted] = plan
        return plan

    def open_segment(self, name: str) -> Any:
        """A segment's stored columns as a `tensordict.TensorDict` of its committed rows, for other libraries.

        Sizes (and with `check="touch"` hashes) are compared first, because the plain loader grows files that
        are too short. Do not write to it. Raises `InputError` for a name that is not there, `CorruptError`
        for damage.
        """
        for stream in self._streams:
            for position, segment in enumerate(stream.segments):
                if segment.mapped.entry.name == name:
                    stream.touch(position)
                    if self._checker is not None:
                        self._checker.everything(segment.mapped)
                    return interop.load_segment(segment.mapped, segment.rows)
        choices = nearest(name, (segment.name for segment in self.segments))
        raise InputError(f"{self.path}: no segment {name!r}; {choices}")

    def refresh(self) -> None:
        """Moves on to what is committed now. Cheap when little was.

        Logical rows of all streams but the first move when an earlier stream has grown.
        Raises `InputError` if rows were taken back (a rewind); open the dataset again then.
        """
        for stream in self._streams:
            if stream.journal is not None and stream.journal.advance():
                self._ready.clear()
                self.changes += 1
                stream.advance(stream.journal.state)
        if manifest.path_of(self.path, self.generation + 1).exists():
            newest = self._manifest
            numbers = manifest.generations(self.path)
            for generation in numbers[numbers.index(newest.generation) + 1 :]:
                following = manifest.load(self.path, self.uuid, generation)
                if following.parent != {"generation": newest.generation, "sha256": newest.sha256}:
                    path = manifest.path_of(self.path, newest.generation)
                    raise CorruptError(
                        f"{path}: SHA-256 differs from what generation {generation} says", path=path
                    )
                newest = following
            self._adopt(newest, {})

    def _adopt(self, newest: Manifest, journals: dict[str, snapshot.OpenJournal]) -> None:
        """Lists what a manifest names and is not listed yet."""
        self._ready.clear()
        self.changes += 1
        for number in range(len(newest.streams)):
            entries = [segment for segment in newest.segments if segment.stream == number]
            if number == len(self._streams):
                capacity = sum(entry.alloc for entry in entries)
                if newest.streams[number].get("owner"):
                    capacity += max(capacity, 4 * MANY_ROWS)
                streams = StreamMap(
                    self.path, self.schema, capacity=capacity, single_range=self._single_range
                )
                self._streams.append(StreamReader(number, streams, self._table, self._checker))
            stream = self._streams[number]
            for position, segment in enumerate(stream.segments):
                entry = entries[position] if position < len(entries) else None
                if entry is None or entry.name != segment.mapped.entry.name:
                    raise InputError(f"{self.path}: rows were taken back since it was opened; open it again")
                if entry.sealed and not segment.mapped.entry.sealed:
                    stream.seal(entry)
            if further := entries[len(stream.segments) :]:
                self._list(stream, further, journals)
        self._manifest = newest

    def _list(
        self, stream: StreamReader, entries: list[Segment], journals: dict[str, snapshot.OpenJournal]
    ) -> None:
        """Lists further segments; the last may be open."""
        stream.list_segments(entries)
        last = entries[-1]
        if not last.sealed:
            journal = journals.get(last.name) or snapshot.open_journal(self.path, self.uuid, last)
            stream.follow(journal)


def _nest(keys: Sequence[Key], arrays: Sequence[Array]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, array in zip(keys, arrays, strict=True):
        node = nested
        for part in key[:-1]:
            node = node.setdefault(part, {})
        node[key[-1]] = array
    return nested


def _pick(nested: dict[str, Any], key: Key) -> Array:
    node: Any = nested
    for part in key:
        node = node[part]
    array: Array = node
    return array
