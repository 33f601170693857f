"""Rows of the columns of an RLDS dataset, out of runs of records: many episodes are converted at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from rlcli.datasets.rlds_columns import Stored
from rlcli.datasets.rlds_images import Dct
from rlcli.datasets.rlds_runs import Run
from rlcli.errors import CorruptError, IncompatibleError
from rlcli.format.keys import Key


class Rows:
    """The rows of a run, read in order. Those of short episodes are converted together, `step` of them."""

    def __init__(self, run: Run, stored: Sequence[Stored], step: int, dct: Dct) -> None:
        self.run = run
        self._per_step = [item for item in stored if not item.per_episode]
        self._per_episode = [item for item in stored if item.per_episode]
        self._step = step
        self._dct = dct
        self._ends: list[int] = run.ends.tolist()
        self._columns: Mapping[Key, Any] = {}  # of the steps from `_low` to `_high`
        self._low = self._high = 0
        names = [item.field.name for item in stored]
        self._missing = [name for name in names if not run.numbers[name].all()]

    def absent(self, record: int) -> list[str]:
        """The features that a record does not have, once for each column."""
        return [name for name in self._missing if not self.run.numbers[name][record]]

    def read(self, record: int, start: int, stop: int) -> dict[Key, Any]:
        """The columns of the steps `start … stop - 1` of the run, which are of that record."""
        if not self._low <= start < stop <= self._high:
            self._convert(start, stop)
        low = self._low
        columns = {key: values[start - low : stop - low] for key, values in self._columns.items()}
        if self._per_episode:
            example = self.run.record(record)
            for item in self._per_episode:
                columns[item.column.key] = item.rows(example, 0, stop - start, self._dct)
        return columns

    def _convert(self, start: int, stop: int) -> None:
        """Converts these steps and, if they are right, those of the next episodes."""
        fitting = bisect_right(self._ends, start + self._step)
        high = max(stop, self._ends[fitting - 1] if fitting else 0)
        try:
            self._columns = self._converted(start, high)
        except (CorruptError, IncompatibleError):
            if high == stop:
                raise
            high = stop
            self._columns = self._converted(start, stop)
        self._low, self._high = start, high

    def _converted(self, start: int, stop: int) -> dict[Key, Any]:
        example = self.run.example
        return {item.column.key: item.rows(example, start, stop, self._dct) for item in self._per_step}
