"""The writer of a dataset: rows of several streams in, commits out. SPEC.md section 10.

Low level: it knows columns and episode ends, not what an observation is. `episodes.EpisodeWriter` is the
convenient layer on top; `creation`, `entering` and `publishing` are what stands behind `create`, `append` and
`join`, and a new generation.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from rlcli import _native
from rlcli.format import creation, entering, files, layer, manifest
from rlcli.format.ends import Ended, flags_of
from rlcli.format.entering import Entered
from rlcli.format.given import Stored, Values, stored_finals, stored_rows
from rlcli.format.keys import Key
from rlcli.format.layout import EXPECTED_ROWS, choose_alloc, free_name
from rlcli.format.locks import WriterLock
from rlcli.format.manifest import Manifest, Segment
from rlcli.format.publishing import Publisher
from rlcli.format.schema import Schema
from rlcli.format.segment import SegmentWriter
from rlcli.format.stream import Stream

Durability = Literal["process", "interval", "commit"]
Array = np.ndarray[Any, Any]
INTERVAL_SECONDS = 1.0
REWARD = ("next", "reward")


class Writer:
    """Appends rows; `commit` makes them visible. Not thread-safe, and of no use in a forked child.

    It has the whole dataset (`create`, `append`) or some streams of it, beside other writers (`join`); its
    streams are numbered 0, 1, … here, `streams[k].number` is the dataset's number.

    As a context manager it closes (seals) at the end, and aborts when an exception leaves the block. After
    any error of its own it refuses further work; what was committed stays.
    """

    def __init__(
        self,
        path: Path,
        lock: WriterLock,
        newest: Manifest,
        durability: Durability,
        streams: Sequence[int] | None = None,
        *,
        is_new: bool = False,
    ) -> None:
        self.path = path
        self.schema = newest.schema
        self.durability = durability
        self.segment_rows: int | None = newest.extra.get("segment_rows")
        self.expected_rows = EXPECTED_ROWS  # of each stream, as far as the caller can tell
        self._lock = lock
        self._publisher = Publisher(path, lock, newest, durable=durability != "process" or not is_new)
        self._boot = files.boot_id()
        self._last_sync = time.monotonic()
        self._state: Literal["usable", "failed", "closed"] = "usable"
        self._reward_index = _index_of(self.schema, REWARD)
        self._quick = _quick_rows(self.schema, self._reward_index)
        self._next_number = 0
        numbers = range(len(newest.streams)) if streams is None else streams
        reward = None if self._reward_index is None else self.schema.given[self._reward_index]
        self.streams = [Stream(number, reward) for number in numbers]
        by_number = {stream.number: stream for stream in self.streams}
        for segment in newest.segments:
            stream = by_number.get(segment.stream)
            if stream is not None:
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
        window: int | None = None,
        share: bool = False,
    ) -> Writer:
        """A new dataset, which appears at `path` whole or not at all. Raises `UsageError` if something is
        there.

        With `window` each stream keeps its newest `window` rows (a little more on disk) and the oldest leave.
        With `share` other writers may `join` while this one is at work.
        """
        if (
            not 1 <= num_streams <= 65_536
            or (segment_rows is not None and segment_rows < 1)
            or (window is not None and window < 1)
        ):
            raise ValueError(f"num_streams {num_streams}, segment_rows {segment_rows}, window {window}")
        first = Manifest(
            dataset="", generation=1, parent=None, schema=schema, spec=spec, lineage=[lineage],
            extra={**(extra or {}), **({"segment_rows": segment_rows} if segment_rows else {})},
            streams=tuple(
                {"id": manifest.stream_id(n), "owner": _owner(durability)} for n in range(num_streams)
            ),
            window=window,
        )  # fmt: skip
        path = Path(path)
        first, lock = creation.create(path, first, share=share, durable=durability != "process")
        return cls(path, lock, first, durability, is_new=True)

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
        entered = entering.alone(path, lineage=lineage, owner=_owner(durability), rewind=rewind)
        writer, report = cls._entered(path, entered, durability), entered.report
        for stream, unfinished, live in zip(writer.streams, report.unfinished, report.live, strict=True):
            if unfinished is not None and live is not None:
                stream.resume(unfinished, live)
        return writer

    @classmethod
    def join(
        cls,
        path: str | Path,
        *,
        lineage: dict[str, Any],
        num_streams: int = 1,
        durability: Durability = "interval",
    ) -> Writer:
        """A writer beside others that joined too, each with streams of its own.

        It goes on in streams that no living writer has, and adds what is missing to `num_streams`. What
        killed writers left in any stream is recovered first, with an entry in the lineage. Raises `BusyError`
        while a writer that does not share has the dataset, `CorruptError` if it is damaged.
        """
        if num_streams < 1:
            raise ValueError(f"num_streams {num_streams}")
        path = Path(path)
        owner = _owner(durability)
        entered = entering.beside_others(path, lineage=lineage, owner=owner, num_streams=num_streams)
        return cls._entered(path, entered, durability)

    @classmethod
    def _entered(cls, path: Path, entered: Entered, durability: Durability) -> Writer:
        try:
            writer = cls(path, entered.lock, entered.newest, durability, entered.streams)
        except BaseException:
            entered.lock.close()
            raise
        writer._next_number = entered.report.next_episode
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
    def window(self) -> int | None:
        """How many rows each stream keeps; None if all."""
        return self._publisher.manifest.window

    @property
    def generation(self) -> int:
        """The newest generation that this writer has seen."""
        return self._publisher.manifest.generation

    @property
    def next_episode(self) -> int:
        """The number the next episode should get."""
        return self._next_number

    def _check_usable(self) -> None:
        if self._state != "usable" or self._lock.fd < 0:
            state = self._state if self._lock.is_held or self._state != "usable" else "another process's"
            raise ValueError(f"{self.path}: the writer is {state}")

    def write(self, stream: int, columns: Mapping[Key, Values]) -> None:
        """Appends rows to a stream; they become visible with the next commit.

        `columns` has every plain column, `[n, *shape]` in its dtype, and n values of every heap column.
        Raises `ValueError` where they differ.
        """
        self._check_usable()
        s = self.streams[stream]
        if self._quick and s.segments and isinstance(columns, dict) and layer.current().is_direct:
            segment = s.segments[-1]
            try:
                rows = self._quick.write(columns, segment.columns, s.rewards)
            except BaseException as err:
                if isinstance(err, OSError):
                    err.filename = str(segment.paths.columns)
                self._fail(err)
                raise
            if rows >= 0:
                s.rows += rows
                return
        values, rows = stored_rows(self.schema, columns)
        self.write_arrays(stream, values, rows)

    def write_arrays(self, stream: int, arrays: Sequence[Stored], rows: int) -> None:
        """`write` without its checks: in schema order contiguous arrays, or the stored bytes of values."""
        self._check_usable()
        if not rows:
            return
        s = self.streams[stream]
        try:
            self._write(s, arrays, rows)
        except BaseException as err:
            self._fail(err)
            raise

    def _write(self, s: Stream, arrays: Sequence[Stored], rows: int) -> None:
        if s.segments and s.segments[-1].room >= rows:
            s.segments[-1].write(arrays, rows)
        else:
            done = 0
            while done < rows:
                if not s.segments or not s.segments[-1].room:
                    self._add_segment(s, s.rows + done, rows - done)
                count = min(rows - done, s.segments[-1].room)
                s.segments[-1].write([array[done : done + count] for array in arrays], count)
                done += count
        s.rows += rows
        if self._reward_index is not None:
            s.add_rewards(np.asarray(arrays[self._reward_index]))

    def _add_segment(self, s: Stream, first: int, at_once: int) -> None:
        newest = self._publisher.manifest
        is_fast = bool(s.segments) and s.segments[-1].is_fast
        alloc = choose_alloc(
            self.schema, s.previous_alloc, self.segment_rows, newest.window, is_fast=is_fast, at_once=at_once,
            num_streams=len(self.streams), expected=self.expected_rows,
        )  # fmt: skip
        name = free_name(self.path, s.number, first, newest.retired)
        entry = Segment(name, s.number, first, alloc)
        s.segments.append(
            SegmentWriter.create(
                self.path, entry, self.schema, dataset=newest.dataset, boot=self._boot,
                generation=newest.generation + 1,
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
        final: Mapping[Key, Any] | None = None,
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
        self._check_usable()
        s = self.streams[stream]
        end = s.rows if at is None else at
        if number is None:
            number = self._next_number
            if s.unfinished is not None and s.unfinished.start == s.episode_start:
                number = s.unfinished.number  # an episode keeps its number over a rewind
        known = final is not None and bool(self.schema.derived)
        s.holders([end])  # before the final is judged
        ended = Ended()
        ended.extend([end], [flags_of(terminated, truncated, cut, known)], [number], [seed])
        if final is not None and known:
            try:
                ended.keep(stored_finals(self.schema, {key: [value] for key, value in final.items()}, 1))
            except BaseException:
                self._state = "failed"
                raise
        self.end_episodes(stream, ended)

    def end_episodes(self, stream: int, ended: Ended) -> None:
        """`end_episode` of several, in order: `ended.rows` are the stream rows before which they end.

        Raises `ValueError` if one cannot end there.
        """
        self._check_usable()
        s = self.streams[stream]
        holders = s.holders(ended.rows)
        try:
            with files.resources(self.path):
                s.end(ended, holders)
            self._next_number = max(self._next_number, max(ended.numbers) + 1)
        except BaseException:
            self._state = "failed"
            raise

    def describe(self, lineage: dict[str, Any], extra: Mapping[str, Any]) -> None:
        """What is only known at the end: this session's lineage entry, and what is added to `extra`.

        Both stand in the next generation. Raises `ValueError` where others write too.
        """
        self._check_usable()
        if not self._lock.is_exclusive:
            raise ValueError(f"{self.path}: others write there too, and may publish before")
        newest = self._publisher.manifest
        self._publisher.manifest = replace(
            newest, lineage=[*newest.lineage[:-1], lineage], extra={**newest.extra, **extra}
        )

    def commit(self, tag: int = 0, *, sync: bool = False) -> None:
        """Makes everything written visible, in all streams; with `sync` all open segments reach the disk.

        `tag` is kept with the rows (a policy version, say).
        """
        self._check_usable()
        try:
            durable = sync or self.durability == "commit"
            if self.durability == "interval" and time.monotonic() - self._last_sync >= INTERVAL_SECONDS:
                durable = True
            last = [s.segments[-1] for s in self.streams if s.segments]
            for segment in last:
                if not segment.published:
                    self._publisher.publish(self.streams, tag)
            for segment in last:
                if segment.is_dirty or sync or (durable and not segment.is_synced):
                    segment.commit(tag, durable=durable)
            if sync:
                self._publisher.sync_all(self.streams)
            if durable:
                self._last_sync = time.monotonic()
        except BaseException as err:
            self._fail(err)
            raise

    def _fail(self, err: BaseException) -> None:
        """No more work after an error; raises `ResourceError` where that is what it means."""
        self._state = "failed"
        if isinstance(err, OSError):
            files.raise_resource(err, self.path)

    def close(self) -> None:
        """Commits, seals every segment and lets go of the dataset. After an error: as `abort`."""
        if self._state == "usable" and self._lock.is_held:
            try:
                with files.resources(self.path):
                    self._cut_unfinished()
                    self._publisher.publish(self.streams, 0, closing=True)
            except BaseException:
                self._state = "failed"
                self.abort()
                raise
        self.abort()

    def _cut_unfinished(self) -> None:
        for index, s in enumerate(self.streams):
            if s.segments and s.episode_start < s.rows:
                self.end_episode(index, terminated=False, truncated=False, cut=True)

    def abort(self) -> None:
        """Lets go of its streams and leaves the last commit; the next writer recovers from there."""
        if self._state == "closed":
            return
        self._state = "closed"
        with ExitStack() as last_first:  # each is done, whatever the others raise
            last_first.callback(self._lock.close)
            for s in self.streams:
                s.rows = s.committed
                for segment in s.segments:
                    if not segment.published and self._lock.holds(s.number):
                        last_first.callback(segment.paths.remove)
                    last_first.callback(segment.close)
                s.segments = []

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


def _quick_rows(schema: Schema, reward: int | None) -> _native.QuickRows | None:
    """Writes rows that are as they should be; None if only `stored_rows` can judge them."""
    given = schema.given
    if schema.heaps or (reward is not None and given[reward].dtype not in ("float32", "float64")):
        return None
    return _native.QuickRows(
        [c.key for c in given], [c.numpy for c in given], [c.shape for c in given],
        -1 if reward is None else reward,
    )  # fmt: skip


def _index_of(schema: Schema, key: Key) -> int | None:
    keys = [column.key for column in schema.given if column.heap is None or column.key != key]
    return keys.index(key) if key in keys else None
