"""Episodes of a dataset as arrays, from sealed segments' trees and open segments' journals.

SPEC.md sections 7 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlcli import _native
from rlcli.errors import CorruptError
from rlcli.format import bulk
from rlcli.format.journal import HAS_FINAL, Episode
from rlcli.format.keys import path_of
from rlcli.format.layout import SegmentPaths
from rlcli.format.manifest import Segment
from rlcli.format.sums import EPISODE_COLUMNS, SPANS

Array = np.ndarray[Any, Any]
_DTYPES = {name: np.dtype(dtype) for name, dtype in EPISODE_COLUMNS}
_FILES = {name: path_of((name,)) for name in _DTYPES}
Read = Callable[[Sequence[str], Sequence[int]], list[bytes]]  # the bytes of files of these names and sizes
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
    def join(streams: Sequence[tuple[int, Sequence[dict[str, Array]]]]) -> Episodes:
        """The episodes of streams' segments; the number of a stream is its place. `start` counts from the
        row that is given beside it.
        """
        empty = {**episode_arrays([]), "stream": np.zeros(0, np.int64)}
        parts = [empty]
        for number, (shift, segments) in enumerate(streams):
            for arrays in segments:
                start = arrays["start"] + shift
                parts.append({**arrays, "start": start, "stream": np.full(len(start), number, np.int64)})
        joined = {name: np.concatenate([part[name] for part in parts]) for name in empty}
        return Episodes(return_=joined.pop("return"), **joined)


@dataclass(frozen=True)
class EpisodeRows:
    """Where one episode is: logical rows `start` to `stop`."""

    start: int
    length: int
    stream: int

    @property
    def stop(self) -> int:
        return self.start + self.length

    @property
    def rows(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Its logical rows `[length]`."""
        return np.arange(self.start, self.stop, dtype=np.int64)


class SegmentEpisodes:
    """The episodes whose last row is in one segment: a sealed one's tree, read when it is asked for, or an
    open one's records, which grow.

    `ended` is the stream row behind the last episode of an older snapshot; later ones are not there.
    """

    def __init__(self, paths: SegmentPaths, entry: Segment, ended: int | None = None) -> None:
        self._paths = paths
        self._entry = entry
        self._ended = ended
        self._read: Read | None = None
        self._arrays: dict[str, Array] = {}
        self._unknown: list[int] | None = None
        self.live: list[Episode] = []

    def __len__(self) -> int:
        if self._entry.sealed:
            return self._entry.episodes if self._ended is None else len(self.column("start"))
        return len(self.live)

    @property
    def is_complete(self) -> bool:
        """The entry alone says that each has a final value."""
        return self._entry.sealed and self._entry.finals == self._entry.episodes

    @property
    def unknown(self) -> list[int]:
        """Last rows of those that have no final value."""
        if self._unknown is None:
            self._unknown = self.ends[~self.column("has_final")].tolist()
        return self._unknown

    def read_by(self, read: Read) -> None:
        """What brings files of the tree, compared with their hashes."""
        self._read = read

    def add(self, records: Sequence[Episode]) -> None:
        """Records that the open segment's journal has got."""
        known = self.unknown
        known += [e.first + e.rows - 1 for e in records if not e.flags & HAS_FINAL]
        self.live += records
        self._arrays = {}

    def seal(self, entry: Segment) -> None:
        """The segment is sealed, with the records that are known."""
        self._entry, self._arrays, self.live = entry, episode_arrays(self.live), []

    @property
    def last_end(self) -> int | None:
        """The last row of the last one, if there is any."""
        if self.live:
            return self.live[-1].first + self.live[-1].rows - 1
        return int(self.ends[-1]) if len(self) else None

    def column(self, name: str) -> Array:
        """A column of the table; `start` as stream rows. Raises `CorruptError` for what cannot be."""
        if name not in self._arrays:
            if not self._entry.sealed:
                self._arrays = episode_arrays(self.live)
            else:
                self._load(name)
        return self._arrays[name]

    @property
    def ends(self) -> Array:
        """Their last stream rows."""
        if "end" not in self._arrays:
            self._arrays["end"] = self.column("start") + self.column("length") - 1
        return self._arrays["end"]

    def arrays(self) -> dict[str, Array]:
        return {name: self.column(name) for name, _ in EPISODE_COLUMNS}

    def _load(self, name: str) -> None:
        if "start" not in self._arrays:
            spans = _columns(self._paths, self._entry, SPANS, self._read)
            _check_spans(self._paths, self._entry, spans)
            if self._ended is not None:
                count = int(np.searchsorted(spans["start"] + spans["length"], self._ended, side="right"))
                spans = {name: array[:count] for name, array in spans.items()}
            self._arrays |= spans
        if name not in self._arrays:
            found = _columns(self._paths, self._entry, [name], self._read)[name]
            self._arrays[name] = found[: len(self._arrays["start"])]


def read_episodes(paths: SegmentPaths, entry: Segment) -> dict[str, Array]:
    """The episodes tree of a sealed segment. Raises `CorruptError` naming a file that is missing, short or
    long, or says what cannot be.
    """
    arrays = _columns(paths, entry, [name for name, _ in EPISODE_COLUMNS])
    _check_spans(paths, entry, arrays)
    return arrays


def _columns(
    paths: SegmentPaths, entry: Segment, names: Sequence[str], read: Read | None = None
) -> dict[str, Array]:
    """Columns of a sealed segment's episodes tree, from its files as they are or as `read` gives them."""
    if not entry.episodes:
        empty = episode_arrays([])
        return {name: empty[name] for name in names}
    dtypes = [_DTYPES[name] for name in names]
    files = [f"episodes/{entry.name}/{_FILES[name]}" for name in names]
    sizes = [entry.episodes * dtype.itemsize for dtype in dtypes]
    data = bulk.read(paths.root, files, sizes) if read is None else read(files, sizes)
    found = {}
    for name, dtype, content in zip(names, dtypes, data, strict=True):
        is_flag = dtype.kind == "b"
        array = np.frombuffer(content, np.uint8 if is_flag else dtype)
        found[name] = array != 0 if is_flag else array
    return found


def _check_spans(paths: SegmentPaths, entry: Segment, arrays: Mapping[str, Array]) -> None:
    start, length, has_final = (arrays[name] for name in SPANS)
    if _native.count_finals(start, length, has_final, entry.first, entry.rows) != entry.finals:
        raise CorruptError(
            f"{paths.episodes}: episodes overlap or lie outside the segment", path=paths.episodes
        )


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
