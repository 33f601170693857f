"""Brings files and blocks of a remote dataset's segments into the cache, each compared with its hash first.

SPEC.md section 17.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import xxhash

from rlcli.errors import CorruptError
from rlcli.format import files, sums
from rlcli.format.cache import Cache
from rlcli.format.layout import SegmentPaths
from rlcli.format.manifest import Segment
from rlcli.format.origin import Origin
from rlcli.format.schema import Schema
from rlcli.format.segment_files import load_sums
from rlcli.format.sums import BLOCK, FileSum, is_large

_REQUEST_BLOCKS = 4  # of one request at most: enough for a long way, few enough for threads to share

Item = TypeVar("Item")


@dataclass(frozen=True)
class Wanted:
    """Blocks of a large file in the cache folder `root`, ascending."""

    root: Path
    name: str
    expected: FileSum
    blocks: Sequence[int]


@dataclass(frozen=True)
class _Request:
    wanted: Wanted
    first: int
    stop: int  # blocks


class Fetcher:
    """What reads from `origin` into `cache`, with up to `threads` requests at a time."""

    def __init__(self, origin: Origin, cache: Cache, schema: Schema, *, threads: int) -> None:
        self._origin = origin
        self._cache = cache
        self._schema = schema
        self._threads = threads
        self._begun: set[str] = set()

    def segment(self, entry: Segment) -> Path:
        """The folder that a segment's files are in, laid out like a dataset."""
        return self._cache.segment(entry)

    def begin(self, entries: Iterable[Segment]) -> None:
        """Makes sums and episode tables of segments be there, and columns have their size.

        Raises `CorruptError` naming a file that is not what the manifest says.
        """
        new = [entry for entry in entries if entry.name not in self._begun]
        self._each(self._keep_sums, new)
        tables = []
        for entry in new:
            root = self.segment(entry)
            for name, expected in self._sums(entry).items():
                if is_large(name):
                    if expected.bytes:
                        self._cache.reserve(root / name, expected.bytes)
                elif name.startswith("episodes/") and name.endswith(".memmap"):
                    tables.append((root, name, expected))
        self._each(self._keep_small, tables)
        self._begun.update(entry.name for entry in new)

    def complete(self, entry: Segment) -> None:
        """Makes the other small files be there too: a journal, and each `meta.json`."""
        self.begin([entry])
        root = self.segment(entry)
        known = self._sums(entry).items()
        self._each(
            self._keep_small, [(root, name, expected) for name, expected in known if not is_large(name)]
        )

    def fill(self, wanted: Sequence[Wanted]) -> None:
        """Fetches blocks, neighbours in one request, and writes those that have the right hash.

        Raises `CorruptError` naming file and block for one that has not, after it was fetched again.
        """
        requests = [request for item in wanted for request in self._requests(item)]
        if requests and self._origin.has_ranges is None:  # one request shows whether the server sends parts
            self._fetch(requests.pop(0))
        if self._origin.has_ranges is False:
            parts = {request.wanted.name: request.wanted for request in requests}.values()
            requests = [_Request(item, 0, len(item.expected.blocks)) for item in parts]
        self._each(self._fetch, requests)

    def _requests(self, wanted: Wanted) -> list[_Request]:
        found: list[_Request] = []
        for block in wanted.blocks:
            last = found[-1] if found else None
            if last is not None and last.stop == block and block - last.first < _REQUEST_BLOCKS:
                found[-1] = _Request(wanted, last.first, block + 1)
            else:
                found.append(_Request(wanted, block, block + 1))
        return found

    def _fetch(self, request: _Request) -> None:
        wanted, size = request.wanted, request.wanted.expected.bytes
        low, high = request.first * BLOCK, min(request.stop * BLOCK, size)
        needed = [block for block in wanted.blocks if request.first <= block < request.stop]
        path = self._origin.path(wanted.name)
        for _ in range(2):
            start, data = self._origin.read_range(wanted.name, low, high)
            if start == 0 and len(data) not in (high - low, size):
                raise CorruptError(f"{path}: {len(data)} bytes, expected {size}", path=path)
            wrong = self._write(wanted, start, data, needed)
            self._cache.fetched(len(data))
            if not wrong:
                return
        raise CorruptError(f"{path}: block {wrong[0]} differs from its hash", path=path)

    def _write(self, wanted: Wanted, start: int, data: bytes, needed: Sequence[int]) -> list[int]:
        """Writes the right ones of the blocks in `data`, and returns which of the needed ones are wrong."""
        wrong = []
        path, view = wanted.root / wanted.name, memoryview(data)
        fd = files.open_write(path)
        try:
            for at in range(0, len(data), BLOCK):
                block = (start + at) // BLOCK
                part = view[at : at + BLOCK]
                if xxhash.xxh3_64_hexdigest(part) == wanted.expected.blocks[block]:
                    with files.resources(path):
                        files.write_at(fd, part, start + at)
                elif block in needed:
                    wrong.append(block)
        finally:
            files.close(fd)
        return wrong

    def _sums(self, entry: Segment) -> Mapping[str, FileSum]:
        return load_sums(SegmentPaths(self.segment(entry), entry.name), self._schema, entry)

    def _keep_sums(self, entry: Segment) -> None:
        name = f"sums/{entry.name}.json"

        def is_right(data: bytes) -> bool:
            return hashlib.sha256(data).hexdigest() == entry.sums

        def fetch() -> bytes:
            data = self._again(name, is_right)
            if not is_right(data):
                path = self._origin.path(name)
                raise CorruptError(f"{path}: SHA-256 differs from the manifest's", path=path)
            return data

        self._cache.keep(self.segment(entry) / name, is_right, fetch)

    def _keep_small(self, file: tuple[Path, str, FileSum]) -> None:
        root, name, expected = file

        def is_right(data: bytes) -> bool:
            return sums.of_bytes(data).blocks == expected.blocks and len(data) == expected.bytes

        def fetch() -> bytes:
            data = self._again(name, is_right)
            if not is_right(data):
                path = self._origin.path(name)
                raise CorruptError(f"{path}: {_difference(data, expected)}", path=path)
            return data

        self._cache.keep(root / name, is_right, fetch)

    def _again(self, name: str, is_right: Callable[[bytes], bool]) -> bytes:
        """A whole file, fetched a second time if it is wrong: it may have been damaged on the way."""
        data = self._origin.read(name)
        return data if is_right(data) else self._origin.read(name)

    def _each(self, call: Callable[[Item], None], items: Sequence[Item]) -> None:
        """Calls with each item, in threads; the first error is raised, and what did not begin does not."""
        if len(items) < 2 or self._threads < 2:
            for item in items:
                call(item)
            return
        with ThreadPoolExecutor(min(self._threads, len(items))) as pool:
            futures = [pool.submit(call, item) for item in items]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _difference(data: bytes, expected: FileSum) -> str:
    if len(data) != expected.bytes:
        return f"{len(data)} bytes, expected {expected.bytes}"
    found = sums.of_bytes(data).blocks
    block = next(n for n, (a, b) in enumerate(zip(found, expected.blocks, strict=True)) if a != b)
    return f"block {block} differs from its hash"
