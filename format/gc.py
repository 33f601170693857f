"""Removing what nobody will ever read: files of segments that no manifest names, and unfinished creations.

Kills leave them: between making a segment and publishing it, between publishing and removing what left a
window, in the midst of creating a dataset. No reader minds them, they only take space. SPEC.md section 10.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rlcli.errors import BusyError
from rlcli.format import creation, dataset_json, files, folders, generations, manifest, snapshot
from rlcli.format.layout import SegmentPaths
from rlcli.format.locks import WriterLock
from rlcli.format.manifest import Manifest
from rlcli.format.recover import orphans

GRACE_SECONDS = 3600.0


@dataclass
class GarbageReport:
    """What was removed, as paths relative to the dataset's parent, and how much disk that gave back; in a
    dry run, what would be.

    `kept` are the orphans that were left alone: too young, of a stream that is being written, or evidence
    of a manifest that is missing.
    """

    path: Path
    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    freed_bytes: int = 0
    dry_run: bool = False


def collect_garbage(
    path: str | Path, *, grace_seconds: float = GRACE_SECONDS, dry_run: bool = False
) -> GarbageReport:
    """Removes orphans that have not changed for `grace_seconds`, also beside writers at work.

    What a living writer has, and what a manifest names, stays; recovering a dead writer's rows is not done
    here. With `dry_run` nothing is removed, only told. Raises `InputError` if `path` is no dataset and
    `CorruptError` if its manifests are damaged: then nothing is removed.
    """
    root = Path(path)
    identity = dataset_json.load(root)
    report = GarbageReport(root, dry_run=dry_run)
    lock = _lock(root)
    try:
        if lock is not None:
            with lock.publishing():
                newest = generations.load_newest(root, identity["uuid"])
                _collect(newest, lock, report, grace_seconds)
    finally:
        if lock is not None:
            lock.close()
    for sibling in creation.stale_siblings(root, older_than=grace_seconds):
        _remove(sibling, report)
    return report


def _lock(root: Path) -> WriterLock | None:
    """The whole dataset, or where writers share it a part beside them, so that one who comes need not wait;
    None while one writer has it all.
    """
    is_shared = files.exists(root / "locks" / "publish.lock")
    for take in (WriterLock.shared,) if is_shared else (WriterLock.exclusive, WriterLock.shared):
        with suppress(BusyError):
            return take(root)
    return None


def _collect(newest: Manifest, lock: WriterLock, report: GarbageReport, grace_seconds: float) -> None:
    root, oldest = report.path, time.time() - grace_seconds
    for name in orphans(root, newest):
        paths = SegmentPaths(root, name)
        young = any(folders.newest_change(part) > oldest for part in paths.parts)
        evidence = snapshot.unlisted_generation(paths.journal, newest) is not None
        stream = manifest.stream_of(name)
        if young or evidence or not lock.take(stream):
            report.kept.append(name)
            continue
        for part in paths.parts:
            _remove(part, report)
    for name in folders.names(root / "manifests"):
        temporary = root / "manifests" / name
        if name.startswith(".tmp-") and folders.newest_change(temporary) <= oldest:
            if _is_published(newest, name):
                _remove(temporary, report)
            else:
                report.kept.append(f"manifests/{name}")


def _is_published(newest: Manifest, temporary: str) -> bool:
    """The generation of a temporary manifest is there, so that no seal record needs it as an excuse."""
    number = temporary.split("-")[1]
    return number.isdecimal() and int(number) <= newest.generation


def _remove(path: Path, report: GarbageReport) -> None:
    freed = folders.space(path)
    if not report.dry_run:
        folders.remove_tree(path)
    if freed:
        report.freed_bytes += freed
        report.removed.append(path.relative_to(report.path.parent).as_posix())
