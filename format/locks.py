"""Who may write: advisory locks on `dataset.json`, on streams, and for publishing. SPEC.md section 10.

A lock belongs to an open file and goes when its last descriptor does: with its process, however that dies. A
child made by `fork` would keep the parent's descriptors, and so its locks, past the parent's death; therefore
a child closes them first thing. Not covered: a library that forks in C and neither runs another program nor
tells Python; its child holds the locks until it ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from rlcli.errors import BusyError, CorruptError, InputError, RLError
from rlcli.format import dataset_json, files, folders, generations, layer, manifest
from rlcli.format.layout import SEGMENT_FOLDERS

_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class WriterLock:
    """What a writing process holds of one dataset: all of it, or some of its streams.

    `is_exclusive`: no other writer can be at work. `streams` are the numbers of the streams that are held; of
    an exclusive one the set is empty, since it has them all. `fd` is negative once nothing is held.
    """

    def __init__(self, root: Path, fd: int, *, exclusive: bool) -> None:
        self.root = root
        self.is_exclusive = exclusive
        self.fd = fd
        self._streams: dict[int, int] = {}
        _held().add(self)

    @classmethod
    def exclusive(cls, root: Path, *, called: object = None) -> WriterLock:
        """The whole dataset. Raises `BusyError`, naming the owner, if any writer is at work, `CorruptError`
        if a folder of it is a link.

        `called` is the path that the message names, if not `root`.
        """
        return cls(root, _lock(root, fcntl.LOCK_EX, called or root), exclusive=True)

    @classmethod
    def shared(cls, root: Path, *, called: object = None) -> WriterLock:
        """A part of the dataset, beside other writers that share it. Raises `BusyError` if one does not."""
        return cls(root, _lock(root, fcntl.LOCK_SH, called or root), exclusive=False)

    @property
    def streams(self) -> frozenset[int]:
        return frozenset(self._streams)

    @property
    def is_held(self) -> bool:
        """False after `close`, and in a forked child."""
        return self.fd >= 0

    def holds(self, stream: int) -> bool:
        """No other writer can have this stream."""
        return self.is_held and (self.is_exclusive or stream in self._streams)

    def moved(self, root: Path) -> None:
        """The dataset has been renamed to `root`."""
        self.root = root

    def take(self, stream: int) -> bool:
        """Takes a stream of a shared dataset; False if a writer that is alive has it."""
        if self.is_exclusive or stream in self._streams:
            return True
        fd = _lock_file(self.root / "locks" / f"{manifest.stream_id(stream)}.lock", fcntl.LOCK_NB)
        if fd is None:
            return False
        self._streams[stream] = fd
        return True

    def release(self, stream: int) -> None:
        """Lets go of a stream again."""
        files.close(self._streams.pop(stream))

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Nobody else makes a generation meanwhile; waits for one who is at it."""
        if self.is_exclusive:
            yield
            return
        fd = _lock_file(self.root / "locks" / "publish.lock", 0)
        assert fd is not None
        _passing().add(fd)
        try:
            yield
        finally:
            _passing().discard(fd)
            files.close(fd)

    def close(self) -> None:
        """Lets go of everything."""
        with ExitStack() as last_first:
            if self.fd >= 0:
                last_first.callback(files.close, self.fd)
                self.fd = -1
            for stream in list(self._streams):
                last_first.callback(self.release, stream)

    def forget(self) -> None:
        """Closes the descriptors in a forked child: the parent's locks stay the parent's."""
        for fd in (self.fd, *self._streams.values()):
            if fd >= 0:
                os.close(fd)
        self.fd = -1
        self._streams.clear()


@cache
def _held() -> weakref.WeakSet[WriterLock]:
    """Every lock of this process. The first call arranges that a forked child lets go of them."""
    os.register_at_fork(after_in_child=_let_go)
    return weakref.WeakSet()


@cache
def _passing() -> set[int]:
    """Descriptors of publish locks that are held at this moment, by some thread."""
    return set()


def _let_go() -> None:
    for lock in _held():
        lock.forget()
    for fd in _passing():
        os.close(fd)
    _passing().clear()


def check_folders(root: Path) -> None:
    """Raises `CorruptError` if a folder of the dataset is a symbolic link: what a writer makes or removes
    there would be somebody else's.
    """
    mutable = [root / "mutable" / name for name in folders.names(root / "mutable")]
    for folder in (*(root / name for name in (*SEGMENT_FOLDERS, "manifests", "locks", "mutable")), *mutable):
        if folder.is_symlink():
            raise CorruptError(f"{folder}: a symbolic link instead of a folder", path=folder)


def lock_now(path: Path, kind: int) -> int:
    """A descriptor of a file that is there, with a lock of that kind, for which nobody waits.

    Where such a lock is one of bytes, as over NFS, an exclusive one takes a descriptor for writing. Raises
    `OSError` if somebody else has it, `InputError` if the file system has no locks or the file is not ours.
    """
    fd = files.open_read(path)
    try:
        layer.current().flock(fd, kind | fcntl.LOCK_NB)
        return fd
    except OSError as err:
        files.close(fd)
        if err.errno != errno.EBADF:
            raise _without_locks(path, err) from err
    try:
        fd = files.open_write(path)
    except PermissionError as err:
        raise InputError(f"{path}: its lock takes the right to write the file", path=path) from err
    try:
        layer.current().flock(fd, kind | fcntl.LOCK_NB)
    except OSError as err:
        files.close(fd)
        raise _without_locks(path, err) from err
    return fd


def _without_locks(path: Path, err: OSError) -> OSError | InputError:
    """The error of a call of `flock`, in other words where the file system has no locks."""
    if err.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
        return err
    return InputError(
        f"{path}: its file system has no locks, so that nothing would keep a second writer out",
        hint="write on a disk of this machine and copy the dataset",
        path=path,
    )


def _lock(root: Path, kind: int, called: object) -> int:
    check_folders(root)
    try:
        return lock_now(root / "dataset.json", kind)
    except OSError as err:
        if err.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise BusyError(
                f"{called}: another writer has it open{_owners(root)}",
                hint="wait for it or stop it",
                path=called,
            ) from err
        raise


def _lock_file(path: Path, flags: int) -> int | None:
    """The exclusive lock of a lock file, which is made if it is missing. None if another process has it."""
    while True:
        with files.resources(path):
            try:
                fd = layer.current().open(path, _LOCK)
            except FileNotFoundError:
                folders.make(path.parent)
                continue
        try:
            layer.current().flock(fd, fcntl.LOCK_EX | flags)
            held, found = layer.current().fstat(fd), layer.current().stat(path)
        except FileNotFoundError:
            files.close(fd)
            continue
        except OSError as err:
            files.close(fd)
            if err.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return None
            raise
        if (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino):
            return fd
        files.close(fd)  # it was removed and made again meanwhile


def _owners(root: Path) -> str:
    """` (process 12 on host h)`, as far as the newest manifest says it."""
    try:
        identity = dataset_json.load(root)
        streams = generations.load(root, identity["uuid"], generations.published(root)[-1]).streams
    except (InputError, CorruptError, RLError, OSError, IndexError):
        return ""
    owners = {(o.get("host"), o["pid"]): None for s in streams if (o := s.get("owner"))}
    if not owners:
        return ""
    return " (" + ", ".join(f"process {pid} on host {host}" for host, pid in owners) + ")"
