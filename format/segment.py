"""One segment being written: its files, its journal, its seal. SPEC.md sections 5, 7 and 8."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import xxhash

from rlcli import _native
from rlcli.format import bulk, digests, files, folders, layer, sums, trees
from rlcli.format.heap_file import HeapWriter, Value, heap_name
from rlcli.format.journal import RECORD, Episode, Journal, Packer, packer_after
from rlcli.format.keys import Key
from rlcli.format.layout import MANY_AT_ONCE, SEGMENT_FOLDERS, SegmentPaths
from rlcli.format.manifest import Segment
from rlcli.format.mapping import MappedSegment
from rlcli.format.schema import Schema
from rlcli.format.sealing import Sealing

Array = np.ndarray[Any, Any]
Values = Array | Sequence[Value]  # of a plain column, or the stored bytes of a heap's values


class SegmentWriter:
    """Rows and finals go in by `write` and `add_finals`, become committed by `commit`, final by `seal`.

    `rows` counts what was written, `committed` what a reader can see. Not thread-safe.
    """

    def __init__(
        self,
        root: Path,
        entry: Segment,
        schema: Schema,
        column_fds: list[int],
        journal_fd: int,
        packer: Packer,
        *,
        rows: int = 0,
    ) -> None:
        self.entry = entry
        self.schema = schema
        self.paths = SegmentPaths(root, entry.name)
        self.published = False
        self.finals = 0
        self.episodes: list[Episode] = []
        self._packer = packer
        self._journal_fd = journal_fd
        self._plain = tuple(zip(column_fds, (c.row_bytes for c in schema.plain), strict=True))
        self._heaps = [HeapWriter(c, self.paths.heaps / heap_name(c.key)) for c in schema.heaps]
        row_bytes = [column.row_bytes for column in schema.plain]
        self._final_hashers = [xxhash.xxh3_64() for _ in schema.derived]
        self._other_hashers: list[Any] = [*self._final_hashers, *(heap.end for heap in self._heaps)]
        self.columns = _native.ColumnWriter(
            column_fds, row_bytes, packer, journal_fd, len(self._other_hashers), rows, entry.alloc
        )
        self._others_changed = bool(self._heaps)
        self._final_fds: list[int] = []
        self._pending: list[Episode] = []
        self._has_new_names = True  # which a durable commit has to bring to the disk
        self._has_metas = True  # its meta.json files are as they were made
        self.is_synced = True  # all commits are on the disk

    @classmethod
    def create(
        cls, root: Path, entry: Segment, schema: Schema, *, dataset: str, boot: str, generation: int
    ) -> SegmentWriter:
        """Makes the files of an unpublished segment. Nothing stays if that fails."""
        paths = SegmentPaths(root, entry.name)
        fds: list[int] = []
        try:
            folders.make(paths.columns)
            for folder in schema.folders:
                folders.make(paths.columns / folder)
            fds += bulk.create(paths.columns, schema.files, [entry.alloc * c.row_bytes for c in schema.plain])
            with files.resources(paths.columns):
                bulk.write(paths.columns, trees.meta_files(schema.leaves, entry.alloc))
                journal_fd = files.create(paths.journal)
                fds.append(journal_fd)
                packer = Packer(entry.stream)
                files.write_at(journal_fd, memoryview(packer.header(dataset, boot, generation)), 0)
        except BaseException:
            for fd in fds:
                files.close(fd)
            paths.remove()
            raise
        return cls(root, entry, schema, fds[:-1], journal_fd, packer)

    @classmethod
    def resume(cls, root: Path, entry: Segment, schema: Schema, journal: Journal) -> SegmentWriter:
        """A dead writer's published segment, cut after the commits of `journal`, ready to be sealed."""
        paths = SegmentPaths(root, entry.name)
        fds = [files.open_write(paths.columns / c.file) for c in schema.plain]
        journal_fd = files.open_write(paths.journal)
        self = cls(root, entry, schema, fds, journal_fd, packer_after(journal), rows=journal.rows)
        self._has_metas = False  # nobody synced them; a cut of power may have taken them
        files.truncate(journal_fd, journal.offset)
        self.published = True
        for number, (fd, row_bytes) in enumerate(self._plain):
            for start in range(0, self.rows * row_bytes, sums.BLOCK):
                size = min(sums.BLOCK, self.rows * row_bytes - start)
                self.columns.resume(number, files.read_at(fd, size, start))
        self.finals = journal.finals
        self.episodes = list(journal.episodes)
        if self.finals:
            self._final_fds = [files.open_write(paths.finals / c.file) for c in schema.derived]
        for heap in self._heaps:
            heap.resume(*self._handles(heap))
        return self

    def _handles(self, heap: HeapWriter) -> tuple[Array, Array]:
        """Where the values of a heap lie, those of its rows and those of its finals."""
        found: list[Array] = []
        for key in heap.column.handles:
            parts = []
            for (fd, _), column in zip(self._plain, self.schema.plain, strict=True):
                if column.key == key:
                    parts.append(files.read_at(fd, 8 * self.rows, 0))
            for fd, column in zip(self._final_fds, self.schema.derived, strict=False):
                if column.of == key:
                    parts.append(files.read_at(fd, 8 * self.finals, 0))
            found.append(np.frombuffer(b"".join(parts), np.int64))
        return found[0], found[1]

    def listed_by(self, dataset: str, boot: str, generation: int) -> None:
        """Says in the header of an unpublished journal, which has no other record, who will list it."""
        packer = Packer(self.entry.stream)
        header = packer.header(dataset, boot, generation)
        if packer.crc != self._packer.crc:
            files.write_at(self._journal_fd, memoryview(header), 0)
            self._packer.crc = packer.crc

    @property
    def rows(self) -> int:
        return self.columns.rows

    @property
    def committed(self) -> int:
        return self._packer.committed

    @property
    def room(self) -> int:
        return self.entry.alloc - self.rows

    @property
    def is_fast(self) -> bool:
        """Its rows came many at a time: per record of the journal."""
        return self.rows * RECORD >= MANY_AT_ONCE * self._packer.size

    @property
    def is_dirty(self) -> bool:
        """Something was written since the last commit."""
        return self.columns.has_new_rows or bool(self._pending)

    def write(self, values: Sequence[Values], rows: int) -> None:
        """Writes rows after the last one. Of each of `schema.given`, in order: a contiguous array
        `[rows, *shape]`, or the stored bytes of each row's value.
        """
        if not self._heaps:
            self._write_columns(cast("Sequence[Array]", values), rows)
            return
        heaps = iter(self._heaps)
        arrays: list[Array] = []
        for column, given in zip(self.schema.given, values, strict=True):
            if column.heap is None:
                arrays.append(cast("Array", given))
            else:
                arrays += next(heaps).add(cast("Sequence[Value]", given))
        self._write_columns(arrays, rows)

    def copy_rows(self, mapped: MappedSegment, rows: int, finals: int) -> None:
        """Begins with the first rows and finals of another segment, and with the heaps that they refer to."""
        for position, heap in enumerate(self._heaps):
            heap.copy(mapped.heap(position)[: mapped.heap_end(position, rows, finals)])
        self._write_columns([array[:rows] for array in mapped.columns], rows)
        if finals:
            self._write_finals([array[:finals] for array in mapped.finals], finals)

    def _write_columns(self, arrays: Sequence[Array], rows: int) -> None:
        if layer.current().is_direct:
            try:
                self.columns.write(arrays, rows)
            except OSError as err:
                err.filename = str(self.paths.columns)
                raise
        else:
            for (fd, row_bytes), array in zip(self._plain, arrays, strict=True):
                files.write_at(fd, array, self.rows * row_bytes)
            self.columns.hash(arrays, rows)

    def add_finals(self, values: Mapping[Key, Values], count: int) -> None:
        """Appends `count` final values per shift, by the key of the column it shifts: stored ones."""
        arrays: list[Array] = []
        for column in self.schema.shifts:
            given = values[column.of or ()]
            if column.heap is None:
                arrays.append(cast("Array", given))
            else:
                heap = next(heap for heap in self._heaps if heap.column.key == column.of)
                arrays += heap.add(cast("Sequence[Value]", given))
        self._write_finals(arrays, count)

    def _write_finals(self, values: Sequence[Array], count: int) -> None:
        if not self._final_fds:
            for column in self.schema.derived:
                path = self.paths.finals / column.file
                folders.make(path.parent)
                self._final_fds.append(files.create(path))
            self._has_new_names = True
        for fd, column, hasher, array in zip(
            self._final_fds, self.schema.derived, self._final_hashers, values, strict=True
        ):
            files.write_at(fd, array, self.finals * column.row_bytes)
            hasher.update(array.data)
        self.finals += count
        self._others_changed = True

    def add_episode(self, episode: Episode) -> None:
        """Queues an episode record for the next commit; its final, if any, was added before."""
        self._pending.append(episode)

    def _take_others(self) -> bytes:
        """The digests of finals and heaps since the last call; nothing if there are none."""
        if not self._others_changed:
            return b""
        self._others_changed = bool(self._heaps)
        digests = []
        for hasher in self._other_hashers:
            digests.append(hasher.digest())
            hasher.reset()
        return b"".join(digests)

    def _take_episodes(self) -> bytes:
        packer = self._packer
        return b"".join([packer.episode(episode) for episode in self._pending])

    def _commit_records(self, tag: int, durable: bool) -> bytes:
        hash_ = self.columns.digest(self._take_others())
        records = self._take_episodes()
        first, rows = self.committed, self.rows - self.committed
        return records + self._packer.rows(first, rows, hash_, time.time_ns(), tag, durable)

    def _append(self, records: bytes) -> None:
        """Appends records whose commits, if any, are of all rows."""
        packer = self._packer
        files.write_at(self._journal_fd, memoryview(records), packer.size)
        packer.size += len(records)
        packer.committed = self.rows
        self._commit_episodes()

    def _commit_episodes(self) -> None:
        self.episodes += self._pending
        self._pending.clear()

    def commit(self, tag: int, *, durable: bool) -> None:
        """Makes all written rows, episodes and finals visible with one write: natively in one call where no
        test's layer stands in for the system.
        """
        if durable:
            self.sync_data()
        if layer.current().is_direct:
            try:
                if self._pending or self._others_changed:
                    self.columns.commit_all(tag, durable, self._take_episodes(), self._take_others())
                    self._commit_episodes()
                else:
                    self.columns.commit(tag, durable)
            except OSError as err:
                layer.name(err, self._journal_fd)
                raise
        else:
            self._append(self._commit_records(tag, durable))
        if durable:
            files.sync(self._journal_fd)
        self.is_synced = durable

    def sync_data(self) -> None:
        """Rows, finals and heaps to the disk, with the names of files that are new."""
        for fd, _ in self._plain:
            files.sync(fd)
        for fd in self._final_fds:
            files.sync(fd)
        for heap in self._heaps:
            if heap.fd >= 0:
                files.sync(heap.fd)
        if self._has_new_names or any(heap.is_new for heap in self._heaps):
            self.sync_names()

    def sync_names(self) -> None:
        """The names of all its files to the disk."""
        for tree in self.paths.trees:
            folders.sync_tree(tree, data=False)
        for folder in SEGMENT_FOLDERS:
            folders.sync(self.paths.root / folder)
        folders.sync(self.paths.root)
        self._has_new_names = False
        for heap in self._heaps:
            heap.is_new = False

    def sync_all(self) -> None:
        """What a manifest that lists it relies on: its files are there, as long as they must be."""
        self.sync_data()
        files.sync(self._journal_fd)

    def prepare_seal(self, generation: int, tag: int, *, durable: bool) -> tuple[Segment, bytes]:
        """Everything of a seal but its journal records: returns the manifest's entry and those records.

        Uncommitted rows are committed by these records.
        """
        paths, schema, rows = self.paths, self.schema, self.rows
        for fd, row_bytes in self._plain:
            files.punch(fd, rows * row_bytes, (self.entry.alloc - rows) * row_bytes)
        records = self._commit_records(tag, durable) if self.is_dirty else b""
        episodes = self.episodes + self._pending
        records += self._packer.seal(rows, len(episodes), self.finals, time.time_ns(), generation)

        seal, name = Sealing(paths), self.entry.name
        is_whole = self._has_metas and rows == self.entry.alloc
        seal.put("segments", trees.meta_files(schema.leaves, rows), is_there=is_whole)
        columns = []
        for number, ((fd, row_bytes), file) in enumerate(zip(self._plain, schema.files, strict=True)):
            size, used = self.entry.alloc * row_bytes, rows * row_bytes
            total = sums.of_column(self.columns, number, fd, size, used)
            seal.add(f"segments/{name}/{file}", total)
            columns.append(total.content)
        finals = self._seal_finals(seal)
        heaps = []
        for heap in self._heaps:
            total = heap.total()
            heaps.append((heap.size, total.content))
            if heap.size:
                seal.add(heap.path.relative_to(paths.root).as_posix(), total)
        episode_columns = seal.put_episodes(episodes)
        journal = files.read_at(self._journal_fd, self._packer.size, 0) + records
        sha256 = seal.put_sums(journal, durable=durable)
        content = digests.of_parts(
            schema,
            rows,
            self.finals,
            len(episodes),
            columns=columns,
            final_columns=finals,
            episode_columns=episode_columns,
            heaps=heaps,
        )
        entry = replace(
            self.entry, sealed=True, rows=rows, episodes=len(episodes), finals=self.finals,
            bytes=seal.total_bytes, sums=sha256, content=content,
        )  # fmt: skip
        return entry, records

    def append_seal(self, records: bytes, *, durable: bool) -> None:
        """Appends the records of `prepare_seal`; the manifest's temporary file is there by now."""
        self._append(records)
        if durable:
            files.sync(self._journal_fd)

    def close(self) -> None:
        """Closes the descriptors, each once, whatever the others do; commits nothing."""
        fds = [fd for fd, _ in self._plain] + self._final_fds
        if self._journal_fd >= 0:
            fds.append(self._journal_fd)
        self._plain, self._final_fds, self._journal_fd = (), [], -1
        with ExitStack() as last_first:
            for heap in self._heaps:
                last_first.callback(heap.close)
            for fd in fds:
                last_first.callback(files.close, fd)

    def _seal_finals(self, seal: Sealing) -> list[str]:
        derived = self.schema.derived
        if not self.finals:
            return [xxhash.xxh3_128_hexdigest(b"")] * len(derived)
        contents = []
        for fd, column in zip(self._final_fds, derived, strict=True):
            size = self.finals * column.row_bytes
            files.truncate(fd, size)
            entry = sums.of_file(fd, size, size)
            seal.add(f"finals/{self.entry.name}/{column.file}", entry)
            contents.append(entry.content)
        leaves = [(c.key, c.dtype, c.shape) for c in derived]
        seal.put("finals", trees.meta_files(leaves, self.finals))
        return contents
