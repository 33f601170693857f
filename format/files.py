"""What the format does with files: whole reads and writes, atomic replacement, syncs.

Every call goes through `layer`, which tests replace to make disks fill, calls fail and power go. Nothing here
knows the format. Reading never creates, grows or changes a file. Folders are in `folders.py`.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlcli.errors import CorruptError, ResourceError, RLError
from rlcli.format import layer

MOST_BYTES = 1 << 26  # of a file that is read whole
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def resources(path: object) -> Iterator[None]:
    """Turns a full disk, a file size limit or exhausted descriptors into `ResourceError`; another error that
    names no file is about this one.
    """
    try:
        yield
    except OSError as err:
        raise_resource(err, path)
        if err.filename is None:
            err.filename = str(path)
        raise


@contextmanager
def told_as(path: Path, temporary: Path) -> Iterator[None]:
    """Errors in the block about something in `temporary` are told as errors about `path`."""
    try:
        yield
    except (OSError, RLError) as err:
        tell_as(path, temporary, err)
        raise


def tell_as(path: Path, temporary: Path, err: BaseException) -> None:
    """An error about something in `temporary` becomes one about `path`, which that was to be."""
    if isinstance(err, OSError):
        if temporary.name in str(err.filename):
            err.filename = str(path)
            err.filename2 = None
    elif isinstance(err, RLError) and temporary.name in err.message:
        if isinstance(err, ResourceError):
            err.message = f"{path}: {err.message.rpartition(': ')[2]}"
        err.message = err.message.replace(temporary.name, path.name)
        err.path = str(path)
        err.args = (err.message,)


def raise_resource(err: OSError, path: object) -> None:
    """Raises `ResourceError` if that is what the error means."""
    if err.errno in _FULL:
        raise ResourceError(f"{path}: {err.strerror}", path=path) from err


def create(path: Path, size: int = 0) -> int:
    """A descriptor of a new file with `size` bytes of zeros, its space reserved. The file must not exist."""
    with resources(path):
        fd = layer.current().open(path, _WRITE | os.O_CREAT | os.O_EXCL)
        try:
            if size:
                _reserve(fd, size)
        except BaseException:
            close(fd)
            remove(path)
            raise
        return fd


def _reserve(fd: int, size: int) -> None:
    try:
        layer.current().fallocate(fd, size)
    except OSError as err:
        if err.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
        zeros = bytes(min(size, 1 << 20))
        for offset in range(0, size, len(zeros)):
            write_at(fd, memoryview(zeros)[: size - offset], offset)


def open_write(path: Path) -> int:
    """A descriptor of an existing file, for reading and writing."""
    with resources(path):
        return layer.current().open(path, _WRITE)


def open_read(path: Path, size: int | None = None) -> int:
    """A read-only descriptor of a regular file that is no link.

    Raises `CorruptError` if the file is missing, something else, or not exactly `size` bytes long.
    """
    fd, found = _open_regular(path)
    if size is not None and found != size:
        close(fd)
        raise wrong_size(path, found, size)
    return fd


def _open_regular(path: Path) -> tuple[int, int]:
    """A read-only descriptor of a regular file that is no link, and the file's size."""
    try:
        fd = layer.current().open(path, _READ | os.O_NONBLOCK)
    except FileNotFoundError as err:
        raise CorruptError(f"{path}: missing", path=path) from err
    except OSError as err:
        if err.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise CorruptError(f"{path}: not a regular file", path=path) from err
        with resources(path):
            raise
    found = layer.current().fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        close(fd)
        raise CorruptError(f"{path}: not a regular file", path=path)
    return fd, found.st_size


def wrong_size(path: Path, found: int, expected: object) -> CorruptError:
    return CorruptError(f"{path}: {found} bytes, expected {expected}", path=path)


