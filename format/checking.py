"""Compares data with its hashes when it is first touched, so that no flipped bit is handed out.

SPEC.md 7 and 8.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from rlcli.errors import CorruptError
from rlcli.format import bulk, sums
from rlcli.format.heap_file import heap_name
from rlcli.format.journal import Commit
from rlcli.format.keys import Key, path_of
from rlcli.format.mapping import MappedSegment
from rlcli.format.schema import Column, Schema
from rlcli.format.sums import BLOCK, FileSum

Array = np.ndarray[Any, Any]


class _Part:
    """One file of a sealed segment that is compared block by block."""

    def __init__(self, path: Path, expected: FileSum, array: Array) -> None:
        self.path = path
        self.expected = expected.blocks
        self.data = array.reshape(-1).view(np.uint8)
        self.right = bytearray(len(expected.blocks))
        self.left = len(expected.blocks)

    def compare(self, blocks: range) -> None:
        """Compares those of the blocks that were not compared before."""
        for block in blocks:
            if self.right[block]:
                continue
            found = xxhash.xxh3_64_hexdigest(self.data[block * BLOCK : (block + 1) * BLOCK].data)
            if found != self.expected[block]:
                raise CorruptError(f"{self.path}: block {block} differs from its hash", path=self.path)
            self.right[block] = 1
            self.left -= 1


class _Checks:
    """What was compared of one sealed segment."""

    def __init__(self, found: dict[str, FileSum]) -> None:
        self.sums = found
        self.parts: dict[tuple[str, Key], _Part] = {}
        self.whole: set[Key] = set()  # columns that were compared wholly


class Checker:
    """Remembers what of a dataset was compared with its hashes.

    A sealed segment is checked by blocks of its files, an open one by whole commits of all columns.
    """

    def __init__(self, root: Path, schema: Schema) -> None:
        self._root = root
        self._schema = schema
        self._position = {column.key: n for n, column in enumerate(schema.plain)}
        self._final_position = {column.key: n for n, column in enumerate(schema.derived)}
        self._heap_position = {column.key: n for n, column in enumerate(schema.heaps)}
        self._checks: dict[str, _Checks] = {}
        self._commits: dict[str, list[Commit]] = {}  # not compared yet

    def commits(self, mapped: MappedSegment, commits: list[Commit]) -> None:
        """Takes note of new commits of an open segment, emptying the list."""
        self._commits.setdefault(mapped.entry.name, []).extend(commits)
        commits.clear()

    def forget(self, mapped: MappedSegment) -> None:
        """A segment is sealed now, or has left."""
        self._commits.pop(mapped.entry.name, None)
        self._checks.pop(mapped.entry.name, None)

    def inspect(self, mapped: MappedSegment) -> dict[str, bytes]:
        """Compares all files of a sealed segment but columns and finals, and returns their bytes by path."""
        found = sums.load(self._root, mapped.entry)
        small = [
            name
            for name in found
            if not (
                name.endswith((".memmap", ".heap")) and name.startswith(("segments/", "finals/", "heaps/"))
            )
        ]
        data = bulk.read(self._root, small, [found[name].bytes for name in small])
        for name, content in zip(small, data, strict=True):
            if sums.of_bytes(content).blocks != found[name].blocks:
                raise CorruptError(f"{self._root / name}: differs from its hash", path=self._root / name)
        self._checks[mapped.entry.name] = _Checks(found)
        return dict(zip(small, data, strict=True))

    def is_whole(self, mapped: MappedSegment, keys: Iterable[Key]) -> bool:
        """Everything of these columns was compared in a segment."""
        if not mapped.entry.sealed:
            return not self._commits.get(mapped.entry.name)
        checks = self._checks.get(mapped.entry.name)
        return checks is not None and checks.whole.issuperset(keys)

    def columns(self, mapped: MappedSegment, keys: Iterable[Key]) -> None:
        """Compares whole columns of a segment; for a derived one what it derives from, and its finals."""
        for key in keys:
            self.rows(mapped, self._schema.column(key), 0, mapped.entry.alloc)
            if mapped.entry.sealed:
                self._checks[mapped.entry.name].whole.add(key)

    def rows(self, mapped: MappedSegment, column: Column, low: int, high: int) -> None:
        """Compares the blocks that hold rows `low … high` of a segment's column, and all its finals if
        derived.
        """
        if not mapped.entry.sealed:
            self._compare_commits(mapped)
            return
        checks = self._checks[mapped.entry.name]
        if column.key in checks.whole:
            return
        source = column.of or column.key
        part = checks.parts.get(("segments", source)) or self._part(mapped, "segments", source)
        if part.left:
            row_bytes = column.row_bytes
            part.compare(range(low * row_bytes // BLOCK, (high * row_bytes - 1) // BLOCK + 1))
        if column.of is not None and mapped.entry.finals:
            part = checks.parts.get(("finals", column.key)) or self._part(mapped, "finals", column.key)
            if part.left:
                part.compare(range(len(part.expected)))

    def everything(self, mapped: MappedSegment) -> None:
        """Compares every column and final of a segment."""
        self.columns(mapped, [column.key for column in (*self._schema.plain, *self._schema.derived)])
        for position in range(len(self._schema.heaps)):
            self.heap(mapped, position, 0, len(mapped.heap(position)))

    def heap(self, mapped: MappedSegment, position: int, low: int, high: int) -> None:
        """Compares the blocks that hold bytes `low … high` of a segment's heap."""
        if not mapped.entry.sealed:
            self._compare_commits(mapped)
            return
        key = self._schema.heaps[position].key
        part = self._checks[mapped.entry.name].parts.get(("heaps", key))
        if low < high:
            part = part or self._part(mapped, "heaps", key)
            if part.left:
                part.compare(range(low // BLOCK, (high - 1) // BLOCK + 1))

    def _part(self, mapped: MappedSegment, tree: str, key: Key) -> _Part:
        checks = self._checks[mapped.entry.name]
        if tree == "segments":
            array = mapped.column(self._position[key])
        elif tree == "finals":
            array = mapped.final(self._final_position[key])
        else:
            array = mapped.heap(self._heap_position[key])
        file = heap_name(key) if tree == "heaps" else path_of(key)
        name = f"{tree}/{mapped.entry.name}/{file}"
        expected = checks.sums.get(name)
        if expected is None or expected.bytes != array.nbytes:
            path = self._root / name
            raise CorruptError(f"{path}: its sums file does not name it with {array.nbytes} bytes", path=path)
        part = checks.parts[tree, key] = _Part(self._root / name, expected, array)
        return part

    def _compare_commits(self, mapped: MappedSegment) -> None:
        waiting = self._commits.get(mapped.entry.name)
        if not waiting:
            return
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
    """The hash of a commit's rows, finals and heap values, from their bytes. SPEC.md sections 7 and 14."""
    stop = commit.first + commit.rows
    digests = [xxhash.xxh3_64_digest(array[commit.first : stop].data) for array in mapped.columns]
    finals = mapped.finals
    digests += [xxhash.xxh3_64_digest(a[commit.finals_before : commit.finals].data) for a in finals]
    digests += [xxhash.xxh3_64_digest(b"")] * (len(mapped.schema.derived) - len(finals))
    for position in range(len(mapped.schema.heaps)):
        low = mapped.heap_end(position, commit.first, commit.finals_before)
        high = mapped.heap_end(position, stop, commit.finals)
        digests.append(xxhash.xxh3_64_digest(mapped.heap(position)[low:high].data))
    return xxhash.xxh3_64_intdigest(b"".join(digests))
