"""Making the next generation: sealing, rebasing on what other writers published, leaving of a window's rows.

SPEC.md sections 4, 8 and 10. Nothing here is on the row path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlcli.format import files, manifest
from rlcli.format.journal import Journal
from rlcli.format.layout import FOLDERS, SegmentPaths
from rlcli.format.locks import WriterLock
from rlcli.format.manifest import GenerationTaken, Manifest, Segment
from rlcli.format.segment import SegmentWriter
from rlcli.format.stream import Stream


class Publisher:
    """The manifest as one writer knows it, and how that writer changes it."""

    def __init__(self, root: Path, lock: WriterLock, newest: Manifest, *, durable: bool) -> None:
        self.root = root
        self.manifest = newest
        self._lock = lock
        self._durable = durable
        self._boot = files.boot_id()
        self._unsynced: list[SegmentPaths] = []  # sealed without a sync

    def publish(self, streams: Sequence[Stream], tag: int, *, closing: bool = False) -> None:
        """Seals the full segments of the writer's streams and publishes them with the new ones.

        `closing` seals the last ones too and gives the streams up. After an error the streams of a shared
        dataset are let go, so that another writer can clear away what stands half-made.
        """
        with self._lock.publishing():
            try:
                self._publish(streams, tag, closing)
            except BaseException:
                for number in self._lock.streams:
                    self._lock.release(number)
                raise

    def _publish(self, streams: Sequence[Stream], tag: int, closing: bool) -> None:
        newest, leftovers = self.manifest, []
        if not self._lock.is_exclusive:
            newest = manifest.advance(self.root, newest)
            leftovers = cut_leftovers(self.root, newest, self._lock)
        fresh = [segment for s in streams for segment in s.segments if not segment.published]
        while True:
            sealed: list[tuple[SegmentWriter, bytes]] = []
            upcoming, evicted = self._upcoming(newest, streams, tag, closing, sealed)

            def append_seals(sealed: list[tuple[SegmentWriter, bytes]] = sealed) -> None:
                for segment, records in sealed:
                    segment.append_seal(records, durable=self._durable)

            for segment in fresh:
                segment.published = True  # from here on its files are not ours alone
            try:
                self.manifest = manifest.publish(
                    self.root, upcoming, durable=self._durable, before_link=append_seals if sealed else None
                )
                break
            except GenerationTaken:  # a file system on which flock does nothing
                if sealed or self._lock.is_exclusive:
                    raise
                for segment in fresh:
                    segment.published = False
                newest = manifest.advance(self.root, newest)
        for segment, _ in sealed:
            segment.close()
            if not self._durable:
                self._unsynced.append(segment.paths)
        for s in streams:
            s.segments = [] if closing else s.segments[-1:]
        for name in leftovers:
            files.remove(self.root / "manifests" / name)
        gone = {entry.name for entry in evicted}
        self._unsynced = [paths for paths in self._unsynced if paths.name not in gone]
        for name in gone:
            SegmentPaths(self.root, name).remove()

    def _upcoming(
        self,
        newest: Manifest,
        streams: Sequence[Stream],
        tag: int,
        closing: bool,
        sealed: list[tuple[SegmentWriter, bytes]],
    ) -> tuple[Manifest, list[Segment]]:
        """The next manifest and the entries that leave it; adds to `sealed` what is sealed for it."""
        generation = newest.generation + 1
        entries = {segment.name: segment for segment in newest.segments}
        for s in streams:
            for segment in s.segments:
                if not segment.published:
                    segment.listed_by(newest.dataset, self._boot, generation)
            for segment in s.segments if closing else s.segments[:-1]:
                entry, records = segment.prepare_seal(generation, tag, durable=self._durable)
                entries[entry.name] = entry
                sealed.append((segment, records))
            for segment in [] if closing else s.segments[-1:]:
                entries[segment.entry.name] = segment.entry
                if self._durable and not segment.published:
                    self._sync_folders(segment)
        if self._durable:
            for segment, _ in sealed:
                self._sync_folders(segment)
        ordered = sorted(entries.values(), key=lambda entry: (entry.stream, entry.first))
        evicted = [] if newest.window is None else leaving(ordered, streams, newest.window)
        kept = tuple(entry for entry in ordered if entry not in evicted)
        upcoming = newest.next(segments=kept)
        if closing:
            own = {s.number for s in streams}
            upcoming = replace(upcoming, streams=tuple(
                {**stream, "owner": None} if number in own else stream
                for number, stream in enumerate(newest.streams)
            ))  # fmt: skip
        return upcoming, evicted

    def _sync_folders(self, segment: SegmentWriter) -> None:
        paths = segment.paths
        for tree in paths.trees:
            files.sync_tree(tree, data=False)
        for name in FOLDERS[:-1]:
            files.sync_folder(self.root / name)

    def sync_sealed(self, streams: Sequence[Stream]) -> None:
        """Brings to the disk what `process` durability left to the system."""
        if self._durable:
            return
        for paths in self._unsynced:
            for tree in paths.trees:
                files.sync_tree(tree, data=True)
            for path in (paths.journal, paths.sums):
                files.sync_path(path)
        self._unsynced.clear()
        for s in streams:
            if s.segments:
                files.sync_tree(s.segments[-1].paths.columns, data=True)
                files.sync_tree(s.segments[-1].paths.finals, data=False)
        files.sync_path(manifest.path_of(self.root, self.manifest.generation))
        for name in FOLDERS:
            files.sync_folder(self.root / name)


def leaving(ordered: Sequence[Segment], streams: Sequence[Stream], window: int) -> list[Segment]:
    """The sealed segments of the writer's streams that lie wholly below their windows."""
    found = []
    for s in streams:
        own = [entry for entry in ordered if entry.stream == s.number]
        committed = max([s.committed, *(entry.first + entry.rows for entry in own)])
        found += [e for e in own if e.sealed and e.first + e.rows <= committed - window]
    return found


def cut_leftovers(root: Path, newest: Manifest, lock: WriterLock) -> list[str]:
    """Undoes the seal records that a writer appended before it was killed in the act of publishing.

    The caller holds the publish lock, so temporary manifests are those of the dead; their names are
    returned. They must stay until the next generation is there: readers take them as the reason why the
    generation that a seal record names is not.
    """
    leftovers = [name for name in files.names(root / "manifests") if name.startswith(".tmp-")]
    for entry in newest.segments if leftovers else ():
        if entry.sealed or entry.stream in lock.streams or not lock.take(entry.stream):
            continue
        try:
            cut_seal(root, newest, entry)
        finally:
            lock.release(entry.stream)
    return leftovers


def cut_seal(root: Path, newest: Manifest, entry: Segment) -> None:
    """Cuts the seal record of an open segment's journal, if it has one. The caller holds the stream."""
    path = SegmentPaths(root, entry.name).journal
    journal = Journal(entry.stream, newest.dataset, entry.first, entry.alloc)
    if journal.feed(files.read(path, limit=1 << 40)) is None and journal.sealed_by is not None:
        fd = files.open_write(path)
        try:
            files.truncate(fd, journal.unseal())
        finally:
            files.close(fd)
