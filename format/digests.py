"""Digests that name content: the same rows give the same digest, wherever and whenever written.

SPEC.md section 9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xxhash

from rlcli.format import strictjson
from rlcli.format.mapping import MappedSegment
from rlcli.format.schema import Schema
from rlcli.format.sums import EPISODE_COLUMNS

Array = np.ndarray[Any, Any]


def of_parts(
    schema: Schema,
    rows: int,
    finals: int,
    episodes: int,
    *,
    columns: Sequence[str],
    final_columns: Sequence[str],
    episode_columns: Sequence[str],
) -> str:
    """A segment's content digest from the XXH3-128 of each part, in schema order."""
    parts: list[list[Any]] = []
    for column, digest in zip(schema.plain, columns, strict=True):
        parts.append(["column", list(column.key), column.dtype, list(column.shape), rows, digest])
    for column, digest in zip(schema.derived, final_columns, strict=True):
        parts.append(["final", list(column.key), column.dtype, list(column.shape), finals, digest])
    for (name, dtype), digest in zip(EPISODE_COLUMNS, episode_columns, strict=True):
        parts.append(["episode", name, dtype, episodes, digest])
    return hashlib.sha256(strictjson.canonical(parts)).hexdigest()


def segment_content(mapped: MappedSegment, rows: int, episodes: Mapping[str, Array]) -> str:
    """The content digest of the first `rows` rows of a segment and its episodes, from its bytes."""
    finals = int(episodes["has_final"].sum())
    empty = [np.zeros(0)] * len(mapped.schema.derived)
    return of_parts(
        mapped.schema,
        rows,
        finals,
        len(episodes["start"]),
        columns=[xxhash.xxh3_128_hexdigest(array[:rows].data) for array in mapped.columns],
        final_columns=[xxhash.xxh3_128_hexdigest(array[:finals].data) for array in mapped.finals or empty],
        episode_columns=[xxhash.xxh3_128_hexdigest(episodes[name].data) for name, _ in EPISODE_COLUMNS],
    )


def dataset_digest(
    schema: Schema, spec: dict[str, Any], segments: Sequence[tuple[int, int, int, str]]
) -> str:
    """The digest of a snapshot; `segments` are (stream, first, rows, content) in logical order."""
    value = {"schema": schema.to_json(), "spec": spec, "segments": [list(segment) for segment in segments]}
    return hashlib.sha256(strictjson.canonical(value)).hexdigest()
