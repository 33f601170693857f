"""Taking over a dataset: sealing what a killed writer left, at its last commit or at an earlier row. SPEC.md
section 10.

Committed data are never changed in place: where a sealed segment must become shorter, a shorter copy takes
its place in the next manifest.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.errors import CorruptError, IncompatibleError, UsageError
from rlcli.format import dataset_json, files, generations, manifest, snapshot
from rlcli.format.checking import Checker, check_commit
from rlcli.format.episode_table import episode_arrays, read_episodes, select, to_records
from rlcli.format.journal import CUT, NO_SEED, RECORD, Episode, Journal
from rlcli.format.keys import path_of
from rlcli.format.layout import FOLDERS, SEGMENT_FOLDERS, SegmentPaths, free_name
from rlcli.format.locks import WriterLock
from rlcli.format.manifest import Manifest, Segment
from rlcli.format.mapping import MappedSegment, StreamMap
from rlcli.format.segment import SegmentWriter
from rlcli.format.values import add_in_order, as_rewards

Array = np.ndarray[Any, Any]
REWARD = ("next", "reward")
NUMBER, STEP = ("episode",), ("step",)
_MOST_MISSING = 64


@dataclass(frozen=True)
class Unfinished:
    """An episode that goes on: its first stream row, the sum of its rewards so far, its number."""

    start: int
    return_: float
    number: int


@dataclass
class RecoveryReport:
    """What taking over did. `sealed`: segments a killed writer had left open; `rows`: how many were kept;
    `missing`: generations that journals name and that are not there.
    """

    path: Path
    generation: int = 0
    rows: int = 0
    sealed: list[str] = field(default_factory=list)
    cut_episodes: int = 0
    shortened: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    unfinished: list[Unfinished | None] = field(default_factory=list)
    live: list[SegmentWriter | None] = field(default_factory=list)
    next_episode: int = 0

    @property
    def is_clean(self) -> bool:
        """Nothing had to be done."""
        return not (self.sealed or self.shortened or self.dropped or self.cut_episodes or self.missing)


def recover(path: str | Path) -> RecoveryReport:
    """Seals a dataset whose writer was killed, and releases it. A sound, sealed dataset stays as it is.

    Unlike a writer that appends, this also accepts an open journal with a damaged end, cut after its last
    whole commit, and newest manifests that are missing: new ones take their numbers, and what only they
    listed is garbage then. Raises `BusyError` while a writer is at work, `CorruptError` if committed rows are
    damaged, which are neither repaired nor sealed, or more is missing than an interrupted copy explains.
    """
    root = Path(path)
    identity = dataset_json.load(root)
    lock = WriterLock.exclusive(root)
    try:
        newest = generations.load_newest(root, identity["uuid"])
        numbers = range(len(newest.streams))
        named = snapshot.unlisted_journals(root, newest)
        missing = range(newest.generation + 1, max(named, default=newest.generation) + 1)
        if len(missing) > _MOST_MISSING:
            path = named[missing[-1]]
            raise CorruptError(f"{path}: names generation {missing[-1]} of {newest.generation}", path=path)
        if not missing and not any(is_left_open(newest, number) for number in numbers):
            return RecoveryReport(root, newest.generation, sum(s.rows for s in newest.segments))
        owners = dict.fromkeys(numbers)
        newest, report = take_over(
            root, newest, lineage=[], owners=owners, accept_damage=True, missing=missing
        )
        while newest.generation < missing.stop - 1:
            newest, last = take_over(root, newest, lineage=[], owners=owners, accept_damage=True)
            report.generation = last.generation
        return report
    finally:
        lock.close()


def is_left_open(newest: Manifest, stream: int) -> bool:
    """A stream that no living writer has shows that one was killed."""
    open_ = any(not segment.sealed and segment.stream == stream for segment in newest.segments)
    return open_ or newest.streams[stream].get("owner") is not None


def take_over(
    root: Path,
    newest: Manifest,
    *,
    lineage: list[dict[str, Any]],
    owners: Mapping[int, dict[str, Any] | None],
    rewind: Sequence[int] | None = None,
    accept_damage: bool = False,
    missing: Sequence[int] = (),
) -> tuple[Manifest, RecoveryReport]:
    """Publishes a generation in which the streams of `owners` have no open segments and these owners.

    The caller holds these streams, and is the only one who publishes. Streams that the manifest does not have
    yet are added. `rewind` is the number of rows each stream keeps; its unfinished episodes go on. Without it
    they are cut. `missing` is for the report.
    """
    if newest.ro_compat:
        names = ", ".join(newest.ro_compat)
        raise IncompatibleError(
            f"{root}: writing it needs {names}, which this release does not know; upgrade rl"
        )
    report = RecoveryReport(root, missing=list(missing))
    for folder in FOLDERS:
        files.make_folder(root / folder)  # an empty one does not survive a clone
    if rewind is not None and len(rewind) != len(owners):
        raise UsageError(f"{root}: {len(owners)} streams, asked to rewind {len(rewind)}")
    writers: list[SegmentWriter] = []
    try:
        with files.resources(root):
            entries = [segment for segment in newest.segments if segment.stream not in owners]
            seals: dict[Path, int | None] = {}
            streams = [_StreamState(root, newest, number, accept_damage, report, seals) for number in owners]
            if not accept_damage:
                snapshot.is_newest(root, newest, seals)
            for position, stream in enumerate(streams):
                stream.keep(None if rewind is None else rewind[position])
                entries += stream.entries
                writers += stream.writers
                report.live.append(stream.live)
                report.unfinished.append(stream.unfinished)
            entries.sort(key=lambda entry: (entry.stream, entry.first))
            manifest_ = _publish(root, newest, entries, writers, report, lineage, owners, rewind)
    except BaseException:
        for live in report.live:
            if live is not None:
                live.close()
        raise
    finally:
        for writer in writers:
            writer.close()
    _clean(root, manifest_, report, streams=owners.keys(), keep_protected=accept_damage)
    return manifest_, report


def _publish(
    root: Path,
    newest: Manifest,
    entries: list[Segment],
    writers: list[SegmentWriter],
    report: RecoveryReport,
    lineage: list[dict[str, Any]],
    owners: Mapping[int, dict[str, Any] | None],
    rewind: Sequence[int] | None,
) -> Manifest:
    seals = {}
    for writer in writers:
        entry, records = writer.prepare_seal(newest.generation + 1, 0, durable=True)
        seals[entry.name] = (entry, writer, records)
        writer.sync_names()
    for live in report.live:
        if live is not None:
            live.sync_all()
    final = [seals[entry.name][0] if entry.name in seals else entry for entry in entries]
    own = []
    if not report.is_clean:
        own = [
            {
                "op": "recover" if rewind is None else "rewind",
                "sealed": report.sealed,
                "shortened": report.shortened,
                "dropped": report.dropped,
                **({"missing": report.missing} if report.missing else {}),
            }
        ]

    def append_seals() -> None:
        for _, writer, records in seals.values():
            writer.append_seal(records, durable=True)
        for live in report.live:
            if live is not None and live.is_dirty:
                live.commit(0, durable=True)

    streams = list(newest.streams)
    for number, owner in sorted(owners.items()):
        if number == len(streams):
            streams.append({"id": manifest.stream_id(number)})
        streams[number] = {**streams[number], "owner": owner}
    upcoming = newest.next(
        segments=tuple(final), lineage=[*newest.lineage, *own, *lineage], streams=tuple(streams)
    )
    published = generations.publish(root, upcoming, durable=True, before_link=append_seals)
    report.generation = published.generation
    report.rows = sum(entry.rows for entry in final)
    for live in report.live:
        if live is not None:
            live.published = True
            report.rows += live.rows - live.entry.rows
    return published


def _clean(
    root: Path, newest: Manifest, report: RecoveryReport, *, streams: Collection[int], keep_protected: bool
) -> None:
    """Removes what no manifest names: of killed creations, dropped segments, temporaries.

    A sealed segment that a copy has replaced stays for `gc`: readers open the files of a log when they first
    touch them.
    """
    for name in orphans(root, newest):
        if manifest.stream_of(name) in streams and not (name in newest.replaced and newest.window is None):
            path = SegmentPaths(root, name)
            if keep_protected and path.journal.exists() and files.size(path.journal) > RECORD:
                continue
            report.freed_bytes += path.remove()
            report.removed.append(name)
    for name in files.names(root / "manifests"):
        if name.startswith(".tmp-"):
            files.remove(root / "manifests" / name)


def orphans(root: Path, newest: Manifest) -> list[str]:
    """Segments that have files and that the manifest does not name."""
    known = {segment.name for segment in newest.segments}
    found = {name.removesuffix(".log").removesuffix(".json") for folder in SEGMENT_FOLDERS
             for name in files.names(root / folder)}  # fmt: skip
    return sorted(name for name in found - known if manifest.is_segment_name(name))


class _StreamState:
    """One stream while it is taken over: what its entries become, and the writers that seal the new ones."""

    def __init__(
        self,
        root: Path,
        newest: Manifest,
        number: int,
        accept_damage: bool,
        report: RecoveryReport,
        seals: dict[Path, int | None],
    ) -> None:
        self.root = root
        self.newest = newest
        self.schema = newest.schema
        self.report = report
        self.entries: list[Segment] = []
        self.writers: list[SegmentWriter] = []
        self.unfinished: Unfinished | None = None
        self.live: SegmentWriter | None = None
        self._accept_damage = accept_damage
        self._seals = seals
        self._number = number
        self._episodes: list[dict[str, Array]] = []  # of each entry
        self._journals: dict[str, Journal] = {}
        for entry in newest.segments:
            if entry.stream != number:
                continue
            if entry.sealed:
                self._add(entry, read_episodes(SegmentPaths(root, entry.name), entry))
                continue
            journal = self._accepted(entry)
            if journal.rows:
                self._journals[entry.name] = journal
                self._add(replace(entry, rows=journal.rows), episode_arrays(journal.episodes))
            else:
                self.report.dropped.append(entry.name)

    def _add(self, entry: Segment, episodes: dict[str, Array]) -> None:
        self.entries.append(entry)
        self._episodes.append(episodes)

    @property
    def _rows(self) -> int:
        return self.entries[-1].first + self.entries[-1].rows if self.entries else 0

    def keep(self, rows: int | None) -> None:
        """Keeps the first `rows` rows with the unfinished episode going on, or all rows with it cut."""
        keep = self._rows if rows is None else rows
        if not 0 <= keep <= self._rows:
            raise UsageError(
                f"{self.root}: stream {self._number} has {self._rows} rows, asked to keep {keep}"
            )
        lowest = self.entries[0].first if self.entries else 0
        if lowest and keep <= lowest:
            raise UsageError(
                f"{self.root}: rows up to {lowest} of stream {self._number} have left the window, asked to "
                f"keep {keep}"
            )
        while self.entries and self.entries[-1].first >= keep:
            self.report.dropped.append(self.entries.pop().name)
            self._episodes.pop()
        if not self.entries:
            return
        last, episodes = self.entries[-1], self._episodes[-1]
        kept = to_records(select(episodes, episodes["start"] + episodes["length"] <= keep))
        ends = [kept[-1].first + kept[-1].rows] if kept else []
        ends += [int(e["start"][-1] + e["length"][-1]) for e in self._episodes[-2::-1] if len(e["start"])]
        end = ends[0] if ends else self._episode_start(keep)
        numbers = (
            [kept[-1].number]
            if kept
            else [int(e["number"][-1]) for e in self._episodes[:-1] if len(e["number"])]
        )
        self.report.next_episode = max([self.report.next_episode, *(number + 1 for number in numbers)])
        cut = None
        if end < keep:
            return_ = self._sum_rewards(end, keep) if ends or lowest <= end else math.nan
            open_ = Unfinished(end, return_, self._episode_number(keep - 1))
            self.report.next_episode = max(self.report.next_episode, open_.number + 1)
            if rows is None:
                cut = Episode(end, keep - end, open_.return_, open_.number, NO_SEED, CUT)
                self.report.cut_episodes += 1
            else:
                self.unfinished = open_
        journal = self._journals.get(last.name)
        if self.unfinished is not None:
            self._keep_open(last, kept, keep, journal)
            return
        if journal is not None and keep == self._rows and len(kept) == len(episodes["start"]):
            writer = SegmentWriter.resume(self.root, last, self.schema, journal)
            self.report.sealed.append(last.name)
        elif cut is not None or keep < self._rows or journal is not None:
            writer = self._copy(last, kept, keep - last.first)
            self.report.shortened.append(last.name)
        else:
            return
        self.writers.append(writer)
        if cut is not None:
            writer.add_episode(cut)
        self.entries[-1] = writer.entry

    def _episode_start(self, keep: int) -> int:
        """Where the episode of the last kept row began, if none ends in what is there; maybe below it."""
        first = self.entries[0].first
        if first:
            for _, values in self._column(STEP, keep - 1, keep):
                return keep - 1 - int(values[0])
        return first

    def _keep_open(self, last: Segment, kept: list[Episode], keep: int, journal: Journal | None) -> None:
        """The next writer goes on in this segment, or in a copy: the unfinished episode may end with its last
        row.
        """
        whole = journal is not None and journal.rows == keep - last.first
        if journal is not None and whole and journal.boot == files.boot_id():
            self.live = SegmentWriter.resume(self.root, last, self.schema, journal)
        else:
            self.live = self._copy(last, kept, keep - last.first)
            self.report.shortened.append(last.name)
        self.entries[-1] = self.live.entry

    def _accepted(self, entry: Segment) -> Journal:
        """The journal of an open segment with the commits that recovery accepts."""
        paths = SegmentPaths(self.root, entry.name)
        for linked in [folder for tree in paths.trees for folder in files.linked_folders(tree)]:
            raise CorruptError(f"{linked}: a symbolic link instead of a folder", path=linked)
        path = paths.journal
        data = files.read(path, limit=1 << 40)
        journal = Journal(entry.stream, self.newest.dataset, entry.first, entry.alloc)
        reason = journal.feed(data)
        self._seals[path] = journal.sealed_by
        survived = journal.boot == files.boot_id()
        if reason is not None and survived and not self._accept_damage:
            raise CorruptError(f"{path}: {reason}; `recover` cuts it there", path=path)
        if not journal.sequence:
            raise CorruptError(f"{path}: no header record", path=path)
        count = 0
        if journal.commits:
            mapped = StreamMap(self.root, self.schema, capacity=0, single_range=False).add(entry)
            count = _accepted_commits(mapped, journal, survived=survived)
        accepted = Journal(entry.stream, self.newest.dataset, entry.first, entry.alloc)
        accepted.feed(data[: journal.commits[count - 1].end if count else RECORD])
        return accepted

    def _copy(self, entry: Segment, records: list[Episode], rows: int) -> SegmentWriter:
        """A shorter segment of the same first rows under a free name, not yet sealed."""
        mapped = StreamMap(self.root, self.schema, capacity=0, single_range=False).add(entry)
        finals = sum(episode.flags >> 3 for episode in records)
        mapped.map_finals(finals if not entry.sealed else entry.finals)
        if entry.sealed:  # an open one was compared when its commits were accepted
            checker = Checker(self.schema)
            checker.inspect(mapped)
            checker.everything(mapped)
        name = free_name(self.root, entry.stream, entry.first, self.newest.retired)
        copy = SegmentWriter.create(
            self.root,
            Segment(name, entry.stream, entry.first, entry.alloc),
            self.schema,
            dataset=self.newest.dataset,
            boot=files.boot_id(),
            generation=self.newest.generation + 1,
        )
        copy.copy_rows(mapped, rows, finals)
        for episode in records:
            copy.add_episode(episode)
        return copy

    def _sum_rewards(self, start: int, stop: int) -> float:
        total = 0.0
        for _, values in self._column(REWARD, start, stop):
            total = add_in_order(total, as_rewards(self.schema.by_key[REWARD], values))
        return total

    def _episode_number(self, row: int) -> int:
        for _, values in self._column(NUMBER, row, row + 1):
            return int(values[0])
        return self.report.next_episode

    def _column(self, key: tuple[str, ...], start: int, stop: int) -> list[tuple[int, np.ndarray[Any, Any]]]:
        """The values of a plain column in stream rows, piece by piece; none if there is no such column."""
        column = self.schema.by_key.get(key)
        if column is None or column.encoding != "plain":
            return []
        parts = []
        for entry in self.entries:
            low, high = max(start - entry.first, 0), min(stop - entry.first, entry.rows)
            if low < high:
                path = SegmentPaths(self.root, entry.name).columns / path_of(key)
                fd = files.open_read(path, entry.alloc * column.row_bytes)
                try:
                    data = files.read_at(fd, (high - low) * column.row_bytes, low * column.row_bytes)
                finally:
                    files.close(fd)
                parts.append((entry.first + low, np.frombuffer(data, column.numpy)))
        return parts


def _accepted_commits(mapped: MappedSegment, journal: Journal, *, survived: bool) -> int:
    """How many commits there are: all if the page cache has `survived`, else to the last durable one, and on
    while hashes are right.

    Raises `CorruptError` where one that must be there has other rows: sealed, they would be proven right.
    """
    commits = journal.commits
    certain = max((n + 1 for n, commit in enumerate(commits) if commit.durable or survived), default=0)
    for count, commit in enumerate(commits):
        try:
            if commit.finals > commit.finals_before:
                mapped.map_finals(commit.finals)
            check_commit(mapped, commit)
        except CorruptError:  # or finals that did not reach the disk
            if count < certain:
                raise
            return count
    return len(commits)
