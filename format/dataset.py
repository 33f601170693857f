"""Reading a dataset: its description, its episodes, contiguous rows, random rows, and what is committed
later.

Everything is checked before it is believed; nothing is ever written. SPEC.md sections 4 to 9 and 11.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from rlcli import _native
from rlcli.errors import CorruptError, InputError, nearest
from rlcli.format import digests, interop, manifest, snapshot
from rlcli.format.checking import Checker
from rlcli.format.episode_table import Episodes, StreamEpisodes, read_episodes
from rlcli.format.keys import Key
from rlcli.format.layout import MANY_ROWS
from rlcli.format.manifest import Manifest, Segment
from rlcli.format.mapping import MappedSegment, StreamMap
from rlcli.format.schema import Schema
from rlcli.format.snapshot import OpenJournal

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.int64]]


class _Stream:
    """The mapped segments of one stream; the last may have a journal that still grows."""

    def __init__(self, segments: StreamMap) -> None:
        self.map = segments
        self.mapped: list[MappedSegment] = []
        self.rows: list[int] = []  # committed, per mapped segment
        self.journal: OpenJournal | None = None
        self.episodes = StreamEpisodes()

    @property
    def num_rows(self) -> int:
        return self.mapped[-1].entry.first + self.rows[-1] if self.mapped else 0


class Dataset:
    """A snapshot of a dataset, moved on by `refresh`. Logical rows number its streams' rows one after the
    other.

    With `check="touch"` no byte is returned whose hash was not compared before; with `"none"` only structure
    and sizes are. Gathering may run in several threads; `refresh` beside it is safe for checks of `"none"`.
    """

    def __init__(
        self, path: Path, found: snapshot.Snapshot, check: Literal["touch", "none"], single_range: bool
    ) -> None:
        self.path = path
        self.uuid: str = found.identity["uuid"]
        self.schema: Schema = found.manifest.schema
        self._manifest = found.manifest
        self._journals = found.journals
        self._checker = Checker(path, self.schema) if check == "touch" else None
        self._single_range = single_range
        self._table = _native.RowTable()
        self._numbers: dict[Key, int] = {}
        for column in self.schema.plain:
            self._numbers[column.key] = self._table.add_plain(column.numpy, column.shape)
        for column in self.schema.derived:
            self._numbers[column.key] = self._table.add_shift(self._numbers[column.of or ()])
        self._plans: dict[tuple[Key, ...] | None, tuple[tuple[Key, ...], tuple[int, ...]]] = {}
        self._streams: list[_Stream] = []
        self._adopt(found.manifest)

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
        for journal in self._journals.values():
            journal.close()
        self._journals = {}

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
        return [stream.num_rows for stream in self._streams]

    @property
    def num_episodes(self) -> int:
        """Episodes with an end, also cut ones."""
        return sum(stream.episodes.count for stream in self._streams)

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
            for mapped, rows in zip(stream.mapped, stream.rows, strict=True):
                entry = mapped.entry
                if rows:
                    content = entry.content or self._open_content(stream, mapped, rows)
                    parts.append((entry.stream, entry.first, rows, content))
        return digests.dataset_digest(self.schema, self.spec, parts)

    def _open_content(self, stream: _Stream, mapped: MappedSegment, rows: int) -> str:
        if self._checker is not None:
            self._checker.everything(mapped)
        episodes = stream.episodes.of_segment(len(stream.mapped) - 1)
        return digests.segment_content(mapped, rows, episodes)

    @property
    def episodes(self) -> Episodes:
        """Every episode that has an end, in logical order."""
        starts = self._stream_starts()
        return Episodes.join(
            [(int(start), stream.episodes) for start, stream in zip(starts, self._streams, strict=True)]
        )

    @property
    def unknown_next(self) -> Rows:
        """Logical rows whose next observation is unknown, ascending: unless it is stored, these are episode
        ends without a final value, and the newest row of an unfinished episode.
        """
        if not self.schema.derived:
            return np.zeros(0, np.int64)
        parts = [
            stream.episodes.unknown_next(stream.num_rows) + start
            for start, stream in zip(self._stream_starts(), self._streams, strict=True)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _stream_starts(self) -> Rows:
        return np.concatenate(([0], np.cumsum(self.stream_rows, dtype=np.int64)))[:-1]

    def read(self, key: Iterable[str], start: int = 0, stop: int | None = None) -> Array:
        """Rows `start … stop` of a column, `[stop - start, *shape]`, a copy. Unknown next values are zero."""
        column = self.schema.column(key)
        stop = self.num_rows if stop is None else stop
        if not 0 <= start <= stop <= self.num_rows:
            raise IndexError(f"rows {start} to {stop} of {self.num_rows}")
        if self._checker is not None:
            self._check_range(column.key, start, stop + 1 if column.of else stop)
        rows = np.arange(start, stop, dtype=np.int64)
        array: Array = self._table.gather(rows, (self._numbers[column.key],))[0]
        return array

    def read_rows(
        self, start: int = 0, stop: int | None = None, keys: Iterable[Key] | None = None
    ) -> dict[str, Any]:
        """Rows `start … stop` of all columns (or `keys`) as a nested dict of copies."""
        chosen = [column.key for column in self.schema.columns] if keys is None else [tuple(k) for k in keys]
        return _nest(chosen, [self.read(key, start, stop) for key in chosen])

    def gather(
        self, rows: Rows, keys: Iterable[Key] | None = None, out: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The values at `rows` `[B]` as a nested dict of arrays `[B, *shape]`: fresh ones, or those of `out`.

        `keys` defaults to every column. Unknown next values are zero; see `unknown_next`. Raises `IndexError`
        for a row that is not committed.
        """
        wanted = None if keys is None else tuple(keys)
        plan = self._plans.get(wanted) or self._plan(wanted)
        if self._checker is not None:
            self._check_columns(plan[0])
        index = np.ascontiguousarray(rows, np.int64)
        if out is None:
            return _nest(plan[0], self._table.gather(index, plan[1]))
        self._table.gather(index, plan[1], [_pick(out, key) for key in plan[0]])
        return out

    def _plan(self, wanted: tuple[Key, ...] | None) -> tuple[tuple[Key, ...], tuple[int, ...]]:
        chosen = [c.key for c in self.schema.columns] if wanted is None else [tuple(key) for key in wanted]
        numbers = tuple(self._numbers[self.schema.column(key).key] for key in chosen)
        self._plans[wanted] = (tuple(chosen), numbers)
        return self._plans[wanted]

    def _check_columns(self, keys: Sequence[Key]) -> None:
        assert self._checker is not None
        if self._checker.is_done(keys):
            return
        for stream in self._streams:
            for mapped in stream.mapped:
                for key in keys:
                    self._checker.column(mapped, key)
        self._checker.set_done(keys)

    def _check_range(self, key: Key, start: int, stop: int) -> None:
        assert self._checker is not None
        for first, stream in zip(self._stream_starts(), self._streams, strict=True):
            for mapped, rows in zip(stream.mapped, stream.rows, strict=True):
                low = max(start - int(first) - mapped.entry.first, 0)
                high = min(stop - int(first) - mapped.entry.first, rows)
                if low < high:
                    self._checker.rows(mapped, key, low, high)

    def open_segment(self, name: str) -> Any:
        """A segment's stored columns as a `tensordict.TensorDict` of its committed rows, for other libraries.

        Sizes (and with `check="touch"` hashes) are compared first, because the plain loader grows files that
        are too short. Do not write to it. Raises `InputError` for a name that is not there, `CorruptError`
        for damage.
        """
        known = [
            (m, r)
            for s in self._streams
            for m, r in zip(s.mapped, s.rows, strict=True)
            if m.entry.name == name
        ]
        if not known:
            choices = nearest(name, (segment.name for segment in self.segments))
            raise InputError(f"{self.path}: no segment {name!r}; {choices}")
        ((mapped, rows),) = known
        if self._checker is not None:
            self._checker.everything(mapped)
        return interop.load_segment(mapped, rows)

    def refresh(self) -> None:
        """Moves on to what is committed now. Cheap when little was.

        Logical rows of all streams but the first move when an earlier stream has grown.
        Raises `InputError` if rows were taken back (a rewind); open the dataset again then.
        """
        for number, stream in enumerate(self._streams):
            if stream.journal is not None and stream.journal.advance():
                self._advance(number, stream)
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
            self._adopt(newest)

    def _adopt(self, newest: Manifest) -> None:
        """Maps what a manifest lists and is not mapped yet."""
        for number in range(len(newest.streams)):
            entries = [segment for segment in newest.segments if segment.stream == number]
            if number == len(self._streams):
                capacity = sum(entry.alloc for entry in entries)
                if newest.streams[number].get("owner"):
                    capacity += max(capacity, 4 * MANY_ROWS)
                segments = StreamMap(
                    self.path, self.schema, capacity=capacity, single_range=self._single_range
                )
                self._streams.append(_Stream(segments))
                self._table.add_stream()
            stream = self._streams[number]
            for position, mapped in enumerate(stream.mapped):
                entry = entries[position] if position < len(entries) else None
                if entry is None or entry.name != mapped.entry.name:
                    raise InputError(f"{self.path}: rows were taken back since it was opened; open it again")
                if entry.sealed and not mapped.entry.sealed:
                    self._seal(number, stream, entry)
            for entry in entries[len(stream.mapped) :]:
                self._map(number, stream, entry)
        self._manifest = newest

    def _map(self, number: int, stream: _Stream, entry: Segment) -> None:
        mapped = stream.map.add(entry)
        before = stream.mapped[-1] if stream.mapped else None
        if before is None or not _continues(before, mapped, self.schema):
            bases = [*mapped.addresses, *([0] * len(self.schema.derived))]
            self._table.add_piece(number, entry.first, bases)
        stream.mapped.append(mapped)
        stream.rows.append(0)
        if not entry.sealed:
            journal = self._journals.get(entry.name)
            if journal is None:
                journal = snapshot.open_journal(self.path, self.uuid, entry)
                self._journals[entry.name] = journal
            stream.journal = journal
            self._advance(number, stream)
            return
        if self._checker is not None:
            self._checker.segment(mapped)
        mapped.map_finals(entry.finals)
        arrays = read_episodes(mapped.paths, entry)
        stream.rows[-1] = entry.rows
        stream.episodes.add_sealed(arrays)
        ends = (arrays["start"] + arrays["length"] - 1).tolist()
        finals = mapped.end_addresses(arrays["has_final"].tolist(), 0)
        self._table.advance(number, stream.num_rows, ends, finals)

    def _advance(self, number: int, stream: _Stream) -> None:
        """Takes over what the stream's journal says beyond what is known."""
        assert stream.journal is not None
        mapped, state, live = stream.mapped[-1], stream.journal.state, stream.episodes.live
        new = state.episodes[len(live) :]
        ends: list[int] = []
        finals: list[list[int]] = []
        if new:
            known = sum(episode.flags >> 3 for episode in live)
            mapped.map_finals(state.finals)
            ends = [episode.first + episode.rows - 1 for episode in new]
            finals = mapped.end_addresses([bool(episode.flags >> 3) for episode in new], known)
            stream.episodes.add_live(new)
        stream.rows[-1] = state.rows
        self._table.advance(number, stream.num_rows, ends, finals)
        if self._checker is not None:
            self._checker.commits(mapped, state.commits)
        else:
            state.commits.clear()

    def _seal(self, number: int, stream: _Stream, entry: Segment) -> None:
        """A segment that was open is sealed now."""
        journal, mapped = stream.journal, stream.mapped[-1]
        assert journal is not None
        if journal.advance():
            self._advance(number, stream)
        state = journal.state
        if (state.rows, len(state.episodes), state.finals) != (entry.rows, entry.episodes, entry.finals):
            raise CorruptError(
                f"{journal.path}: {state.rows} rows, {len(state.episodes)} episodes, the manifest says "
                f"{entry.rows} and {entry.episodes}",
                path=journal.path,
            )
        stream.episodes.seal()
        mapped.entry = entry
        stream.journal = None
        self._journals.pop(entry.name).close()
        if self._checker is not None:
            self._checker.segment(mapped)


def _continues(before: MappedSegment, mapped: MappedSegment, schema: Schema) -> bool:
    """The mapped rows follow the ones before in memory, in every column."""
    step = mapped.entry.first - before.entry.first
    return all(
        there == here + step * column.row_bytes
        for here, there, column in zip(before.addresses, mapped.addresses, schema.plain, strict=True)
    )


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
