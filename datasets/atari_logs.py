"""Dopamine's replay logs as files: which there are, arrays in gzip as streams, and what order rows have.

A log is a ring of `capacity` rows as it was when `add_count` rows had been added: row number n of the whole
run is at position n % capacity. Logs that follow each other continue each other's rows.
"""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from rlcli.datasets import safe_pickle
from rlcli.datasets.inflating import Inflated, InflateError, inflate
from rlcli.datasets.regular import open_regular
from rlcli.errors import CorruptError, IncompatibleError, InputError

_NAME = re.compile(
    r"(?:\$store\$_)?(observation|action|reward|terminal|add_count|invalid_range|episode_end_indices)"
    r"(?:_ckpt\.(\d{1,9}))?\.gz"
)
_EXTRA = re.compile(r"\$store\$_(.+)_ckpt\.(\d{1,9})\.gz")  # what an agent stores beside them
NEEDED = ("observation", "action", "reward", "terminal")
_DEFLATE = 1040  # no deflated byte becomes more
_MAX_PICKLE = 64 << 20


@dataclass(frozen=True)
class Log:
    """One checkpoint: its number, its files by name, and those of what is not Dopamine's own."""

    number: int
    files: dict[str, Path]
    extras: dict[str, Path]


def find_logs(path: Path) -> list[Log]:
    """The logs of a folder, or of `replay_logs` below it, by number; empty if there are none."""
    for folder in (path, path / "replay_logs"):
        found: dict[int, Log] = {}
        for file in sorted(folder.glob("*.gz")) if folder.is_dir() else ():
            match = _NAME.fullmatch(file.name) or _EXTRA.fullmatch(file.name)
            if match is not None:
                number = int(match[2] or 0)
                log = found.setdefault(number, Log(number, {}, {}))
                (log.extras if match.re is _EXTRA else log.files)[match[1]] = file
        logs = [log for _, log in sorted(found.items())]
        if any("observation" in log.files for log in logs):
            return logs
    return []


class GzArray:
    """A `.npy` array in gzip, read forwards. `shape` and `dtype` are checked against the file's size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = open_regular(path)  # closed by `close`
        self._stream = Inflated(self._file.read, "gzip")
        self.at = 0
        try:
            self.shape, fortran, self.dtype = self._header()
            count = 1
            for size in self.shape:
                count *= size
            declared = count * self.dtype.itemsize
            if self.dtype.hasobject:
                raise IncompatibleError(
                    f"{path}: holds Python objects, which only pickle can read", path=path
                )
            if fortran and len(self.shape) > 1:
                raise IncompatibleError(
                    f"{path}: its last axis is not the fastest (Fortran order)", path=path
                )
            if declared > _DEFLATE * path.stat().st_size:
                raise CorruptError(
                    f"{path}: declares {self.dtype}{list(self.shape)}, more than its bytes can become",
                    path=path,
                )
        except BaseException:
            self.close()
            raise
        self.row_bytes = declared // max(1, self.shape[0]) if self.shape else declared

    def read(self, rows: int) -> NDArray[Any]:
        """The next rows, `[rows, …]`. Raises `CorruptError` where the file is cut short or damaged."""
        values = np.frombuffer(self._exactly(rows * self.row_bytes), self.dtype)
        self.at += rows
        return values.reshape(rows, *self.shape[1:])

    def skip(self, rows: int) -> None:
        """Goes over rows."""
        step = max(1, (4 << 20) // max(1, self.row_bytes))
        for start in range(0, rows, step):
            self.read(min(step, rows - start))

    def whole(self) -> NDArray[Any]:
        """All values, and the checksum at the end."""
        values = self.read(self.shape[0]) if self.shape else self.read(1).reshape(())
        self.finish()
        return values

    def finish(self) -> None:
        """Raises `CorruptError` unless the stream ends here, with a checksum that is right."""
        if self._some(1):
            raise CorruptError(
                f"{self.path}: has more bytes than its shape {list(self.shape)} says", path=self.path
            )
        if not self._stream.complete:
            raise CorruptError(f"{self.path}: the gzip stream is cut short", path=self.path)

    def close(self) -> None:
        self._file.close()

    def _header(self) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        try:
            stream: Any = _Limited(self)
            version = npy.read_magic(stream)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read(stream)
        except (ValueError, SyntaxError, TypeError, tokenize.TokenError) as err:
            reason = " ".join(str(err).split())[:120]
            raise CorruptError(f"{self.path}: no NumPy array in gzip: {reason}", path=self.path) from err
        if any(n < 0 for n in shape):
            raise CorruptError(f"{self.path}: declares shape {shape}", path=self.path)
        return shape, fortran, dtype

    def _exactly(self, size: int) -> bytes:
        found = self._some(size)
        if len(found) < size:
            raise CorruptError(
                f"{self.path}: the gzip stream is cut short, {size - len(found):,} of {size:,} bytes missing",
                path=self.path,
            )
        return found

    def _some(self, size: int) -> bytes:
        """`size` bytes, fewer at the end of the stream or of the file."""
        try:
            return self._stream.read(size)
        except InflateError as err:
            raise CorruptError(f"{self.path}: damaged gzip: {err}", path=self.path) from err


class _Limited:
    """What numpy reads a header through: no header of ours has more than a few kilobytes."""

    def __init__(self, array: GzArray) -> None:
        self._array = array

    def read(self, size: int) -> bytes:
        if size > 1 << 16:
            raise ValueError(f"a header of {size:,} bytes")
        return self._array._exactly(size)


def read_all(path: Path) -> NDArray[Any]:
    """A small array as a whole."""
    array = GzArray(path)
    try:
        return array.whole()
    finally:
        array.close()


def read_indices(path: Path) -> list[int]:
    """`episode_end_indices`: a pickled set of whole numbers, read without running it. Raises `ValueError`."""
    try:
        with open_regular(path) as stream:
            data = inflate(stream.read(), "gzip", _MAX_PICKLE)
    except InflateError as err:
        raise CorruptError(f"{path}: damaged gzip: {err}", path=path) from err
    found = safe_pickle.loads(data)
    if not isinstance(found, set | frozenset) or not all(type(n) is int for n in found):
        raise ValueError("not a set of whole numbers")
    return sorted(found)


@dataclass(frozen=True)
class Span:
    """Rows `start … stop - 1` of a run are in log `log`, at positions modulo `capacity`."""

    log: int
    start: int
    stop: int
    capacity: int

    def ranges(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Rows `start … stop - 1` as ranges of positions, in the order of the rows."""
        while start < stop:
            at = start % self.capacity
            count = min(stop - start, self.capacity - at)
            yield at, at + count
            start += count


def spans_of(counts: list[int | None], capacities: list[int], numbers: list[int]) -> list[Span]:
    """Which rows of the run each log adds to those before it; `counts` are their add_counts.

    A log was written when its last position was to be filled next, unless its count says otherwise. The last
    log of a run counts from the ring's beginning again.
    """
    spans: list[Span] = []
    end = 0
    for index, (count, capacity, number) in enumerate(zip(counts, capacities, numbers, strict=True)):
        told = number * capacity + capacity - 1 if count is None else count
        if told < 0:
            raise InputError(f"add_count is {told}")
        if index and told < end and told < capacity:
            told += (end // capacity + 1) * capacity
        start = max(told - capacity, 0)
        if index and start < end:
            start = min(end, told)
        spans.append(Span(index, start, told, capacity))
        end = max(end, told)
    return spans
