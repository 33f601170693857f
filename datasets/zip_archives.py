"""Zip archives, which npz files and some zarr groups are."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlcli.errors import CorruptError, InputError


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive at `path`. Raises `InputError` for a folder or nothing, `CorruptError` for damage."""
    if not path.is_file():
        raise InputError(f"{path}: not a file", path=path)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as err:
        raise CorruptError(f"{path}: damaged archive: {err}", path=path) from err
    with archive:
        yield archive
