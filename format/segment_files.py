"""Which files a sealed segment consists of: worked out from schema and manifest, not believed of a file."""

from __future__ import annotations

from collections.abc import Mapping

from rlcli.errors import CorruptError
from rlcli.format import sums, trees
from rlcli.format.heap_file import heap_name
from rlcli.format.keys import path_of
from rlcli.format.layout import SegmentPaths
from rlcli.format.manifest import Segment
from rlcli.format.schema import Column, Schema


def expected_files(schema: Schema, entry: Segment) -> dict[str, int | None]:
    """Every file a sealed segment must have, with its size where the manifest and the schema say it."""
    found: dict[str, int | None] = {f"journal/{entry.name}.log": None}
    trees_of = [("segments", [(c.key, c.dtype, c.shape) for c in schema.plain], entry.alloc)]
    if entry.finals:
        trees_of.append(("finals", [(c.key, c.dtype, c.shape) for c in schema.derived], entry.finals))
    if entry.episodes:
        leaves: list[trees.Leaf] = [((name,), dtype, ()) for name, dtype in sums.EPISODE_COLUMNS]
        trees_of.append(("episodes", leaves, entry.episodes))
    for tree, leaves, rows in trees_of:
        for key, dtype, shape in leaves:
            found[f"{tree}/{entry.name}/{path_of(key)}"] = rows * Column(key, dtype, shape).row_bytes
        for relative in trees.meta_files(leaves, rows):
            found[f"{tree}/{entry.name}/{relative}"] = None
    return found


def optional_files(schema: Schema, entry: Segment) -> set[str]:
    """Files it may have: a heap that never had a byte has none."""
    return {f"heaps/{entry.name}/{heap_name(column.key)}" for column in schema.heaps}


def load_sums(paths: SegmentPaths, schema: Schema, entry: Segment) -> Mapping[str, sums.FileSum]:
    """The sums of a sealed segment, of exactly the files it must and may have: names that can be made paths.

    Raises `CorruptError` if another file is named, one is missing, or a size contradicts the manifest.
    """
    found = sums.load(paths.root, entry)
    expected = expected_files(schema, entry)
    foreign = set(found) - set(expected) - optional_files(schema, entry)
    missing = set(expected) - set(found)
    if foreign or missing:
        name = min(foreign or missing)
        what = f"names {name!r}, which is no file of the segment" if foreign else f"does not name {name}"
        raise CorruptError(f"{paths.sums}: {what}", path=paths.sums)
    for name, size in expected.items():
        if size is not None and found[name].bytes != size:
            raise CorruptError(
                f"{paths.sums}: {name} has {found[name].bytes} bytes, expected {size}", path=paths.sums
            )
    return found
