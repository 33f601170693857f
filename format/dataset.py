"""Reading a dataset: its description, its episodes, contiguous and random rows, what is committed later.

Everything is checked before it is believed; nothing is ever written. SPEC.md sections 4 to 9 and 11.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from rlcli.errors import InputError, nearest
from rlcli.format import digests, direct, interop
from rlcli.format.checking import Waiting
from rlcli.format.composed import Composer, rows_before, run_rows
from rlcli.format.episode_table import EpisodeRows, Episodes
from rlcli.format.heap import Encoded
from rlcli.format.keys import Key
from rlcli.format.location import Location, is_folder, locate
from rlcli.format.manifest import Manifest, Segment
from rlcli.format.nested import nest, pick, put
from rlcli.format.schema import Column, Schema
from rlcli.format.stream_reader import SegmentReader, StreamReader
from rlcli.format.view import Refreshed, View

if TYPE_CHECKING:
    from rlcli.format.remote import Remote

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.int64]]


class _Plan(NamedTuple):
    """Columns to read, and their numbers in the row map."""

    keys: tuple[Key, ...]
    columns: tuple[Column, ...]
    numbers: tuple[int, ...]
    derived: bool
    composed: tuple[Column, ...]  # these are made of others


class Dataset:
    """A snapshot of a dataset, moved on by `refresh`. Logical rows number its streams' retained rows one
    after the other.

    Opening reads the manifest and the journals of open segments; a sealed segment is opened when it is first
    touched (those of a window at once). With `check="touch"` no byte is returned whose hash was not compared
    before; with `"none"` only structure and sizes are. Reading may run in several threads; `refresh` beside
    it is safe for checks of `"none"`.
    """

    def __init__(self, view: View) -> None:
        self.path = view.location
        self._view = view
        self._plans: dict[tuple[Key, ...] | None, _Plan] = {}
        self._reads_directly = True  # until segments are read again

    @classmethod
    def open(
        cls,
        path: str | Location,
        *,
        check: Literal["touch", "none"] = "touch",
        single_range: bool = True,
        at: Mapping[str, Any] | None = None,
        remote: Remote | None = None,
    ) -> Dataset:
        """The newest snapshot at `path`, or `at` an older one, which stays as it is.

        Raises `InputError` if it is no dataset or rows of `at` are gone, `IncompatibleError` for another
        version, `CorruptError` naming the file where something is wrong. `single_range=False` maps each
        segment for itself, which is slower.

        `path` may be a URL of a sealed dataset (`https://…`, `s3://…`, `memory://…`), read as `remote` says:
        what is needed is fetched into a cache on disk, and always compared with its hash. It raises
        `InputError` too when a server cannot be reached, and `MissingExtraError`. A packed file, `x.rlz`, is
        read in the same way.
        """
        location = locate(path)
        if not is_folder(location):
            from rlcli.format.remote import Remote, RemoteView

            return cls(RemoteView(location, remote or Remote(), single_range=single_range, at=at))
        return cls(View(location, checked=check == "touch", single_range=single_range, at=at))

    def close(self) -> None:
        """Closes the journals; maps live as long as the object."""
        self._view.stream_set.close()

    def release(self) -> None:
        """Gives back the memory of all pages that were read; they are read from the files when touched again.

        A long scan calls it now and then, so that it does not look as if it held the whole dataset.
        """
        for stream in self._view.stream_set.streams:
            stream.release()

    def expect_random(self, random: bool = True) -> None:
        """Rows will be read at random: of a page that is not in memory the neighbours are not read with it.

        For a dataset that does not fit in memory, where neighbours push out what is needed again. One that
        fits is in memory sooner with them, and so is what is read in order.
        """
        for stream in self._view.stream_set.streams:
            stream.expect_random(random)

    def __enter__(self) -> Dataset:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def identity(self) -> dict[str, Any]:
        """`dataset.json`."""
        return self._view.identity

    @property
    def manifest(self) -> Manifest:
        """The newest one, without what an older snapshot had not."""
        return self._view.manifest

    @property
    def uuid(self) -> str:
        return self._view.uuid

    @property
    def schema(self) -> Schema:
        return self._view.schema

    @property
    def generation(self) -> int:
        return self._view.generation

    @property
    def changes(self) -> int:
        """How often other rows were seen; what is worked out from the rows holds until it changes."""
        return self._view.changes

    @property
    def spec(self) -> dict[str, Any]:
        return self._view.manifest.spec

    @property
    def lineage(self) -> list[dict[str, Any]]:
        return self._view.manifest.lineage

    @property
    def extra(self) -> dict[str, Any]:
        return self._view.manifest.extra

    @property
    def segments(self) -> tuple[Segment, ...]:
        return self._view.manifest.segments

    @property
    def state(self) -> Literal["sealed", "open"]:
        """`open` while a writer is at work, or after it was killed."""
        open_ = any(not s.sealed for s in self.segments) or any(
            s.get("owner") for s in self._view.manifest.streams
        )
        return "open" if open_ else "sealed"

    @property
    def num_rows(self) -> int:
        return self._view.stream_set.table.num_rows

    @property
    def stream_rows(self) -> list[int]:
        """Per stream the number behind its last committed row. Rows that have left a window count."""
        return [stream.rows for stream in self._view.stream_set.streams]

    @property
    def num_episodes(self) -> int:
        """Episodes with an end, also cut ones."""
        return sum(stream.num_episodes - stream.num_partial for stream in self._view.stream_set.streams)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files of its segments; what was never written counts in an open one."""
        sealed = sum(segment.bytes for segment in self.segments)
        return sealed + sum(s.alloc * self.schema.row_bytes for s in self.segments if not s.sealed)

    @property
    def snapshot(self) -> dict[str, Any]:
        """What identifies the state: the generation, per stream the retained rows `starts … rows`, and
        `ended`, the row behind its last ended episode.
        """
        streams = self._view.stream_set.streams
        return {
            "generation": self.generation,
            "starts": [stream.start for stream in streams],
            "rows": [stream.rows for stream in streams],
            "ended": [stream.ended for stream in streams],
        }

    @property
    def digest(self) -> str:
        """SHA-256 of schema, spec and content; independent of time, place and commits. SPEC.md section 9."""
        parts = []
        for stream in self._view.stream_set.streams:
            for segment in stream.segments:
                entry = segment.mapped.entry
                if segment.rows:
                    whole = (entry.rows, entry.episodes) == (segment.rows, len(segment.episodes))
                    content = entry.content if whole else self._content(stream, segment)
                    parts.append((entry.stream, entry.first, segment.rows, content))
        return digests.dataset_digest(self.schema, self.spec, parts)

    def _content(self, stream: StreamReader, segment: SegmentReader) -> str:
        stream.touch(stream.position(segment.first))
        if self._view.checker is not None:
            self._view.checker.everything(segment.mapped)
        return digests.segment_content(segment.mapped, segment.rows, segment.episodes.arrays())

    @property
    def episodes(self) -> Episodes:
        """Every episode that has an end, in logical order; in a window only those with all their rows."""
        return self._episodes(whole=True)

    def episodes_all(self) -> Episodes:
        """Like `episodes`, with those of which rows have left a window: their `start` is that many rows
        before the first row of their stream.
        """
        return self._episodes(whole=False)

    def _episodes(self, *, whole: bool) -> Episodes:
        streams = zip(self._view.stream_set.starts, self._view.stream_set.streams, strict=True)
        return Episodes.join([(at - stream.start, stream.tables(whole=whole)) for at, stream in streams])

    def episode(self, index: int) -> EpisodeRows:
        """Where the episode of that place in `episodes` is. Only its segment's table is read.

        Raises `IndexError` if there is none.
        """
        at, left = 0, index
        for stream in self._view.stream_set.streams:
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
            for at, stream in zip(self._view.stream_set.starts, self._view.stream_set.streams, strict=True):
                found += [row - stream.start + at for row in stream.unknown_next]
        return np.array(found, np.int64)

    def row_ids(self, rows: Rows) -> Rows:
        """The identities of logical rows, which are theirs for ever: `stream << 40 | row in the stream`."""
        index = np.asarray(rows, np.int64)
        if index.size and not (index.min() >= 0 and index.max() < self.num_rows):
            raise IndexError(f"a row is outside 0 to {self.num_rows - 1}")
        return self._view.stream_set.ids(index)

    def rows_of(self, ids: Rows) -> Rows:
        """The logical rows with these identities, −1 for those that are not there: evicted, or not seen."""
        return self._view.stream_set.rows_of(np.asarray(ids, np.int64))

    def read(self, key: Iterable[str], start: int = 0, stop: int | None = None) -> Array:
        """Rows `start … stop` of a column, `[stop - start, *shape]`, a copy. Unknown next values are zero."""
        wanted = (tuple(key),)
        plan = self._plans.get(wanted) or self._plan(wanted)
        start, stop = self._range(start, stop)
        if plan.composed:
            return self._composer.values(plan.composed[0], np.arange(start, stop))
        return self._read(start, stop, plan)[0]

    def read_rows(
        self, start: int = 0, stop: int | None = None, keys: Iterable[Key] | None = None
    ) -> dict[str, Any]:
        """Rows `start … stop` of all columns (or `keys`) as a nested dict of copies."""
        wanted = None if keys is None else tuple(keys)
        plan = self._plans.get(wanted) or self._plan(wanted)
        start, stop = self._range(start, stop)
        nested = nest(plan.keys, self._read(start, stop, plan))
        if plan.composed:
            self._compose(nested, plan, np.arange(start, stop))
        return nested

    def text(self, key: Iterable[str], rows: Rows) -> tuple[Rows, list[str]]:
        """A text column at `rows` `[B]` as an index `[B]` and a table of the different texts."""
        return self._composer.text(self.schema.column(key), np.ascontiguousarray(rows, np.int64))

    def encoded(self, key: Iterable[str], rows: Rows) -> list[Encoded | None]:
        """The values of a heap column at `rows` `[B]` in their codec, as they were stored; None where a next
        value is unknown. This is what copies a column without decoding it.
        """
        return self._composer.encoded(self.schema.column(key), np.ascontiguousarray(rows, np.int64))

    @property
    def _composer(self) -> Composer:
        # Not kept: it refers to this object, which is to go, with its maps, when nobody refers to it.
        return Composer(
            self.schema, self._view.stream_set.streams, self._view.checker, self._gather, self._stack
        )

    def _compose(self, nested: dict[str, Any], plan: _Plan, rows: Rows) -> None:
        for column in plan.composed:
            put(nested, column.key, self._composer.values(column, rows))

    def _range(self, start: int, stop: int | None) -> tuple[int, int]:
        stop = self.num_rows if stop is None else stop
        if not 0 <= start <= stop <= self.num_rows:
            raise IndexError(f"rows {start} to {stop} of {self.num_rows}")
        return start, stop

    def _read(self, start: int, stop: int, plan: _Plan) -> list[Array]:
        table, checked = self._view.stream_set.table, self._view.checker is not None
        arrays = None if checked else table.read(start, stop, plan.numbers)
        if arrays is None and self._reads_directly:
            parts = list(self._view.stream_set.parts(start, stop))
            if len(parts) == 1:
                arrays = direct.read(*parts[0], plan.columns, checked=checked)
            self._reads_directly = arrays is not None or not checked
        if arrays is None:
            self._prepare(start, stop, plan)
            arrays = table.read(start, stop, plan.numbers)
        assert arrays is not None, "prepared rows can be read"
        return arrays

    def _prepare(self, start: int, stop: int, plan: _Plan) -> None:
        if not self._view.ready.issuperset(plan.keys):
            waiting: Waiting = []
            for stream, low, high in self._view.stream_set.parts(start, stop):
                stream.prepare(low, high, plan.columns, waiting)
            self._settle(waiting)

    def _settle(self, waiting: Waiting) -> None:
        if waiting and self._view.checker is not None:
            self._view.checker.settle(waiting)

    def views(self, key: Iterable[str]) -> list[Array]:
        """All rows of a plain column where they lie, checked: a read-only array `[rows, *shape]` per segment.

        They are mapped files: valid until `release`, and to be used while the dataset is open.
        """
        column = self.schema.column(key)
        self._prepare(0, self.num_rows, self._plan((column.key,)))
        position = self.schema.plain.index(column)
        found = []
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
        arrays = self._gather_plan(index, plan, targets) if plan.keys else []
        nested = nest(plan.keys, arrays) if out is None else out
        if plan.composed:
            self._compose(nested, plan, index)
        return nested

    def _gather(self, rows: Rows, keys: Sequence[Key], out: Sequence[Array] | None) -> Sequence[Array]:
        wanted = tuple(keys)
        return self._gather_plan(rows, self._plans.get(wanted) or self._plan(wanted), out)

    def _gather_plan(self, index: Rows, plan: _Plan, targets: Sequence[Array] | None) -> Sequence[Array]:
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
        if plan.composed:
            self._composer.fill(keys, rows, slice(None), out)
            return
        if self._view.checker is not None:
            self._prepare_rows(rows, plan)
        if self._view.stream_set.table.gather(rows, plan.numbers, out) is None:
            self._prepare_rows(rows, plan)
            self._view.stream_set.table.gather(rows, plan.numbers, out)

    def stack_into(self, rows: Rows, key: Key, frames: int, out: Array) -> None:
        """Writes the stacks of a column at `rows` int64 `[B]` into `out` `[B, frames, *shape]`: the last
        values of the episode, oldest first, as a stack column of the schema has them (SPEC.md 6).

        Raises `IncompatibleError` for a column that is neither plain nor a shift of a plain one.
        """
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
        if plan.composed:
            self._composer.fill(keys, run_rows(starts, counts), run_rows(at, counts), out)
            return
        if self._view.checker is not None and not self._view.ready.issuperset(plan.keys):
            self._prepare_rows(run_rows(starts, counts), plan)
        if not self._view.stream_set.table.read_runs(starts, counts, at, size, plan.numbers, out):
            self._prepare_rows(run_rows(starts, counts), plan)
            self._view.stream_set.table.read_runs(starts, counts, at, size, plan.numbers, out)

    def set_threads(self, count: int) -> None:
        """How many threads share the copying of a large batch (from 1 MiB on); 1 by default."""
        self._view.stream_set.table.set_threads(count)

    def _prepare_rows(self, index: Rows, plan: _Plan) -> None:
        if self._view.ready.issuperset(plan.keys):
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
        if all(stream.is_ready(plan.keys) for stream in self._view.stream_set.streams):
            self._view.ready.update(plan.keys)

    def _plan(self, wanted: tuple[Key, ...] | None) -> _Plan:
        chosen = self.schema.columns if wanted is None else tuple(self.schema.column(key) for key in wanted)
        columns = tuple(column for column in chosen if column.key in self._view.stream_set.numbers)
        composed = tuple(column for column in chosen if column.key not in self._view.stream_set.numbers)
        keys = tuple(column.key for column in columns)
        numbers = tuple(self._view.stream_set.numbers[key] for key in keys)
        plan = _Plan(keys, columns, numbers, any(column.of for column in columns), composed)
        self._plans[wanted] = plan
        return plan

    def open_segment(self, name: str) -> Any:
        """A segment's stored columns as a `tensordict.TensorDict` of its committed rows, for other libraries.

        Sizes (and with `check="touch"` hashes) are compared first, because the plain loader grows files that
        are too short. Do not write to it. Raises `InputError` for a name that is not there, `CorruptError`
        for damage.
        """
        for stream in self._view.stream_set.streams:
            for position, segment in enumerate(stream.segments):
                if segment.mapped.entry.name == name:
                    stream.touch(position)
                    if self._view.checker is not None:
                        self._view.checker.everything(segment.mapped)
                    return interop.load_segment(segment.mapped, segment.rows)
        choices = nearest(name, (segment.name for segment in self.segments))
        raise InputError(f"{self.path}: no segment {name!r}; {choices}")

    def refresh(self) -> Refreshed:
        """Moves on to what is committed now, and says what changed. Cheap when little did.

        Logical rows move when an earlier stream has grown, or rows have left a window; identities (`row_ids`)
        do not. A dataset that was opened `at` a snapshot stays there. Raises `InputError` if rows were taken
        back (a rewind); open the dataset again then.
        """
        return self._view.refresh()
