"""Taking over a dataset: sealing what a killed writer left, at its last commit or at an earlier row. SPEC.md
section 10.

What becomes of a stream is in `recovered_stream.py`; here is what is published of it, and removed then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcli.errors import CorruptError, IncompatibleError, UsageError
from rlcli.format import dataset_json, files, folders, generations, manifest, snapshot
from rlcli.format.journal import RECORD
from rlcli.format.layout import FOLDERS, SEGMENT_FOLDERS, SegmentPaths
from rlcli.format.locks import WriterLock
from rlcli.format.manifest import Manifest, Segment
from rlcli.format.recovered_stream import RecoveredStream
from rlcli.format.recovery_report import RecoveryReport
from rlcli.format.segment import SegmentWriter

_MOST_MISSING = 64


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
        folders.make(root / folder)  # an empty one does not survive a clone
    if rewind is not None and len(rewind) != len(owners):
        raise UsageError(f"{root}: {len(owners)} streams, asked to rewind {len(rewind)}")
    writers: list[SegmentWriter] = []
    try:
        with files.resources(root):
            entries = [segment for segment in newest.segments if segment.stream not in owners]
            seals: dict[Path, int | None] = {}
            streams = [
                RecoveredStream(root, newest, number, accept_damage, report, seals) for number in owners
            ]
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
    for name in folders.names(root / "manifests"):
        if name.startswith(".tmp-"):
            files.remove(root / "manifests" / name)


def orphans(root: Path, newest: Manifest) -> list[str]:
    """Segments that have files and that the manifest does not name."""
    known = {segment.name for segment in newest.segments}
    found = {name.removesuffix(".log").removesuffix(".json") for folder in SEGMENT_FOLDERS
             for name in folders.names(root / folder)}  # fmt: skip
    return sorted(name for name in found - known if manifest.is_segment_name(name))
