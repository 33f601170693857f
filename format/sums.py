"""Hashes of a sealed segment's files, one per MiB, for finding damage. SPEC.md section 8."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import xxhash

from rlcli import _native
from rlcli.errors import CorruptError
from rlcli.format import bulk, files, parsed, strictjson
from rlcli.format.keys import path_of
from rlcli.format.location import Inside
from rlcli.format.manifest import Segment

BLOCK = 1 << 20
HASH = "xxh3-64"

_PART = "[A-Za-z0-9_][A-Za-z0-9_+=@.-]*"  # nothing that leads elsewhere

#: Columns of an episodes tree: name, dtype.
EPISODE_COLUMNS = (
    ("start", "int64"),
    ("length", "int64"),
    ("return", "float64"),
    ("terminated", "bool"),
    ("truncated", "bool"),
    ("cut", "bool"),
    ("has_final", "bool"),
    ("seed", "int64"),
    ("number", "int64"),
)
SPANS = ("start", "length", "has_final")  # what of the tree is read first
_LATE = tuple(path_of((name,)) for name, _ in EPISODE_COLUMNS if name not in SPANS)
_LARGE = ("segments/", "finals/", "heaps/")
_DIGITS = 16  # of a hash


class FileSum(NamedTuple):
    """Size and block hashes of one file, and the XXH3-128 of its first bytes where that was asked for."""

    bytes: int
    blocks: tuple[str, ...]
    content: str = ""


class Sums(Mapping[str, FileSum]):
    """The sums of a segment's files by their names; not to be changed."""

    def __init__(self, segment: str, found: dict[str, FileSum]) -> None:
        self._segment = segment
        self._files = found
        self.bytes = sum(file.bytes for file in found.values())  # in all

    def __getitem__(self, name: str) -> FileSum:
        return self._files[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def reader(self, names: Iterable[str]) -> _native.HashedFiles | None:
        """What reads these files and compares them; None if what is listed are no hashes."""
        chosen = list(names)
        blocks = [block for name in chosen for block in self._files[name].blocks]
        try:
            if not all(len(block) == _DIGITS and block == block.lower() for block in blocks):
                return None
            hashes = [int.from_bytes(bytes.fromhex(block), "big") for block in blocks]
        except (AttributeError, TypeError, ValueError):
            return None
        return _native.HashedFiles(chosen, [self._files[name].bytes for name in chosen], hashes)

    @cached_property
    def first(self) -> tuple[str, ...]:
        """What is compared when the segment is touched: all but what is large, and what of its episodes is
        seldom asked for.
        """
        late = {f"episodes/{self._segment}/{file}" for file in _LATE}
        return tuple(name for name in self._files if name not in late and not is_large(name))

    @cached_property
    def first_reader(self) -> _native.HashedFiles | None:
        return self.reader(self.first)


def is_large(name: str) -> bool:
    """A column, finals or a heap: they are compared, and fetched, by blocks. Others are read whole."""
    return name.startswith(_LARGE) and name.endswith((".memmap", ".heap"))


def of_bytes(data: bytes) -> FileSum:
    return FileSum(len(data), blocks_of(data))


def blocks_of(data: bytes) -> tuple[str, ...]:
    """The hash of each block."""
    if 0 < len(data) <= BLOCK:
        return (xxhash.xxh3_64_hexdigest(data),)
    return tuple(xxhash.xxh3_64_hexdigest(data[i : i + BLOCK]) for i in range(0, len(data), BLOCK))


@lru_cache(maxsize=64)
def _zeros(size: int) -> str:
    return xxhash.xxh3_64_hexdigest(bytes(size))


def of_file(fd: int, size: int, used: int) -> FileSum:
    """Sums of a file of `size` bytes whose bytes from `used` on are known to be zero; `content` is of the
    used ones.
    """
    content = xxhash.xxh3_128()
    blocks = []
    buffer = memoryview(bytearray(min(BLOCK, max(size, 1))))
    for start in range(0, size, BLOCK):
        length = min(BLOCK, size - start)
        if start >= used:
            blocks.append(_zeros(length))
            continue
        got = files.read_into(fd, buffer[:length], start)
        if got < length:
            raise CorruptError(f"a file ended at byte {start + got} of {size} while it was summed")
        blocks.append(xxhash.xxh3_64_hexdigest(buffer[:length]))
        content.update(buffer[: min(length, used - start)])
    return FileSum(size, tuple(blocks), content.hexdigest())


def of_column(columns: _native.ColumnWriter, number: int, fd: int, size: int, used: int) -> FileSum:
    """`of_file` of a column, from the hashes that were made while its rows were written."""
    blocks, content = columns.sums(number, size)
    if not content:
        return of_file(fd, size, used)
    blocks += [_zeros(min(BLOCK, size - start)) for start in range(len(blocks) * BLOCK, size, BLOCK)]
    return FileSum(size, tuple(blocks), content)


def of_heap(heap: _native.HeapEnd, fd: int) -> FileSum:
    """`of_file` of a heap, from the hashes that were made while its values were written."""
    blocks, content = heap.sums()
    if content:
        return FileSum(heap.size, tuple(blocks), content)
    return of_file(fd, heap.size, heap.size)


def dump(segment: str, sums: dict[str, FileSum]) -> bytes:
    """The sums file of a segment."""
    found = []
    for name, entry in sorted(sums.items()):  # of names and digits that need no escapes
        blocks = '", "'.join(entry.blocks)
        listed = f'["{blocks}"]' if entry.blocks else "[]"
        found.append(f'"{name}": {{"bytes": {entry.bytes}, "blocks": {listed}}}')
    return strictjson.dump(
        {
            "magic": "rl-sums",
            "format": [1, 0],
            "segment": segment,
            "hash": HASH,
            "block": BLOCK,
            "files": strictjson.Encoded("{\n  " + ",\n  ".join(found) + "\n}"),
        }
    )


def load(root: Path, entry: Segment) -> Sums:
    """The sums of a sealed segment. Raises `CorruptError` unless the file is the one the manifest names."""
    name = f"sums/{entry.name}.json"
    [data] = bulk.read_whole(root, [name])
    digest = hashlib.sha256(data).hexdigest()
    path = Inside(root, name)
    if digest != entry.sums:
        raise CorruptError(f"{path}: SHA-256 differs from the manifest's", path=path)
    found = _parsed(digest, data, path, entry.name)
    if found.bytes != entry.bytes:
        raise CorruptError(f"{path}: {found.bytes} bytes in all, the manifest says {entry.bytes}", path=path)
    return found


@parsed.once
def _parsed(sha256: str, data: bytes, path: object, segment: str) -> Sums:
    value = strictjson.load(data, path)
    expected = ("rl-sums", segment, HASH, BLOCK)
    try:
        if (value["magic"], value["segment"], value["hash"], value["block"]) != expected:
            raise CorruptError(f"{path}: not the sums of {segment} in {HASH} per {BLOCK} bytes", path=path)
        found = {str(k): FileSum(int(v["bytes"]), tuple(v["blocks"])) for k, v in value["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise CorruptError(f"{path}: malformed ({err!r})", path=path) from err
    names = re.compile(rf"journal/{segment}\.log|(segments|finals|heaps|episodes)/{segment}(/{_PART})+")
    for name, file in found.items():
        if names.fullmatch(name) is None:
            raise CorruptError(f"{path}: {name!r} is no file of the segment", path=path)
        if file.bytes < 0 or len(file.blocks) != -(-file.bytes // BLOCK):
            raise CorruptError(
                f"{path}: {name} has {len(file.blocks)} blocks for {file.bytes} bytes", path=path
            )
    return Sums(segment, found)
