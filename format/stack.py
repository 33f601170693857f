"""The frames that given stacks are made of, where they are stacks. SPEC.md 6."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Unstacking:
    """Finds the single frames of stacks that come in row by row, and proves that stacking gives them back.

    `frames_of` and `final_of` return None as soon as a bit differs: such a column must be stored plainly.
    """

    def __init__(self) -> None:
        self._last: Array | None = None  # the stack before, of an episode that goes on

    def frames_of(self, stacks: Array) -> Array | None:
        """The newest frames `[n, *shape]`, a view, of the episode's next rows `[n, k, *shape]`, n > 0."""
        first = stacks[0]
        older = np.broadcast_to(first[-1], first[:-1].shape) if self._last is None else self._last[1:]
        if not _same(first[:-1], older):
            return None
        for k in range(stacks.shape[1] - 1):  # a frame at a time: little memory, and over soon if wrong
            if not _same(stacks[1:, k], stacks[:-1, k + 1]):
                return None
        self._last = stacks[-1].copy()
        frames: Array = stacks[:, -1]
        return frames

    def final_of(self, stack: Array) -> Array | None:
        """The newest frame `[*shape]` of the stack `[k, *shape]` that follows the episode's last row."""
        last = self._last
        newest: Array = stack[-1]
        return newest if last is not None and _same(stack[:-1], last[1:]) else None

    def end(self) -> None:
        """The episode is over; what comes next begins one."""
        self._last = None


def _same(one: Array, other: Array) -> bool:
    """Whether both hold the same bits."""
    if one.dtype.kind in "biu":
        return bool(np.array_equal(one, other))
    return one.shape == other.shape and one.tobytes() == other.tobytes()
