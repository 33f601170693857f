"""One stream of a dataset that is taken over: which rows and episodes stay, and in which segments.

Committed data are never changed in place: where a sealed segment must become shorter, a shorter copy takes
its place in the next manifest. Publishing that is `recover.py`'s business.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.errors import CorruptError, UsageError
from rlcli.format import files, folders
from rlcli.format.checking import Checker, check_commit
from rlcli.format.episode_table import episode_arrays, read_episodes, select, to_records
from rlcli.format.journal import CUT, NO_SEED, RECORD, Episode, Journal
from rlcli.format.keys import path_of
from rlcli.format.layout import SegmentPaths, free_name
from rlcli.format.manifest import Manifest, Segment
from rlcli.format.mapping import MappedSegment, StreamMap
from rlcli.format.recovery_report import RecoveryReport, Unfinished
from rlcli.format.segment import SegmentWriter
from rlcli.format.values import add_in_order, as_rewards

Array = np.ndarray[Any, Any]
REWARD = ("next", "reward")
NUMBER, STEP = ("episode",), ("step",)


class RecoveredStream:
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
        for linked in [folder for tree in paths.trees for folder in folders.links(tree)]:
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
