"""A dataset of a terabyte of zeros: real journals, sums and manifest over files that take no space."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import xxhash

from rlcli.format import creation, digests, files, generations, sums, trees
from rlcli.format.journal import Packer
from rlcli.format.keys import path_of
from rlcli.format.layout import SegmentPaths
from rlcli.format.manifest import Manifest, Segment
from rlcli.format.schema import Column, Schema

ALLOC, ROW_BYTES = 4096, 65_536
SCHEMA = Schema((Column(("pixels",), "uint8", (ROW_BYTES,)), Column(("next", "reward"), "float32", (1,))))


def create(path: Path, segments: int) -> int:
    """`segments` full segments of 256 MiB in one stream; returns the bytes of their files."""
    streams = ({"id": "w00", "owner": None},)
    first = Manifest(
        dataset="", generation=1, parent=None, schema=SCHEMA, spec={}, lineage=[{"op": "test"}], extra={},
        streams=streams,
    )  # fmt: skip
    first, lock = creation.create(path, first, share=False, durable=False)
    column_sums, commit_hash, content = _zeros()
    entries = []
    for number in range(segments):
        entry = Segment(f"w00-{number * ALLOC:012d}", 0, number * ALLOC, ALLOC)
        entries.append(_segment(path, first.dataset, entry, column_sums, commit_hash, content))
    upcoming = first.next(segments=tuple(entries))
    generations.publish(path, upcoming, durable=False)
    lock.close()
    return sum(entry.bytes for entry in entries)


def _zeros() -> tuple[dict[str, sums.FileSum], int, str]:
    """Sums of the columns, the hash of a commit of all rows, and the content digest of a segment."""
    found, parts, contents = {}, [], []
    for column in SCHEMA.plain:
        size = ALLOC * column.row_bytes
        block = xxhash.xxh3_64_hexdigest(bytes(min(size, sums.BLOCK)))
        rest = size % sums.BLOCK
        blocks = [block] * (size // sums.BLOCK)
        blocks += [xxhash.xxh3_64_hexdigest(bytes(rest))] if rest else []
        found[path_of(column.key)] = sums.FileSum(size, tuple(blocks))
        zeros = np.zeros(size, np.uint8).data
        parts.append(xxhash.xxh3_64_digest(zeros))
        contents.append(xxhash.xxh3_128_hexdigest(zeros))
    empty = [xxhash.xxh3_128_hexdigest(b"")] * len(sums.EPISODE_COLUMNS)
    content = digests.of_parts(SCHEMA, ALLOC, 0, 0, columns=contents, final_columns=[], episode_columns=empty)
    return found, xxhash.xxh3_64_intdigest(b"".join(parts)), content


def _segment(
    root: Path, dataset: str, entry: Segment, columns: dict[str, sums.FileSum], commit_hash: int, content: str
) -> Segment:
    paths = SegmentPaths(root, entry.name)
    found = {}
    for name, expected in columns.items():
        file = paths.columns / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.truncate(file, expected.bytes)
        found[f"segments/{entry.name}/{name}"] = expected
    leaves = [(c.key, c.dtype, c.shape) for c in SCHEMA.plain]
    for name, data in trees.meta_files(leaves, ALLOC).items():
        (paths.columns / name).write_bytes(data)
        found[f"segments/{entry.name}/{name}"] = sums.of_bytes(data)
    packer = Packer(0)
    journal = packer.header(dataset, files.boot_id(), 2)
    journal += packer.rows(0, ALLOC, commit_hash, 0, 0, True)
    journal += packer.seal(ALLOC, 0, 0, 0, 2)
    paths.journal.write_bytes(journal)
    found[f"journal/{entry.name}.log"] = sums.of_bytes(journal)
    data = sums.dump(entry.name, found)
    paths.sums.write_bytes(data)
    return replace(
        entry, sealed=True, rows=ALLOC, bytes=sum(s.bytes for s in found.values()),
        sums=hashlib.sha256(data).hexdigest(), content=content,
    )  # fmt: skip
