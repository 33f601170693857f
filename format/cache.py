"""Where the bytes of remote datasets are kept: a folder per dataset, in it one per segment, named by what the
segment's sums file hashes to. So nothing in it ever becomes wrong, whatever happens at the URL.

A file, or a block of one, is in the cache if and only if its bytes have the right hash: there is no other
record, and several processes may fill the same files, with the same bytes. Files keep their size, and are
removed only with their dataset, when no process has it open and the cache has become larger than it may be.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid as uuids
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rlcli.errors import UsageError
from rlcli.format import files, folders
from rlcli.format.manifest import Segment

DEFAULT_BYTES = 20 << 30
_LOCK = "in-use.lock"
_NAME_DIGITS = 32


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/rlcli/remote`, or `~/.cache/rlcli/remote`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "rlcli" / "remote"


def default_bytes() -> int:
    """`$RL_REMOTE_CACHE_BYTES`, or 20 GiB. Raises `UsageError` if that is no number of bytes."""
    text = os.environ.get("RL_REMOTE_CACHE_BYTES", "").replace("_", "")
    if text and not text.isdecimal():
        raise UsageError(f"RL_REMOTE_CACHE_BYTES={text}: expected a number of bytes, such as 20_000_000_000")
    return int(text) if text else DEFAULT_BYTES


class Cache:
    """The place of one dataset, kept from being removed while this object lives."""

    def __init__(self, folder: Path, dataset: str, limit_bytes: int) -> None:
        self.folder = folder / dataset
        self._all = folder
        self._limit = limit_bytes
        self._fetched = limit_bytes  # since it was last looked whether the cache is too large
        weakref.finalize(self, os.close, _hold(self.folder))

    def segment(self, entry: Segment) -> Path:
        """The folder of a sealed segment, laid out like a dataset with this one segment."""
        return self.folder / entry.sums[:_NAME_DIGITS]

    def keep(self, path: Path, is_right: Callable[[bytes], bool], fetch: Callable[[], bytes]) -> None:
        """Makes a small file be there with right bytes. `fetch` gives them, or raises."""
        if files.exists(path):
            data = files.read(path)
            if is_right(data):
                return
        data = fetch()
        folders.make(path.parent)
        temporary = path.with_name(f".tmp-{uuids.uuid4().hex}")
        files.write_new(temporary, data, durable=False)
        with files.resources(path):
            os.replace(temporary, path)

    def reserve(self, path: Path, size: int) -> None:
        """Makes a file be there with its size; its blocks come when they are needed."""
        if files.exists(path):
            if files.size(path) == size:
                return
            files.remove(path)
        folders.make(path.parent)
        temporary = path.with_name(f".tmp-{uuids.uuid4().hex}")
        fd = files.create(temporary)
        try:
            with files.resources(path):
                files.truncate(fd, size)
            with suppress(FileExistsError):  # another process was as quick, and may have mapped its file
                files.link_new(temporary, path)
        finally:
            files.close(fd)
            files.remove(temporary)

    def fetched(self, count: int) -> None:
        """So many bytes came: now and then datasets that nobody uses make room, the oldest use first."""
        self._fetched += count
        if self._fetched < self._limit // 16:
            return
        self._fetched = 0
        known = {folder: folders.space(folder) for folder in self._all.iterdir() if (folder / _LOCK).exists()}
        total = sum(known.values())
        for folder in sorted(known, key=_last_use):
            if total <= self._limit:
                return
            if folder != self.folder and _remove(folder):
                total -= known[folder]


def _hold(folder: Path) -> int:
    """A descriptor whose lock keeps a dataset's folder."""
    while True:
        folders.make(folder)
        with files.resources(folder):
            try:
                fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:
                continue  # it was removed this moment
        fcntl.flock(fd, fcntl.LOCK_SH)
        if os.fstat(fd).st_nlink:
            os.utime(fd)
            return fd
        os.close(fd)


def _last_use(folder: Path) -> float:
    try:
        return (folder / _LOCK).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove(folder: Path) -> bool:
    """Removes what is kept of a dataset, unless a process uses it."""
    try:
        fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for part in folder.iterdir():
            if part.name != _LOCK:
                shutil.rmtree(part, ignore_errors=True)
        (folder / _LOCK).unlink()
        with suppress(OSError):  # somebody comes back this moment
            folder.rmdir()
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
