"""Rows of Parquet files in order, a few MiB decoded at a time, however large the row groups are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.datasets.ahead import InTurn
from rlcli.errors import CorruptError

_MAX_ROWS = 1 << 40
_GROUP_BYTES = 8 << 20  # of a row group that is decoded at once, which takes less time
_BATCHES = 8  # of such a one
_READ_BYTES = 1 << 20  # of a column of others that are read at once


def read_bytes(metadata: Any) -> int:
    """How many bytes of a column are to be read at once, for `pyarrow.parquet`; 0 for all of a row group."""
    groups = range(metadata.num_row_groups)
    is_small = all(metadata.row_group(group).total_byte_size <= _GROUP_BYTES for group in groups)
    return 0 if is_small else _READ_BYTES


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
        self._coming: InTurn[tuple[Path, Any]] | None = None
        self._taken = 0  # of what comes
        self._rest: tuple[Path, Any] | None = None  # what the last call left of a batch

    def __len__(self) -> int:
        return self._starts[-1]

    def read(
        self, names: list[str] | None, start: int, stop: int, batch_rows: int
    ) -> Iterator[tuple[Path, Any]]:
        """`(file, record batch)` of rows `start … stop - 1` of the columns `names`, or all.

        `batch_rows` are decoded at once, or all of a row group that has not many more, and as many while
        these are in use. Where the last call ended with the same columns, nothing is decoded again. Take all
        of them.
        """
        if names != self._names or not self._can_reach(start):
            group = int(np.searchsorted(self._starts, start, side="right")) - 1
            self.close()
            self._coming, self._taken = InTurn(self._taker(group, names, batch_rows), _MAX_ROWS), 0
            self._names, self._next, self._rest = names, self._starts[group], None
        while self._next < stop:
            file, batch = self._rest or self._take()
            skipped = min(len(batch), max(0, start - self._next))
            taken = min(len(batch), stop - self._next) - skipped
            self._next += skipped + max(0, taken)
            left = batch.slice(skipped + max(0, taken))
            self._rest = (file, left) if len(left) else None
            if taken > 0:
                yield file, batch.slice(skipped, taken)
            del batch, left

    def slices(self, start: int, stop: int, rows: int) -> Iterator[tuple[int, int]]:
        """Ranges of at most `rows` that make up `start … stop - 1`, cut where row groups end if that fits."""
        while start < stop:
            most = min(stop, start + rows)
            after = self._starts[int(np.searchsorted(self._starts, most, side="right")) - 1]
            end = after if start < after and most < stop else most
            yield start, end
            start = end

    def close(self) -> None:
        """Ends what is decoded ahead, also where a thread waits for it."""
        if self._coming is not None:
            self._coming.close()
            self._coming = None

    def _can_reach(self, start: int) -> bool:
        """Whether rows come before the next row group's; skipping more than that costs more than a seek."""
        after = int(np.searchsorted(self._starts, self._next, side="right"))
        return self._next <= start and (
            start < self._starts[min(after, len(self._starts) - 1)] or start == self._next
        )

    def _take(self) -> tuple[Path, Any]:
        assert self._coming is not None
        self._taken += 1
        return self._coming(self._taken - 1)

    def _taker(
        self, first: int, names: list[str] | None, batch_rows: int
    ) -> Callable[[int], tuple[Path, Any]]:
        items = self._from(first, names, batch_rows)
        return lambda number: next(items)

    def _from(self, first: int, names: list[str] | None, batch_rows: int) -> Iterator[tuple[Path, Any]]:
        for number in range(first, len(self.groups)):
            at, group = self.groups[number]
            path, declared = self._files[at], self._starts[number + 1] - self._starts[number]
            with self._damage(path):
                batches = self._batches(at, group, names, batch_rows)
            found = 0
            while True:
                with self._damage(path):
                    batch = next(batches, None)
                if batch is None:
                    break
                found += len(batch)
                if found <= declared:
                    yield path, batch
                del batch  # before the next is decoded
            if found != declared:
                raise CorruptError(
                    f"{path}: row group {group} has {found:,} rows, not as declared", path=path
                )

    def _batches(self, at: int, group: int, names: list[str] | None, batch_rows: int) -> Iterator[Any]:
        """The record batches of a row group."""
        opened = self._opened[at]
        told = opened.metadata.row_group(group)
        if told.total_byte_size <= _GROUP_BYTES and told.num_rows <= _BATCHES * batch_rows:
            return iter(opened.read_row_group(group, columns=names, use_threads=True).to_batches())
        found: Iterator[Any] = opened.iter_batches(
            batch_rows, row_groups=[group], columns=names, use_threads=True
        )
        return found
