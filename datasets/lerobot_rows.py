"""Rows of LeRobot's data files as Arrow tables; one row group of one file is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.lerobot_tables import Tables
from rlcli.errors import CorruptError, InputError


class DataRows:
    """The columns `wanted` of files below `root`, which are asked for one after the other."""

    def __init__(self, root: Path, tables: Tables, wanted: Sequence[str]) -> None:
        self._root, self._tables = root, tables
        self._wanted = list(wanted) or ["episode_index"]  # a table without columns has no rows
        self._opened: tuple[str, Any] = ("", None)
        self._stops: NDArray[np.int64] = np.zeros(0, np.int64)  # of its row groups
        self._held: tuple[str, int, Any] = ("", -1, None)  # the last one

    def close(self) -> None:
        if self._opened[1] is not None:
            self._opened[1].close()

    def read(self, name: str, start: int, stop: int) -> Any:
        """Rows of a file. Raises `InputError` for a column that it has not, `CorruptError` for damage."""
        path = self._root / name
        if self._opened[0] != name:
            self._open(name, path)
        opened, parts = self._opened[1], []
        there = opened.schema_arrow.names
        if lost := [column for column in self._wanted if column not in there]:
            raise InputError(f"{path}: no column {lost[0]}, which other files have", path=path)
        first = int(np.searchsorted(self._stops, start, side="right"))
        for group in range(first, len(self._stops)):
            at = int(self._stops[group - 1]) if group else 0
            if at >= stop:
                break
            if self._held[:2] != (name, group):
                self._held = ("", -1, None)
                with self._tables.damage(path):
                    table = opened.read_row_group(group, columns=self._wanted, use_threads=False)
                    table.validate(full=True)
                self._held = (name, group, table)
            low = max(start - at, 0)
            parts.append(self._held[2].slice(low, stop - at - low))
        table = self._tables.arrow.concat_tables(parts)
        if len(table) != stop - start:
            raise CorruptError(f"{path}: {len(table):,} rows where {stop - start:,} were", path=path)
        return table

    def _open(self, name: str, path: Path) -> None:
        self.close()
        self._opened = (name, self._tables.open(path))
        told = self._opened[1].metadata
        sizes = [told.row_group(number).num_rows for number in range(told.num_row_groups)]
        if min(sizes, default=0) < 0 or sum(sizes) != told.num_rows:
            raise CorruptError(f"{path}: damaged Parquet: row groups and rows disagree", path=path)
        self._stops = np.cumsum(sizes, dtype=np.int64)
