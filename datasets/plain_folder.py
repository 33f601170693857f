"""Plain files of one kind in a folder as one table: a file's rows follow those of the file before it.

So are episodes of many robots published, a file each, and replay of which each file holds some episodes. No
episode goes on in the next file, whatever its flags say.
"""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.datasets.plain_table import Arrays, Field, Table
from rlcli.datasets.regular import by_numbers
from rlcli.datasets.rlds_images import Picture
from rlcli.datasets.stopping import heeding
from rlcli.errors import InputError
from rlcli.format.keys import Key

ONE_BY_ONE = "convert the files one by one; rl buffer merge joins what comes of them"
_FILE = "file"  # the column of the names of files
_FILE_KEY: Key = ("info", "episode", "file")
_TOLD = ("layout", "chunk_rows", "others", "unreadable", "remarks")  # of a table, as JSON
_MAX_OTHERS = 1 << 18  # characters of JSON


def files_of(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files in a folder that end so, by name; numbers in names count as such, so that 2 is before 10."""
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if file.suffix.lower() in suffixes and file.is_file())
    return sorted(files, key=lambda file: by_numbers(file.name))


class FolderTable(Table):
    """The tables of several files as rows. See `plain_table.Table`; `opened` opens the one of a file.

    `plan` is that of an earlier table of the folder, so that not every file is opened again.
    """

    can_seek = True
    by_file = True

    def __init__(
        self,
        folder: Path,
        files: Sequence[Path],
        opened: Callable[[Path], AbstractContextManager[Table]],
        plan: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(folder)
        if not files:
            raise InputError(f"{folder}: no file of this format there", path=folder)
        self.files, self._opened = list(files), opened
        self._stack, self._at = ExitStack(), -1
        self._table: Table | None = None
        self._counts: dict[str, list[int]] = {}
        self._starts = [0]  # the first row of each file, and the number of rows
        if plan is None:
            self._look_through(folder)
        else:
            self._recall(plan)
        self.plan = {
            "files": [file.name for file in self.files],
            "counts": self._counts,
            "fields": {
                name: [f.dtype.str, list(f.shape), f.picture and list(f.picture), f.is_bytes]
                for name, f in self.fields.items()
            },
            **{name: getattr(self, name) for name in _TOLD},
        }
        self.fields = {
            name: replace(found, rows=sum(self._counts[name])) for name, found in self.fields.items()
        }
        if _FILE not in self.fields:
            self.told = {_FILE: _FILE_KEY}
            self.fields[_FILE] = Field(np.dtype(object), (), 0)

    def _look_through(self, folder: Path) -> None:
        """Opens every file for what it holds."""
        told = 0
        for number, file in enumerate(heeding(self.files)):
            with self._opened(file) as table:
                self._take(table, number)
                self.remarks += [remark for remark in table.remarks if remark not in self.remarks]
                self.unreadable |= table.unreadable
                self.chunk_rows = max(self.chunk_rows, table.chunk_rows)
                told += len(json.dumps(table.others))
                if table.others and told < _MAX_OTHERS:
                    self.others[file.name] = table.others
        if others := sum(1 for _ in folder.iterdir()) - len(self.files):
            self.remarks.append(f"{others:,} other entries of the folder are not read")
        if told >= _MAX_OTHERS:
            self.unreadable["single values"] = f"of {len(self.files) - len(self.others):,} files are too many"

    def _recall(self, plan: Mapping[str, Any]) -> None:
        """What `plan` says of the files, none of which is opened."""
        self.files = [self.path / name for name in plan["files"]]
        self._counts = {name: list(counts) for name, counts in plan["counts"].items()}
        for name, (dtype, shape, picture, is_bytes) in plan["fields"].items():
            seen = None if picture is None else Picture(*picture)
            self.fields[name] = Field(np.dtype(dtype), tuple(shape), 0, seen, is_bytes)
        for name in _TOLD:
            setattr(self, name, plan[name])

    def _take(self, table: Table, number: int) -> None:
        """Notes the arrays of a file. Raises `InputError` unless they are those of the first."""
        self.layout = table.layout
        for name in {**self.fields, **table.fields}:
            found, known = table.fields.get(name), self.fields.get(name)
            if number == 0 and found is not None:
                self.fields[name], self._counts[name] = found, [found.rows]
            elif found is None or known is None:
                missing = self.files[number if found is None else 0]
                raise InputError(
                    f"{missing}: has no {name}, which {self.files[0 if found is None else number]} has",
                    hint=ONE_BY_ONE,
                    path=missing,
                )
            elif replace(found, rows=0) != replace(known, rows=0):
                raise InputError(
                    f"{self.files[number]}: {name} has {found.dtype}{list(found.shape)} per row, in "
                    f"{self.files[0]} {known.dtype}{list(known.shape)}",
                    hint=ONE_BY_ONE,
                    path=self.files[number],
                )
            else:
                self._counts[name].append(found.rows)

    def settle(self, names: Sequence[str]) -> None:
        """See `Table`. Raises `InputError` where they disagree in a file."""
        counts = self._counts[names[0]]
        for name, number in itertools.product(self._counts, range(len(counts))):
            if self._counts[name][number] != counts[number] and (
                name in names or self.fields[name].rows == sum(counts)
            ):
                raise InputError(
                    f"{self.files[number]}: lengths disagree: {names[0]} {counts[number]:,}, "
                    f"{name} {self._counts[name][number]:,}",
                    path=self.files[number],
                )
        self._starts = [0, *itertools.accumulate(counts)]
        self.file_ends = self._starts[1:]
        for name in self.told:
            self.fields[name] = replace(self.fields[name], rows=sum(counts))

    def read(self, names: Sequence[str], start: int, stop: int) -> Arrays:
        """Rows of some fields, of as many files as they are in."""
        number = bisect.bisect_right(self._starts, start) - 1
        if stop <= self._starts[number + 1]:
            return self._read(names, number, start, stop)
        arrays = {name: self.empty(name, stop - start) for name in names}
        at = start
        while at < stop:
            number = bisect.bisect_right(self._starts, at) - 1
            end = min(stop, self._starts[number + 1])
            for name, values in self._read(names, number, at, end).items():
                arrays[name][at - start : end - start] = values
            at = end
        return arrays

    def _read(self, names: Sequence[str], number: int, start: int, stop: int) -> Arrays:
        """Rows of the file with this number; `start` and `stop` count from the first row of all."""
        if number != self._at or self._table is None:
            self.close()
            self._table = self._stack.enter_context(self._opened(self.files[number]))
            self._at = number
        first = self._starts[number]
        inside = [name for name in names if name not in self.told]
        arrays = self._table.read(inside, start - first, stop - first)
        for name in names:
            if name in self.told:
                arrays[name] = np.full(stop - start, self.files[number].name, object)
        return arrays

    def close(self) -> None:
        """Closes the file that is open."""
        self._table = None
        self._stack.close()
