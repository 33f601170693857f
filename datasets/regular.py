"""The files of a foreign dataset: their order; a pipe or a device is refused, as it might never end."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from rlcli.datasets.stopping import heeding
from rlcli.errors import InputError

_NUMBERS = re.compile(r"(\d+)")


def open_regular(path: Path, buffering: int = -1) -> BinaryIO:
    """The file, to be read and closed by the caller.

    Raises `InputError` for what is neither a file nor a folder, the ordinary `OSError` for anything else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb", buffering)
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise InputError(f"{path}: not a regular file", path=path)


def by_numbers(name: str) -> tuple[list[tuple[int, str]], str]:
    """What names are sorted by, so that numbers in them count as such: 2 is before 10."""
    return [_rank(part) for part in _NUMBERS.split(name)], name


def check_folder(path: Path) -> None:
    """Raises `InputError` for what is neither file nor folder in `path`, before a reader opens it by name."""
    for folder, _, names in os.walk(path):
        for name in heeding(names):
            file = Path(folder, name)
            if not file.is_file():
                raise InputError(f"{file}: not a regular file", path=file)


def _rank(part: str) -> tuple[int, str]:
    """Numbers by what they are, before other text."""
    return (int(part), "") if part.isdecimal() and part.isascii() else (-1, part)
