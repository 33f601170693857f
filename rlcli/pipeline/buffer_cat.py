"""`rl buffer cat`: rows or episodes as NDJSON, CSV or Arrow, a chunk at a time, so memory stays bounded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli.config import parse_count
from rlcli.errors import UsageError, nearest
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.location import Location
from rlcli.format.schema import Column
from rlcli.format.spans import Chunk, Spans, chunks
from rlcli.pipeline.buffer_rows import choose_columns, plain_value
from rlcli.pipeline.expressions import Expression, Values
from rlcli.pipeline.outputs import publish, refuse_existing, unfinished
from rlcli.pipeline.row_formats import Batch, Format, import_arrow, write_batches

Array = NDArray[Any]
Table = Literal["steps", "episodes"]


def cat(
    path: Location,
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
    if out is not None and str(out) == "-":
        out = None
    if out is not None:
        refuse_existing(out)
    if format == "arrow":
        import_arrow()
    with Dataset.open(path) as dataset:
        if table == "episodes":
            batches = _episodes(dataset, keys, where, episodes, rows)
        else:
            batches = _steps(dataset, keys, where, episodes, rows)
        with _output(out) as stream:
            count = write_batches(batches, stream, format)
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
    return [plain_value(values[i]) for i in picked.tolist()]


def _episodes(
    dataset: Dataset, keys: str | None, where: str | None, episodes: str | None, rows: str | None
) -> Iterator[Batch]:
    """The chosen rows of the episode table, in one batch."""
    columns = episode_columns(dataset)
    if keys is not None:
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
        parts = [parse_count(part) if part.strip() else None for part in text.split(":")]
        if len(parts) == 1 and parts[0] is not None:
            parts.append(parts[0] + 1 or None)
        first, last = parts
    except ValueError as err:
        raise UsageError(f"{flag} {text}: expected A:B, e.g. 0:10k, -10: or 7") from err
    start, stop, _ = slice(first, last).indices(count)
    return start, max(start, stop)
