"""Joining datasets without reading their rows: files of sealed segments get another name in a new dataset.

Committed files are never written again, by any writer, so two datasets can share them. What binds a segment
to its dataset is rewritten: journal (uuid, stream, generation), sums, manifest. SPEC.md sections 4, 7 and 8.
"""

from __future__ import annotations

import hashlib
import os
import uuid as uuids
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.errors import CorruptError, UsageError
from rlcli.format import (
    compatible,
    copying,
    dataset_json,
    files,
    folders,
    generations,
    manifest,
    sharing,
    sums,
)
from rlcli.format.dataset import Dataset
from rlcli.format.digests import episode_digest
from rlcli.format.episode_table import Episodes, to_records
from rlcli.format.journal import HEADER, RECORD, SEAL, Episode, Packer
from rlcli.format.layout import FIRST_ROWS, FOLDERS, SegmentPaths
from rlcli.format.location import is_folder, local
from rlcli.format.manifest import Manifest, Segment
from rlcli.format.segment import SegmentWriter
from rlcli.format.segment_files import load_sums
from rlcli.format.sharing import Way
from rlcli.format.sums import EPISODE_COLUMNS
from rlcli.format.writer import Writer

Rows = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class Merged:
    """What a merge did. `files` and `file_bytes` count by how a file came into the result."""

    rows: int = 0
    episodes: int = 0
    streams: int = 0
    segments: int = 0
    files: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(("link", "reflink", "copy"), 0))
    file_bytes: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(("link", "reflink", "copy"), 0))
    copied_rows: int = 0  # of open segments, of windows, URLs, packed and deduplicated datasets
    cut_episodes: int = 0  # unfinished in their dataset
    dropped_episodes: int = 0  # equal to an earlier one
    lost_rows: int = 0  # of episodes that a window no longer has from their first row
    dropped_rows: int = 0  # of both


