"""Calls of the C library that fail on purpose, whoever makes them: Python, native code, another library.

`failing_calls.cpp` is built once and stands before the C library in a process that `environment` was given
to. There `Calls` says which call on files below a folder fails next, and how.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("failing_calls.cpp")
OPEN, READ, WRITE, SYNC, NAME, STAT, CLOSE, LOCK, MAP = (1 << bit for bit in range(9))
ALL = (1 << 9) - 1
_COUNT, _ONCE, _LASTING, _SHORT_ONCE, _SHORT = range(5)


@dataclass(frozen=True)
class Fault:
    """What goes wrong at call N of these classes, and with `lasting` at all later ones; without `error` calls
    do half of what they were asked for.
    """

    name: str
    classes: int
    error: int = 0
    lasting: bool = False

    @property
    def mode(self) -> int:
        if self.error:
            return _LASTING if self.lasting else _ONCE
        return _SHORT if self.lasting else _SHORT_ONCE


FAULTS = (
    Fault("EIO", ALL, errno.EIO),
    Fault("EIO from then on", ALL & ~CLOSE, errno.EIO, lasting=True),
    Fault("ENOSPC", WRITE | NAME, errno.ENOSPC),
    Fault("ENOSPC from then on", WRITE, errno.ENOSPC, lasting=True),
    Fault("failed fsync", SYNC, errno.EIO),
    Fault("EMFILE", OPEN, errno.EMFILE),
    Fault("read-only from then on", WRITE | NAME, errno.EROFS, lasting=True),
    Fault("a short read or write", READ | WRITE),
    Fault("short reads and writes", READ | WRITE, lasting=True),
)


def build(folder: Path) -> Path:
    """The library, compiled into `folder`."""
    library = folder / "failing_calls.so"
    compiler = os.environ.get("CXX", "c++")
    subprocess.run(
        [compiler, "-std=c++17", "-O1", "-D_GNU_SOURCE", "-shared", "-fPIC", SOURCE, "-o", library, "-ldl"],
        check=True,
    )
    return library


def environment(library: Path) -> dict[str, str]:
    """For a process whose calls can fail."""
    return {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}


class Calls:
    """The library in this process. Raises `AttributeError` if it was not preloaded."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.fail_name.restype = ctypes.c_char_p
        self._library.fail_calls.restype = ctypes.c_long

    @contextmanager
    def failing(self, folder: Path, fault: Fault, at: int) -> Iterator[None]:
        """In the block the call number `at` on what is below `folder` fails."""
        self._arm(folder, fault.classes, at, fault.error, fault.mode)
        try:
            yield
        finally:
            self._library.fail_disarm()

    @contextmanager
    def counting(self, folder: Path) -> Iterator[None]:
        """In the block nothing fails."""
        self._arm(folder, ALL, 0, 0, _COUNT)
        try:
            yield
        finally:
            self._library.fail_disarm()

    def _arm(self, folder: Path, classes: int, at: int, error: int, mode: int) -> None:
        self._library.fail_arm(
            os.fsencode(folder), ctypes.c_uint(classes), ctypes.c_long(at), ctypes.c_int(error), mode
        )

    def count(self, fault: Fault) -> int:
        """How many calls of the block before are of those that `fault` is about."""
        return int(self._library.fail_calls(ctypes.c_uint(fault.classes)))

    @property
    def failed(self) -> str:
        """The first call that failed, or nothing."""
        return str(self._library.fail_name().decode())
