"""Making a new dataset: whole, in a hidden folder beside its place, then renamed. SPEC.md section 10."""

from __future__ import annotations

import os
import time
import uuid as uuids
from dataclasses import replace
from pathlib import Path

from rlcli.errors import BusyError, CorruptError, UsageError
from rlcli.format import dataset_json, files, folders, generations
from rlcli.format.layout import FOLDERS
from rlcli.format.locks import WriterLock
from rlcli.format.manifest import Manifest

STALE_SECONDS = 3600.0


def create(path: Path, first: Manifest, *, share: bool, durable: bool) -> tuple[Manifest, WriterLock]:
    """A dataset at `path` with `first` as generation 1, and the lock on it; it appears whole or not at all.

    `first.dataset` is filled in here. With `share` the lock leaves room for other writers. Raises
    `UsageError` if something is at `path`.
    """
    if os.path.lexists(path):
        raise _exists(path)
    for sibling in stale_siblings(path, older_than=STALE_SECONDS):
        folders.remove_tree(sibling)
    temporary = path.with_name(f".{path.name}.tmp-{uuids.uuid4().hex}")
    lock = None
    try:
        with files.resources(path):
            for folder in FOLDERS:
                folders.make(temporary / folder)
            first = replace(first, dataset=uuids.uuid4().hex)
            data = dataset_json.new(first.dataset)
            files.write_new(temporary / "dataset.json", data, durable=durable)
            if share:
                lock = WriterLock.shared(temporary, called=path)
                for number in range(len(first.streams)):
                    lock.take(number)
            else:
                lock = WriterLock.exclusive(temporary, called=path)
            first = generations.publish(temporary, first, durable=durable)
            if durable:
                folders.sync(temporary)
            folders.rename_new(temporary, path)
            if durable:
                folders.sync(path.parent)
    except BaseException as err:
        if lock is not None:
            lock.close()
        folders.remove_tree(temporary)
        if isinstance(err, FileExistsError):
            raise _exists(path) from err
        files.tell_as(path, temporary, err)
        raise
    lock.moved(path)
    return first, lock


def _exists(path: Path) -> UsageError:
    return UsageError(f"{path}: exists already", hint="append to it, or choose another path", path=path)


def stale_siblings(path: Path, *, older_than: float) -> list[Path]:
    """Hidden `.<name>.tmp-…` folders that killed creations of `path` have left; also `..<name>.tmp-….tmp-…`,
    those of such a folder's own creation.

    One is left out while a process has its `dataset.json` locked, or something in it is younger than
    `older_than` seconds.
    """
    prefixes = (f".{path.name}.tmp-", f"..{path.name}.tmp-")
    siblings = [path.with_name(name) for name in folders.names(path.parent) if name.startswith(prefixes)]
    return [sibling for sibling in siblings if _is_stale(sibling, older_than)]


def _is_stale(folder: Path, older_than: float) -> bool:
    if folder.is_symlink() or not folder.is_dir() or time.time() - folders.newest_change(folder) < older_than:
        return False
    if not (folder / "dataset.json").exists():
        return True
    try:
        WriterLock.exclusive(folder).close()
    except (BusyError, CorruptError):
        return False
    return True
