"""`rl buffer cat`: rows or episodes as NDJSON, CSV or Arrow, a chunk at a time, so memory stays bounded."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli import console
from rlcli.errors import MissingExtraError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.schema import Column
from rlcli.format.spans import Chunk, Spans, chunks
from rlcli.pipeline.buffer_rows import choose_columns
from rlcli.pipeline.expressions import Expression, Values
from rlcli.pipeline.outputs import publish, refuse_existing, unfinished

Array = NDArray[Any]
Format = Literal["ndjson", "csv", "arrow"]
Table = Literal["steps", "episodes"]

_LINES = 4096  # made into text at once


@dataclass
class Batch:
    """Some rows of a table: per column its values, `[n, *shape]` or a list, and where they are unknown."""

    columns: list[tuple[Key, Array | list[Any], Array | None]]

    def __len__(self) -> int:
        return len(self.columns[0][1])


def cat(
    path: Path,
    out: Path | None,
    *,
    format: Format = "ndjson",
    table: Table = "steps",
    keys: str | None = None,
    where: str | None = None,
    episodes: str | None = None,
    rows: str | None = None,
) -> dict[str, Any]:
    """Write rows to `out`, which must not exist, or to standard output if it is None; return counts.

    A row of "steps" is a time step with its logical row number first, one of "episodes" what the episode
    table says. `keys` names columns as in `head`; `episodes` and `rows` are slices `A:B` of positions, and
    `where` is an expression per row of the table. Unknown next values are null, empty in CSV; so is NaN in
    NDJSON, which has none. In CSV and Arrow a nested key is joined by "/" and ".", a vector is a column per
    element and a list of fixed size.

    Raises `UsageError` for wrong names and slices, `MissingExtraError` if Arrow is not there, `CorruptError`
    when it comes to damaged bytes.
    """
    if out is not None:
        refuse_existing(out)
    if format == "arrow":
        _arrow()
    with Dataset.open(path) as dataset:
        if table == "episodes":
            batches = _episodes(dataset, keys, where, episodes, rows)
        else:
            batches = _steps(dataset, keys, where, episodes, rows)
        write = {"ndjson": _write_ndjson, "csv": _write_csv, "arrow": _write_arrow}[format]
        with _output(out) as stream:
            count = write(batches, stream)
    return {"path": path, "table": table, "format": format, "rows": count}


@contextmanager
def _output(out: Path | None) -> Iterator[BinaryIO]:
    if out is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with unfinished(out) as temporary:
        with open(temporary, "wb") as stream:
            yield stream
        publish(temporary, out)


def _steps(
    dataset: Dataset, keys: str | None, where: str | None, episodes: str | None, rows: str | None
) -> Iterator[Batch]:
    """The chosen rows. What can be wrong with the choice is raised at once, before the first batch."""
    schema = dataset.schema
    chosen = [column.key for column in schema.columns] if keys is None else choose_columns(dataset, keys)
    columns = [schema.column(key) for key in chosen]
    expression = None if where is None else Expression(where, schema, per="step")
    spans = Spans(dataset)
    start, stop = _slice("--rows", rows, dataset.num_rows)
    wanted = None
    if episodes is not None:
        first, last = _slice("--episodes", episodes, dataset.num_episodes)
        wanted = (spans.entry >= first) & (spans.entry < last)
        stop = min(stop, int(spans.stop[wanted].max(initial=0)))
        start = max(start, int(spans.start[wanted].min(initial=stop)))
    condition = None if expression is None else expression.on(dataset, spans)
    return _step_batches(dataset, columns, spans, (start, stop), wanted, condition)


def _step_batches(
    dataset: Dataset,
    columns: list[Column],
    spans: Spans,
    bounds: tuple[int, int],
    wanted: Array | None,
    condition: Values | None,
) -> Iterator[Batch]:
    """At least one batch, which tells the columns."""
    found_any = False
    for low, high in chunks(dataset, columns):
        low, high = max(low, bounds[0]), min(high, bounds[1])
        if low >= high:
            continue
        chunk = Chunk(dataset, spans, low, high)
        mask = np.ones(len(chunk), np.bool_)
        if wanted is not None:
            mask &= wanted[chunk.span]
        if condition is not None:
            mask &= condition.steps(chunk)
        if mask.any():
            found_any = True
            yield _batch(chunk, columns, np.flatnonzero(mask))
    if not found_any:
        yield _batch(Chunk(dataset, spans, 0, 0), columns, np.zeros(0, np.int64))


def _batch(chunk: Chunk, columns: list[Column], picked: Array) -> Batch:
    found: list[tuple[Key, Array | list[Any], Array | None]] = [(("row",), picked + chunk.start, None)]
    for column in columns:
        unknown = chunk.unknown_next[picked] if column.encoding == "derived" else None
        found.append((column.key, _read(chunk, column, picked), unknown))
    return Batch(found)


def _read(chunk: Chunk, column: Column, picked: Array) -> Array | list[Any]:
    if column.heap is None:
        return chunk.read(column.key)[picked]
    values = chunk.dataset.read(column.key, chunk.start, chunk.stop)
    return [_plain(values[i]) for i in picked.tolist()]


def _plain(value: Any) -> Any:
    """A value of any length: text as it is, bytes as hexadecimal digits, an array as lists."""
    return value.hex() if isinstance(value, bytes) else value.tolist() if hasattr(value, "tolist") else value


def _episodes(
    dataset: Dataset, keys: str | None, where: str | None, episodes: str | None, rows: str | None
) -> Iterator[Batch]:
    """The chosen rows of the episode table, in one batch."""
    columns = episode_columns(dataset)
    if keys is not None:
        from rlcli.errors import nearest

        names = [name.strip() for name in keys.split(",")]
        for name in names:
            if name not in columns:
                raise UsageError(f"--keys: episodes have no {name!r}; {nearest(name, columns)}")
        columns = {name: columns[name] for name in names}
    count = dataset.num_episodes
    mask = np.zeros(count, np.bool_)
    mask[slice(*_slice("--episodes", episodes, count))] = True
    outside = np.ones(count, np.bool_)
    outside[slice(*_slice("--rows", rows, count))] = False
    mask &= ~outside
    if where is not None:
        expression = Expression(where, dataset.schema, per="episode")
        spans = Spans(dataset)
        mask[spans.entry[spans.finished]] &= expression.on(dataset, spans).episodes()[spans.finished]
    return iter(
        [Batch([((name,), values[mask], unknown[mask]) for name, (values, unknown) in columns.items()])]
    )


def episode_columns(dataset: Dataset) -> dict[str, tuple[Array, Array]]:
    """Per name the values `[episodes]` and where they are unknown; seeds are unsigned."""
    table = dataset.episodes
    known = np.zeros(len(table), np.bool_)
    index = np.arange(len(table))
    return {
        "index": (index, known),
        "number": (table.number, known),
        "stream": (table.stream, known),
        "start": (table.start, known),
        "length": (table.length, known),
        "return": (table.return_, known),
        "terminated": (table.terminated, known),
        "truncated": (table.truncated, known),
        "cut": (table.cut, known),
        "final_known": (table.has_final, known),
        "seed": (table.seed.view(np.uint64), table.seed == -1),
    }


def _slice(flag: str, text: str | None, count: int) -> tuple[int, int]:
    """`A:B`, `A:`, `:B`, `A` as in Python; negative numbers count from the end."""
    if text is None:
        return 0, count
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
        if len(parts) == 1 and parts[0] is not None:
            parts.append(parts[0] + 1 or None)
        first, last = parts
    except ValueError as err:
        raise UsageError(f"{flag} {text}: expected A:B, e.g. 0:100, -10: or 7") from err
    start, stop, _ = slice(first, last).indices(count)
    return start, max(start, stop)


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
                lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False))
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
    flat = values.reshape(len(values), -1) if values.ndim > 1 else values[:, None]
    if flat.shape[1] == 1:
        return [(key, flat[:, 0], unknown)]
    names = (", ".join(map(str, index)) for index in np.ndindex(values.shape[1:]))
    return [((*key[:-1], f"{key[-1]}[{name}]"), flat[:, i], unknown) for i, name in enumerate(names)]


def _write_arrow(batches: Iterator[Batch], stream: BinaryIO) -> int:
    arrow = _arrow()
    writer, count = None, 0
    try:
        for batch in batches:
            table = arrow_batch(batch)
            if writer is None:
                writer = arrow.ipc.new_stream(stream, table.schema)
            writer.write_batch(table)
            count += len(batch)
    finally:
        if writer is not None:
            writer.close()
    return count


def arrow_batch(batch: Batch) -> Any:
    """A `pyarrow.RecordBatch`: names joined by ".", vectors as lists of fixed size, without copies where the
    types are alike (flags, float16 and complex numbers are converted).
    """
    arrow = _arrow()
    names = [".".join(key) for key, _, _ in batch.columns]
    arrays = [arrow_array(values, unknown) for _, values, unknown in batch.columns]
    return arrow.RecordBatch.from_arrays(arrays, names=names)


def arrow_array(values: Array | list[Any], unknown: Array | None) -> Any:
    """A `pyarrow.Array` of a column's values."""
    arrow = _arrow()
    if isinstance(values, list):
        return arrow.array(values)
    if values.dtype.kind == "c":
        values = np.stack((values.real, values.imag), axis=-1)
    elif values.dtype == np.float16:
        values = values.astype(np.float32)
    size = int(np.prod(values.shape[1:], dtype=np.int64))
    mask = unknown if unknown is not None and unknown.any() else None
    if size == 1:
        return arrow.array(np.ascontiguousarray(values).reshape(-1), mask=mask)
    flat = arrow.array(np.ascontiguousarray(values).reshape(-1))
    lists = arrow.FixedSizeListArray.from_arrays(flat, size, mask=None if mask is None else arrow.array(mask))
    return lists


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as err:
        raise MissingExtraError("pyarrow", "arrow", needed_for="--format arrow") from err
    return pyarrow
