"""The one place from which the format reaches the operating system, so that a test can stand in for it.

`files` and the row path make every call on a file through `current()`. A test replaces it for a block:

    with layer.use(MyLayer()):
        ...

A layer subclasses `Layer` and overrides what it records or makes fail. Rules that such a layer can rely on:

* Each method is one system call. The row path makes its calls in native code while `is_direct` is true; it
  is false for every subclass, so that no byte escapes one: rows are a `pwrite` per column, a commit is one.
  Likewise values of side columns are stored into a map, or a `pwrite` per run of rows.
* Bytes reach files only by `pwrite`; sizes change only by `pwrite`, `fallocate` and `truncate`; names only by
  `open` with `O_CREAT`, `link`, `rename`, `unlink`, `mkdir` and `rmdir`. `datasync` and `sync` of a file make
  its bytes and size durable, `sync` of a folder's descriptor its names. Nothing else is needed to replay a
  power cut.
* `pread` and `pwrite` may do less than was asked for; the caller goes on. Everything may raise `OSError` that
  names the file; the caller then closes what it opened. `close` must close even when it raises.
* `flock` and `stat` of names are calls like the others but change nothing. Maps of readers and their reads of
  many files at once, are native and pass a layer by; to make those fail takes more (tests/proof/failing.py).

The layer in use is a context variable: threads that are started inside the block use the real one.
"""

from __future__ import annotations

import fcntl
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from rlcli import _native

Call = TypeVar("Call", bound=Callable[..., Any])


def _naming(call: Call) -> Call:
    """The error of a call on a descriptor names its file, as that of a call on a path does."""

    @functools.wraps(call)
    def named(self: Layer, fd: int, *others: Any) -> Any:
        try:
            return call(self, fd, *others)
        except OSError as err:
            name(err, fd)
            raise

    return named  # type: ignore[return-value]


def name(err: OSError, fd: int) -> None:
    """Notes which file an error is about, where the system can tell."""
    if err.filename is None:
        with suppress(OSError):
            err.filename = os.readlink(f"/proc/self/fd/{fd}")


class Layer:
    """The real calls. Paths are `Path`s, buffers are contiguous."""

    is_direct = False

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        return os.open(path, flags, mode)

    def close(self, fd: int, path: Path | None = None) -> None:
        """`path` is the file's, if that is known."""
        where = None if path is None else str(path)
        if where is None:
            with suppress(OSError):  # afterwards nothing is known of it
                where = os.readlink(f"/proc/self/fd/{fd}")
        try:
            os.close(fd)
        except OSError as err:
            err.filename = where
            raise

    @_naming
    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    @_naming
    def pread_into(self, fd: int, buffer: Any, offset: int) -> int:
        return os.preadv(fd, [buffer], offset)

    @_naming
    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    @_naming
    def fallocate(self, fd: int, size: int) -> None:
        """Reserves the first `size` bytes, which read as zeros where nothing was written."""
        os.posix_fallocate(fd, 0, size)

    @_naming
    def punch(self, fd: int, offset: int, size: int) -> None:
        """Makes a range zero and gives its space back; the size stays."""
        code = _native.punch_hole(fd, offset, size)
        if code:
            raise OSError(code, os.strerror(code))

    @_naming
    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    @_naming
    def datasync(self, fd: int) -> None:
        os.fdatasync(fd)

    @_naming
    def sync(self, fd: int) -> None:
        os.fsync(fd)

    @_naming
    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def stat(self, path: Path) -> os.stat_result:
        """Of the name itself: links are not followed."""
        return os.stat(path, follow_symlinks=False)

    def names(self, path: Path) -> list[str]:
        return os.listdir(path)

    def link(self, source: Path, target: Path) -> None:
        """A second name; raises `FileExistsError` where there is one."""
        os.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        """Moves a name, over a file that is there, or to an empty place for a folder."""
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def mkdir(self, path: Path) -> None:
        os.mkdir(path)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)

    @_naming
    def flock(self, fd: int, operation: int) -> None:
        fcntl.flock(fd, operation)


class _Direct(Layer):
    is_direct = True


_REAL = _Direct()
_current: ContextVar[Layer] = ContextVar("layer", default=_REAL)


def current() -> Layer:
    """The layer in use."""
    return _current.get()


@contextmanager
def use(layer: Layer) -> Iterator[None]:
    """Everything in the block, in this thread, goes through `layer`."""
    token = _current.set(layer)
    try:
        yield
    finally:
        _current.reset(token)
