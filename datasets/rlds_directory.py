"""Where an RLDS dataset is on disk: `<name>/[<config>/]<version>/` with `features.json` and shards.

`dataset_info.json` says which splits there are and how many records each shard has; without it the names of
the files say how many shards there must be. A shard that must be there and is not is named.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlcli.datasets.json_files import read_object
from rlcli.datasets.tfrecord import Block, gathered, read_blocks, read_records, sniff
from rlcli.errors import CorruptError, IncompatibleError, InputError, UsageError, nearest
from rlcli.plugins import require

_SHARD = re.compile(
    r"(?:(?P<name>.+)-)?(?P<split>[A-Za-z0-9_.]+)\.(?P<format>tfrecord|array_record|riegeli|parquet)"
    r"(?P<packed>\.gz)?-(?P<index>\d{5,})-of-(?P<total>\d{5,})"
)
_DEFAULT_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_READABLE = ("tfrecord", "array_record")
_MAX_SHARDS = 10**6


@dataclass(frozen=True)
class Shard:
    """A file of records; `records` is how many `dataset_info.json` says it has, None if it does not.

    A part of a file has those that begin at `start`, and before `stop`.
    """

    path: Path
    split: str
    file_format: str
    records: int | None = None
    start: int = 0
    stop: int | None = None

    @property
    def has_parts(self) -> bool:
        """Whether reading may begin at any record."""
        return self.file_format == "tfrecord" and sniff(self.path) == "none"

    def read(self) -> Iterator[tuple[int, bytes]]:
        """`(position, record)` in file order, the position as errors name it.

        Raises `CorruptError` for damage, `MissingExtraError` for ArrayRecord without its package.
        """
        if self.file_format == "array_record":
            yield from _array_records(self.path)
        else:
            yield from read_records(self.path, self.start, self.stop)

    def blocks(self) -> Iterator[Block]:
        """The same records, many at once."""
        if self.file_format == "array_record":
            return gathered(_array_records(self.path))
        return read_blocks(self.path, self.start, self.stop)


@dataclass(frozen=True)
class Directory:
    """A dataset: its folder, and of each split its shards and the names of those that are not there."""

    folder: Path
    name: str
    version: str
    info: dict[str, Any]
    splits: dict[str, list[Shard]]
    missing: dict[str, list[str]] = field(default_factory=dict)

    def select(self, wanted: str, allow_missing: bool) -> list[Shard]:
        """The shards of the splits named in `wanted` (with commas or +; empty: all that are there), in order.

        Raises `UsageError` for an unknown split and `InputError` for missing shards unless they are allowed.
        """
        names = [name for name in re.split(r"[,+\s]+", wanted) if name] or list(self.splits)
        for name in names:
            if name not in self.splits:
                raise UsageError(f"{self.folder}: there is no split {name!r}; {nearest(name, self.splits)}")
        present = [name for name in names if self.splits[name]]
        lost = [shard for name in (names if wanted else present) for shard in self.missing.get(name, [])]
        if not present:
            raise InputError(f"{self.folder}: no shard of {', '.join(names)} is there", path=self.folder)
        if lost and not allow_missing:
            more = f" and {len(lost) - 1:,} more" if len(lost) > 1 else ""
            raise InputError(
                f"{self.folder}: the shard {lost[0]}{more} is missing",
                hint="convert what is there with --set allow_missing_shards=true",
                path=self.folder,
            )
        return [shard for name in names for shard in self.splits[name]]


def find_folder(path: Path) -> Path | None:
    """The folder with `features.json` at `path` or up to two levels below it, None if there is none.

    Of several versions the newest is taken. Raises `UsageError` if they differ in more than the version.
    """
    if path.is_file():
        return path.parent if _SHARD.fullmatch(path.name) and _has_features(path.parent) else None
    if _has_features(path):
        return path
    found = [file.parent for pattern in ("*", "*/*") for file in path.glob(f"{pattern}/features.json")]
    if len({folder.parent for folder in found}) > 1:
        names = ", ".join(sorted(str(folder.relative_to(path)) for folder in found)[:8])
        raise UsageError(f"{path}: holds several datasets ({names}); name one of them", path=path)
    return max(found, key=lambda folder: _version(folder.name), default=None)


def read_directory(path: Path) -> Directory:
    """The dataset at `path`, which is its folder, a folder around it or one of its shards.

    Raises `InputError` if there is none, `CorruptError` for a malformed `dataset_info.json`,
    `IncompatibleError` for file formats that are not read.
    """
    folder = find_folder(path)
    if folder is None:
        raise InputError(f"{path}: no features.json there", path=path)
    told = folder / "dataset_info.json"
    info = read_object(told) if told.is_file() else {}
    files = _Files(folder)
    name = str(info.get("name") or files.name)
    splits, missing = _splits(folder, info, name, files)
    if path.is_file():
        splits = {
            split: [shard for shard in shards if shard.path.name == path.name]
            for split, shards in splits.items()
        }
        splits, missing = {split: shards for split, shards in splits.items() if shards}, {}
    if not any(splits.values()):
        raise InputError(f"{folder}: no shard is there", path=folder)
    version = str(info.get("version") or folder.name)
    return Directory(folder, name or folder.parent.name, version, info, splits, missing)


class _Files:
    """The shards in a folder, by name and by what their names say."""

    def __init__(self, folder: Path) -> None:
        self.by_name: dict[str, Path] = {}
        self.by_place: dict[tuple[str, int, int], Path] = {}  # split, index, number of shards
        self.formats: dict[Path, str] = {}
        self.name = ""
        for path in sorted(folder.iterdir()):
            if (match := _SHARD.fullmatch(path.name)) is None:
                continue
            if match["format"] not in _READABLE:
                raise IncompatibleError(
                    f"{path}: {match['format']} files are not read, only {' and '.join(_READABLE)}", path=path
                )
            self.by_name[path.name] = path
            self.by_place[match["split"], int(match["index"]), int(match["total"])] = path
            self.formats[path] = match["format"]
            self.name = match["name"] or self.name


def _splits(
    folder: Path, info: dict[str, Any], name: str, files: _Files
) -> tuple[dict[str, list[Shard]], dict[str, list[str]]]:
    splits: dict[str, list[Shard]] = {}
    missing: dict[str, list[str]] = {}
    told = info.get("splits", [])
    if not isinstance(told, list) or not all(isinstance(entry, dict) for entry in told):
        raise CorruptError(f"{folder / 'dataset_info.json'}: splits is not a list of objects", path=folder)
    announced = [(str(entry.get("name", "")), entry, _lengths(folder, entry)) for entry in told]
    known = {split for split, _, lengths in announced if lengths is not None}
    for split in dict.fromkeys(split for split, _, _ in files.by_place):
        if split not in known:
            totals = {total for other, _, total in files.by_place if other == split}
            if len(totals) > 1 or max(totals) > _MAX_SHARDS:
                raise InputError(f"{folder}: the files of {split} are numbered in several ways", path=folder)
            announced.append((split, {}, [None] * totals.pop()))
    for split, entry, lengths in announced:
        if lengths is None:
            continue
        template = str(entry.get("filepathTemplate") or _DEFAULT_TEMPLATE)
        file_format = str(info.get("fileFormat") or "tfrecord")
        splits[split], missing[split] = [], []
        for index, records in enumerate(lengths):
            wanted = _file_name(template, name, split, file_format, index, len(lengths))
            path = files.by_name.get(wanted) or files.by_place.get((split, index, len(lengths)))
            if path is None:
                missing[split].append(wanted)
            else:
                splits[split].append(Shard(path, split, files.formats[path], records))
    return splits, missing


def _lengths(folder: Path, entry: dict[str, Any]) -> list[int | None] | None:
    """How many records each shard of a split has; None if the entry does not even say how many shards."""
    try:
        if lengths := entry.get("shardLengths"):
            found = [int(length) for length in lengths]
            if min(found) < 0 or len(found) > _MAX_SHARDS:
                raise ValueError("out of range")
            return list(found)
        number = int(entry.get("numShards", 0))
        return [None] * number if 0 < number <= _MAX_SHARDS else None
    except (TypeError, ValueError, OverflowError) as err:
        raise CorruptError(
            f"{folder / 'dataset_info.json'}: shard lengths that are no numbers: {err}", path=folder
        ) from err


def _file_name(template: str, name: str, split: str, file_format: str, index: int, total: int) -> str:
    for variable, value in {
        "DATASET": name, "SPLIT": split, "FILEFORMAT": file_format, "SHARD_INDEX": f"{index:05d}",
        "NUM_SHARDS": f"{total:05d}", "SHARD_X_OF_Y": f"{index:05d}-of-{total:05d}",
    }.items():  # fmt: skip
        template = template.replace("{" + variable + "}", value)
    return template


def _has_features(folder: Path) -> bool:
    return (folder / "features.json").is_file()


def _version(name: str) -> tuple[bool, list[int], str]:
    """Sorts `1.10.0` after `1.9.0`, and anything that is no version first."""
    numbers = re.fullmatch(r"\d+(\.\d+)*", name)
    return numbers is not None, [int(n) for n in name.split(".")] if numbers else [], name


def _array_records(path: Path) -> Iterator[tuple[int, bytes]]:
    require("array_record", "array_record", needed_for="reading ArrayRecord files")
    module = importlib.import_module("array_record.python.array_record_module")
    damaged = CorruptError(f"{path}: the ArrayRecord file is damaged or cut", path=path)
    try:
        reader = module.ArrayRecordReader(str(path))
        for index in range(reader.num_records()):
            yield index, bytes(reader.read([index])[0])
        if not reader.ok():  # a file without its end has no records, and that is no exception
            raise damaged
        reader.close()
    except (RuntimeError, ValueError, IndexError, OSError) as err:
        raise damaged from err
