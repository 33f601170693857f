"""Episodes of a dataset as arrays, from sealed segments' trees and open segments' journals.

SPEC.md sections 7 and 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlcli.errors import CorruptError
from rlcli.format import files
from rlcli.format.journal import HAS_FINAL, Episode
from rlcli.format.keys import path_of
from rlcli.format.layout import SegmentPaths
from rlcli.format.manifest import Segment
from rlcli.format.sums import EPISODE_COLUMNS

Array = np.ndarray[Any, Any]
_FLAGS = ("terminated", "truncated", "cut", "has_final")  # bit 0, 1, …


@dataclass(frozen=True)
class Episodes:
    """One element per episode that has an end, in logical order.

    `start` is its first logical row, `length` its rows, `return_` the undiscounted sum of its rewards, `seed`
    −1 where it is unknown, `number` what the `episode` column says. `cut`: its end was not seen.
    """

    start: Array
    length: Array
    return_: Array
    terminated: Array
    truncated: Array
    cut: Array
    has_final: Array
    seed: Array
    number: Array
    stream: Array

    def __len__(self) -> int:
        return len(self.start)

    @staticmethod
    def join(streams: Sequence[tuple[int, StreamEpisodes]]) -> Episodes:
        """The episodes of streams that begin at these logical rows."""
        parts = []
        for number, (start, episodes) in enumerate(streams):
            arrays = episodes.arrays()
            arrays["start"] = arrays["start"] + start
            arrays["stream"] = np.full(len(arrays["start"]), number, np.int64)
            parts.append(arrays)
        empty = {**episode_arrays([]), "stream": np.zeros(0, np.int64)}
        joined = {name: np.concatenate([empty[name], *(part[name] for part in parts)]) for name in empty}
        return Episodes(return_=joined.pop("return"), **joined)


class StreamEpisodes:
    """The episodes of one stream: arrays per sealed segment, then the open one's records, which may grow."""

    def __init__(self) -> None:
        self.sealed: list[dict[str, Array]] = []
        self.live: list[Episode] = []
        self._unknown: list[int] = []  # ends without a final
        self._last = -1  # the last end

    @property
    def count(self) -> int:
        return sum(len(arrays["start"]) for arrays in self.sealed) + len(self.live)

    def add_sealed(self, arrays: dict[str, Array]) -> None:
        self.sealed.append(arrays)
        ends = arrays["start"] + arrays["length"] - 1
        self._unknown += ends[~arrays["has_final"]].tolist()
        self._last = int(ends[-1]) if len(ends) else self._last

    def add_live(self, records: Sequence[Episode]) -> None:
        """Records that the open segment's journal has got."""
        self.live += records
        for episode in records:
            self._last = episode.first + episode.rows - 1
            if not episode.flags & HAS_FINAL:
                self._unknown.append(self._last)

    def seal(self) -> None:
        self.sealed.append(episode_arrays(self.live))
        self.live = []

    def of_segment(self, position: int) -> dict[str, Array]:
        return self.sealed[position] if position < len(self.sealed) else episode_arrays(self.live)

    def arrays(self) -> dict[str, Array]:
        """All of them, `start` as stream rows."""
        parts = [*self.sealed, episode_arrays(self.live)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[-1]}

    def unknown_next(self, num_rows: int) -> Array:
        """Stream rows whose successor is unknown."""
        tail = [num_rows - 1] if num_rows and self._last < num_rows - 1 else []
        return np.array(self._unknown + tail, np.int64)


def read_episodes(paths: SegmentPaths, entry: Segment) -> dict[str, Array]:
    """The episodes tree of a sealed segment. Raises `CorruptError` naming a file that is missing, short or
    long, or says what cannot be.
    """
    if not entry.episodes:
        return episode_arrays([])
    arrays = {}
    for name, dtype in EPISODE_COLUMNS:
        path = paths.episodes / path_of((name,))
        size = entry.episodes * np.dtype(dtype).itemsize
        fd = files.open_read(path, size)
        try:
            data = files.read_at(fd, size, 0)
        finally:
            files.close(fd)
        arrays[name] = np.frombuffer(data, np.uint8 if dtype == "bool" else dtype)
        if dtype == "bool":
            arrays[name] = arrays[name].astype(bool)
    start, length = arrays["start"], arrays["length"]
    ends = start + length
    inside = (start >= 0) & (length > 0) & (ends > entry.first) & (ends <= entry.first + entry.rows)
    if not inside.all() or (start[1:] < ends[:-1]).any() or arrays["has_final"].sum() != entry.finals:
        raise CorruptError(
            f"{paths.episodes}: episodes overlap or lie outside the segment", path=paths.episodes
        )
    return arrays


def episode_arrays(episodes: Sequence[Episode]) -> dict[str, np.ndarray[Any, Any]]:
    """The columns of an episodes tree."""
    flags = np.array([e.flags for e in episodes], np.uint8)
    seeds = np.array([e.seed for e in episodes], np.uint64)
    return {
        "start": np.array([e.first for e in episodes], np.int64),
        "length": np.array([e.rows for e in episodes], np.int64),
        "return": np.array([e.return_ for e in episodes], np.float64),
        "terminated": (flags & 1).astype(bool),
        "truncated": (flags >> 1 & 1).astype(bool),
        "cut": (flags >> 2 & 1).astype(bool),
        "has_final": (flags >> 3 & 1).astype(bool),
        "seed": seeds.view(np.int64),
        "number": np.array([e.number for e in episodes], np.int64),
    }


def select(arrays: dict[str, Array], chosen: Array) -> dict[str, Array]:
    """The episodes where `chosen` is True."""
    return {name: array[chosen] for name, array in arrays.items()}


def to_records(arrays: dict[str, Array]) -> list[Episode]:
    """The records that `episode_arrays` was made of."""
    flags = np.zeros(len(arrays["start"]), np.int64)
    for bit, name in enumerate(_FLAGS):
        flags |= arrays[name].astype(np.int64) << bit
    columns = (
        arrays["start"],
        arrays["length"],
        arrays["return"],
        arrays["number"],
        arrays["seed"].view(np.uint64),
    )
    return [
        Episode(*values) for values in zip(*(column.tolist() for column in (*columns, flags)), strict=True)
    ]
