"""What a sampler draws from: the columns and the rows of a dataset, worked out once per snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli import _native
from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.format.memory import allowed_bytes
from rlcli.format.schema import Column
from rlcli.format.specs import Key
from rlcli.replay.block import Block, Layout
from rlcli.replay.runs import Runs, runs_of
from rlcli.replay.streams import Rows
from rlcli.replay.to_go import TO_GO, RewardsToGo
from rlcli.transforms.transform import NEWEST, Episodic


@dataclass(frozen=True)
class Eligible:
    """`count` rows from `low` on, but for some: `gaps[j]` of them lie before the j-th that is left out."""

    low: int
    count: int
    gaps: Rows

    def row(self, position: Rows) -> Rows:
        """The rows at these positions among the eligible ones."""
        return self.low + position + np.searchsorted(self.gaps, position, side="right")


class Source:
    """The newest `capacity` rows of a dataset (None: all), and the columns under `keys` (None: all but those
    whose values are of any length: text, bytes).

    `episodic` says what more is wanted of a row's episode. With `frames` observations are stacks,
    `[B, frames, …]`: the last ones, oldest first, before the first one that one again; next ones likewise.
    With `to_go` there is a leaf `reward_to_go` `[B, 1]`, and only rows of whole episodes are eligible.
    Rows whose next observation is unknown are not eligible if a next observation is among the columns.
    The dataset may grow: `refresh` it, and what is asked next sees more.
    One larger than the memory we may use is told that rows are read at random (`Dataset.expect_random`).
    Raises `IncompatibleError` if the dataset has nothing under a key, or observations that do not stack.
    """

    def __init__(
        self,
        dataset: Dataset,
        keys: Sequence[Key] | None = None,
        capacity: int | None = None,
        episodic: Episodic = NEWEST,
    ) -> None:
        self.dataset = dataset
        self.to_go = None if episodic.to_go is None else RewardsToGo(dataset, episodic.to_go[0])
        made = () if self.to_go is None else (TO_GO,)
        named = [c for c in dataset.schema.columns if is_under(c.key, keys) and c.key not in made]
        self.columns = [column for column in named if column.is_sized]
        if keys is not None and len(self.columns) < len(named):
            odd = next("/".join(column.key) for column in named if not column.is_sized)
            raise IncompatibleError(
                f"{dataset.path}: values of {odd} are of any length, and batches are arrays"
            )
        self.keys = (*(column.key for column in self.columns), *made)
        self.capacity = capacity
        self.frames = frames = episodic.frames
        self.stacked = {column.key: column for column in self.columns if frames and _is_observation(column)}
        for key, column in self.stacked.items():  # says so if it cannot be
            none = np.empty((0, frames, *column.shape), column.numpy)
            dataset.stack_into(np.zeros(0, np.int64), key, frames, none)
        self.needs_next = any(column.key[:2] == ("next", "observation") for column in named)
        self._eligible: tuple[int, Eligible] | None = None
        self._runs: dict[bool, tuple[int, Runs]] = {}
        for wanted in keys or ():
            if not any(is_under(key, [wanted]) for key in self.keys):
                raise IncompatibleError(f"{dataset.path} has no column {'/'.join(wanted)}")
        if self._stored_bytes > allowed_bytes():
            dataset.expect_random()

    @property
    def _stored_bytes(self) -> int:
        """What the columns take on disk."""
        schema, stored = self.dataset.schema, {column.key: column for column in self.columns}
        while any(column.of for column in stored.values()):  # a stack may be of a shift
            needed = (schema.column(column.of) if column.of else column for column in stored.values())
            stored = {column.key: column for column in needed}
        return self.dataset.num_rows * sum(column.row_bytes for column in stored.values())

    @property
    def snapshot(self) -> int:
        """Differs whenever other rows are committed or retained."""
        return self.dataset.changes

    @property
    def low(self) -> int:
        """The first row that may be drawn."""
        return 0 if self.capacity is None else max(0, self.dataset.num_rows - self.capacity)

    def unknown(self) -> Rows:
        """Rows from `low` on that may not be drawn, ascending."""
        unknown = self._unknown_next()
        if self.to_go is not None:
            unknown = np.union1d(unknown, self.to_go.unknown())
        return unknown[np.searchsorted(unknown, self.low) :]

    def _unknown_next(self) -> Rows:
        return self.dataset.unknown_next if self.needs_next else np.zeros(0, np.int64)

    def eligible(self) -> Eligible:
        """The rows that may be drawn."""
        if self._eligible is None or self._eligible[0] != self.snapshot:
            low, unknown = self.low, self.unknown()
            count = self.dataset.num_rows - low - len(unknown)
            self._eligible = (self.snapshot, Eligible(low, count, unknown - low - np.arange(len(unknown))))
        return self._eligible[1]

    def some(self) -> Eligible:
        """The rows that may be drawn. Raises `IncompatibleError` if there is none."""
        eligible = self.eligible()
        if eligible.count <= 0:
            which = " of which all that is asked is known" if self.dataset.num_rows else "s"
            raise IncompatibleError(f"{self.dataset.path} has no row{which}")
        return eligible

    def too_few(self, rows: int, batch_size: int, which: str = "") -> IncompatibleError:
        """What to raise where there are only so many rows for a batch."""
        there = f"{rows} row{'' if rows == 1 else 's'}{which}"
        return IncompatibleError(f"{self.dataset.path} has {there}, fewer than a batch of {batch_size}")

    def runs(self, *, across: bool = False) -> Runs:
        """The rows that may be drawn, by episode (or `across` them)."""
        found = self._runs.get(across)
        if found is None or found[0] != self.snapshot:
            runs = runs_of(self.dataset, self.low, self._unknown_next(), across=across)
            if self.to_go is not None:
                runs = runs.select(~np.isnan(self.to_go.values()[runs.start]))
            found = self._runs[across] = (self.snapshot, runs)
        return found[1]

    def layout(self, *axes: int) -> Layout:
        """Dtype and shape of the columns with these axes in front."""
        found: dict[Key, tuple[np.dtype[Any], tuple[int, ...]]] = {
            column.key: (column.numpy, (*axes, *self._stack_axes(column.key), *column.shape))
            for column in self.columns
        }
        return found if self.to_go is None else {**found, TO_GO: (np.dtype(np.float32), (*axes, 1))}

    def gather(self, rows: Rows, block: Block) -> None:
        """Writes the columns at `rows` into a block whose first leaves are those of `layout(len(rows))`."""
        target = self.target(block)
        if target is None or not target.gather(rows):
            self.read(rows, self.keys, block.columns[: len(self.keys)])

    def target(self, block: Block) -> _native.Target | None:
        """Such a block's memory, for a native draw that copies rows while it draws them.

        None where a column is made of others, or hashes have to be compared first: `gather` what was drawn.
        """
        if self.frames or self.to_go is not None:
            return None
        if block.bound is None or block.bound[0] is not self:
            block.bound = self, self.dataset.bind(self.keys, block.columns[: len(self.keys)])
        bound = block.bound[1]
        return None if bound is None else bound.target()

    def read(self, rows: Rows, keys: tuple[Key, ...], out: Sequence[NDArray[Any]]) -> None:
        """Writes some of the columns at `rows` `[B]` into arrays of their `layout`."""
        if self.frames or self.to_go is not None:
            targets = dict(zip(keys, out, strict=True))
            for key in [key for key in keys if key in self.stacked]:
                self.dataset.stack_into(rows, key, self.frames, targets.pop(key))
            if self.to_go is not None and TO_GO in targets:
                targets.pop(TO_GO)[:, 0] = self.to_go.values()[rows]
            keys, out = tuple(targets), list(targets.values())
        if keys:
            self.dataset.gather_into(rows, keys, out)

    def _stack_axes(self, key: Key) -> tuple[int, ...]:
        return (self.frames,) if key in self.stacked else ()


def _is_observation(column: Column) -> bool:
    return column.key[0] == "observation" or column.key[:2] == ("next", "observation")


def is_under(key: Key, nodes: Sequence[Key] | None) -> bool:
    """Whether a key is one of `nodes` or below one; None has everything below it."""
    return nodes is None or any(key[: len(node)] == node for node in nodes)
