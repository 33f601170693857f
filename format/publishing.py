"""Making the next generation: sealing, rebasing on what other writers published, leaving of a window's rows.

SPEC.md sections 4, 8 and 10. Nothing here is on the row path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlcli.format import files, folders, generations
from rlcli.format.generations import GenerationTaken
from rlcli.format.journal import Journal
from rlcli.format.layout import FOLDERS, SegmentPaths
from rlcli.format.locks import WriterLock
from rlcli.format.manifest import Manifest, Segment
from rlcli.format.segment import SegmentWriter
from rlcli.format.stream import Stream


class Publisher:
    """The manifest as one writer knows it, and how that writer changes it."""

    def __init__(self, root: Path, lock: WriterLock, newest: Manifest, *, durable: bool) -> None:
        self.root = root
        self.manifest = newest
        self._lock = lock
        self._durable = durable
        self._is_synced = False  # all that was there is on the disk
        self._boot = files.boot_id()

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
            newest = generations.advance(self.root, newest)
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
                self.manifest = generations.publish(
                    self.root, upcoming, durable=self._durable, before_link=append_seals if sealed else None
                )
                break
            except GenerationTaken:  # a file system on which flock does nothing
                if sealed or self._lock.is_exclusive:
                    raise
                for segment in fresh:
                    segment.published = False
                newest = generations.advance(self.root, newest)
        for segment, _ in sealed:
            segment.close()
        for s in streams:
            s.segments = [] if closing else s.segments[-1:]
        for name in leftovers:
            files.remove(self.root / "manifests" / name)
        for entry in evicted:
            SegmentPaths(self.root, entry.name).remove()

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
                    segment.sync_all()
        if self._durable:
            for segment, _ in sealed:
                segment.sync_names()
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

    def sync_all(self, streams: Sequence[Stream]) -> None:
        """Brings to the disk what `process` durability left to the system, also of the writers before.

        From here on generations are synced, or one that comes later could take synced rows with it.
        """
        if self._is_synced:
            return
        own = {s.number for s in streams}
        for entry in self.manifest.segments:
            if entry.sealed and entry.stream in own:
                paths = SegmentPaths(self.root, entry.name)
                for tree in paths.trees:
                    folders.sync_tree(tree, data=True)
                for path in (paths.journal, paths.sums):
                    files.sync_path(path)
        for s in streams:
            if s.segments:
                s.segments[-1].sync_all()
        for generation in range(1, self.manifest.generation + 1):
            files.sync_path(generations.path_of(self.root, generation))
        files.sync_path(self.root / "dataset.json")
        for name in FOLDERS:
            folders.sync(self.root / name)
        folders.sync(self.root)
        folders.sync(self.root.parent)
        self._durable = self._is_synced = True


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

    The caller holds the publish lock, so temporary manifests are those of the dead, and so are the segments
    that are sealed by a generation which is not there: even if the system has not let go of their stream's
    lock yet. The names of the manifests are returned. They must stay until the next generation is there:
    readers take them as the reason why the generation that a seal record names is not.
    """
    leftovers = [name for name in folders.names(root / "manifests") if name.startswith(".tmp-")]
    for entry in newest.segments if leftovers else ():
        if not entry.sealed and entry.stream not in lock.streams:
            cut_seal(root, newest, entry)
    return leftovers


def cut_seal(root: Path, newest: Manifest, entry: Segment) -> None:
    """Cuts the seal record that names the next generation off an open segment's journal, if it has one."""
    path = SegmentPaths(root, entry.name).journal
    journal = Journal(entry.stream, newest.dataset, entry.first, entry.alloc)
    reason = journal.feed(files.read(path, limit=1 << 40))
    if reason is None and journal.sealed_by == newest.generation + 1:
        fd = files.open_write(path)
        try:
            files.truncate(fd, journal.unseal())
        finally:
            files.close(fd)
