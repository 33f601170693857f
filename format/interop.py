"""Handing data to TensorDict, which is imported only when it is asked for."""

from __future__ import annotations

from typing import Any

from rlcli.errors import CorruptError
from rlcli.format import files, trees
from rlcli.format.mapping import MappedSegment


def load_segment(mapped: MappedSegment, rows: int) -> Any:
    """`TensorDict.load_memmap` of a segment, cut to its committed rows.

    Every file's size and every `meta.json` are compared first: the loader grows a file that is shorter than
    its `meta.json` says and zeroes its first byte.
    """
    entry, schema, folder = mapped.entry, mapped.schema, mapped.paths.columns
    leaves = [(column.key, column.dtype, column.shape) for column in schema.plain]
    described = rows if entry.sealed else entry.alloc
    for relative, expected in trees.meta_files(leaves, described).items():
        if files.read(folder / relative) != expected:
            raise CorruptError(f"{folder / relative}: differs from the schema", path=folder / relative)
    for column in schema.plain:
        files.close(files.open_read(folder / column.file, entry.alloc * column.row_bytes))

    from tensordict import TensorDict

    return TensorDict.load_memmap(folder)[:rows]
