"""A copy of a remote dataset as it is there, for those who judge whole datasets. Nothing is compared here."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from rlcli.errors import CorruptError
from rlcli.format import dataset_json, files, folders, generations
from rlcli.format.generations import name_of
from rlcli.format.layout import SegmentPaths
from rlcli.format.manifest import Manifest, Segment
from rlcli.format.origin import Missing, Origin, Short
from rlcli.format.remote import RemoteSource
from rlcli.format.segment_files import expected_files, load_sums, optional_files

_REQUEST_BYTES = 4 << 20


def download(source: RemoteSource, target: Path, *, threads: int = 8) -> None:
    """Copies every file that the newest manifest makes part of the dataset to the new folder `target`.

    A file that is missing, or ends early, is so in the copy too. Raises `InputError` for what cannot be read.
    """
    origin, newest = source.origin, source.newest_generation()
    folders.make(target)
    names = ["dataset.json", *map(name_of, range(1, newest + 1))]
    names += [f"journal/{name}" for name in source.journals()]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda name: _copy(origin, name, None, target), names))
        with suppress(CorruptError):  # then nobody can say which segments there are
            identity = dataset_json.load(target)
            found = generations.load(target, identity["uuid"], newest)
            sums = [f"sums/{entry.name}.json" for entry in found.segments]
            list(pool.map(lambda name: _copy(origin, name, None, target), sums))
            parts = [part for entry in found.segments for part in _files(target, found, entry).items()]
            list(pool.map(lambda part: _copy(origin, part[0], part[1], target), parts))


def _files(target: Path, newest: Manifest, entry: Segment) -> dict[str, int | None]:
    """The files of a segment, and their sizes where they are known: its sums may be damaged."""
    with suppress(CorruptError):
        known = load_sums(SegmentPaths(target, entry.name), newest.schema, entry)
        return {name: expected.bytes for name, expected in known.items()}
    names = expected_files(newest.schema, entry)
    return {**names, **dict.fromkeys(optional_files(newest.schema, entry))}


def _copy(origin: Origin, name: str, size: int | None, target: Path) -> None:
    """One file, in parts if it is large and its size is known."""
    path = target / name
    if files.exists(path):
        return
    with suppress(Missing):
        if size is None or size <= _REQUEST_BYTES or origin.has_ranges is False:
            data = origin.read(name)
            folders.make(path.parent)
            files.write_new(path, data, durable=False)
            return
        folders.make(path.parent)
        fd = files.create(path)
        try:
            with files.resources(path), suppress(Short):
                for start in range(0, size, _REQUEST_BYTES):
                    at, data = origin.read_range(name, start, min(start + _REQUEST_BYTES, size))
                    files.write_at(fd, memoryview(data), at)
                    if at + len(data) >= size:
                        break
        finally:
            files.close(fd)
