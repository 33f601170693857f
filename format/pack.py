"""A sealed dataset as one file and back, for transport: `x.rlz`. SPEC.md section 16.

The file is a stored ZIP (`zipped`), so any unzip gives the dataset too; `unpack` also proves it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import xxhash

from rlcli.errors import BusyError, CorruptError, InputError, UsageError
from rlcli.format import files, folders, generations
from rlcli.format.dataset import Dataset
from rlcli.format.layout import FOLDERS, SegmentPaths
from rlcli.format.location import local
from rlcli.format.locks import WriterLock
from rlcli.format.segment_files import load_sums
from rlcli.format.sums import BLOCK
from rlcli.format.verify import verify
from rlcli.format.zipped import (
    TAIL,
    Entry,
    directory,
    directory_size,
    local_header,
    parse,
    payload_offset,
)

MAX_BYTES = 1 << 50
_PART = r"[A-Za-z0-9_][A-Za-z0-9_+=@.-]{0,69}"
_SEGMENT = r"w[0-9]{2,5}-[0-9]{12}(?:\.[0-9]{1,6})?"
_NAME = re.compile(
    rf"dataset\.json|manifests/[0-9]{{20}}\.json|sums/{_SEGMENT}\.json|journal/{_SEGMENT}\.log"
    rf"|(?:segments|finals|episodes|heaps)/{_SEGMENT}(?:/{_PART}){{1,17}}",
    re.ASCII,
)


@dataclass(frozen=True)
class _File:
    """A file of a dataset; `blocks` are the hashes its bytes must have, None where a manifest has them."""

    name: str
    size: int
    blocks: tuple[str, ...] | None


def _files_of(dataset: Dataset) -> list[_File]:
    """Every file of a sealed dataset in the order they are packed, from validated names only."""
    root = local(dataset.path, "packing")
    names = ["dataset.json"]
    names += [generations.name_of(number) for number in generations.published(root)]
    found = [_File(name, files.size(root / name), None) for name in names]
    for entry in dataset.segments:
        paths = SegmentPaths(root, entry.name)
        found.append(_File(f"sums/{entry.name}.json", files.size(paths.sums), None))
        known = load_sums(paths, dataset.schema, entry)
        found += [_File(name, known[name].bytes, known[name].blocks) for name in sorted(known)]
    return found


def _refuse_open(dataset: Dataset) -> None:
    if dataset.state == "sealed":
        return
    path = local(dataset.path, "packing")
    try:
        WriterLock.exclusive(path).close()
    except BusyError as err:
        raise BusyError(
            f"{path}: it is being written, and only a sealed dataset can be packed",
            hint=f"stop its writer, or pack a copy of what is committed: rl buffer merge {path} -o COPY",
            path=path,
        ) from err
    raise UsageError(
        f"{path}: its writer was killed, and only a sealed dataset can be packed",
        hint=f"rl buffer recover {path}",
        path=path,
    )


def pack(path: Path, out: Path, *, advance: Callable[[int], None] | None = None) -> list[Entry]:
    """Writes the sealed dataset at `path` to the new file `out`; returns what is in it.

    Equal datasets give equal files. Every byte is compared with its hash first. `advance` is told of bytes
    and may raise; a partial file is the caller's to remove. Raises `BusyError` or `UsageError` for a dataset
    that is not sealed, `CorruptError` for damage.
    """
    with Dataset.open(path) as dataset:
        _refuse_open(dataset)
        fd = files.create(out)
        try:
            with files.resources(out):
                entries, start = [], 0
                for file in _files_of(dataset):
                    at = payload_offset(start, file.name)
                    crc = _copy_in(path / file.name, file, fd, at, advance)
                    entries.append(Entry(file.name, file.size, crc))
                    files.write_at(fd, memoryview(local_header(start, entries[-1])), start)
                    start = at + file.size
                files.write_at(fd, memoryview(directory(entries)), start)
                files.sync(fd)
        finally:
            files.close(fd)
    return entries


def _copy_in(source: Path, file: _File, fd: int, at: int, advance: Callable[[int], None] | None) -> int:
    """Copies a file's bytes, checked, to `at`, leaving holes for zeros; returns their CRC-32."""
    crc, opened = 0, files.open_read(source, file.size)
    try:
        for number, first in enumerate(range(0, file.size, BLOCK)):
            data = files.read_at(opened, min(BLOCK, file.size - first), first)
            if file.blocks is not None and xxhash.xxh3_64_hexdigest(data) != file.blocks[number]:
                raise CorruptError(f"{source}: block {number} differs from its hash", path=source)
            crc = zlib.crc32(data, crc)
            if data.strip(b"\0"):
                files.write_at(fd, memoryview(data), at + first)
            if advance is not None:
                advance(len(data))
    finally:
        files.close(opened)
    return crc


