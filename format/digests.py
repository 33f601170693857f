"""Digests that name content: the same rows give the same digest, wherever and whenever written.

SPEC.md section 9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from rlcli.format import strictjson
from rlcli.format.mapping import MappedSegment
from rlcli.format.schema import Column, Schema
from rlcli.format.sums import EPISODE_COLUMNS

if TYPE_CHECKING:
    from rlcli.format.dataset import Dataset
    from rlcli.format.episode_table import Episodes

Array = np.ndarray[Any, Any]

_EPISODE_FLAGS = ("terminated", "truncated", "cut", "has_final")
_NUMBER = ("episode",)  # an episode gets another one in another dataset
_READ_BYTES = 8 << 20


def of_parts(
    schema: Schema,
    rows: int,
    finals: int,
    episodes: int,
    *,
    columns: Sequence[str],
    final_columns: Sequence[str],
    episode_columns: Sequence[str],
    heaps: Sequence[tuple[int, str]] = (),
) -> str:
    """A segment's content digest from the XXH3-128 of each part, in schema order; of heaps also the sizes."""
    parts = [(rows, digest) for digest in columns]
    parts += [(finals, digest) for digest in final_columns]
    parts += [(episodes, digest) for digest in episode_columns]
    parts += heaps
    heads = _heads(schema.plain, schema.derived, schema.heaps)
    text = ",".join([f'{head},{n},"{digest}"]' for head, (n, digest) in zip(heads, parts, strict=True)])
    return hashlib.sha256(f"[{text}]".encode()).hexdigest()


@lru_cache(maxsize=16)
def _heads(plain: tuple[Column, ...], derived: tuple[Column, ...], heaps: tuple[Column, ...]) -> list[str]:
    """The beginning of each part in compact JSON: what does not change from segment to segment."""
    heads: list[list[Any]] = [["column", list(c.key), c.dtype, list(c.shape)] for c in plain]
    heads += [["final", list(c.key), c.dtype, list(c.shape)] for c in derived]
    heads += [["episode", name, dtype] for name, dtype in EPISODE_COLUMNS]
    for column in heaps:
        entry = {name: value for name, value in column.to_json().items() if name != "key"}
        heads.append(["heap", list(column.key), entry])
    return [strictjson.canonical(head).decode().removesuffix("]") for head in heads]


def segment_content(mapped: MappedSegment, rows: int, episodes: Mapping[str, Array]) -> str:
    """The content digest of the first `rows` rows of a segment and its episodes, from its bytes."""
    finals = int(episodes["has_final"].sum())
    heaps = [mapped.heap(n)[: mapped.heap_end(n, rows, finals)] for n in range(len(mapped.schema.heaps))]
    empty = [np.zeros(0)] * len(mapped.schema.derived)
    return of_parts(
        mapped.schema,
        rows,
        finals,
        len(episodes["start"]),
        columns=[xxhash.xxh3_128_hexdigest(array[:rows].data) for array in mapped.columns],
        final_columns=[xxhash.xxh3_128_hexdigest(array[:finals].data) for array in mapped.finals or empty],
        episode_columns=[xxhash.xxh3_128_hexdigest(episodes[name].data) for name, _ in EPISODE_COLUMNS],
        heaps=[(len(data), xxhash.xxh3_128_hexdigest(data.data)) for data in heaps],
    )


def dataset_digest(
    schema: Schema, spec: dict[str, Any], segments: Sequence[tuple[int, int, int, str]]
) -> str:
    """The digest of a snapshot; `segments` are (stream, first, rows, content) in logical order."""
    value = {"schema": schema.to_json(), "spec": spec, "segments": [list(segment) for segment in segments]}
    return hashlib.sha256(strictjson.canonical(value)).hexdigest()


def episode_digest(dataset: Dataset, episodes: Episodes, index: int) -> str:
    """SHA-256 of what happened in episode `index` of `episodes`, the table of `dataset`. SPEC.md section 9.

    Its stored columns, its final observation where that is kept apart, and how it ended. Not its number, its
    seed, or where it lies: a copy in another dataset has the same digest.
    """
    start, length = int(episodes.start[index]), int(episodes.length[index])
    flags = {name: bool(getattr(episodes, name)[index]) for name in _EPISODE_FLAGS}
    columns = sorted(dataset.schema.columns, key=lambda column: column.key)
    stored = [c for c in columns if c.encoding in ("plain", "heap") and c.key != _NUMBER]
    finals = [c for c in columns if c.encoding == "derived" and flags["has_final"]]
    parts = [[list(column.key), column.dtype, list(column.shape)] for column in (*stored, *finals)]
    digest = hashlib.sha256(strictjson.canonical([parts, length, flags]))
    stop = start + length
    for column in stored:
        step = max(1, _READ_BYTES // column.row_bytes)
        for first in range(start, stop, step):
            _add(digest, dataset.read(column.key, first, min(first + step, stop)))
    for column in finals:
        _add(digest, dataset.read(column.key, stop - 1, stop))
    return digest.hexdigest()


def _add(digest: hashlib._Hash, values: Array | Sequence[Any]) -> None:
    """Fixed-size values are hashed as their bytes, others (text, arrays of any shape) with their lengths."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        return
    for value in values:
        if isinstance(value, np.ndarray):
            digest.update(strictjson.canonical([str(value.dtype), list(value.shape)]))
            value = np.ascontiguousarray(value).tobytes()
        data = value.encode() if isinstance(value, str) else bytes(value)
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
