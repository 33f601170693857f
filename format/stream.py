"""One stream while it is written: its open segments, and the episode that has not ended."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlcli.format.recover import Unfinished
from rlcli.format.segment import SegmentWriter
from rlcli.format.values import add_in_order

Array = np.ndarray[Any, Any]
_MANY_PARTS = 256


class Stream:
    """What the writer knows of one stream: its open segments and its unfinished episode."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.segments: list[SegmentWriter] = []  # the first may be published; all but the last are full
        self.rows = 0
        self.previous_alloc: int | None = None
        self.episode_start = 0
        self.unfinished: Unfinished | None = None  # what the stream was resumed with
        self._carry = 0.0  # the sum of the unfinished episode's rewards before `_parts`
        self._parts: list[Array] = []  # rewards written since, of consecutive rows from `_parts_start` on
        self._parts_start = 0

    @property
    def committed(self) -> int:
        """Committed rows of the whole stream."""
        first = self.segments[0] if self.segments else None
        return self.rows if first is None else first.entry.first + first.committed

    def resume(self, episode: Unfinished, segment: SegmentWriter) -> None:
        """Goes on with an episode whose rows are committed already, in the segment that holds the last."""
        self.segments = [segment]
        self.rows = segment.entry.first + segment.rows
        self.episode_start = episode.start
        self.unfinished = episode
        self._carry = episode.return_
        self._parts_start = self.rows

    def add_rewards(self, rewards: Array) -> None:
        """Rewards of the rows just written, `[rows, …]`."""
        if len(self._parts) == _MANY_PARTS:
            self._carry = add_in_order(self._carry, np.concatenate(self._parts))
            self._parts.clear()
        if not self._parts:
            self._parts_start = self.rows - len(rewards)
        self._parts.append(rewards.astype(np.float64))

    def take_return(self, at: int) -> float:
        """The return of the episode that ends before row `at`, which lies in or after the last write."""
        rewards = np.concatenate(self._parts) if self._parts else np.zeros(0)
        split = at - self._parts_start
        total = add_in_order(self._carry, rewards[:split])
        self._carry, self._parts, self._parts_start = (
            0.0,
            [rewards[split:]] if split < len(rewards) else [],
            at,
        )
        return total
