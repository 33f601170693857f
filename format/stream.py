"""One stream while it is written: its open segments, and the episode that has not ended."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlcli.format.recover import Unfinished
from rlcli.format.segment import SegmentWriter
from rlcli.format.values import add_in_order

Array = np.ndarray[Any, Any]


class Stream:
    """What the writer knows of one stream: its open segments and its unfinished episode."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.segments: list[SegmentWriter] = []  # the first may be published; all but the last are full
        self.rows = 0
        self.previous_alloc: int | None = None
        self.episode_start = 0
        self.unfinished: Unfinished | None = None  # what the stream was resumed with
        self._carry = 0.0
        self._tail: Array = np.zeros((0, 1))
        self._tail_start = 0

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
        self._tail_start = self.rows

    def add_rewards(self, rewards: Array) -> None:
        """Rewards of the rows just written, `[rows, …]`."""
        self._carry = add_in_order(self._carry, self._tail)
        self._tail = rewards.astype(np.float64).reshape(len(rewards), -1)
        self._tail_start = self.rows - len(rewards)

    def take_return(self, at: int) -> float:
        """The return of the episode that ends before row `at`, which lies in or after the last write."""
        split = at - self._tail_start
        total = add_in_order(self._carry, self._tail[:split])
        self._carry, self._tail, self._tail_start = 0.0, self._tail[split:], at
        return total
