"""Rows as NDJSON, CSV or Arrow, batch after batch."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli import console
from rlcli.errors import MissingExtraError
from rlcli.format.keys import Key

Array = NDArray[Any]
Format = Literal["ndjson", "csv", "arrow"]

_LINES = 4096  # made into text at once
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


@dataclass
class Batch:
    """Some rows of a table: per column its values, `[n, *shape]` or a list, and where they are unknown."""

    columns: list[tuple[Key, Array | list[Any], Array | None]]

    def __len__(self) -> int:
        return len(self.columns[0][1])


def write_batches(batches: Iterator[Batch], stream: BinaryIO, format: Format) -> int:
    """Write batches of equal columns, and return the number of their rows."""
    write = {"ndjson": _write_ndjson, "csv": _write_csv, "arrow": _write_arrow}[format]
    return write(batches, stream)


def _lists(batch: Batch) -> list[tuple[Key, list[Any]]]:
    """Columns as Python lists, None where unknown."""
    found = []
    for key, values, unknown in batch.columns:
        items = values if isinstance(values, list) else values.tolist()
        if unknown is not None and unknown.any():
            items = [None if lost else item for item, lost in zip(items, unknown.tolist(), strict=True)]
        found.append((key, items))
    return found


def _parts(batch: Batch) -> Iterator[Batch]:
    for start in range(0, max(1, len(batch)), _LINES):
        rows = slice(start, start + _LINES)
        yield Batch([(k, v[rows], None if u is None else u[rows]) for k, v, u in batch.columns])


def _write_ndjson(batches: Iterator[Batch], stream: BinaryIO) -> int:
    count = 0
    for batch in (part for whole in batches for part in _parts(whole)):
        columns = _lists(batch)
        lines = []
        for i in range(len(batch)):
            row: dict[str, Any] = {}
            for key, items in columns:
                node = row
                for part in key[:-1]:
                    node = node.setdefault(part, {})
                node[key[-1]] = items[i]
            try:
                lines.append(_JSON.encode(row))
            except (ValueError, TypeError):  # NaN or complex
                lines.append(console.to_json(row))
        stream.write("".join(f"{line}\n" for line in lines).encode())
        count += len(batch)
    return count


def _write_csv(batches: Iterator[Batch], stream: BinaryIO) -> int:
    count, has_names = 0, False
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=False)
    writer = csv.writer(text, lineterminator="\n")
    try:
        for batch in (part for whole in batches for part in _parts(whole)):
            flat = Batch([column for given in batch.columns for column in _elements(*given)])
            if not has_names:
                writer.writerow("/".join(key) for key, _, _ in flat.columns)
                has_names = True
            writer.writerows(zip(*(items for _, items in _lists(flat)), strict=True))
            text.flush()
            count += len(batch)
    finally:
        text.detach()
    return count


def _elements(
    key: Key, values: Array | list[Any], unknown: Array | None
) -> list[tuple[Key, Array | list[Any], Array | None]]:
    """A column per element, named `key[0]`, `key[1, 2]`; one element is just `key`."""
    if isinstance(values, list):
        return [(key, values, unknown)]
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    if flat.shape[1] == 1:
        return [(key, flat[:, 0], unknown)]
    names = (", ".join(map(str, index)) for index in np.ndindex(values.shape[1:]))
    return [((*key[:-1], f"{key[-1]}[{name}]"), flat[:, i], unknown) for i, name in enumerate(names)]


def _write_arrow(batches: Iterator[Batch], stream: BinaryIO) -> int:
    first = arrow_batch(next(batches))
    return write_record_batches(chain([first], map(arrow_batch, batches)), first.schema, stream)


def write_record_batches(batches: Iterable[Any], schema: Any, stream: BinaryIO) -> int:
    """Write `pyarrow.RecordBatch`es as an IPC stream, and return the number of their rows."""
    count = 0
    with import_arrow().ipc.new_stream(stream, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def arrow_batch(batch: Batch) -> Any:
    """A `pyarrow.RecordBatch`: names joined by ".", vectors as lists of fixed size, without copies where the
    types are alike (flags, float16 and complex numbers are converted).
    """
    arrow = import_arrow()
    names = [".".join(key) for key, _, _ in batch.columns]
    arrays = [arrow_array(values, unknown) for _, values, unknown in batch.columns]
    return arrow.RecordBatch.from_arrays(arrays, names=names)


def arrow_array(values: Array | list[Any], unknown: Array | None) -> Any:
    """A `pyarrow.Array` of a column's values."""
    arrow = import_arrow()
    if isinstance(values, list):
        return arrow.array(values)
    if values.dtype.kind == "c":
        values = np.stack((np.real(values), np.imag(values)), axis=-1)
    elif values.dtype == np.float16:
        values = values.astype(np.float32)
    size = int(np.prod(values.shape[1:], dtype=np.int64))
    mask = unknown if unknown is not None and unknown.any() else None
    if size == 1:
        return arrow.array(np.ascontiguousarray(values).reshape(-1), mask=mask)
    flat = arrow.array(np.ascontiguousarray(values).reshape(-1))
    lists = arrow.FixedSizeListArray.from_arrays(flat, size, mask=None if mask is None else arrow.array(mask))
    return lists


def import_arrow() -> Any:
    """The module `pyarrow`. Raises `MissingExtraError`."""
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as err:
        raise MissingExtraError("pyarrow", "arrow", needed_for="--format arrow") from err
    return pyarrow
