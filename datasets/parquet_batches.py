"""Rows of Parquet files in order, a few MiB decoded at a time, however large the row groups are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.errors import CorruptError

_MAX_ROWS = 1 << 40


class Batches:
    """The rows of files of one schema, one file after the other.

    `opened` are `pyarrow.parquet.ParquetFile`; `damage` turns what pyarrow says of one into our errors.
    Raises `CorruptError` for row counts that cannot be.
    """

    def __init__(
        self,
        files: Sequence[Path],
        opened: Sequence[Any],
        damage: Callable[[Path], AbstractContextManager[None]],
    ) -> None:
        self._files, self._opened, self._damage = files, opened, damage
        self._starts = [0]  # of row groups
        self.groups: list[tuple[int, int]] = []  # file, row group; those with rows
        for number, (path, file) in enumerate(zip(files, opened, strict=True)):
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if not 0 <= rows <= _MAX_ROWS:
                    raise CorruptError(f"{path}: a row group of {rows:,} rows", path=path)
                if rows:
                    self.groups.append((number, group))
                    self._starts.append(self._starts[-1] + rows)
        self._names: list[str] | None = []  # columns of the batches that come now
        self._next = 0  # their first row
        self._coming: Iterator[tuple[Path, Any]] = iter(())
        self._rest: tuple[Path, Any] | None = None  # what the last call left of a batch

    def __len__(self) -> int:
        return self._starts[-1]

    def read(
        self, names: list[str] | None, start: int, stop: int, batch_rows: int
    ) -> Iterator[tuple[Path, Any]]:
        """`(file, record batch)` of rows `start … stop - 1` of the columns `names`, or all.

        Where the last call ended with the same columns, nothing is decoded again. Take all of them.
        """
        if names != self._names or not self._can_reach(start):
            group = int(np.searchsorted(self._starts, start, side="right")) - 1
            self._coming, self._rest = self._from(group, names, batch_rows), None
            self._names, self._next = names, self._starts[group]
        while self._next < stop:
            file, batch = self._rest or next(self._coming)
            skipped = min(len(batch), max(0, start - self._next))
            taken = min(len(batch), stop - self._next) - skipped
            self._next += skipped + max(0, taken)
            left = batch.slice(skipped + max(0, taken))
            self._rest = (file, left) if len(left) else None
            if taken > 0:
                yield file, batch.slice(skipped, taken)

    def _can_reach(self, start: int) -> bool:
        """Whether rows come before the next row group's; skipping more than that costs more than a seek."""
        after = int(np.searchsorted(self._starts, self._next, side="right"))
        return self._next <= start and (
            start < self._starts[min(after, len(self._starts) - 1)] or start == self._next
        )

    def _from(self, first: int, names: list[str] | None, batch_rows: int) -> Iterator[tuple[Path, Any]]:
        for number in range(first, len(self.groups)):
            at, group = self.groups[number]
            path, declared = self._files[at], self._starts[number + 1] - self._starts[number]
            with self._damage(path):
                batches = self._opened[at].iter_batches(
                    batch_rows, row_groups=[group], columns=names, use_threads=True
                )
            found = 0
            while True:
                with self._damage(path):
                    batch = next(batches, None)
                if batch is None:
                    break
                found += len(batch)
                if found <= declared:
                    yield path, batch
            if found != declared:
                raise CorruptError(
                    f"{path}: row group {group} has {found:,} rows, not as declared", path=path
                )
