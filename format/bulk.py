"""Many files made or read, or many columns mapped, in one call: most of a segment's cost is its many files.

Where a file is not as it should be, or a test's layer stands in for the system, they are opened one by one by
`files`, which says what is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from rlcli import _native
from rlcli.errors import CorruptError
from rlcli.format import files, folders, layer


def read(folder: Path, names: Sequence[str], sizes: Sequence[int]) -> list[bytes]:
    """The files' bytes. Raises `CorruptError` naming one that is missing, not a file or not of its size."""
    found = _native.read_files(str(folder), names, sizes)
    for position in range(len(found), len(names)):
        path = folder / names[position]
        fd = files.open_read(path, sizes[position])
        try:
            data = files.read_at(fd, sizes[position], 0)
        finally:
            files.close(fd)
        if len(data) != sizes[position]:
            raise CorruptError(f"{path}: ended early", path=path)
        found.append(data)
    return found


def read_whole(folder: Path, names: Sequence[str]) -> list[bytes]:
    """The bytes of files of any size. Raises `CorruptError` naming one that is missing, not a file or larger
    than 64 MiB.
    """
    found = _native.read_whole(str(folder), names, files.MOST_BYTES) if layer.current().is_direct else []
    return [*found, *(files.read(folder / name) for name in names[len(found) :])]


def names(folder: Path, name: str) -> list[str]:
    """`folders.names` of a folder in it."""
    if layer.current().is_direct:
        with suppress(OSError):
            return sorted(os.listdir(f"{folder}/{name}"))
    return folders.names(folder / name)


def create(folder: Path, names: Sequence[str], sizes: Sequence[int]) -> list[int]:
    """Descriptors of new files of so many zeros, their space reserved, none of which exists; their folders
    do. If one cannot be made, none stays open.
    """
    found = _native.create_files(str(folder), names, sizes) if layer.current().is_direct else []
    try:
        for position in range(len(found), len(names)):
            found.append(files.create(folder / names[position], sizes[position]))
    except BaseException:
        for fd in found:
            files.close(fd)
        raise
    return found


def write(folder: Path, found: Mapping[str, bytes]) -> None:
    """New files, of which none exists, with these bytes by name; their folders do."""
    done = _native.write_files(str(folder), found) if layer.current().is_direct else 0
    for name, data in islice(found.items(), done, None):
        files.write_new(folder / name, data, durable=False)


def map_columns(
    target: _native.AddressRange,
    folder: Path,
    names: Sequence[str],
    offsets: Sequence[int],
    sizes: Sequence[int],
) -> None:
    """Maps each file at its offset, read-only. Raises `CorruptError` as `read` does, and `ResourceError`."""
    with files.resources(folder):
        done = target.map_files(str(folder), names, offsets, sizes)
        for position in range(done, len(names)):
            fd = files.open_read(folder / names[position], sizes[position])
            try:
                target.map_file(fd, offsets[position], sizes[position])
            finally:
                files.close(fd)
