"""One stream while it is written: its open segments, and the episode that has not ended."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rlcli import _native
from rlcli.format.recover import Unfinished
from rlcli.format.schema import Column
from rlcli.format.segment import SegmentWriter
from rlcli.format.values import as_rewards

Array = np.ndarray[Any, Any]


class Stream:
    """What the writer knows of one stream: its open segments and its unfinished episode.

    `reward` is its column, None where there is none.
    """

    def __init__(self, number: int, reward: Column | None) -> None:
        self.number = number
        self.segments: list[SegmentWriter] = []  # the first may be published; all but the last are full
        self.rows = 0
        self.previous_alloc: int | None = None
        self.episode_start = 0
        self.unfinished: Unfinished | None = None  # what the stream was resumed with
        self.rewards = _native.RewardSum()  # of the unfinished episode
        self._reward = reward
        self._rewards_per_row = 0 if reward is None else math.prod(reward.shape)

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
        if rewards.dtype not in (np.float32, np.float64):
            assert self._reward is not None
            rewards = as_rewards(self._reward, rewards)
        self.rewards.add(rewards)

    def take_return(self, at: int) -> float:
        """The return of the episode that ends before row `at`, which lies in or after the last write."""
        return self.rewards.take((self.rows - at) * self._rewards_per_row)
