"""Compares data with its hashes when it is first touched, so that no flipped bit is handed out.

SPEC.md 7 and 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from rlcli.errors import CorruptError
from rlcli.format import files, sums
from rlcli.format.journal import Commit
from rlcli.format.keys import Key, path_of
from rlcli.format.mapping import MappedSegment
from rlcli.format.schema import Schema
from rlcli.format.sums import BLOCK, FileSum

Array = np.ndarray[Any, Any]


class Checker:
    """Remembers what of a dataset was compared with its hashes.

    A sealed segment is checked by blocks of its files, an open one by whole commits of all columns.
    """

    def __init__(self, root: Path, schema: Schema) -> None:
        self._root = root
        self._schema = schema
        self._sums: dict[str, dict[str, FileSum]] = {}
        self._blocks: dict[tuple[str, str], Array] = {}  # which blocks of a file were right
        self._commits: dict[str, list[Commit]] = {}  # not compared yet
        self._done: set[Key] = set()

    def is_done(self, keys: Sequence[Key]) -> bool:
        """Everything of these columns was compared."""
        return self._done.issuperset(keys)

    def set_done(self, keys: Sequence[Key]) -> None:
        self._done.update(keys)

    def commits(self, mapped: MappedSegment, commits: list[Commit]) -> None:
        """Takes note of new commits of an open segment, emptying the list."""
        self._commits.setdefault(mapped.entry.name, []).extend(commits)
        commits.clear()
        self._done.clear()

    def segment(self, mapped: MappedSegment) -> None:
        """Takes note of a sealed segment and compares all its files but columns and finals."""
        entry = mapped.entry
        self._commits.pop(entry.name, None)
        self._done.clear()
        found = sums.load(self._root, entry)
        self._sums[entry.name] = found
        for name, expected in found.items():
            if name.endswith(".memmap") and name.split("/")[0] in ("segments", "finals"):
                continue
            path = self._root / name
            fd = files.open_read(path, expected.bytes)
            try:
                data = files.read_at(fd, expected.bytes, 0)
            finally:
                files.close(fd)
            if sums.of_bytes(data).blocks != expected.blocks:
                raise CorruptError(f"{path}: differs from its hash", path=path)

    def column(self, mapped: MappedSegment, key: Key) -> None:
        """Compares a whole column of a segment; a derived one: what it derives from, and its finals."""
        column = self._schema.column(key)
        source = column.of or column.key
        if not mapped.entry.sealed:
            self._compare_commits(mapped)
            return
        position = [c.key for c in self._schema.plain].index(source)
        self._compare(mapped, "segments", source, mapped.columns[position], None)
        if column.of is not None and mapped.finals:
            position = self._schema.derived.index(column)
            self._compare(mapped, "finals", key, mapped.finals[position][: mapped.entry.finals], None)

    def rows(self, mapped: MappedSegment, key: Key, low: int, high: int) -> None:
        """Compares the blocks that hold rows `low … high` of a segment's column, and all its finals if
        derived.
        """
        column = self._schema.column(key)
        if not mapped.entry.sealed:
            self._compare_commits(mapped)
            return
        source = self._schema.column(column.of or column.key)
        position = self._schema.plain.index(source)
        first, last = low * source.row_bytes // BLOCK, (high * source.row_bytes - 1) // BLOCK
        self._compare(mapped, "segments", source.key, mapped.columns[position], range(first, last + 1))
        if column.of is not None and mapped.finals:
            position = self._schema.derived.index(column)
            self._compare(mapped, "finals", key, mapped.finals[position][: mapped.entry.finals], None)

    def everything(self, mapped: MappedSegment) -> None:
        """Compares every column and final of a segment."""
        for column in self._schema.columns:
            self.column(mapped, column.key)

    def _compare(
        self, mapped: MappedSegment, tree: str, key: Key, array: Array, blocks: range | None
    ) -> None:
        name = f"{tree}/{mapped.entry.name}/{path_of(key)}"
        path = self._root / name
        expected = self._sums[mapped.entry.name].get(name)
        if expected is None or expected.bytes != array.nbytes:
            raise CorruptError(f"{path}: its sums file does not name it with {array.nbytes} bytes", path=path)
        right = self._blocks.setdefault((mapped.entry.name, name), np.zeros(len(expected.blocks), bool))
        if right.all():
            return
        data = array.reshape(-1).view(np.uint8)
        for block in range(len(right)) if blocks is None else blocks:
            if right[block]:
                continue
            if (
                xxhash.xxh3_64_hexdigest(data[block * BLOCK : (block + 1) * BLOCK].data)
                != expected.blocks[block]
            ):
                raise CorruptError(f"{path}: block {block} differs from its hash", path=path)
            right[block] = True

    def _compare_commits(self, mapped: MappedSegment) -> None:
        waiting = self._commits.get(mapped.entry.name, [])
        for commit in waiting:
            if commit_hash(mapped, commit) != commit.hash:
                first = mapped.entry.first + commit.first
                raise CorruptError(
                    f"{mapped.paths.columns}: stream rows {first} to {first + commit.rows} differ from their "
                    "commit's hash",
                    path=mapped.paths.columns,
                )
        waiting.clear()


def commit_hash(mapped: MappedSegment, commit: Commit) -> int:
    """The hash of a commit's rows and finals, from their bytes. SPEC.md section 7."""
    stop = commit.first + commit.rows
    digests = [xxhash.xxh3_64_digest(array[commit.first : stop].data) for array in mapped.columns]
    if mapped.finals:
        digests += [
            xxhash.xxh3_64_digest(a[commit.finals_before : commit.finals].data) for a in mapped.finals
        ]
    else:
        digests += [xxhash.xxh3_64_digest(b"")] * len(mapped.schema.derived)
    return xxhash.xxh3_64_intdigest(b"".join(digests))
