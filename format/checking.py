"""Compares data with its hashes when it is first touched, so that no flipped bit is handed out.

SPEC.md 7 and 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from rlcli import _native
from rlcli.errors import CorruptError
from rlcli.format import bulk, sums
from rlcli.format.fetching import Fetcher, Wanted
from rlcli.format.heap_file import heap_name
from rlcli.format.journal import Commit
from rlcli.format.keys import Key
from rlcli.format.mapping import MappedSegment
from rlcli.format.row_plan import table_of
from rlcli.format.schema import Column, Schema
from rlcli.format.sums import BLOCK, FileSum, Sums, is_large

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.int64]]
_AHEAD_BLOCKS = 16
_ZEROS = memoryview(bytes(BLOCK))


class _Part:
    """One file of a sealed segment that is compared block by block.

    Behind the bytes of `array` it is zeros, which are not touched: they are a hole, and in a file system in
    memory a page that is read there through a map takes room. Where there is none the process is killed.
    """

    def __init__(self, root: Path, name: str, expected: FileSum, array: Array) -> None:
        self.root = root
        self.name = name
        self.sums = expected
        self.expected = expected.blocks
        self.data = array.reshape(-1).view(np.uint8)
        self.right = bytearray(len(expected.blocks))
        self._used = -(-len(self.data) // BLOCK)
        self.left = self._used  # blocks that somebody may read from and that were not compared
        self._next = 0  # the block behind those that were fetched last
        self._ahead = 0

    def wrong(self, blocks: Iterable[int]) -> Iterator[int]:
        """Compares those of the blocks that were not compared before; the ones that differ."""
        for block in blocks:
            if self.right[block]:
                continue
            if self._hash(block) != self.expected[block]:
                yield block
                continue
            self.right[block] = 1
        # Counted, for another thread may have compared the same blocks meanwhile.
        self.left = self.right.count(0, 0, self._used)

    def _hash(self, block: int) -> str:
        start, stop = block * BLOCK, min((block + 1) * BLOCK, self.sums.bytes)
        data = self.data[start:stop].data
        if len(data) == stop - start:
            return xxhash.xxh3_64_hexdigest(data)
        found = xxhash.xxh3_64(data)
        found.update(_ZEROS[: stop - start - len(data)])
        return found.hexdigest()

    def compare(self, blocks: Iterable[int]) -> None:
        """Raises `CorruptError` naming the first of the blocks that differs."""
        for block in self.wrong(blocks):
            path = self.root / self.name
            raise CorruptError(f"{path}: block {block} differs from its hash", path=path)

    def ahead(self, missing: Sequence[int]) -> list[int]:
        """Blocks to be fetched with those: who goes on where the last ones ended will go on further, and gets
        twice as many as before.
        """
        first, stop = missing[0], missing[-1] + 1
        self._ahead = min(max(1, 2 * self._ahead), _AHEAD_BLOCKS) if first == self._next and first else 0
        further = range(stop, min(stop + self._ahead, len(self.expected)))
        found = [*missing, *self.wrong(further)]
        self._next = found[-1] + 1
        return found


Waiting = list[tuple[_Part, list[int]]]


class _Checks:
    """What was compared of one sealed segment."""

    def __init__(self, found: Sums) -> None:
        self.sums = found
        self.parts: dict[tuple[str, Key], _Part] = {}
        self.whole: set[Key] = set()  # columns that were compared wholly


class Checker:
    """Remembers what of a dataset was compared with its hashes.

    A sealed segment is checked by blocks of its files, an open one by whole commits of all columns. Blocks
    that differ are fetched first if there is a `fetcher`.
    """

    def __init__(self, schema: Schema, fetcher: Fetcher | None = None) -> None:
        self._schema = schema
        self._fetcher = fetcher
        self.num_compared = 0  # how often something was compared
        self._checks: dict[str, _Checks] = {}
        self._commits: dict[str, list[Commit]] = {}  # not compared yet

    def commits(self, mapped: MappedSegment, commits: list[Commit]) -> None:
        """Takes note of new commits of an open segment, emptying the list."""
        self._commits.setdefault(mapped.entry.name, []).extend(commits)
        commits.clear()

    @property
    def is_remote(self) -> bool:
        """Blocks have to be fetched, so that no more are compared than are needed."""
        return self._fetcher is not None

    def begin(self, segments: Iterable[MappedSegment]) -> None:
        """These sealed segments are going to be inspected: fetches what that takes, of all at once."""
        if self._fetcher is not None:
            self._fetcher.begin([mapped.entry for mapped in segments if mapped.entry.sealed])

    def forget(self, mapped: MappedSegment) -> None:
        """A segment is sealed now, or has left."""
        self._commits.pop(mapped.entry.name, None)
        self._checks.pop(mapped.entry.name, None)

    def inspect(self, mapped: MappedSegment) -> dict[str, bytes]:
        """Compares the files of a sealed segment but columns, finals and what of its episodes is seldom asked
        for, and returns their bytes by path.
        """
        self.begin([mapped])
        found = sums.load(mapped.paths.root, mapped.entry)
        names, reader = found.first, found.first_reader
        if self._fetcher is not None:  # the others are there when somebody needs everything
            names = tuple(name for name in found if name.startswith("episodes/") and name.endswith(".memmap"))
            reader = found.reader(names)
        data = self._compared(mapped.paths.root, names, found, reader)
        self._checks[mapped.entry.name] = _Checks(found)
        return dict(zip(names, data, strict=True))

    def small(self, mapped: MappedSegment, names: Sequence[str]) -> list[bytes]:
        """The bytes of small files of an inspected segment, compared with their hashes."""
        return self._compared(mapped.paths.root, names, self._checks[mapped.entry.name].sums)

    @staticmethod
    def _compared(
        root: Path, names: Sequence[str], expected: Sums, reader: _native.HashedFiles | None = None
    ) -> list[bytes]:
        """The files' bytes. Where a quick `reader` of them stops short, what is wrong is looked for."""
        if reader is not None and len(found := reader.read(str(root))) == len(names):
            return found
        if absent := [name for name in names if name not in expected]:
            raise CorruptError(f"{root / absent[0]}: its sums do not name it", path=root / absent[0])
        data = bulk.read(root, names, [expected[name].bytes for name in names])
        for name, content in zip(names, data, strict=True):
            if sums.blocks_of(content) != expected[name].blocks:
                raise CorruptError(f"{root / name}: differs from its hash", path=root / name)
        return data

    def is_whole(self, mapped: MappedSegment, keys: Iterable[Key]) -> bool:
        """Everything of these columns was compared in a segment."""
        if not mapped.entry.sealed:
            return not self._commits.get(mapped.entry.name)
        checks = self._checks.get(mapped.entry.name)
        if checks is not None and self._fetcher is not None:
            checks.whole.update(key for key in keys if self._is_right(mapped, checks, key))
        return checks is not None and checks.whole.issuperset(keys)

    def _is_right(self, mapped: MappedSegment, checks: _Checks, key: Key) -> bool:
        """Block after block, a whole column was compared."""
        column = self._schema.column(key)
        part = checks.parts.get(("segments", column.of or key))
        finals = checks.parts.get(("finals", key))
        without = column.of is None or not mapped.entry.finals
        return part is not None and not part.left and (without or (finals is not None and not finals.left))

    def columns(self, mapped: MappedSegment, keys: Iterable[Key]) -> None:
        """Compares whole columns of a segment; for a derived one what it derives from, and its finals."""
        waiting: Waiting = []
        for key in keys:
            self.rows(mapped, self._schema.column(key), 0, mapped.entry.alloc, waiting)
        self.settle(waiting)
        if mapped.entry.sealed:
            self._checks[mapped.entry.name].whole.update(keys)

    def pick(
        self,
        mapped: MappedSegment,
        keys: Iterable[Key],
        rows: Rows,
        after: Rows,
        finals: Rows,
        waiting: Waiting,
    ) -> None:
        """Compares the blocks of single rows of a sealed segment's columns; of derived ones those of the rows
        `after` them, and of some finals.
        """
        for key in keys:
            column = self._schema.column(key)
            parts = [("segments", key, rows)] if column.of is None else [("segments", column.of, after)]
            parts += [("finals", key, finals)] if column.of is not None else []
            for tree, name, index in parts:
                if len(index):
                    known = self._checks[mapped.entry.name].parts
                    part = known.get((tree, name)) or self._part(mapped, tree, name)
                    if part.left and (missing := list(part.wrong(_blocks(index, column.row_bytes)))):
                        waiting.append((part, missing))

    def settle(self, waiting: Waiting) -> None:
        """Fetches the blocks that are waiting for it, and compares them where they are now."""
        if not waiting or self._fetcher is None:
            return
        blocks: dict[int, set[int]] = {}
        for part, missing in waiting:
            blocks.setdefault(id(part), set()).update(missing)
        parts = {id(part): part for part, _ in waiting}
        self._fetcher.fill(
            [Wanted(part.root, part.name, part.sums, sorted(blocks[which])) for which, part in parts.items()]
        )
        for which, part in parts.items():
            part.compare(sorted(blocks[which]))

    def _compare(self, part: _Part, blocks: range, waiting: Waiting | None = None) -> None:
        """Compares neighbouring blocks, now or together with what else is waiting to be fetched."""
        self.num_compared += 1
        if self._fetcher is None:
            part.compare(blocks)
        elif missing := list(part.wrong(blocks)):
            own: Waiting = [] if waiting is None else waiting
            own.append((part, part.ahead(missing)))
            if waiting is None:
                self.settle(own)

    def rows(
        self, mapped: MappedSegment, column: Column, low: int, high: int, waiting: Waiting | None = None
    ) -> None:
        """Compares the blocks that hold rows `low … high` of a segment's column, and all its finals if
        derived. What has to be fetched first is added to `waiting` if that is given, for `settle`.
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
            self._compare(part, range(low * row_bytes // BLOCK, (high * row_bytes - 1) // BLOCK + 1), waiting)
        left = part.left
        if column.of is not None and mapped.entry.finals:
            part = checks.parts.get(("finals", column.key)) or self._part(mapped, "finals", column.key)
            if part.left:
                self._compare(part, range(len(part.expected)), waiting)
            left += part.left
        if not left:
            checks.whole.add(column.key)

    def everything(self, mapped: MappedSegment) -> None:
        """Compares every file of an inspected segment; all of them are there then."""
        if mapped.entry.sealed:
            if self._fetcher is not None:
                self._fetcher.complete(mapped.entry)
            found = self._checks[mapped.entry.name].sums
            self.small(mapped, [n for n in found if n not in found.first and not is_large(n)])
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
                self._compare(part, range(low // BLOCK, (high - 1) // BLOCK + 1))

    def heap_spans(
        self, mapped: MappedSegment, position: int, spans: Iterable[tuple[int, int]], waiting: Waiting
    ) -> None:
        """Compares the blocks that hold several ranges of bytes of a sealed segment's heap; what has to be
        fetched is added to `waiting`. Bytes behind its end are left out.
        """
        last = len(mapped.heap(position))
        inside = [(low, min(high, last)) for low, high in spans if 0 <= low < min(high, last)]
        blocks = {block for low, high in inside for block in range(low // BLOCK, (high - 1) // BLOCK + 1)}
        if blocks:
            key = self._schema.heaps[position].key
            known = self._checks[mapped.entry.name].parts
            part = known.get(("heaps", key)) or self._part(mapped, "heaps", key)
            if missing := list(part.wrong(sorted(blocks))):
                waiting.append((part, missing))

    def _part(self, mapped: MappedSegment, tree: str, key: Key) -> _Part:
        checks = self._checks[mapped.entry.name]
        if tree == "segments":
            array = mapped.column(table_of(self._schema)[1][key])
        elif tree == "finals":
            array = mapped.final(table_of(self._schema)[1][key] - len(self._schema.plain))
        else:
            array = mapped.heap(self._schema.heaps.index(self._schema.column(key)))
        file = heap_name(key) if tree == "heaps" else self._schema.column(key).file
        name = f"{tree}/{mapped.entry.name}/{file}"
        expected = checks.sums.get(name)
        if expected is None or expected.bytes != array.nbytes:
            path = mapped.paths.root / name
            raise CorruptError(f"{path}: its sums file does not name it with {array.nbytes} bytes", path=path)
        stored = array[: mapped.entry.rows] if tree == "segments" else array
        part = checks.parts[tree, key] = _Part(mapped.paths.root, name, expected, stored)
        return part

    def _compare_commits(self, mapped: MappedSegment) -> None:
        waiting = self._commits.get(mapped.entry.name)
        if not waiting:
            return
        for commit in waiting:
            check_commit(mapped, commit)
        waiting.clear()


def _blocks(rows: Rows, row_bytes: int) -> list[int]:
    """The blocks that some rows of a column are in, ascending."""
    first, last = rows * row_bytes // BLOCK, (rows * row_bytes + row_bytes - 1) // BLOCK
    spread = np.arange((row_bytes - 1) // BLOCK + 2)
    found: list[int] = np.unique(np.minimum(first[:, None] + spread, last[:, None])).tolist()
    return found


def check_commit(mapped: MappedSegment, commit: Commit) -> None:
    """Raises `CorruptError` if the rows of a commit are not what it brought."""
    if commit_hash(mapped, commit) != commit.hash:
        first, path = mapped.entry.first + commit.first, mapped.paths.columns
        raise CorruptError(
            f"{path}: stream rows {first} to {first + commit.rows} differ from their commit's hash", path=path
        )


def commit_hash(mapped: MappedSegment, commit: Commit) -> int:
    """The hash of a commit's rows, finals and heap values, from their bytes. SPEC.md sections 7 and 14."""
    stop = commit.first + commit.rows
    parts: list[Any] = [array[commit.first : stop].data for array in mapped.columns]
    finals = mapped.finals
    parts += [array[commit.finals_before : commit.finals].data for array in finals]
    parts += [b""] * (len(mapped.schema.derived) - len(finals))
    for position in range(len(mapped.schema.heaps)):
        low = mapped.heap_end(position, commit.first, commit.finals_before)
        high = mapped.heap_end(position, stop, commit.finals)
        parts.append(mapped.heap(position)[low:high].data)
    return hash_of_parts(parts)


def hash_of_parts(parts: Iterable[Any]) -> int:
    """The hash of a commit of these parts, each contiguous: columns, finals, heaps."""
    return xxhash.xxh3_64_intdigest(b"".join([xxhash.xxh3_64_digest(part) for part in parts]))
