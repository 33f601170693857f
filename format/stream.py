"""One stream while it is written: its open segments, and the episode that has not ended."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlcli import _native
from rlcli.format.recover import Unfinished
from rlcli.format.segment import SegmentWriter

Array = np.ndarray[Any, Any]


class Stream:
    """What the writer knows of one stream: its open segments and its unfinished episode.

    `rewards_per_row` is 0 where there is no reward.
    """

    def __init__(self, number: int, rewards_per_row: int) -> None:
        self.number = number
        self.segments: list[SegmentWriter] = []  # the first may be published; all but the last are full
        self.rows = 0
        self.previous_alloc: int | None = None
        self.episode_start = 0
        self.unfinished: Unfinished | None = None  # what the stream was resumed with
        self.rewards = _native.RewardSum()  # of the unfinished episode
        self._rewards_per_row = rewards_per_row

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
        self.rewards = _native.RewardSum(episode.return_)

    def add_rewards(self, rewards: Array) -> None:
        """Rewards of the rows just written, `[rows, …]`."""
        is_float = rewards.dtype in (np.float32, np.float64)
        self.rewards.add(rewards if is_float else rewards.astype(np.float64))

    def take_return(self, at: int) -> float:
        """The return of the episode that ends before row `at`, which lies in or after the last write."""
        return self.rewards.take((self.rows - at) * self._rewards_per_row)
