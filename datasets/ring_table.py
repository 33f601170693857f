"""Replay buffers as tables: arrays `[T, B, …]` or `[T, …]` written round and round, B environments.

Rows are the environments one after the other, each from its oldest step to its newest. Where episodes end
is found once: at a flag, where the number of the trajectory changes, at the end of an environment's steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.plain_table import Arrays, Field, Table

TERMINATED, TRUNCATED, EPISODE = "rl:terminated", "rl:truncated", "rl:episode"
Flags = NDArray[np.bool_]


class RingTable(Table):
    """`arrays` have the same first axis, and the second one too if there are `envs`.

    Of the first axis `steps` are filled, the oldest at `cursor`.
    """

    can_seek = True

    def __init__(
        self,
        path: Path,
        arrays: Mapping[str, NDArray[Any]],
        texts: Mapping[str, Sequence[str]],
        *,
        envs: int | None,
        steps: int,
        cursor: int,
    ) -> None:
        super().__init__(path)
        self.arrays, self.texts = dict(arrays), dict(texts)
        self.envs, self.steps, self.cursor = envs, steps, cursor
        self.num_rows = steps * (envs or 1)
        self.made: dict[str, NDArray[Any]] = {}
        self.flagged: Flags = np.zeros(0, np.bool_)  # rows that end an episode by the source's own flags
        self.repaired = 0
        skipped = 1 if envs is None else 2
        for name, array in self.arrays.items():
            self.fields[name] = Field(array.dtype, tuple(array.shape[skipped:]), self.num_rows)
        for name in self.texts:
            self.fields[name] = Field(np.dtype(object), (), self.num_rows)

    def add(self, name: str, values: NDArray[Any]) -> None:
        """An array of our own, one value per row."""
        self.made[name] = values
        self.fields[name] = Field(values.dtype, (), self.num_rows)

    def read(self, names: Sequence[str], start: int, stop: int) -> Arrays:
        """Rows of some fields."""
        return {name: self._read(name, start, stop) for name in names}

    def column(self, name: str) -> NDArray[Any]:
        """All rows of a small array that has one number per row."""
        return self._read(name, 0, self.num_rows).reshape(self.num_rows)

    def find_episodes(
        self, terminated: Flags | None, truncated: Flags | None, done: Flags | None, numbers: Sequence[str]
    ) -> NDArray[np.int64]:
        """Adds what our columns say of every row's flags and episode; returns the last row of each.

        Ends without a flag are truncated, and counted in `repaired`. `done` stands for
        terminated where that is unknown. `numbers` name arrays that change between episodes.
        """
        nothing = np.zeros(self.num_rows, np.bool_)
        if terminated is None:
            terminated = nothing if done is None else done & ~(nothing if truncated is None else truncated)
        if truncated is None:
            truncated = nothing if done is None else done & ~terminated
        flagged = terminated | truncated | (nothing if done is None else done)
        ends = flagged.copy()
        lasts = np.arange(self.steps - 1, self.num_rows, self.steps)
        ends[lasts] = True
        for name in numbers:
            values = self.column(name)
            ends[:-1] |= values[1:] != values[:-1]
        self.metadata["cut"] = np.searchsorted(np.flatnonzero(ends), lasts[~flagged[lasts]]).tolist()
        self.flagged, self.repaired = flagged, int((ends & ~flagged).sum())
        self.add(TERMINATED, terminated)
        self.add(TRUNCATED, truncated | (ends & ~terminated))
        self.add(EPISODE, np.concatenate([[0], np.cumsum(ends[:-1])]).astype(np.int64))
        return np.flatnonzero(ends)

    def _read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        if name in self.made:
            return self.made[name][start:stop]
        if name in self.texts:
            texts = np.empty(stop - start, object)
            position = self._positions(start, stop)
            texts[:] = [self.texts[name][at] for at in position.tolist()]
            return texts
        array = self.arrays[name]
        out = np.empty((stop - start, *self.fields[name].shape), array.dtype)
        row = start
        while row < stop:
            env, step = divmod(row, self.steps)
            at = (self.cursor + step) % max(1, len(array))
            count = min(stop - row, self.steps - step, len(array) - at)
            found = array[at : at + count]
            out[row - start : row - start + count] = found if self.envs is None else found[:, env]
            row += count
        return out

    def _positions(self, start: int, stop: int) -> NDArray[np.int64]:
        rows = np.arange(start, stop)
        env, step = np.divmod(rows, self.steps)
        envs = self.envs or 1
        capacity = len(next(iter(self.arrays.values())))
        return np.asarray((self.cursor + step) % capacity * envs + env, np.int64)
