"""A dataset as named arrays: what every plain container writes, and what is lost on the way."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.contract import Report
from rlcli.datasets.slicing import slice_rows, slices
from rlcli.errors import IncompatibleError, InputError
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key, check_key
from rlcli.format.schema import Column
from rlcli.format.specs import Composite

METADATA = "rl.json"  # the name of what is not rows, where a container has only arrays
_DERIVED = {("is_init",), ("episode",), ("step",), ("next", "done")}
_NAMES: dict[Key, str] = {
    ("next", "reward"): "rewards",
    ("next", "terminated"): "terminals",
    ("next", "truncated"): "timeouts",
}
_SPACES = ("observation", "action")
_FOLLOWING: Key = ("next", "observation")
_EPISODE = "episode_id"
_VALID = "next_observation_valid"
_MAX_SEED = 1 << 63


@dataclass(frozen=True)
class OutputColumn:
    """An array of the output; `shape` is the whole one, `key` None for what is computed."""

    key: Key | None
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_text: bool = False

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


class Exporter:
    """The arrays of a dataset under D4RL's names, in slices.

    `episode_id` numbers the episodes in order, so that ends need no flag; `next_observations` are there
    unless the source had none, with `next_observation_valid` where some are unknown. `metadata` is JSON.
    """

    def __init__(self, dataset: Dataset) -> None:
        if dataset.num_rows == 0:
            raise InputError(f"{dataset.path}: has no rows", path=dataset.path)
        self.dataset = dataset
        self.report = Report()
        self.last_rows = _last_rows(dataset)
        self._unknown = np.asarray(dataset.unknown_next, np.int64)
        size = dataset.num_rows
        self.columns: dict[str, OutputColumn] = {}
        none_known = len(self._unknown) == len(self.last_rows)
        named = [_name_of(column.key) for column in dataset.schema.columns if _says_its_key(column.key)]
        for column in dataset.schema.columns:
            key = column.key
            if key in _DERIVED or column.encoding == "stack":
                continue
            if key[:2] == ("next", "observation") and column.encoding == "derived" and none_known:
                continue
            if column.heap is not None and column.heap.value == "bytes":
                self.report.lossy.append(f"{'/'.join(key)}: bytes of any length have no place in an array")
                continue
            if column.heap is not None and column.heap.value == "array":
                if any(n < 0 for n in column.shape):
                    self.report.lossy.append(f"{'/'.join(key)}: arrays of different sizes have no place")
                    continue
                self.report.lossy += lost_encoding(column)
            is_text = column.is_text
            shape = () if key in _NAMES else column.shape
            dtype = np.dtype(object) if is_text else column.numpy
            others = self.columns if _says_its_key(key) else [*self.columns, *named]
            name = free_name(_name_of(key), key, others)
            self.columns[name] = OutputColumn(key, dtype, (size, *shape), is_text)
        self.columns[_EPISODE] = OutputColumn(None, np.dtype(np.int64), (size,))
        if len(self._unknown) and not none_known:
            self.columns[_VALID] = OutputColumn(None, np.dtype(bool), (size,))
        self.metadata: dict[str, Any] = {
            "rl": 1,
            "spec": dataset.spec,
            **told_episodes(dataset, self.last_rows),
        }
        self.metadata["columns"] = {
            name: list(column.key)
            for name, column in self.columns.items()
            if column.key is not None and (_name_of(column.key) != name or not _says_its_key(column.key))
        }
        self.metadata["bfloat16"] = bfloat16 = [
            name for name, column in self.columns.items() if column.key and is_bfloat16(dataset, column.key)
        ]
        self.report.remarks += [f"{name}: bfloat16 is written as its bits, in uint16" for name in bfloat16]
        self.report.details["columns"] = {
            name: "/".join(column.key) if column.key else None for name, column in self.columns.items()
        }

    def leave_out(self, name: str, why: str) -> None:
        """The container cannot hold this column, and the report says so."""
        del self.columns[name]
        self.report.lossy.append(f"{name}: {why}")

    def slices(self, names: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Ranges of rows that make up the dataset, a slice of these columns each."""
        row_bytes = sum(max(self.columns[name].row_bytes, 64) for name in names)
        return slices(0, self.dataset.num_rows, slice_rows(row_bytes))

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of an output column, in its dtype and shape."""
        column = self.columns[name]
        if name == _EPISODE and column.key is None:
            return np.searchsorted(self.last_rows, np.arange(start, stop)).astype(np.int64)
        if column.key is None:
            valid = np.ones(stop - start, np.bool_)
            valid[self._within(self._unknown, start, stop)] = False
            return valid
        values = self.dataset.read(column.key, start, stop)
        if column.is_text:
            found = np.empty(stop - start, object)
            found[:] = list(values)
            return found
        values = np.asarray(values)
        if column.key == ("next", "truncated"):
            rows = self._within(self.last_rows, start, stop)
            values[rows] |= ~self.dataset.read(("next", "terminated"), start, stop)[rows]
        return values.astype(column.dtype, copy=False).reshape(stop - start, *column.shape[1:])

    @staticmethod
    def _within(rows: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
        low, high = np.searchsorted(rows, [start, stop])
        return rows[low:high] - start


def free_name(name: str, key: Key, taken: Collection[str], top: str = "infos") -> str:
    """`name`; one below `top` that says the whole key where another column is at, above or below it."""
    clash = any(f"{name}/".startswith(f"{other}/") or f"{other}/".startswith(f"{name}/") for other in taken)
    return "/".join((top, "rl", *key)) if clash else name


def told_episodes(dataset: Dataset, last_rows: NDArray[np.int64]) -> dict[str, Any]:
    """What rows do not say of the episodes that end at `last_rows`: which are cut, and their seeds, if known.

    `open` are those that end with neither flag; what is written has them truncated, for others who read it.
    And the order of columns, which is that of reading by name otherwise.
    """
    episodes = dataset.episodes
    at = np.searchsorted(last_rows, np.asarray(episodes.start) + np.asarray(episodes.length) - 1)
    without = open_ends(dataset, last_rows)
    cut = np.union1d(at[np.asarray(episodes.cut, np.bool_)], without)
    told: dict[str, Any] = {"cut": cut.tolist(), "open": without.tolist()}
    told["order"] = [list(column.key) for column in dataset.schema.columns]
    seeds = np.full(len(last_rows), -1, np.int64)
    seeds[at] = np.asarray(episodes.seed)
    return told | ({"seeds": seeds.tolist()} if (seeds >= 0).any() else {})


def is_bfloat16(dataset: Dataset, key: Key) -> bool:
    """Whether a column's values are bfloat16, which NumPy has no dtype for."""
    return dataset.schema.column(key).dtype == "bfloat16"


