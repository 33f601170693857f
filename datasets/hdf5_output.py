"""Writing HDF5 files so that a full disk is an error and not a crash."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from rlcli.errors import ResourceError
from rlcli.format import files


class Output:
    """A new HDF5 file being written: `file` is h5py's, `check` raises once the disk was full."""

    def __init__(self, file: h5py.File, disk: _Disk) -> None:
        self.file = file
        self._disk = disk

    def check(self) -> None:
        """Raises `ResourceError` if something could not be written. Call it after every few megabytes."""
        if self._disk.error is not None:
            reason = os.strerror(self._disk.error.errno or 0)
            raise ResourceError(f"{self._disk.path}: {reason}", path=self._disk.path) from self._disk.error


@contextmanager
def creating(path: Path) -> Iterator[Output]:
    """A new file, synced at the end. Raises `FileExistsError`, or `ResourceError` when the disk is full."""
    disk = _Disk(path)
    try:
        with h5py.File(disk, "w") as file:
            output = Output(file, disk)
            yield output
        output.check()
        disk.sync()
    finally:
        disk.close()


class _Disk:
    """The file below HDF5, which does not survive a failed write: closing it then crashes the process.

    So HDF5 never sees one. After the first failure writes go to memory, reads see them, and `error` is set.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.error: OSError | None = None
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._at = 0
        self._end = 0
        self._kept: list[tuple[int, bytes]] = []

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        """h5py takes an object with this method for a file, and calls `readinto`."""
        data = bytearray(size)
        self.readinto(data)
        return bytes(data)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = files.read_into(self._fd, view, self._at)
        view[count:] = bytes(len(view) - count)
        for start, kept in self._kept:
            low, high = max(start, self._at), min(start + len(kept), self._at + len(view))
            if low < high:
                view[low - self._at : high - self._at] = kept[low - start : high - start]
        self._at += len(view)
        return len(view)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self.error is None:
            try:
                done += os.pwrite(self._fd, view[done:], self._at + done)
            except OSError as err:
                self.error = err
        if done < len(view):
            self._kept.append((self._at + done, bytes(view[done:])))
        self._at += len(view)
        self._end = max(self._end, self._at)
        return len(view)

    def truncate(self, size: int) -> int:
        self._end = size
        if self.error is None:
            try:
                os.ftruncate(self._fd, size)
            except OSError as err:
                self.error = err
        return size

    def flush(self) -> None:
        """Nothing is buffered here."""

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)