def merge(
    sources: Sequence[Dataset],
    out: Path,
    *,
    lineage: dict[str, Any],
    dedup: bool = False,
    link: bool = True,
    durable: bool = True,
    extra: dict[str, Any] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Merged:
    """Makes the dataset `out` of the streams of `sources`, in order, as they were opened: of one that is
    being written, the rows that were committed then.

    Rows keep their stream rows, segments their content digests. With `dedup` an episode that is equal to an
    earlier one (by `digests.episode_digest`) is left out; of a dataset without such nothing is copied.
    Without `link` no file is shared, only its blocks where the file system can. `out` grows in place: the
    caller gives a temporary name and renames. `advance` is told of rows that were dealt with and may raise.

    Raises `IncompatibleError` with every difference if columns or specs differ, `UsageError` without sources
    or if `out` exists, `CorruptError` for damaged sums or journals (rows keep their hashes, unread).
    """
    if not sources:
        raise UsageError("nothing to merge: name at least one dataset")
    if os.path.lexists(out):
        raise UsageError(f"{out}: exists already; nothing is overwritten", path=out)
    tell = advance or (lambda rows: None)

    def quiet(rows: int) -> None:
        tell(0)

    first = sources[0]
    for other in sources[1:]:
        compatible.check(first, other, verb="merged")
    report = Merged()
    seen: set[str] = set()
    result = _Result(out, link)
    try:
        with files.resources(out):
            result.begin()
            for number, dataset in enumerate(sources):
                table, chosen = _choose(dataset, seen if dedup else None, report, tell)
                if len(chosen) == len(table) and _is_linkable(dataset, first):
                    result.add(dataset, table, quiet if dedup else tell, report)
                    continue
                part = out / f".part-{number}"
                _copy(dataset, first, table, chosen, part, quiet if dedup else tell)
                report.copied_rows += int(table.length[chosen].sum())
                with Dataset.open(part) as copied:
                    result.add(copied, copying.all_episodes(copied), quiet, None)
                folders.remove_tree(part)
            result.publish(first, lineage, extra or {}, durable=durable)
            report.rows, report.episodes = result.rows, result.episodes
            report.streams, report.segments = result.streams, len(result.entries)
    except BaseException:
        folders.remove_tree(out)
        raise
    return report


def _choose(
    dataset: Dataset, seen: set[str] | None, report: Merged, tell: Callable[[int], None]
) -> tuple[Episodes, Rows]:
    """All episodes of a dataset, and the indices of those to keep: all, or those not `seen` before."""
    table = copying.all_episodes(dataset)
    report.cut_episodes += len(table) - dataset.num_episodes
    lost = dataset.num_rows - int(table.length.sum())
    report.lost_rows += lost
    report.dropped_rows += lost
    if seen is None:
        return table, np.arange(len(table))
    kept = []
    for index in range(len(table)):
        digest = episode_digest(dataset, table, index)
        if digest not in seen:
            kept.append(index)
            seen.add(digest)
        tell(int(table.length[index]))
    chosen = np.array(kept, np.int64)
    report.dropped_episodes += len(table) - len(chosen)
    report.dropped_rows += int(table.length.sum() - table.length[chosen].sum())
    return table, chosen


def _is_linkable(dataset: Dataset, first: Dataset) -> bool:
    """Its segments say in a log of the first one's schema what they say now, and their files are here."""
    is_log = not any(dataset.snapshot["starts"])
    return dataset.schema == first.schema and is_log and is_folder(dataset.path)


def _copy(
    dataset: Dataset, first: Dataset, table: Episodes, chosen: Rows, part: Path, tell: Callable[[int], None]
) -> None:
    """A dataset of the chosen episodes in the columns of `first`, stream by stream."""
    streams = len(dataset.stream_rows)
    with Writer.create(
        part, first.schema, spec={}, lineage={}, num_streams=streams, durability="process"
    ) as writer:
        for stream in range(streams):
            mine = chosen[table.stream[chosen] == stream]
            copying.copy_episodes(dataset, table, mine, writer, stream, advance=tell)


class _Result:
    """The dataset that grows: what it has so far."""

    def __init__(self, root: Path, link: bool) -> None:
        self.entries: list[Segment] = []
        self.rows = 0
        self.episodes = 0
        self.streams = 0
        self._root = root
        self._link = link
        self._dataset = uuids.uuid4().hex
        self._boot = files.boot_id()

    def begin(self) -> None:
        for folder in FOLDERS:
            folders.make(self._root / folder)

    def add(
        self, dataset: Dataset, table: Episodes, tell: Callable[[int], None], report: Merged | None
    ) -> None:
        """The streams of a dataset that have rows become the next ones of the result.

        `report` is told how their files came; None for a dataset that nobody else has.
        """
        for stream, rows in enumerate(dataset.stream_rows):
            if not rows:
                continue
            whole = _whole_entries(dataset, table, stream)
            for entry in whole:
                self.entries.append(self.link_segment(dataset, entry, self.streams, report))
                tell(entry.rows)
            kept = whole[-1].first + whole[-1].rows if whole else 0
            if rows > kept:
                self.entries.append(self._copy_rest(dataset, table, stream, kept, tell))
                if report is not None:
                    report.copied_rows += rows - kept
            self.streams += 1
        self.episodes += len(table)
        self.rows += dataset.num_rows

    def link_segment(
        self, dataset: Dataset, entry: Segment, stream: int, report: Merged | None = None
    ) -> Segment:
        """A sealed segment of `dataset` as one of stream `stream` of the result, sharing its files.

        Returns its manifest entry: name, stream and sums are new, content and counts are not.
        """
        name = f"{manifest.stream_id(stream)}-{entry.first:012d}"
        root = local(dataset.path, "a merge")
        old, new = SegmentPaths(root, entry.name), SegmentPaths(self._root, name)
        found: dict[str, sums.FileSum] = {}
        for relative, expected in load_sums(old, dataset.schema, entry).items():
            folder, _, rest = relative.partition("/")
            if folder == "journal":
                data = files.read(old.journal, limit=1 << 40)
                if sums.of_bytes(data).blocks != expected.blocks:
                    raise CorruptError(f"{old.journal}: differs from its hash", path=old.journal)
                journal = rechain(data, self._dataset, self._boot, stream)
                files.write_new(new.journal, journal, durable=False)
                found[f"journal/{name}.log"] = sums.of_bytes(journal)
                continue
            target = f"{folder}/{name}/{rest.partition('/')[2]}"
            folders.make((self._root / target).parent)
            way = sharing.share(root / relative, self._root / target, expected.bytes, link=self._link)
            if report is not None:
                report.files[way] += 1
                report.file_bytes[way] += expected.bytes
            found[target] = expected
        data = sums.dump(name, found)
        files.write_new(new.sums, data, durable=False)
        digest = hashlib.sha256(data).hexdigest()
        return replace(entry, name=name, stream=stream, sums=digest)

    def _copy_rest(
        self, dataset: Dataset, table: Episodes, stream: int, kept: int, tell: Callable[[int], None]
    ) -> Segment:
        """Rows of a stream from row `kept` on, which no sealed segment stands for, as one sealed segment."""
        schema = dataset.schema
        start = sum(dataset.stream_rows[:stream])  # logical row of the stream's first
        rows = dataset.stream_rows[stream] - kept
        alloc = -(-rows // FIRST_ROWS) * FIRST_ROWS
        name = f"{manifest.stream_id(self.streams)}-{kept:012d}"
        segment = SegmentWriter.create(
            self._root, Segment(name, self.streams, kept, alloc), schema,
            dataset=self._dataset, boot=self._boot, generation=1,
        )  # fmt: skip
        try:
            step = copying.chunk_rows(dataset)
            given = [column.key for column in schema.given]
            for low in range(start + kept, start + kept + rows, step):
                high = min(low + step, start + kept + rows)
                values = copying.read_piece(dataset, np.arange(low, high), given)
                segment.write([values[key] for key in given], high - low)
                tell(high - low)
            ends = table.start + table.length
            ending = np.flatnonzero((table.stream == stream) & (ends > start + kept))
            known = ending[table.has_final[ending]]
            finals = copying.read_piece(dataset, ends[known] - 1, [c.key for c in schema.shifts])
            if len(known):
                segment.add_finals({c.of or (): finals[c.key] for c in schema.shifts}, len(known))
            for episode in _records(table, ending, start):
                segment.add_episode(episode)
            entry, records = segment.prepare_seal(1, 0, durable=False)
            segment.append_seal(records, durable=False)
        finally:
            segment.close()
        return entry

    def publish(
        self, first: Dataset, lineage: dict[str, Any], extra: dict[str, Any], *, durable: bool
    ) -> None:
        """Identity, manifest, and with `durable` everything to the disk."""
        files.write_new(self._root / "dataset.json", dataset_json.new(self._dataset), durable=durable)
        streams = ({"id": manifest.stream_id(n), "owner": None} for n in range(max(1, self.streams)))
        found = Manifest(
            dataset=self._dataset, generation=1, parent=None, schema=first.schema, spec=first.spec,
            lineage=[lineage], extra=extra, streams=tuple(streams), segments=tuple(self.entries),
        )  # fmt: skip
        if durable:
            for folder in FOLDERS:
                folders.sync_tree(self._root / folder, data=True)
        generations.publish(self._root, found, durable=durable)
        if durable:
            folders.sync(self._root)


def _records(table: Episodes, chosen: Rows, start: int) -> list[Episode]:
    """Journal records of some episodes of the stream that begins at logical row `start`."""
    arrays = {
        name: getattr(table, "return_" if name == "return" else name)[chosen] for name, _ in EPISODE_COLUMNS
    }
    return to_records({**arrays, "start": arrays["start"] - start})


def _whole_entries(dataset: Dataset, table: Episodes, stream: int) -> list[Segment]:
    """The segments of a stream that another dataset can have as they are: the sealed ones, but not the last
    where an episode is unfinished at its end; that only a record in its journal can say.
    """
    entries = [entry for entry in dataset.segments if entry.stream == stream and entry.sealed]
    kept = entries[-1].first + entries[-1].rows if entries else 0
    if dataset.stream_rows[stream] == kept and _is_unfinished(dataset, table, stream):
        entries.pop()
    return entries


def _is_unfinished(dataset: Dataset, table: Episodes, stream: int) -> bool:
    """The stream ends in rows of an episode whose end is not recorded."""
    return int((table.stream == stream).sum()) > int((dataset.episodes.stream == stream).sum())


def rechain(journal: bytes, dataset: str, boot: str, stream: int) -> bytes:
    """The records of a sealed segment's journal for another dataset's first generation.

    uuid, boot id, stream and generations are new, and with them every checksum; what is committed is not.
    Raises `CorruptError` if it is no whole sealed journal.
    """
    if len(journal) % RECORD or len(journal) < 2 * RECORD or journal[4] != HEADER or journal[-60] != SEAL:
        raise CorruptError("a journal of a sealed segment does not begin with a header and end with a seal")
    number = stream.to_bytes(2, "little")
    data = bytearray(Packer(stream).header(dataset, boot, 1))
    crc = bytes(data[-4:])
    for at in range(RECORD, len(journal), RECORD):
        body = bytearray(journal[at : at + 56]) + crc
        body[6:8] = number
        if body[4] == SEAL:
            body[48:56] = (1).to_bytes(8, "little")
        crc = zlib.crc32(body).to_bytes(4, "little")
        data += body + crc
    return bytes(data)
