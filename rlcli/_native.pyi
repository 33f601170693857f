"""Types of the native kernels; `csrc/bind_<name>.cpp` is where each is bound."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Float = NDArray[np.float32] | NDArray[np.float64]
_Flags = NDArray[np.bool_]

def multiply(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]: ...
def can_multiply() -> bool: ...

class AddressRange:
    def __init__(self, size: int) -> None: ...
    def map_file(self, fd: int, offset: int, length: int) -> int: ...
    def map_files(
        self, folder: str, names: Sequence[str], offsets: Sequence[int], sizes: Sequence[int]
    ) -> int: ...
    def unmap(self, offset: int, length: int) -> None: ...
    def release(self, offset: int, length: int) -> None: ...
    def expect(self, random: bool, offset: int, length: int) -> None: ...
    def view(self, offset: int, length: int) -> NDArray[np.uint8]: ...
    @property
    def address(self) -> int: ...
    @property
    def size(self) -> int: ...

class JournalTail:
    sequence: int
    crc: int
    size: int
    committed: int
    def __init__(self, stream: int) -> None: ...
    @property
    def stream(self) -> int: ...

class ColumnWriter:
    def __init__(
        self,
        fds: Sequence[int],
        row_bytes: Sequence[int],
        journal: JournalTail,
        journal_fd: int,
        others: int,
        rows: int,
        alloc: int,
    ) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def has_new_rows(self) -> bool: ...
    def write(self, arrays: Sequence[NDArray[Any]], rows: int) -> None: ...
    def hash(self, arrays: Sequence[NDArray[Any]], rows: int) -> None: ...
    def resume(self, column: int, data: bytes) -> None: ...
    def digest(self, others: bytes) -> int: ...
    def sums(self, column: int, size: int) -> tuple[list[str], str]: ...
    def commit(self, tag: int, durable: bool) -> None: ...
    def commit_all(self, tag: int, durable: bool, before: bytes, others: bytes) -> None: ...

class RewardSum:
    def __init__(self, start: float = 0.0) -> None: ...
    def add(self, values: NDArray[Any]) -> None: ...
    def take(self, rest: int) -> float: ...

class QuickRows:
    def __init__(
        self,
        keys: Sequence[Any],
        dtypes: Sequence[np.dtype[Any]],
        shapes: Sequence[Sequence[int]],
        reward: int,
    ) -> None: ...
    def write(self, columns: dict[Any, Any], segment: ColumnWriter, rewards: RewardSum) -> int: ...

class SealedSegment:
    def __init__(
        self, root: str, name: str, first: int, alloc: int, rows: int, finals: int
    ) -> None: ...

def count_finals(
    start: NDArray[np.int64],
    length: NDArray[np.int64],
    has_final: NDArray[np.bool_],
    first: int,
    rows: int,
) -> int: ...

class RowMap:
    def __init__(self) -> None: ...
    def empty(self) -> RowMap: ...
    def add_plain(self, dtype: np.dtype[Any], shape: Sequence[int], file: str = "") -> int: ...
    def add_shift(self, of: int, file: str = "") -> int: ...
    def add_stream(self, start: int = 0) -> None: ...
    def add_segments(
        self, stream: int, ranges: Sequence[tuple[Sequence[int], Sequence[tuple[int, int, int, int]]]]
    ) -> None: ...
    def fill(
        self,
        stream: int,
        first: int,
        rows: int,
        ends: NDArray[np.int64],
        has_final: NDArray[np.bool_],
        final_bases: Sequence[int],
    ) -> None: ...
    def evict(self, stream: int, start: int) -> None: ...
    def drop_empty(self, stream: int) -> None: ...
    def gather(
        self,
        rows: NDArray[np.int64],
        columns: tuple[int, ...],
        out: Sequence[NDArray[Any]] | None = None,
    ) -> list[NDArray[Any]] | None: ...
    def read(
        self,
        start: int,
        stop: int,
        columns: tuple[int, ...],
        out: Sequence[NDArray[Any]] | None = None,
    ) -> list[NDArray[Any]] | None: ...
    def read_sealed(
        self,
        segment: SealedSegment,
        low: int,
        high: int,
        goes_on: bool,
        ends: NDArray[np.int64],
        has_final: NDArray[np.bool_],
        columns: tuple[int, ...],
        journal: bytes | None,
        most_bytes: int,
    ) -> list[NDArray[Any]] | None: ...
    def read_runs(
        self,
        starts: NDArray[np.int64],
        counts: NDArray[np.int64],
        at: NDArray[np.int64],
        size: int,
        columns: tuple[int, ...],
        out: Sequence[NDArray[Any]],
    ) -> bool: ...
    def stacks(
        self,
        rows: NDArray[np.int64],
        columns: tuple[int, ...],
        frames: tuple[int, ...],
        out: Sequence[NDArray[Any]],
    ) -> bool: ...
    def bind(self, columns: tuple[int, ...], out: Sequence[NDArray[Any]]) -> Target: ...
    def set_threads(self, count: int) -> None: ...
    @property
    def num_rows(self) -> int: ...

class Target:
    def gather(self, rows: NDArray[np.int64]) -> bool: ...

def json_limits(text: bytes) -> tuple[int, int, bool]: ...

class HashedFiles:
    def __init__(self, names: Sequence[str], sizes: Sequence[int], hashes: Sequence[int]) -> None: ...
    def read(self, folder: str) -> list[bytes]: ...
    @property
    def names(self) -> list[str]: ...

def read_whole(folder: str, names: Sequence[str], limit: int) -> list[bytes]: ...
def explain_bus_errors(
    cut: Sequence[str], cut_code: int, failed: Sequence[str], failed_code: int
) -> None: ...
def read_files(folder: str, names: Sequence[str], sizes: Sequence[int]) -> list[bytes]: ...
def write_files(folder: str, files: Mapping[str, bytes]) -> int: ...
def create_files(folder: str, names: Sequence[str], sizes: Sequence[int]) -> list[int]: ...
def stored_file(fd: int, size: int) -> NDArray[np.uint8] | None: ...
def punch_hole(fd: int, offset: int, size: int) -> int: ...
def gae(
    reward: _Float,
    value: _Float,
    next_value: _Float,
    terminated: _Flags,
    truncated: _Flags,
    *,
    gamma: float,
    lam: float,
    threads: int,
) -> _Float: ...
def td_lambda(
    reward: _Float,
    next_value: _Float | None,
    terminated: _Flags,
    truncated: _Flags,
    *,
    gamma: float,
    lam: float,
    threads: int,
) -> _Float: ...
def vtrace(
    reward: _Float,
    ratio: _Float,
    value: _Float,
    next_value: _Float,
    terminated: _Flags,
    truncated: _Flags,
    *,
    gamma: float,
    lam: float,
    rho_bar: float,
    c_bar: float,
    threads: int,
) -> tuple[_Float, _Float]: ...
def n_step(
    reward: _Float, terminated: _Flags, truncated: _Flags, *, gamma: float, n: int, threads: int
) -> tuple[_Float, _Float, NDArray[np.int64]]: ...
def random_numbers(seed: int, stream: int, batch: int, out: NDArray[np.uint64]) -> None: ...
def uniform_rows(
    seed: int,
    stream: int,
    batch: int,
    low: int,
    count: int,
    gaps: NDArray[np.int64],
    out: NDArray[np.int64],
    into: Target | None = None,
) -> bool: ...
def permuted(seed: int, stream: int, epoch: int, count: int, start: int, out: NDArray[np.int64]) -> None: ...

class RowPriorities:
    def __init__(self, alpha: float, epsilon: float) -> None: ...
    def cover(self, stream: int, first: int, count: int, priority: float) -> None: ...
    def evict(self, stream: int, start: int) -> None: ...
    def set(self, ids: NDArray[np.int64], priorities: Any) -> float: ...
    def get(self, ids: NDArray[np.int64]) -> NDArray[np.float64]: ...
    def sample(
        self,
        seed: int,
        stream: int,
        batch: int,
        stratified: bool,
        beta: float,
        ids: NDArray[np.int64],
        weights: NDArray[np.float32],
        into: Target | None = None,
    ) -> tuple[bool, bool]: ...
    def sample_distinct(
        self,
        seed: int,
        stream: int,
        batch: int,
        beta: float,
        ids: NDArray[np.int64],
        weights: NDArray[np.float32],
    ) -> int: ...
    def owners(self) -> NDArray[np.int64]: ...
    def priorities(self) -> NDArray[np.float64]: ...
    def restore(self, owners: NDArray[np.int64], priorities: NDArray[np.float64]) -> None: ...
    @property
    def total(self) -> float: ...
    @property
    def least(self) -> float: ...

def whole_records(data: bytes | memoryview) -> tuple[NDArray[np.int64], NDArray[np.int64], int, int]: ...
def merge_examples(
    data: bytes | memoryview,
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    wanted: dict[str, bool] | None = None,
    views: bool = False,
) -> tuple[int, dict[str, Any], dict[str, NDArray[np.int64]]]: ...
