"""Frame stacks: which rows a stack is made of, and whether stored stacks could be derived. SPEC.md 6."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.int64]]


def stack_rows(rows: Rows, starts: Rows, frames: int) -> Rows:
    """The rows `[n, frames]` whose values are the stacks of `rows`, oldest first.

    `starts` is the first row of each one's episode; a stack does not reach behind it but repeats it.
    """
    ages = np.arange(frames - 1, -1, -1)
    found: Rows = np.maximum(rows[:, None] - ages, starts[:, None])
    return found


def next_stack_rows(rows: Rows, starts: Rows, goes_on: Array, frames: int) -> Rows:
    """The same for the stacks one row later. The newest frame is `rows` itself where the episode does not go
    on in the row after: there it is a final value, or unknown.
    """
    found = stack_rows(rows + 1, starts, frames)
    found[:, -1] = rows + goes_on
    return found


def episode_starts(is_init: Array) -> Rows:
    """The first row of each row's episode, from flags `[n]` that say which rows begin one. Row 0 does."""
    marks = np.where(np.asarray(is_init, bool).reshape(-1), np.arange(len(is_init)), 0)
    return np.maximum.accumulate(marks).astype(np.int64)


def is_stack(stacked: Array, frames: Array, is_init: Array) -> bool:
    """Whether `stacked` `[n, k, *shape]` holds, bit by bit, the stacks of `frames` `[n, *shape]`.

    `is_init` `[n]` says which rows begin episodes. Where this is False a column must be stored plainly.
    """
    if stacked.ndim != frames.ndim + 1 or stacked.dtype != frames.dtype or len(stacked) != len(frames):
        return False
    if stacked.shape[2:] != frames.shape[1:]:
        return False
    index = stack_rows(np.arange(len(frames), dtype=np.int64), episode_starts(is_init), stacked.shape[1])
    return all(
        np.ascontiguousarray(stacked[:, k]).tobytes() == frames[index[:, k]].tobytes()
        for k in range(stacked.shape[1])
    )
