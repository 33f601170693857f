"""Parquet with a row per episode: its columns are lists with a value per step, or values of the episode.

Such a table is recognised by the lists of its rewards or flags, or because the lists of observations and
actions have the same length in each row and another one in the next. It is a guess that a user confirms.
Lists with one value more than the actions have observations of which the last is the true final one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.contract import AmbiguousMapping, Request
from rlcli.datasets.mapping import recognised, roles_of
from rlcli.datasets.plain_table import Arrays, Field, Table
from rlcli.datasets.stopping import heeding
from rlcli.errors import InputError

if TYPE_CHECKING:
    from rlcli.datasets.parquet import ParquetTable

_ENDS = "episode_ends"
_LOOKED_AT = 64  # rows, to see what the lists are
_COUNTED = 256  # rows whose lists are counted at once
_BATCH_BYTES = 1 << 20
_SPACES = {"observation", "action"}
_PER_STEP = ("reward", "terminated", "truncated", "done")


class EpisodeTable(Table):
    """The steps of a table of episodes. See `plain_table.Table`; the lists say the field `episode_ends`."""

    layout = "parquet, a row per episode"
    can_seek = True

    def __init__(self, table: ParquetTable, lengths: NDArray[np.int64], finals: dict[str, int]) -> None:
        super().__init__(table.path)
        self._table, self._finals = table, finals
        self.files, self.metadata = table.files, table.metadata
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths
        self._held: tuple[tuple[str, ...], int, int, Arrays] | None = None  # what the last batch has
        self._bytes = 1
        self.unreadable = table.unreadable
        self.unreadable.clear()  # what has no place in a row may have one in a step
        first = int(np.argmax(lengths > 0))
        for name, values in self._batch(next(self._rows(None, first, first + 1)), first).items():
            if name not in table.unreadable:
                self.fields[name] = Field.of(values, int(self._ends[-1]))
        self.fields[_ENDS] = Field(np.dtype(np.int64), (), len(lengths))
        self._bytes = max(1, sum(f.row_bytes for f in self.fields.values()) * int(lengths.mean() + 1))

    def read(self, names: Sequence[str], start: int, stop: int) -> Arrays:
        """Steps of some columns. Raises `InputError` for lists whose lengths disagree."""
        if list(names) == [_ENDS]:
            return {_ENDS: self._ends[start:stop]}
        arrays = {name: self.empty(name, stop - start) for name in names}
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right")
        for begin, end, values in self._batches(tuple(names), int(first), int(last) + 1):
            low, high = max(start, begin), min(stop, end)
            for name in names:
                arrays[name][low - start : high - start] = values[name][low - begin : high - begin]
        return arrays

    def _batches(self, names: tuple[str, ...], first: int, stop: int) -> Iterator[tuple[int, int, Arrays]]:
        """`(first step, stop, values)` of episodes; the last batch is kept, for a slice may end inside it."""
        if self._held is not None and self._held[0] == names and self._held[1] <= first < self._held[2]:
            _, at, after, values = self._held
            yield int(self._starts[at]), int(self._ends[after - 1]), values
            first = after
        while first < stop:
            for file, batch in self._rows(names, first, stop):
                values = self._batch((file, batch), first, names)
                self._held = (names, first, first + len(batch), values)
                yield int(self._starts[first]), int(self._ends[first + len(batch) - 1]), values
                first += len(batch)

    def _rows(self, names: Sequence[str] | None, first: int, stop: int) -> Iterator[tuple[Path, Any]]:
        tops = None if names is None else sorted({name.split("/")[0] for name in self._sources(names)})
        return self._table.rows.read(tops, first, stop, max(1, _BATCH_BYTES // self._bytes))

    def _sources(self, names: Sequence[str]) -> list[str]:
        return [_observed(name) if _observed(name) in self._finals else name for name in names]

    def _batch(self, found: tuple[Path, Any], first: int, names: Sequence[str] | None = None) -> Arrays:
        """The steps of a batch of episodes, by column."""
        file, batch = found
        lengths = (self._ends - self._starts)[first : first + len(batch)]
        arrays: Arrays = {}
        for name, column in self._table.columns(batch, file):
            more = self._finals.get(name)
            if more is None:
                if names is None or name in names:
                    values = self._table.values(column, f"{file}: {name}", name)
                    arrays[name] = np.repeat(values, lengths, axis=0)
                continue
            theirs = self._table.lengths(column)
            if len(odd := np.flatnonzero((theirs != lengths + more) & ((theirs > 0) | (lengths > 0)))):
                row, rows = first + int(odd[0]), int(lengths[odd[0]]) + more
                told = f"{int(theirs[odd[0]]):,} values, expected {rows:,}"
                raise InputError(f"{file}: row {row}: {name} has {told}", path=file)
            ends = np.cumsum(theirs)
            for path, leaf in self._table.leaves(name, column.flatten(), file):
                values = self._values(path, leaf, file)
                if not more:
                    arrays[path] = values
                    continue
                arrays[path] = np.delete(values, ends[theirs > 0] - 1, axis=0)
                arrays[f"next_{path}"] = np.delete(values, (ends - theirs)[theirs > 0], axis=0)
        return arrays

    def _values(self, path: str, leaf: Any, file: Path) -> NDArray[Any]:
        if not len(leaf) and path in self.fields:  # whose lists have no size
            return self.fields[path].empty(0)
        return self._table.values(leaf, f"{file}: {path}", path)


def episodes_of(table: ParquetTable, request: Request) -> EpisodeTable | None:
    """The table as episodes if it looks so, None if its rows are steps.

    Raises `AmbiguousMapping` unless the user confirmed what it means.
    """
    found = _look(table)
    if found is None:
        return None
    counted, finals = found
    batches = heeding(table.rows.read([counted.split("/")[0]], 0, len(table.rows), _COUNTED))
    lengths = np.concatenate([table.lengths(dict(table.columns(b, file))[counted]) for file, b in batches])
    if not lengths.any():
        raise InputError(f"{table.path}: has no steps", path=table.path)
    episodes = EpisodeTable(table, lengths, finals)
    if not request.confirmed:
        roles = roles_of(list(episodes.fields), request.mapping, confirmed=True, where=table.path)
        meant = {name: "/".join(key) for name, key in roles.columns.items() if key[0] != "info"}
        meant |= {name: role for role, name in roles.single.items() if name != _ENDS}
        raise AmbiguousMapping(
            f"{table.path}: each of its rows may be an episode, with lists of steps", meant
        )
    return episodes


def _look(table: ParquetTable) -> tuple[str, dict[str, int]] | None:
    """A column that counts steps, and by how many values more than these a column of lists has, 0 or 1.

    None if the rows are no episodes.
    """
    structs = [
        field.name for field in table.schema if {*map(recognised, table.fields_of(field.type))} >= _SPACES
    ]
    lists = [field.name for field in table.schema if table.is_list(field.type)]
    if any(recognised(field.name) in _PER_STEP and field.name not in lists for field in table.schema):
        return None
    lengths: dict[str, list[int]] = {}
    for file, batch in table.rows.read(None, 0, min(_LOOKED_AT, len(table.rows)), _LOOKED_AT):
        for name, column in table.columns(batch, file):
            if table.is_list(column.type):
                lengths.setdefault(name, []).extend(table.lengths(column).tolist())
    meaning = {name: recognised(name.split("/")[0]) or "" for name in lengths}
    flags = [name for name in lengths if meaning[name] in _PER_STEP]
    actions = [name for name in lengths if meaning[name] == "action"]
    counted = [*structs, *flags, *actions]
    if not counted:
        return None
    steps = lengths[counted[0]]
    more = {}
    for name, counts in lengths.items():
        pairs = zip(counts, steps, strict=True)
        differences = {count - step for count, step in pairs if count or step} or {0}
        if differences == {0} or (differences == {1} and meaning[name] == "observation"):
            more[name] = differences.pop()
    varies = any(one != other for one, other in pairwise(steps))
    observed = any(meaning[name] == "observation" for name in more)
    if structs or (observed and all(name in more for name in counted) and (flags or varies)):
        return counted[0], more
    return None


def _observed(name: str) -> str:
    return name.removeprefix("next_")
