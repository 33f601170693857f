"""What `rl buffer sample` draws: rows, or batches of any sampler as columns, behind transforms or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from rlcli.algorithms.transformed import Transformed
from rlcli.collectors.nested import flatten
from rlcli.errors import IncompatibleError, UsageError
from rlcli.format.copying import chunk_rows
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.nested import nest
from rlcli.format.schema import Column
from rlcli.format.specs import spec_from_json
from rlcli.format.values import as_numbers
from rlcli.pipeline.map_block import Array, Rows
from rlcli.replay.block import Block
from rlcli.replay.choice import make_sampler
from rlcli.replay.priority_sampler import ROW, WEIGHT
from rlcli.replay.sampler import DatasetSampler, RowSampler
from rlcli.replay.slices import VALID
from rlcli.transforms.transform import NEWEST, parse_transform

MOST_ROWS = 1 << 30  # their numbers alone are 8 GiB


@dataclass
class Drawn:
    """A batch: `columns` `[B, …]`, of slices `[B, T, …]`, and which steps of those are `valid` `[B, T]`.

    The weight of a slice is that of each of its steps.
    `rows` `[B]` are the logical rows where the sampler says which they are: of slices the first that counts.
    """

    columns: dict[Key, Array]
    rows: Rows | None
    valid: Array | None


class Draw:
    """The sampler that a command names, and `count` rows or slices of it. Close it.

    Raises `UsageError` for a wrong name, option or number, `IncompatibleError` if the dataset lacks a column.
    """

    def __init__(
        self,
        dataset: Dataset,
        count: int,
        *,
        seed: int,
        sampler: str,
        sets: Sequence[str],
        transforms: Sequence[str] = (),
    ) -> None:
        if count < 1:
            raise UsageError(f"-n must be at least 1, got {count}")
        if count > MOST_ROWS:
            raise UsageError(
                f"-n must be at most {MOST_ROWS:,}, got {count:,}; draw in parts, with other seeds"
            )
        if not 0 <= seed < 2**63:
            raise UsageError(f"--seed must be a whole number from 0 to 2^63 - 1, got {seed}")
        self.dataset, self.count = dataset, count
        self._view = _view(dataset, transforms) if transforms else None
        self._known: dict[str, Any] | None = None  # what transforms have learned
        episodic = NEWEST if self._view is None else self._view.episodic
        keys = None
        if episodic.to_go is not None:  # a reward to go is not known of next observations
            keys = [
                c.key for c in dataset.schema.columns if c.is_sized and c.key[:2] != ("next", "observation")
            ]
        self.sampler: DatasetSampler[Any] = make_sampler(
            sampler, dataset, sets=sets, keys=keys, seed=seed, episodic=episodic
        )
        layout = self.sampler.layout(1)
        self.axes = 2 if VALID in layout else 1
        self._names_rows = ROW in layout
        self.steps = layout[VALID][1][1] if VALID in layout else 1
        self.added = [
            Column(key, dtype.name, shape[1:] if key == WEIGHT else shape[self.axes :])
            for key, (dtype, shape) in layout.items()
            if key not in (*self.sampler.source.keys, ROW, VALID)
        ]

    @property
    def names_rows(self) -> bool:
        """Whether each thing drawn is one row of the dataset, and which is known."""
        return self.axes == 1 and (isinstance(self.sampler, RowSampler) or self._names_rows)

    @property
    def takes_rows(self) -> bool:
        """Whether what is drawn is nothing but rows of the dataset."""
        return isinstance(self.sampler, RowSampler) and self._view is None

    def rows(self) -> Rows:
        """All logical rows of such a sampler, in one batch."""
        assert isinstance(self.sampler, RowSampler)
        return self.sampler.rows(self.count)

    def batches(self) -> Iterator[Drawn]:
        """Batches of about 8 MiB."""
        most = max(1, chunk_rows(self.dataset) // self.steps)
        for first in range(0, self.count, most):
            size = min(most, self.count - first)
            block = Block(self.sampler.layout(size))
            rows = self._fill(block, size)
            values = {key: array for key, array in block.arrays.items() if key != ROW}
            if self.axes == 2 and WEIGHT in values:
                values[WEIGHT] = np.repeat(values[WEIGHT][:, None], self.steps, axis=1)
            valid = block.arrays[VALID][..., 0] if VALID in block.arrays else None
            yield Drawn(values, rows, valid)

    def close(self) -> None:
        """Lets go of what the sampler keeps beside the data."""
        self.sampler.close()

    def seen(self, drawn: Drawn) -> dict[Key, Array]:
        """A batch's columns as numbers, behind the transforms: what an update would see.

        As in training, transforms learn from a batch after that; so ask for each batch once, in order.
        """
        columns = drawn.columns
        for column in self.sampler.source.columns:
            columns = {**columns, column.key: as_numbers(column, columns[column.key])}
        if self._view is None:
            return columns
        import torch

        size = next(iter(columns.values())).shape[: self.axes]
        flat = (
            torch.from_numpy(values.reshape(-1, *values.shape[self.axes :])) for values in columns.values()
        )
        if self._known is None:
            self._known = self._view.init(None, None, None)
        self._known, seen = self._view.update(self._known, nest(columns, flat), None, None)
        found: Iterator[tuple[Key, Any]] = flatten(seen, ())
        return {key: value.numpy().reshape(*size, *value.shape[1:]) for key, value in found}

    def _fill(self, block: Block, size: int) -> Rows | None:
        """Makes the next batch; returns its logical rows if they are known."""
        if isinstance(self.sampler, RowSampler):
            rows = self.sampler.rows(size)
            self.sampler.source.gather(rows, block)
            return rows
        self.sampler.fill(block, size)
        return self.dataset.rows_of(block.arrays[ROW]) if ROW in block.arrays else None


def _view(dataset: Dataset, transforms: Sequence[str]) -> Transformed:
    """Transforms before an algorithm that tells what it sees."""
    if "observation" not in dataset.spec:
        raise IncompatibleError(f"{dataset.path} has no observations to transform")
    teller: Any = ModuleType("teller")
    teller.COLUMNS, teller.ON_POLICY = (), False
    teller.init = lambda *_: {}
    teller.update = lambda _state, batch, *_: ({}, batch)
    observation = spec_from_json(dataset.spec["observation"])
    return Transformed(teller, [parse_transform(word) for word in transforms], observation)
