"""The memory of one batch: every column aligned, all in one allocation, the views made once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlcli.format.nested import nest
from rlcli.format.specs import Key

if TYPE_CHECKING:
    from rlcli.format.bound import Bound
    from rlcli.replay.source import Source

Batch = dict[str, Any]  # nested dicts with arrays [B, …] at the leaves
Layout = Mapping[Key, tuple["np.dtype[Any]", tuple[int, ...]]]  # dtype and shape of each leaf

ALIGNMENT = 64  # a cache line, and the widest vector register


class Block:
    """Arrays of `layout`: by key in `arrays`, in order in `columns`, as a batch in `nested`.

    `memory` is a writable uint8 array of at least `size_of(layout)` bytes, fresh by default.
    """

    def __init__(self, layout: Layout, memory: NDArray[np.uint8] | None = None) -> None:
        if memory is None:
            memory = np.empty(size_of(layout), np.uint8)
        offset = -int(memory.__array_interface__["data"][0]) % ALIGNMENT
        arrays: dict[Key, NDArray[Any]] = {}
        for key, (dtype, shape) in layout.items():
            arrays[key] = np.ndarray(shape, dtype, memory, offset)
            offset += -(-arrays[key].nbytes // ALIGNMENT) * ALIGNMENT
        self._take(arrays)

    def part(self, start: int, stop: int) -> Block:
        """Rows `start … stop` of every array, as a block over the same memory."""
        part = Block.__new__(Block)
        part._take({key: array[start:stop] for key, array in self.arrays.items()})
        return part

    def _take(self, arrays: dict[Key, NDArray[Any]]) -> None:
        self.arrays = arrays
        self.columns = list(arrays.values())
        self.views: dict[str, list[NDArray[Any]]] = {}  # that samplers keep, of the same memory
        self.bound: tuple[Source, Bound | None] | None = None  # of the source that fills it
        self.nested: Batch = nest(arrays, self.columns)


def size_of(layout: Layout) -> int:
    """Bytes that a block of this layout needs, wherever they begin."""
    sizes = (math.prod(shape) * dtype.itemsize for dtype, shape in layout.values())
    return ALIGNMENT + sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)
