"""Types of the native kernels; `csrc/bind_<name>.cpp` is where each is bound."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

class AddressRange:
    def __init__(self, size: int) -> None: ...
    def map_file(self, fd: int, offset: int, length: int) -> int: ...
    def view(self, offset: int, length: int) -> NDArray[np.uint8]: ...
    @property
    def size(self) -> int: ...

class RowTable:
    def __init__(self) -> None: ...
    def add_plain(self, dtype: np.dtype[Any], shape: Sequence[int]) -> int: ...
    def add_shift(self, of: int) -> int: ...
    def add_stream(self) -> None: ...
    def add_piece(self, stream: int, first: int, bases: Sequence[int]) -> None: ...
    def advance(
        self, stream: int, rows: int, ends: Sequence[int], finals: Sequence[Sequence[int]]
    ) -> None: ...
    def gather(
        self,
        rows: NDArray[np.int64],
        columns: tuple[int, ...],
        out: Sequence[NDArray[Any]] | None = None,
    ) -> list[NDArray[Any]]: ...
    @property
    def num_rows(self) -> int: ...

def punch_hole(fd: int, offset: int, size: int) -> int: ...
def gae_float32(
    reward: NDArray[np.float32],
    value: NDArray[np.float32],
    next_value: NDArray[np.float32],
    terminated: NDArray[np.bool_],
    done: NDArray[np.bool_],
    *,
    gamma: float,
    lam: float,
) -> NDArray[np.float32]: ...
def gae_float64(
    reward: NDArray[np.float64],
    value: NDArray[np.float64],
    next_value: NDArray[np.float64],
    terminated: NDArray[np.bool_],
    done: NDArray[np.bool_],
    *,
    gamma: float,
    lam: float,
) -> NDArray[np.float64]: ...
