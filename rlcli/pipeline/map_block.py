"""What the steps of `rl buffer map` work on: rows of whole episodes, and the layout of their columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.errors import UsageError, nearest
from rlcli.format.copying import chunk_rows, read_piece
from rlcli.format.dataset import Dataset
from rlcli.format.episode_table import Episodes
from rlcli.format.keys import Key
from rlcli.format.schema import Column, Schema, shift_column, stack_column
from rlcli.format.specs import Box, Composite, Leaf, Spec, leaves, spec_from_json

Array = NDArray[Any]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
SPACES = ("observation", "action")


@dataclass
class Block:
    """Rows of whole episodes of one stream, one after the other.

    `columns` has every column `[rows, *shape]`, next values too; values of heap columns are objects. `rows`
    are the logical rows `[rows]`. Per episode `[E]`: `index` in the table, `length`, its flags, and whether
    the value after its last row is `known`.
    """

    columns: dict[Key, Array]
    rows: Rows
    index: Rows
    length: Rows
    terminated: Mask
    truncated: Mask
    cut: Mask
    known: Mask

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def stop(self) -> Rows:
        """The row after each episode's last `[E]`."""
        return np.cumsum(self.length, dtype=np.int64)

    def episodes(self) -> Iterator[dict[Key, Array]]:
        """The columns of each episode, views."""
        for stop, length in zip(self.stop.tolist(), self.length.tolist(), strict=True):
            yield {key: values[stop - length : stop] for key, values in self.columns.items()}

    def keep(self, rows: Mask) -> Block:
        """The block without some rows; episodes without rows are gone."""
        position = np.repeat(np.arange(len(self.length)), self.length)
        length = np.bincount(position[rows], minlength=len(self.length)).astype(np.int64)
        stays = length > 0
        return Block(
            {key: values[rows] for key, values in self.columns.items()},
            self.rows[rows],
            self.index[stays],
            length[stays],
            self.terminated[stays],
            self.truncated[stays],
            self.cut[stays],
            self.known[stays],
        )

    def without_unknown(self) -> Block:
        """Without rows whose next values are unknown and matter: last ones, of episodes not terminated.

        Where next values are stored there is no way to say that one is unknown, and none is made up. What is
        left of such an episode is cut, with a known end.
        """
        doubtful = ~self.known & ~self.terminated
        if not doubtful.any():
            return self
        rows = np.ones(len(self), np.bool_)
        rows[(self.stop - 1)[doubtful]] = False
        marked = replace(
            self,
            truncated=self.truncated & ~doubtful,
            cut=self.cut | doubtful,
            known=self.known | doubtful,
        )
        return marked.keep(rows)


def blocks(dataset: Dataset, table: Episodes) -> Iterator[Block]:
    """All episodes of `table` in order, about 8 MiB or one episode at a time."""
    keys = [column.key for column in dataset.schema.columns]
    most = chunk_rows(dataset)
    first = 0
    while first < len(table):
        stop, rows = first, 0
        while stop < len(table) and table.stream[stop] == table.stream[first]:
            rows += int(table.length[stop])
            if rows > most and stop > first:
                break
            stop += 1
        index = np.arange(first, stop)
        last = int(table.start[stop - 1] + table.length[stop - 1])
        numbers = np.arange(int(table.start[first]), last)
        yield Block(
            read_piece(dataset, numbers, keys),
            numbers,
            index,
            np.asarray(table.length[index], np.int64),
            table.terminated[index],
            table.truncated[index],
            table.cut[index],
            table.has_final[index] | (not dataset.schema.shifts),
        )
        first = stop


