"""The records of an RLDS shard, many at once: those in a row that are alike are read as one Example.

To handle a record costs as much as thousands of its steps. So a run of records whose features are the same,
with the same ones empty, is merged natively: every list is that of all records in turn. What is done for the
steps of an episode then is done once for those of many. Records that are not alike, or that are damaged, are
runs of their own, so that whatever is said of them names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli import _native
from rlcli.datasets.ahead import next_ahead
from rlcli.datasets.example import Values, decode_any
from rlcli.datasets.features import Field
from rlcli.datasets.rlds_directory import Shard
from rlcli.datasets.rlds_values import counts
from rlcli.errors import CorruptError, IncompatibleError

FLAGS = ("is_first", "is_last", "is_terminal")
Decode = Callable[[bytes], dict[str, Values]]  # a record as the features of an RLDS episode


@dataclass(frozen=True)
class Run:
    """Records of one file, in order, as one Example.

    `counts` has how many values each record has under each name, `[records]`; `numbers` how many elements of
    each feature, and `lengths` its steps: only a record alone may have none. `positions` are those that
    errors name.
    """

    path: Path
    positions: Sequence[int] | NDArray[np.int64]
    example: Mapping[str, Values]
    counts: Mapping[str, NDArray[np.int64]]
    numbers: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @staticmethod
    def of(path: Path, position: int, example: Mapping[str, Values]) -> Run:
        """A record alone."""
        sizes = {name: np.array([len(v)], np.int64) for name, v in example.items() if v is not None}
        return Run(path, [position], example, sizes)

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Behind the last step of each record."""
        return np.cumsum(self.lengths)

    @cached_property
    def _starts(self) -> dict[str, NDArray[np.int64]]:
        return {name: np.cumsum(sizes) - sizes for name, sizes in self.counts.items()}

    @property
    def num_steps(self) -> int:
        """Steps of all records together."""
        return int(self.lengths.sum())

    def record(self, index: int) -> Mapping[str, Values]:
        """The features of one record."""
        if len(self) == 1:
            return self.example
        found: dict[str, Values] = {}
        for name, values in self.example.items():
            if values is None:
                found[name] = None
                continue
            start = int(self._starts[name][index])
            found[name] = values[start : start + int(self.counts[name][index])]
        return found

    def alone(self) -> Iterator[Run]:
        """Each record as a run of its own."""
        for index, position in enumerate(self.positions):
            one = slice(index, index + 1)
            sizes, numbers = (
                {name: found[one] for name, found in each.items()} for each in (self.counts, self.numbers)
            )
            yield Run(self.path, [position], self.record(index), sizes, numbers, self.lengths[one])

    def flag(self, name: str) -> NDArray[np.bool_] | None:
        """The flag `steps/<name>` of each step, None where it is absent."""
        values = self.example.get(f"steps/{name}")
        if not isinstance(values, np.ndarray) or len(values) != self.num_steps:
            return None
        return np.asarray(values != 0)


def runs(
    shard: Shard,
    fields: Sequence[Field],
    wanted: dict[str, bool],
    decode: Decode | None = None,
) -> Iterator[Run]:
    """The records of a shard, in order; the next ones are read meanwhile. Byte strings may be views.

    Of `wanted` features there are values (True: perhaps as uint8, if small), of all there are counts. With
    `decode` every record is alone, with all it has. Raises `CorruptError` that names file and position.
    """
    for run in _merged(shard, wanted) if decode is None else _alone(shard, decode):
        try:
            whole = _with_steps(run, fields)
        except CorruptError:
            whole = None  # its record shall be told
        if whole is not None and (len(run) == 1 or _is_alike(whole, fields)):
            yield whole
            continue
        for one in run.alone():
            with at(one.path, one.positions[0]):
                alone = _with_steps(one, fields)
            yield alone


@contextmanager
def at(path: Path, position: Any) -> Iterator[None]:
    """Errors about a record name its file and where it begins."""
    try:
        yield
    except CorruptError as err:
        raise CorruptError(f"{path}: record at {position:,}: {err.message}", path=path) from err
    except IncompatibleError as err:
        raise IncompatibleError(f"{path}: record at {position:,}: {err.message}", path=path) from err


def _alone(shard: Shard, decode: Decode) -> Iterator[Run]:
    for position, record in shard.read():
        with at(shard.path, position):
            example = decode(record)
        yield Run.of(shard.path, position, example)


def _merged(shard: Shard, wanted: dict[str, bool]) -> Iterator[Run]:
    for block in next_ahead(shard.blocks()):
        first, total = 0, len(block.starts)
        while first < total:
            number, values, sizes = _native.merge_examples(
                block.data, block.starts[first:], block.sizes[first:], wanted, True
            )
            positions = block.positions[first : first + max(1, number)]
            if number:
                yield Run(shard.path, positions, values, sizes)
            else:
                with at(shard.path, positions[0]):
                    example = decode_any(block.record(first))
                yield Run.of(shard.path, int(positions[0]), example)
            first += len(positions)


def _with_steps(run: Run, fields: Sequence[Field]) -> Run:
    """The run with its elements and steps. Raises `CorruptError` unless all features that are there agree."""
    numbers = {item.name: counts(item, run.counts, len(run)) for item in fields}
    agreed, by = np.zeros(len(run), np.int64), ""
    for item in fields:
        number = numbers[item.name]
        if item.path[0] != "steps" or not number.any():
            continue
        wrong = (agreed != 0) & (number != 0) & (number != agreed)
        if wrong.any():
            raise CorruptError(f"{by} has {agreed[wrong][0]:,} steps, {item.name} has {number[wrong][0]:,}")
        by = by or item.name
        agreed = np.where(agreed, agreed, number)
    return replace(run, numbers=numbers, lengths=agreed)


def _is_alike(run: Run, fields: Sequence[Field]) -> bool:
    """Whether each record by itself says the same as all of them as one."""
    if not run.lengths.all():
        return False
    for item in fields:
        if item.path[0] != "steps":
            continue
        rows = run.counts.get(f"{item.name}/ragged_row_lengths_0")
        shapes = run.counts.get(f"{item.name}/shape")
        if not item.lengths or (len(item.lengths) > 1 and rows is not None):
            return False
        if item.is_dynamic and shapes is not None and (shapes != run.lengths * len(item.shape)).any():
            return False
    flags = [found for name in FLAGS if (found := run.counts.get(f"steps/{name}")) is not None]
    return all((found == run.lengths).all() for found in flags)
