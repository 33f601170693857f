"""One stream while it is written: its open segments, and the episode that has not ended."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlcli import _native
from rlcli.format.ends import Ended, joined
from rlcli.format.journal import HAS_FINAL, Episode
from rlcli.format.recovery_report import Unfinished
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

    def holders(self, ends: Sequence[int]) -> list[tuple[SegmentWriter, int, int]]:
        """The segments that hold the last rows of episodes that end before the rows `ends`, each with the
        range of those ends.

        Raises `ValueError` if an episode cannot end there: rows of an earlier write are committed, an
        episode has rows, and it begins behind the one before.
        """
        found: list[tuple[SegmentWriter, int, int]] = []
        low, begin = 0, self.episode_start
        for segment in self.segments:
            first = segment.entry.first
            high = bisect_right(ends, first + segment.rows, low)
            for end in ends[low:high]:
                if end <= max(begin, first) or end < first + segment.committed:
                    raise ValueError(f"an episode of stream {self.number} cannot end before row {end}")
                begin = end
            if high > low:
                found.append((segment, low, high))
            low = high
        if low < len(ends):
            raise ValueError(f"an episode of stream {self.number} cannot end before row {ends[low]}")
        return found

    def end(self, ended: Ended, holders: Sequence[tuple[SegmentWriter, int, int]]) -> None:
        """Hands ends of episodes to the segments that hold them, see `holders`: finals first."""
        returns = self.rewards.take_each([(self.rows - at) * self._rewards_per_row for at in ended.rows])
        finals = {key: joined(parts) for key, parts in ended.finals.items()}
        done = 0  # of them
        for segment, low, high in holders:
            if count := sum(1 for flags in ended.flags[low:high] if flags & HAS_FINAL):
                segment.add_finals({key: v[done : done + count] for key, v in finals.items()}, count)
                done += count
            for at in range(low, high):
                end = ended.rows[at]
                segment.add_episode(
                    Episode(
                        self.episode_start, end - self.episode_start, returns[at], ended.numbers[at],
                        ended.seeds[at], ended.flags[at],
                    )
                )  # fmt: skip
                self.episode_start = end
