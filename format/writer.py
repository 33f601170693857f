"""The writer of a dataset: rows of several streams in, commits out. SPEC.md section 10.

Low level: it knows columns and episode ends, not what an observation is. `episodes.EpisodeWriter` is the
convenient layer on top.
"""

from __future__ import annotations

import os
import socket
import time
import uuid as uuids
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from rlcli import __version__
from rlcli.errors import UsageError
from rlcli.format import files, manifest, recover, strictjson
from rlcli.format.journal import CUT, HAS_FINAL, NO_SEED, TERMINATED, TRUNCATED, Episode
from rlcli.format.keys import Key
from rlcli.format.layout import FOLDERS, SegmentPaths, choose_alloc, free_name
from rlcli.format.manifest import Manifest, Segment
from rlcli.format.schema import Schema
from rlcli.format.segment import SegmentWriter
from rlcli.format.stream import Stream

Durability = Literal["process", "interval", "commit"]
Array = np.ndarray[Any, Any]
INTERVAL_SECONDS = 1.0
REWARD = ("next", "reward")


class Writer:
    """Appends rows; `commit` makes them visible. One writer per dataset at a time. Not thread-safe.

    As a context manager it closes (seals) at the end, and aborts when an exception leaves the block. After
    any error of its own it refuses further work; what was committed stays.
    """

    def __init__(self, path: Path, lock: int, newest: Manifest, durability: Durability) -> None:
        self.path = path
        self.schema = newest.schema
        self.durability = durability
        self.segment_rows: int | None = newest.extra.get("segment_rows")
        self._lock = lock
        self._manifest = newest
        self._boot = files.boot_id()
        self._last_sync = time.monotonic()
        self._state: Literal["usable", "failed", "closed"] = "usable"
        self._unsynced: list[SegmentPaths] = []  # sealed without a sync
        self._reward_index = _index_of(self.schema, REWARD)
        self._checks = [(c.key, c.numpy, c.shape) for c in self.schema.plain]
        self.streams = [Stream(number) for number in range(len(newest.streams))]
        self._next_number = 0
        for segment in newest.segments:
            stream = self.streams[segment.stream]
            stream.rows = stream.episode_start = segment.first + segment.rows
            stream.previous_alloc = segment.alloc

    @classmethod
    def create(
        cls,
        path: str | Path,
        schema: Schema,
        *,
        spec: dict[str, Any],
        lineage: dict[str, Any],
        num_streams: int = 1,
        durability: Durability = "interval",
        segment_rows: int | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Writer:
        """A new dataset, which appears at `path` whole or not at all. Raises `UsageError` if something is
        there.
        """
        path = Path(path)
        if os.path.lexists(path):
            raise UsageError(
                f"{path}: exists already", hint="append to it, or choose another path", path=path
            )
        if not 1 <= num_streams <= 65_536 or (segment_rows is not None and segment_rows < 1):
            raise ValueError(f"num_streams {num_streams}, segment_rows {segment_rows}")
        temporary = path.with_name(f".{path.name}.tmp-{uuids.uuid4().hex}")
        lock = -1
        try:
            with files.resources(path):
                for folder in FOLDERS:
                    files.make_folder(temporary / folder)
                dataset = uuids.uuid4().hex
                identity = {
                    "magic": "rl-dataset",
                    "format": manifest.FORMAT,
                    "uuid": dataset,
                    "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "writer": f"rl {__version__}",
                    "byteorder": "little",
                }
                durable = durability != "process"
                data = strictjson.dump_checked(identity)
                files.write_new(temporary / "dataset.json", data, durable=durable)
                first = Manifest(
                    dataset=dataset, generation=1, parent=None, schema=schema, spec=spec, lineage=[lineage],
                    extra={**(extra or {}), **({"segment_rows": segment_rows} if segment_rows else {})},
                    streams=tuple(
                        {"id": manifest.stream_id(n), "owner": _owner(durability)} for n in range(num_streams)
                    ),
                )  # fmt: skip
                first = manifest.publish(temporary, first, durable=durable)
                lock = files.lock(temporary / "dataset.json", what=path)
                if durable:
                    files.sync_folder(temporary)
                files.rename_new(temporary, path)
        except BaseException:
            if lock >= 0:
                files.close(lock)
            files.remove_tree(temporary)
            raise
        return cls(path, lock, first, durability)

    @classmethod
    def append(
        cls,
        path: str | Path,
        *,
        lineage: dict[str, Any],
        durability: Durability = "interval",
        rewind: Sequence[int] | None = None,
    ) -> Writer:
        """A writer that goes on after the committed rows, recovering what a killed one left.

        An unfinished episode of a killed writer is marked as cut. With `rewind`, the number of rows per
        stream to keep, rows beyond are dropped and the episodes that were unfinished there go on. Raises
        `BusyError` while another writer has the dataset, `CorruptError` if it is damaged, `UsageError` if
        `rewind` asks for rows that are not there.
        """
        path = Path(path)
        identity = manifest.load_identity(path)
        lock = files.lock(path / "dataset.json", what=path)
        try:
            newest, report = recover.take_over(
                path,
                manifest.load_newest(path, identity["uuid"]),
                lineage=[lineage],
                owner=_owner(durability),
                rewind=rewind,
                durable=durability != "process",
            )
            writer = cls(path, lock, newest, durability)
        except BaseException:
            files.close(lock)
            raise
        writer._next_number = report.next_episode
        for stream, unfinished, live in zip(writer.streams, report.unfinished, report.live, strict=True):
            if unfinished is not None and live is not None:
                stream.resume(unfinished, live)
        return writer

    @property
    def num_rows(self) -> int:
        """Committed rows of all streams."""
        return sum(stream.committed for stream in self.streams)

    @property
    def stream_rows(self) -> list[int]:
        """Committed rows per stream."""
        return [stream.committed for stream in self.streams]

    @property
    def generation(self) -> int:
        return self._manifest.generation

    @property
    def next_episode(self) -> int:
        """The number the next episode should get."""
        return self._next_number

    def write(self, stream: int, columns: Mapping[Key, Array]) -> None:
        """Appends rows to a stream; they become visible with the next commit.

        `columns` has every plain column, `[n, *shape]` in its dtype. Raises `ValueError` where it differs.
        """
        arrays = []
        rows = -1
        for key, dtype, shape in self._checks:
            array = columns.get(key)
            if array is None:
                raise ValueError(f"column {key} is missing")
            if rows < 0:
                rows = len(array)
            if array.dtype != dtype or array.shape != (rows, *shape):
                raise ValueError(
                    f"column {key} is {array.dtype}{array.shape}, expected {dtype}{(rows, *shape)}"
                )
            arrays.append(np.ascontiguousarray(array))
        if len(columns) != len(arrays):
            raise ValueError(f"unknown columns {sorted(set(columns) - {key for key, *_ in self._checks})}")
        self.write_arrays(stream, arrays, rows)

    def write_arrays(self, stream: int, arrays: Sequence[Array], rows: int) -> None:
        """`write` without its checks: contiguous arrays of the plain columns in schema order."""
        if self._state != "usable":
            raise ValueError(f"{self.path}: the writer is {self._state}")
        if not rows:
            return
        s = self.streams[stream]
        try:
            with files.resources(self.path):
                self._write(s, arrays, rows)
        except BaseException:
            self._state = "failed"
            raise

    def _write(self, s: Stream, arrays: Sequence[Array], rows: int) -> None:
        if s.segments and s.segments[-1].room >= rows:
            s.segments[-1].write(arrays, rows)
        else:
            done = 0
            while done < rows:
                if not s.segments or not s.segments[-1].room:
                    self._add_segment(s, s.rows + done)
                count = min(rows - done, s.segments[-1].room)
                s.segments[-1].write([array[done : done + count] for array in arrays], count)
                done += count
        s.rows += rows
        if self._reward_index is not None:
            s.add_rewards(arrays[self._reward_index])

    def _add_segment(self, s: Stream, first: int) -> None:
        alloc = choose_alloc(self.schema, s.previous_alloc, self.segment_rows)
        name = free_name(self.path, s.number, first)
        entry = Segment(name, s.number, first, alloc)
        s.segments.append(
            SegmentWriter.create(
                self.path, entry, self.schema, dataset=self._manifest.dataset, boot=self._boot,
                generation=self._manifest.generation + 1,
            )
        )  # fmt: skip
        s.previous_alloc = alloc

    def end_episode(
        self,
        stream: int,
        *,
        terminated: bool,
        truncated: bool,
        cut: bool = False,
        final: Mapping[Key, Array] | None = None,
        seed: int | None = None,
        number: int | None = None,
        at: int | None = None,
    ) -> None:
        """Ends the stream's episode before stream row `at` (default: after the last written row).

        `final` has the value that follows the last row for every stored column that a derived one shifts,
        keyed by the stored column. Without it the next value of the last row is unknown. `number` defaults to
        one more than the last. Rows of the episode's last write may already be committed; earlier writes' may
        not be its end.
        """
        if self._state != "usable":
            raise ValueError(f"{self.path}: the writer is {self._state}")
        s = self.streams[stream]
        end = s.rows if at is None else at
        holder = next((seg for seg in reversed(s.segments) if seg.entry.first < end), None)
        if (
            holder is None
            or not s.episode_start < end <= s.rows
            or end < holder.entry.first + holder.committed
        ):
            raise ValueError(f"an episode of stream {stream} cannot end before row {end}")
        flags = terminated * TERMINATED | truncated * TRUNCATED | cut * CUT
        try:
            if final is not None and self.schema.derived:
                with files.resources(self.path):
                    holder.add_final(self._check_final(final))
                flags |= HAS_FINAL
            number = self._next_number if number is None else number
            self._next_number = max(self._next_number, number + 1)
            seed = NO_SEED if seed is None else seed & NO_SEED
            rows = end - s.episode_start
            holder.add_episode(Episode(s.episode_start, rows, s.take_return(end), number, seed, flags))
            s.episode_start = end
        except BaseException:
            self._state = "failed"
            raise

    def _check_final(self, final: Mapping[Key, Array]) -> dict[Key, Array]:
        values = {}
        for column in self.schema.derived:
            assert column.of is not None
            value = np.ascontiguousarray(final[column.of])
            if value.dtype != column.numpy or value.size * value.itemsize != column.row_bytes:
                raise ValueError(
                    f"final {column.of} is {value.dtype}{value.shape}, expected {column.numpy}{column.shape}"
                )
            values[column.of] = value
        return values

    def commit(self, tag: int = 0, *, sync: bool = False) -> None:
        """Makes everything written visible, in all streams; with `sync` all open segments reach the disk.

        `tag` is kept with the rows (a policy version, say).
        """
        if self._state != "usable":
            raise ValueError(f"{self.path}: the writer is {self._state}")
        try:
            with files.resources(self.path):
                durable = sync or self.durability == "commit"
                if self.durability == "interval" and time.monotonic() - self._last_sync >= INTERVAL_SECONDS:
                    durable = True
                if any(s.segments and not s.segments[-1].published for s in self.streams):
                    self._publish(tag, seal_all=False)
                for s in self.streams:
                    if s.segments and (s.segments[-1].is_dirty or sync):
                        s.segments[-1].commit(tag, durable=durable)
                if sync:
                    self._sync_sealed()
                if durable:
                    self._last_sync = time.monotonic()
        except BaseException:
            self._state = "failed"
            raise

    def _publish(self, tag: int, *, seal_all: bool, **changes: Any) -> None:
        """Seals full segments (or all) and publishes them and the new ones as the next generation."""
        durable = self.durability != "process"
        generation = self._manifest.generation + 1
        entries = {segment.name: segment for segment in self._manifest.segments}
        sealed: list[tuple[SegmentWriter, bytes]] = []
        for s in self.streams:
            for segment in s.segments if seal_all else s.segments[:-1]:
                entry, records = segment.prepare_seal(generation, tag, durable=durable)
                entries[entry.name] = entry
                sealed.append((segment, records))
            for segment in [] if seal_all else s.segments[-1:]:
                entries[segment.entry.name] = segment.entry
                if durable and not segment.published:
                    self._sync_folders(segment)
        if durable:
            for segment, _ in sealed:
                self._sync_folders(segment)

        def append_seals() -> None:
            for segment, records in sealed:
                segment.append_seal(records, durable=durable)
            for s in self.streams:
                for segment in s.segments:
                    segment.published = True

        ordered = tuple(sorted(entries.values(), key=lambda entry: (entry.stream, entry.first)))
        upcoming = self._manifest.next(segments=ordered, **changes)
        self._manifest = manifest.publish(self.path, upcoming, durable=durable, before_link=append_seals)
        for segment, _ in sealed:
            segment.close()
            if not durable:
                self._unsynced.append(segment.paths)
        for s in self.streams:
            s.segments = [] if seal_all else s.segments[-1:]

    def _sync_folders(self, segment: SegmentWriter) -> None:
        paths = segment.paths
        for tree in (paths.columns, paths.finals, paths.episodes):
            files.sync_tree(tree, data=False)
        for name in FOLDERS[:-1]:
            files.sync_folder(self.path / name)

    def _sync_sealed(self) -> None:
        """Brings to the disk what `process` durability left to the system."""
        if self.durability != "process":
            return
        for paths in self._unsynced:
            for tree in (paths.columns, paths.finals, paths.episodes):
                files.sync_tree(tree, data=True)
            for path in (paths.journal, paths.sums):
                files.sync_path(path)
        self._unsynced.clear()
        for s in self.streams:
            if s.segments:
                files.sync_tree(s.segments[-1].paths.columns, data=True)
                files.sync_tree(s.segments[-1].paths.finals, data=False)
        files.sync_path(manifest.path_of(self.path, self.generation))
        for name in FOLDERS:
            files.sync_folder(self.path / name)

    def close(self) -> None:
        """Commits, seals every segment and lets go of the dataset. After an error: as `abort`."""
        if self._state == "usable":
            try:
                with files.resources(self.path):
                    self._cut_unfinished()
                    streams = tuple({**stream, "owner": None} for stream in self._manifest.streams)
                    self._publish(0, seal_all=True, streams=streams)
            except BaseException:
                self._state = "failed"
                self.abort()
                raise
        self.abort()

    def _cut_unfinished(self) -> None:
        for s in self.streams:
            if s.segments and s.episode_start < s.rows:
                self.end_episode(s.number, terminated=False, truncated=False, cut=True)

    def abort(self) -> None:
        """Lets go of the dataset and leaves the last commit; the next writer recovers from there."""
        if self._state == "closed":
            return
        self._state = "closed"
        for s in self.streams:
            s.rows = s.committed
            for segment in s.segments:
                segment.close()
                if not segment.published:
                    segment.paths.remove()
            s.segments = []
        files.close(self._lock)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _owner(durability: Durability) -> dict[str, Any]:
    return {
        "host": socket.gethostname(), "pid": os.getpid(), "boot": files.boot_id(), "durability": durability
    }  # fmt: skip


def _index_of(schema: Schema, key: Key) -> int | None:
    keys = [column.key for column in schema.plain]
    return keys.index(key) if key in keys else None
