"""What an HDF5 file must not make us do: read other files, or believe sizes that its bytes cannot hold."""

from __future__ import annotations

import math
from pathlib import Path

import h5py

from rlcli.errors import CorruptError, IncompatibleError, InputError

_DEFLATE = 1040  # no deflated byte becomes more
_MAX_ROWS = 1 << 40


def check_storage(path: Path, dataset: h5py.Dataset) -> None:
    """Refuses values that lie in other files of any name, and lengths beyond what is stored.

    Raises `IncompatibleError` for external raw storage and for views of files outside the file's folder,
    `CorruptError` if what is stored cannot become the declared values, and `InputError`, without the path,
    for a view of a missing file, whose values HDF5 would make up.
    """
    name = dataset.name
    if dataset.external:
        raise IncompatibleError(
            f"{path}: {name} keeps its values in another file ({dataset.external[0][0]}), which is not read",
            hint="repack it, e.g. with h5repack",
            path=path,
        )
    if dataset.is_virtual:
        folder = path.absolute().parent.resolve()
        for source in dataset.virtual_sources():
            place = (folder / source.file_name).resolve() if source.file_name != "." else folder
            if folder != place and folder not in place.parents:
                raise IncompatibleError(
                    f"{path}: {name} is a view of {source.file_name}, outside the file's folder", path=path
                )
            if source.file_name != "." and not place.is_file():
                raise InputError(
                    f"{path}: {name} is a view of {source.file_name}, which is missing", path=path
                )
        return
    declared = math.prod(dataset.shape or ()) * max(1, dataset.dtype.itemsize)
    stored = int(dataset.id.get_storage_size())
    rows = dataset.shape[0] if dataset.shape else 1
    if rows > _MAX_ROWS:
        raise CorruptError(f"{path}: {name} declares {rows:,} rows", path=path)
    gzip = dataset.chunks is not None and dataset.compression == "gzip"
    if stored > path.stat().st_size or (gzip and declared > _DEFLATE * stored and declared > 1 << 30):
        raise CorruptError(
            f"{path}: {name} declares {declared:,} bytes, of which {stored:,} are stored: more than they can "
            f"become",
            path=path,
        )
    if stored == 0 and declared > 1 << 30:
        raise CorruptError(f"{path}: {name} declares {declared:,} bytes, of which none is stored", path=path)