def read_entries(fd: int, path: Path) -> list[Entry]:
    """What is in a packed dataset, from its directory. Raises `CorruptError` unless every name is that of a
    dataset's file, none comes twice, and the files fill the packed one exactly.
    """
    size = files.size_of(fd)
    try:
        if size > MAX_BYTES:
            raise CorruptError(f"{size} bytes are more than any packed dataset has")
        length = directory_size(files.read_at(fd, TAIL, max(0, size - TAIL)), size)
        entries = parse(files.read_at(fd, length, size - length))
        seen: set[str] = set()
        parents: set[str] = set()
        start = 0
        for entry in entries:
            name = entry.name.lower()
            if not _NAME.fullmatch(entry.name) or name in seen:
                raise CorruptError(f"it has a file {entry.name!r}, which no dataset has, or has it twice")
            seen.add(name)
            parents.update(str(folder) for folder in PurePosixPath(name).parents)
            start = payload_offset(start, entry.name) + entry.size
        if seen & parents:
            raise CorruptError(f"it has {min(seen & parents)!r} as a file and as a folder")
        if start != size - length:
            raise CorruptError(f"its files end at byte {start}, its directory begins at {size - length}")
    except CorruptError as err:
        raise CorruptError(f"{path}: {err.message}", path=path) from err
    return entries


def unpack(path: Path, out: Path, *, advance: Callable[[int], None] | None = None) -> None:
    """Makes the dataset `out` of a packed one and proves it: checksums, hashes, and no file too many.

    Nothing is written but regular files below `out`, which must not exist and grows in place: the caller
    gives a temporary name, renames, and removes what an error leaves. `advance` is told of bytes and may
    raise. Raises `InputError` if there is no file, `CorruptError` for what is not exactly what `pack` writes.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", path=path)
    fd = files.open_read(path)
    try:
        with files.resources(out):
            entries = read_entries(fd, path)
            for folder in FOLDERS:
                folders.make(out / folder)
            start = 0
            for entry in entries:
                header = local_header(start, entry)
                if files.read_at(fd, len(header), start) != header:
                    raise CorruptError(f"{path}: the header of {entry.name} is damaged", path=path)
                _copy_out(fd, path, start + len(header), entry, out / entry.name, advance)
                start += len(header) + entry.size
            for folder in FOLDERS:
                folders.sync_tree(out / folder, data=True)
            files.sync_path(out / "dataset.json")
            folders.sync(out)
    finally:
        files.close(fd)
    _prove(path, out, {entry.name for entry in entries})


def _copy_out(
    fd: int, path: Path, at: int, entry: Entry, target: Path, advance: Callable[[int], None] | None
) -> None:
    folders.make(target.parent)
    crc, made = 0, files.create(target)
    try:
        for first in range(0, entry.size, BLOCK):
            data = files.read_at(fd, min(BLOCK, entry.size - first), at + first)
            crc = zlib.crc32(data, crc)
            if data.strip(b"\0"):
                files.write_at(made, memoryview(data), first)
            if advance is not None:
                advance(len(data))
        files.truncate(made, entry.size)
    finally:
        files.close(made)
    if crc != entry.crc:
        raise CorruptError(f"{path}: {entry.name} differs from its CRC-32", path=path)


def _prove(path: Path, out: Path, names: set[str]) -> None:
    """Every hash of the dataset at `out` is right, and it has no other files."""
    problems = verify(out)
    if problems:
        raise CorruptError(f"{path}: {problems[0].file}: {_inside(problems[0].message, out)}", path=path)
    with Dataset.open(out) as dataset:
        if dataset.state != "sealed":
            raise CorruptError(f"{path}: the dataset in it is not sealed", path=path)
        foreign = names - {file.name for file in _files_of(dataset)}
    if foreign:
        raise CorruptError(f"{path}: {min(foreign)} is no file of the dataset in it", path=path)


def _inside(message: str, out: Path) -> str:
    return message.replace(f"{out}/", "")
