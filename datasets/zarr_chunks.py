"""The stored chunks of zarr arrays: how many are missing, and whether blosc would read beyond a short one.

A missing chunk reads as the fill value; a blosc chunk that was cut short reads as whatever lies in memory
behind it. Neither raises in zarr, so both are looked for before anything is read.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlcli.datasets.stopping import heeding
from rlcli.datasets.zarr_rows import BLOSC_HEADER, check_blosc
from rlcli.errors import CorruptError

_NOT_CHUNKS = (".zarray", ".zattrs", "zarr.json")


def missing_chunks(path: Path, name: str, array: Any) -> int:
    """How many chunks of the array `name` are not stored, of the folder or zip file `path`.

    Raises `CorruptError` that names a blosc chunk whose header and length disagree.
    """
    stored_by: tuple[int, ...] = getattr(array, "shards", None) or array.chunks
    expected = math.prod(-(-int(n) // c) for n, c in zip(array.shape, stored_by, strict=True))
    is_blosc = _is_blosc(array)
    chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
    if array.filters or array.dtype.kind in "TO":
        chunk_bytes = 0  # filters and text may change the size
    stored = 0
    for chunk, size, head in _stored(path, name, with_head=is_blosc):
        stored += size > 0
        if is_blosc:
            try:
                check_blosc(head, size, chunk_bytes)
            except ValueError as err:
                raise CorruptError(f"{path}: {name}: chunk {chunk} is damaged: {err}", path=path) from err
    return max(0, expected - stored)


def _is_blosc(array: Any) -> bool:
    """Whether the stored bytes of a chunk are one blosc buffer."""
    if getattr(array, "shards", None):
        return False
    codecs = [type(codec).__name__ for codec in array.compressors]
    return codecs[-1:] in (["Blosc"], ["BloscCodec"])


def _stored(path: Path, name: str, *, with_head: bool) -> Iterator[tuple[str, int, bytes]]:
    """`(chunk, bytes, first bytes)` of every stored chunk of an array."""
    if path.is_dir():
        folder = path / name
        for file in heeding(sorted(heeding(folder.rglob("*")))):
            if file.is_file() and file.name not in _NOT_CHUNKS:
                head = b""
                if with_head:
                    with open(file, "rb") as stream:
                        head = stream.read(BLOSC_HEADER)
                yield str(file.relative_to(folder)), file.stat().st_size, head
        return
    with zipfile.ZipFile(path) as archive:
        for info in heeding(archive.infolist()):
            place = info.filename.removeprefix(f"{name}/")
            if place != info.filename and not info.is_dir() and place.rsplit("/", 1)[-1] not in _NOT_CHUNKS:
                head = b""
                if with_head:
                    with archive.open(info) as member:
                        head = member.read(BLOSC_HEADER)
                yield place, info.file_size, head
