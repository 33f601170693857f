"""The state of a dataset at one moment: its newest manifest and the journals of its open segments.

This is what every reader, `verify` and `recover` begin with, and where a lost newest manifest is noticed.
SPEC.md sections 4, 7 and 8.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlcli.errors import CorruptError, InputError
from rlcli.format import bulk, dataset_json, files, generations, layer, manifest
from rlcli.format.journal import HEADER, RECORD, Journal
from rlcli.format.layout import SegmentPaths, segment_of
from rlcli.format.location import Location
from rlcli.format.manifest import Manifest, Segment

_RETRIES = 5
_RETRY_SECONDS = 0.002


@dataclass
class OpenJournal:
    """The journal of an open segment, with the descriptor to read on."""

    path: Path
    fd: int
    state: Journal

    def advance(self) -> bool:
        """Reads what was committed since the last call; returns whether there was anything.

        Raises `CorruptError` for a tail that stays invalid: a writer that is at work finishes within
        milliseconds.
        """
        before = self.state.offset
        if self.state.sealed_by is not None:
            self.state.unseal()  # its writer was killed before it published: the record may have been cut
        start = self.state.offset
        data = layer.current().pread(self.fd, 1 << 16, start)
        if not data:
            return False
        if len(data) == 1 << 16:
            data += files.read_at(self.fd, files.size_of(self.fd) - start - len(data), start + len(data))
        reason = self.state.feed(data)
        for _ in range(_RETRIES):
            if reason is None:
                return self.state.offset != before
            time.sleep(_RETRY_SECONDS)
            offset = self.state.offset
            reason = self.state.feed(files.read_at(self.fd, files.size_of(self.fd) - offset, offset))
        if reason is not None:
            raise CorruptError(f"{self.path}: {reason}", path=self.path)
        return self.state.offset != before

    def close(self) -> None:
        files.close(self.fd)


@dataclass
class Snapshot:
    """A manifest and its open journals, by segment name."""

    identity: dict[str, Any]
    manifest: Manifest
    journals: dict[str, OpenJournal]

    def close(self) -> None:
        for journal in self.journals.values():
            journal.close()


@dataclass(frozen=True)
class Limits:
    """Where an older snapshot ends: per stream the retained rows `starts … rows`, and the row behind its last
    ended episode.
    """

    generation: int
    starts: tuple[int, ...]
    rows: tuple[int, ...]
    ended: tuple[int, ...]

    def of(self, stream: int) -> tuple[int, int]:
        return self.rows[stream], self.ended[stream]


def cut_back(
    root: Location, newest: Manifest, at: Mapping[str, Any], load_manifest: Callable[[int], Manifest]
) -> tuple[Manifest, Limits]:
    """The part of the newest manifest that an older snapshot `at` had, as `Dataset.snapshot` gave it.
    `load_manifest` gives the manifest of a generation.

    Raises `InputError` if rows of it are gone, `ValueError` if it is no snapshot.
    """
    rows = tuple(int(n) for n in at["rows"])
    starts = tuple(int(n) for n in at.get("starts", [0] * len(rows)))
    ended = tuple(int(n) for n in at.get("ended", rows))
    limits = Limits(int(at["generation"]), starts, rows, ended)
    parts = zip(starts, rows, ended, strict=True)
    if limits.generation < 1 or not all(0 <= start <= stop and end <= stop for start, stop, end in parts):
        raise ValueError(f"{dict(at)} is no snapshot")
    gone = InputError(f"{root}: rows of snapshot {dict(at)} are not there any more", path=root)
    if limits.generation > newest.generation or len(rows) > len(newest.streams):
        raise gone
    for number, (start, stop) in enumerate(zip(starts, rows, strict=True)):
        own = [s for s in newest.segments if s.stream == number]
        if stop > start and (not own or own[0].first > start):
            raise gone
        if stop and (not own or (own[-1].sealed and own[-1].first + own[-1].rows < stop)):
            raise gone
    segments = tuple(s for s in newest.segments if s.stream < len(rows) and s.first < rows[s.stream])
    then = load_manifest(limits.generation)
    if manifest.is_rewound(then, newest):
        kept = {segment.name: segment for segment in segments}
        for segment in then.segments:
            number, end = segment.stream, segment.first + segment.rows
            if (
                number >= len(rows)
                or segment.first >= rows[number]
                or (segment.sealed and end <= starts[number])
            ):
                continue
            now = kept.get(segment.name)
            if now is None or (segment.sealed and now != segment):
                raise gone
            if now.sealed and not segment.sealed and now.first + now.rows < rows[number]:
                raise gone
    return replace(newest, streams=newest.streams[: len(rows)], segments=segments), limits


def open_journal(root: Path, dataset: str, entry: Segment) -> OpenJournal:
    """The journal of a segment, read to its end. Raises `CorruptError` naming the file."""
    path = SegmentPaths(root, entry.name).journal
    fd = files.open_read(path)
    journal = OpenJournal(path, fd, Journal(entry.stream, dataset, entry.first, entry.alloc))
    try:
        journal.advance()
        if journal.state.sequence == 0:
            raise CorruptError(f"{path}: no header record", path=path)
    except BaseException:
        files.close(fd)
        raise
    return journal


def load(root: Path, *, chain: int = 2) -> Snapshot:
    """The newest state of the dataset. Raises `InputError`, `IncompatibleError` or `CorruptError`.

    Beside a writer that publishes faster than this reads, it is a state that was the newest during the call.
    """
    identity = dataset_json.load(root)
    looks = 0
    while True:
        newest = generations.load_newest(root, identity["uuid"], chain=chain)
        snapshot = Snapshot(identity, newest, {})
        try:
            for entry in newest.segments:
                if not entry.sealed:
                    snapshot.journals[entry.name] = open_journal(root, newest.dataset, entry)
            seals = {j.path: j.state.sealed_by for j in snapshot.journals.values()}
            looks += 1
            if is_newest(root, newest, seals) or looks == _RETRIES:
                return snapshot
        except BaseException as err:
            snapshot.close()
            if not has_left(root, err, newest):
                raise
        else:
            snapshot.close()


def has_left(root: Path, error: BaseException, listed: Manifest) -> bool:
    """The error is about a file of a segment that the newest generation does not have as `listed` had it.

    Then the file may be gone by right: the segment left a window, had no row when its writer was killed, or
    was replaced; who looks again finds another state. A segment that the newest generation has as it was
    must be there with all its files, however many generations there have been.
    """
    if not isinstance(error, CorruptError) or error.path is None:
        return False
    name = segment_of(root, Path(error.path))
    entry = next((entry for entry in listed.segments if entry.name == name), None)
    return entry is not None and not generations.still_lists(root, listed, entry)


def is_newest(root: Path, newest: Manifest, seals: Mapping[Path, int | None]) -> bool:
    """False if a newer manifest has appeared. Raises `CorruptError` if one is named and not there.

    `seals` are the open segments' journals and the generation their seal record names, if they have one.
    """
    named = {generation: path for path, generation in seals.items() if generation is not None}
    named |= unlisted_journals(root, newest)
    for generation, path in named.items():
        if generation <= newest.generation:
            raise CorruptError(f"{path}: sealed by generation {generation}, which says it is open", path=path)
        pending = generations.temporary_exists(root, generation)
        if generation in generations.published(root):
            return False
        if not pending:
            missing = generations.path_of(root, generation)
            raise CorruptError(f"{missing}: missing, {path.name} names it", path=missing)
    return True


def unlisted_journals(root: Path, newest: Manifest) -> dict[int, Path]:
    """The generations above the newest that journals with rows belong to which no manifest lists."""
    known = {f"{segment.name}.log" for segment in newest.segments}
    found = {}
    for name in bulk.names(root, "journal"):
        if name in known or name.startswith(".") or not name.endswith(".log"):
            continue
        generation = unlisted_generation(root / "journal" / name, newest)
        if generation is not None:
            found[generation] = root / "journal" / name
    return found


def unlisted_generation(path: Path, newest: Manifest) -> int | None:
    """The generation above the newest that a journal with rows, which no manifest lists, belongs to; else
    None.
    """
    try:
        return newer_generation(files.read(path), newest)
    except CorruptError:
        return None  # it was there a moment ago: a writer has removed it


def newer_generation(data: bytes, newest: Manifest) -> int | None:
    """`unlisted_generation` of the first bytes of a journal, more than a record."""
    journal = Journal(int.from_bytes(data[6:8], "little"), newest.dataset, 0, 1 << 62)
    if len(data) <= RECORD or data[4] != HEADER or journal.feed(data[:RECORD]) is not None:
        return None
    return journal.generation if journal.generation > newest.generation else None
