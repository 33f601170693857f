"""A second name for a file that is never written again: a hard link, else shared blocks, else a copy."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Literal

from rlcli.errors import CorruptError
from rlcli.format import files

Way = Literal["link", "reflink", "copy"]
_FICLONE = 0x40049409  # linux/fs.h: the target gets the source's blocks; written blocks are split later
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES)
_CHUNK = 8 << 20


def share(source: Path, target: Path, size: int, *, link: bool) -> Way:
    """Puts the file `source` of `size` bytes at `target` too; returns how. Without `link` never by hard link.

    Raises `CorruptError` unless `source` is a regular file of that size, `FileExistsError` if `target` is
    there.
    """
    fd = files.open_read(source, size)
    try:
        if link and _link(fd, source, target):
            return "link"
        copy = files.create(target)
        try:
            return "reflink" if _clone(fd, copy) else _copy(fd, copy, size)
        finally:
            files.close(copy)
    finally:
        files.close(fd)


def _link(fd: int, source: Path, target: Path) -> bool:
    """False where the file system refuses: another disk, no links, too many of them."""
    try:
        files.link_new(source, target)
    except OSError as err:
        if err.errno in _NO_LINK:
            return False
        raise
    opened, linked = os.fstat(fd), os.stat(target, follow_symlinks=False)
    if (opened.st_dev, opened.st_ino) != (linked.st_dev, linked.st_ino):
        files.remove(target)
        raise CorruptError(f"{source}: replaced while it was linked", path=source)
    return True


def _clone(fd: int, copy: int) -> bool:
    try:
        fcntl.ioctl(copy, _FICLONE, fd)
    except OSError:
        return False
    return True


def _copy(fd: int, copy: int, size: int) -> Way:
    """Copies what is stored; holes stay holes."""
    at = 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as err:
            if err.errno == errno.ENXIO:  # nothing but a hole is left
                break
            raise
        hole = os.lseek(fd, at, os.SEEK_HOLE)
        while at < hole:
            data = files.read_at(fd, min(_CHUNK, hole - at), at)
            files.write_at(copy, memoryview(data), at)
            at += len(data)
    files.truncate(copy, size)
    return "copy"