def read(path: Path, *, limit: int = MOST_BYTES) -> bytes:
    """The whole file. Raises `CorruptError` if it is missing or longer than `limit` bytes."""
    fd, size = _open_regular(path)
    try:
        if size > limit:
            raise CorruptError(f"{path}: {size} bytes, at most {limit} are allowed", path=path)
        return read_at(fd, size, 0)
    finally:
        close(fd, path)


def read_at(fd: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes from `offset`; fewer only at the end of the file."""
    pread = layer.current().pread
    data = pread(fd, size, offset)
    while len(data) < size:
        more = pread(fd, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def read_into(fd: int, buffer: memoryview, offset: int) -> int:
    """Fills the buffer from `offset` on; returns how many bytes: fewer only at the end of the file."""
    pread_into = layer.current().pread_into
    got = pread_into(fd, buffer, offset)
    while got < len(buffer):
        more = pread_into(fd, buffer[got:], offset + got)
        if not more:
            break
        got += more
    return got


def exists(path: Path) -> bool:
    """There is a name, of whatever kind, and a way to it."""
    try:
        layer.current().stat(path)
    except OSError as err:
        if err.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return False
    return True


def is_same(path: Path, other: Path) -> bool:
    """Both names are there, for one file."""
    try:
        one, two = layer.current().stat(path), layer.current().stat(other)
    except FileNotFoundError:
        return False
    return (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)


def size(path: Path) -> int:
    return layer.current().stat(path).st_size


def size_of(fd: int) -> int:
    return layer.current().fstat(fd).st_size


def write_at(fd: int, data: Any, offset: int) -> None:
    """Writes all of a contiguous buffer. `OSError` when the disk is full; some of it may be there then."""
    size = data.nbytes
    pwrite = layer.current().pwrite
    written = pwrite(fd, data, offset)
    if written != size:
        rest = memoryview(data).cast("B")
        while written < size:
            written += pwrite(fd, rest[written:], offset + written)


def truncate(fd: int, size: int) -> None:
    layer.current().truncate(fd, size)


def punch(fd: int, offset: int, size: int) -> None:
    """Makes a range zero and gives its space back where the file system can. The size stays."""
    if size <= 0:
        return
    try:
        layer.current().punch(fd, offset, size)
    except OSError as err:
        if err.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        zeros = bytes(min(size, 1 << 20))
        for at in range(0, size, len(zeros)):
            write_at(fd, memoryview(zeros)[: size - at], offset + at)


def sync(fd: int) -> None:
    """Data to the disk. After a failure the file must not be trusted or synced again."""
    layer.current().datasync(fd)


def sync_path(path: Path) -> None:
    fd = open_read(path)
    try:
        layer.current().sync(fd)
    finally:
        close(fd)


def close(fd: int, path: Path | None = None) -> None:
    """`path` is what an error names; without it the system is asked before, which takes longer."""
    layer.current().close(fd, path)


def write_new(path: Path, data: bytes, *, durable: bool) -> None:
    """A new file with these bytes. Nothing stays of it if that fails."""
    fd = create(path)
    try:
        with resources(path):
            write_at(fd, memoryview(data), 0)
            if durable:
                sync(fd)
    except BaseException:
        remove(path)
        raise
    finally:
        close(fd)


def replace(path: Path, data: bytes, *, durable: bool) -> None:
    """Atomically: the old bytes or the new ones, never a mixture."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with told_as(path, temporary):
        write_new(temporary, data, durable=durable)
        try:
            with resources(path):
                layer.current().rename(temporary, path)
        except BaseException:
            remove(temporary)
            raise


def link_new(temporary: Path, path: Path) -> None:
    """Puts `temporary` at `path` if nothing is there; raises `FileExistsError` otherwise."""
    with resources(path):
        layer.current().link(temporary, path)


def remove(path: Path) -> None:
    with suppress(FileNotFoundError), resources(path):
        layer.current().unlink(path)


def boot_id() -> str:
    """32 hex digits that change when the machine restarts; zeros where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    except OSError:
        return "0" * 32