def open_ends(dataset: Dataset, last_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of the episodes that end at `last_rows` neither terminated nor were truncated."""
    episodes = dataset.episodes
    at = np.searchsorted(last_rows, np.asarray(episodes.start) + np.asarray(episodes.length) - 1)
    is_open = np.ones(len(last_rows), np.bool_)
    is_open[at] = ~(np.asarray(episodes.terminated, np.bool_) | np.asarray(episodes.truncated, np.bool_))
    return np.flatnonzero(is_open)


def open_of(metadata: Mapping[str, Any], episodes: int) -> list[int]:
    """The episodes that `told_episodes` told to end with neither flag."""
    told = metadata.get("open")
    numbers = told if isinstance(told, list) else []
    return [number for number in numbers if type(number) is int and 0 <= number < episodes]


def seeds_of(metadata: Mapping[str, Any], episodes: int) -> list[int | None] | None:
    """The seeds that `told_episodes` told; None if it did not, or not of so many episodes."""
    told = metadata.get("seeds")
    if not isinstance(told, list) or len(told) != episodes:
        return None
    return [seed if type(seed) is int and 0 <= seed < _MAX_SEED else None for seed in told]


def rank_of(metadata: Mapping[str, Any]) -> dict[Key, int]:
    """The place of each column in the order that `told_episodes` told."""
    told = metadata.get("order")
    keys = told if isinstance(told, list) else []
    return {tuple(map(str, key)): place for place, key in enumerate(keys) if isinstance(key, list)}


def lost_encoding(column: Column) -> list[str]:
    """What to say where the encoded pictures of a column are written as pixels."""
    if column.encoding != "heap" or column.heap is None or column.heap.codec not in ("jpeg", "png"):
        return []
    return [f"{'/'.join(column.key)}: stored decoded, not as {column.heap.codec}"]


def lost_seeds(dataset: Dataset) -> list[str]:
    """What to say where seeds of episodes are not written."""
    seeds = int((np.asarray(dataset.episodes.seed) >= 0).sum())
    return [f"{seeds:,} seeds of episodes are not written"] if seeds else []


def lost_cuts(dataset: Dataset) -> list[str]:
    """What to say where unfinished episodes look like others."""
    cut = len(told_episodes(dataset, _last_rows(dataset))["cut"])
    return [f"{cut:,} unfinished episodes are written as if they had ended"] if cut else []


def lost_truncations(dataset: Dataset) -> list[str]:
    """What to say where an episode that terminated cannot be truncated too."""
    both = np.asarray(dataset.episodes.terminated, np.bool_) & np.asarray(
        dataset.episodes.truncated, np.bool_
    )
    return [f"{both.sum():,} episodes that terminated are not truncated too"] if both.any() else []


def told_keys(metadata: Mapping[str, Any], names: Collection[str]) -> dict[str, Key]:
    """Name -> our key, of `names` that do not say it; as our own export left it, without what cannot be."""
    found: dict[str, Key] = {}
    told = metadata.get("columns")
    told = told if isinstance(told, dict) else {}
    for name in names:
        parts = told.get(name) or told.get(name.removeprefix("data/"))  # where zarr's arrays are
        try:
            key = check_key(parts if isinstance(parts, list) else ())
        except IncompatibleError:
            continue
        if key not in _NAMES and key not in _DERIVED and key[0] not in _SPACES and key[:2] != _FOLLOWING:
            found[name] = key
    return found


def dtype_of(metadata: Mapping[str, Any], name: str, dtype: np.dtype[Any]) -> str:
    """The dtype of our column: that of the array, or bfloat16 where `metadata` says that it has its bits."""
    told = metadata.get("bfloat16")
    names = told if isinstance(told, list) and dtype == np.uint16 else []
    return "bfloat16" if name in names or name.removeprefix("data/") in names else str(dtype)


def is_unobserved(metadata: Mapping[str, Any]) -> bool:
    """Whether our own export says that there were no observations."""
    told = metadata.get("spec")
    return isinstance(told, dict) and told.get("observation") == Composite({}).to_json()


def _says_its_key(key: Key) -> bool:
    """Whether the name of a column in the output is enough to know the key again."""
    return key in _NAMES or key[0] in (*_SPACES, "info", "source") or key[:2] == _FOLLOWING


def _name_of(key: Key) -> str:
    if key in _NAMES:
        return _NAMES[key]
    if key[0] in ("observation", "action"):
        return "/".join((f"{key[0]}s", *key[1:]))
    if key[:2] == ("next", "observation"):
        return "/".join(("next_observations", *key[2:]))
    if key[0] == "info":
        return "/".join(("infos", *key[1:]))
    return "/".join(key if key[0] == "source" else ("infos", *key))


def _last_rows(dataset: Dataset) -> NDArray[np.int64]:
    """The last row of every episode, in order."""
    episodes = dataset.episodes
    return np.asarray(episodes.start + episodes.length - 1, np.int64)