@dataclass
class Layout:
    """Columns and spaces as they are after some steps; steps change it in `plan`."""

    columns: dict[Key, Column]
    leaves: dict[Key, Leaf]
    extra: dict[str, Any] = field(default_factory=dict)
    is_stored: bool = False  # next values that were derived are stored now
    fits_env: bool = True  # observations and actions are those of the recorded environment

    @staticmethod
    def of(dataset: Dataset) -> Layout:
        """The layout of a dataset as it is."""
        found: dict[Key, Leaf] = {}
        for name in SPACES:
            if name in dataset.spec:
                found |= leaves(spec_from_json(dataset.spec[name]), (name,))
        return Layout({column.key: column for column in dataset.schema.columns}, found)

    def choose(self, text: str, flag: str) -> list[Key]:
        """The columns that a comma-separated list names, all of `next` by `next`.

        Raises `UsageError` with the nearest name for one that is not there.
        """
        known = ["/".join(key) for key in self.columns]
        chosen: dict[Key, None] = {}
        for name in (part.strip().strip("/") for part in text.split(",")):
            found = [key for key in known if key == name or key.startswith(f"{name}/")]
            if not found:
                raise UsageError(f"{flag}: there is no column {name!r}; {nearest(name, known)}")
            chosen |= dict.fromkeys(tuple(key.split("/")) for key in found)
        return list(chosen)

    def with_next(self, keys: list[Key]) -> list[Key]:
        """These columns, and what is their next row's value where that is derived or named after them."""
        following = [
            key
            for key, column in self.columns.items()
            if (column.encoding == "derived" and column.of in keys)
            or (key[:1] == ("next",) and key[1:] in keys)
        ]
        return list(dict.fromkeys([*keys, *following]))

    def rename(self, names: dict[Key, Key]) -> None:
        """Gives columns other keys; what derives from them follows."""
        renamed = {}
        for key, column in self.columns.items():
            of = None if column.of is None else names.get(column.of, column.of)
            key = names.get(key, key)
            if key in renamed:
                raise UsageError(f"--rename: there is a column {'/'.join(key)!r} already")
            renamed[key] = replace(column, key=key, of=of)
        self.columns = renamed
        self.leaves = {names.get(key, key): leaf for key, leaf in self.leaves.items()}

    def store(self, key: Key) -> None:
        """A derived column becomes a stored one, and so do its stacks, which would be others then."""
        column = self.columns[key]
        self.is_stored |= column.encoding == "derived" or (column.encoding == "stack" and key[0] == "next")
        kind = "plain" if column.heap is None else "heap"
        self.columns[key] = Column(key, column.dtype, column.shape, kind, heap=column.heap)  # type: ignore[arg-type]
        if column.encoding == "derived":
            for stack in [c.key for c in self.columns.values() if c.encoding == "stack" and c.of == key]:
                self.store(stack)

    def settle(self) -> None:
        """Columns whose source is gone, or of another kind, become stored ones."""
        for column in list(self.columns.values()):
            if column.encoding not in ("derived", "stack"):
                continue
            source = self.columns.get(column.of or ())
            if source is None or (column.encoding == "derived" and source.encoding not in ("plain", "heap")):
                self.store(column.key)
                continue
            shift = column.encoding == "derived"
            fresh = (
                shift_column(column.key, source) if shift else stack_column(column.key, source, column.frames)
            )
            if fresh != column:
                self.store(column.key)

    def schema(self) -> Schema:
        """Raises `IncompatibleError` if no dataset can have these columns."""
        self.settle()
        return Schema(tuple(self.columns.values()))

    def spec(self, source: Dataset) -> dict[str, Any]:
        """The spec of the result: that of `source` with the spaces as they are now.

        Where observations or actions are no longer what the recorded environment gives and takes, it has no
        environment; `extra` keeps that as `source_env`.
        """
        spec = dict(source.spec)
        before = Layout.of(source)
        for name in SPACES:
            now = self._space(name)
            if now == before._space(name):
                continue
            self.fits_env = False
            spec.pop(name, None)
            if sized := {key: leaf for key, leaf in now.items() if leaf is not None}:
                spec[name] = _nested(sized, name).to_json()
        if not self.fits_env and spec.get("env") is not None:
            self.extra["source_env"] = spec["env"]
            spec["env"] = None
        return spec

    def _space(self, name: str) -> dict[Key, Leaf | None]:
        """The leaf of every column below `name`; None for values of any length, which no leaf describes."""
        return {
            key: (self.leaves.get(key) or Box(column.shape, column.dtype)) if column.is_sized else None
            for key, column in self.columns.items()
            if key[0] == name
        }


def _nested(found: dict[Key, Leaf], name: str) -> Spec:
    if (name,) in found:
        return found[(name,)]
    fields: dict[str, dict[Key, Leaf]] = {}
    for key, leaf in found.items():
        fields.setdefault(key[1], {})[key[1:]] = leaf
    return Composite({part: _nested(inside, part) for part, inside in fields.items()})
