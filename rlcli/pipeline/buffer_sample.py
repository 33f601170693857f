"""`rl buffer sample`: what a sampler draws, to look at or as a dataset."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.format.copying import chunk_rows, read_piece, whole_segment_rows
from rlcli.format.dataset import Dataset
from rlcli.format.heap import decode
from rlcli.format.keys import Key
from rlcli.format.location import Location
from rlcli.format.schema import Column, Schema
from rlcli.format.values import as_numbers
from rlcli.format.writer import Writer
from rlcli.pipeline.buffer_draw import Draw, Drawn
from rlcli.pipeline.buffer_rows import choose_columns, choose_keys
from rlcli.pipeline.making import lineage, making
from rlcli.pipeline.map_block import Array, Layout, Rows
from rlcli.pipeline.row_formats import Batch, Format, import_arrow, write_batches
from rlcli.replay.n_step import DISCOUNT

EPISODE, STEP, IS_INIT, SOURCE_ROW = ("episode",), ("step",), ("is_init",), ("source_row",)
TERMINATED, TRUNCATED = ("next", "terminated"), ("next", "truncated")


def sample_rows(
    path: Location,
    count: int,
    *,
    seed: int,
    sampler: str,
    sets: Sequence[str],
    transforms: Sequence[str],
    keys: str | None,
    format: Format,
) -> dict[str, Any]:
    """Write what is drawn to standard output as `rl buffer cat` does, with logical row numbers if known.

    A slice is one record, its columns `[T, …]`.
    """
    if format == "arrow":
        import_arrow()
    with Dataset.open(path) as dataset:
        with closing(
            Draw(dataset, count, seed=seed, sampler=sampler, sets=sets, transforms=transforms)
        ) as draw:
            if draw.takes_rows:
                chosen = [column.key for column in dataset.schema.columns]
                chosen = chosen if keys is None else choose_columns(dataset, keys)
                found = _stored(dataset, draw.rows(), chosen)
            else:
                found = (_seen(draw, drawn, keys) for drawn in draw.batches())
            write_batches(found, sys.stdout.buffer, format)
        sys.stdout.buffer.flush()
    return {"path": str(path), "rows": count, "sampler": sampler, "seed": seed}


def sample_dataset(
    path: Location,
    out: Path,
    count: int,
    *,
    seed: int,
    sampler: str,
    sets: Sequence[str],
    keys: str | None,
) -> dict[str, Any]:
    """Write what is drawn to a new dataset at `out` and return the report.

    A row is an episode of one step, a slice one of its valid steps; an episode is cut unless its last row
    terminates or truncates one. Next values are stored; `source_row` is the logical row in `path`, where the
    sampler says which that is. Raises `UsageError`, `Interrupted`.
    """
    with Dataset.open(path) as dataset, making(out, count, "sample") as work:
        with closing(Draw(dataset, count, seed=seed, sampler=sampler, sets=sets)) as draw:
            schema, layout = _layout(dataset, draw, keys)
            options = {"count": count, "seed": seed, "sampler": sampler, "set": list(sets), "keys": keys}
            with Writer.create(
                work.temporary, schema, spec=layout.spec(dataset), extra=layout.extra,
                lineage=lineage("sample", options, [dataset]),
            ) as writer:  # fmt: skip
                writer.segment_rows = whole_segment_rows(schema, count * draw.steps)
                for columns, ends in _pieces(dataset, draw, schema):
                    _add(writer, columns, ends)
                    work.advance(len(ends))
        return {**work.finish(), "source": str(path), "sampler": sampler, "seed": seed}


def _layout(dataset: Dataset, draw: Draw, keys: str | None) -> tuple[Schema, Layout]:
    """The columns of the dataset to be: those of the source, stored, and what the sampler adds."""
    layout = Layout.of(dataset)
    if not draw.takes_rows:
        layout.columns = {key: column for key, column in layout.columns.items() if column.is_sized}
        layout.columns |= {column.key: column for column in draw.added}
        if DISCOUNT in layout.columns and DISCOUNT not in dataset.schema.by_key:
            config = draw.sampler.config
            layout.extra = {**layout.extra, "n_step": {"n": config.n, "gamma": config.gamma}}
    if keys is not None:
        layout.columns = {key: layout.columns[key] for key in choose_keys(layout.columns, keys)}
    for key in list(layout.columns):
        if layout.columns[key].encoding in ("derived", "stack"):
            layout.store(key)
    if draw.names_rows:
        layout.columns[SOURCE_ROW] = Column(SOURCE_ROW, "int64")
    return layout.schema(), layout


def _pieces(dataset: Dataset, draw: Draw, schema: Schema) -> Iterator[tuple[dict[Key, Array], Rows]]:
    """Columns `[n, …]` of some rows, and behind which of them episodes end, ascending; the last is `n`."""
    keys = [column.key for column in schema.given if column.key != SOURCE_ROW]
    if draw.takes_rows:
        rows, step = draw.rows(), chunk_rows(dataset)
        for first in range(0, len(rows), step):
            part = rows[first : first + step]
            columns = read_piece(dataset, part, keys)
            yield {**columns, SOURCE_ROW: part}, np.arange(1, len(part) + 1)
        return
    for drawn in draw.batches():
        columns = {key: drawn.columns[key] for key in keys}
        ends = np.arange(1, len(next(iter(columns.values()))) + 1)
        if drawn.valid is not None:
            columns = {key: values[drawn.valid] for key, values in columns.items()}
            ends = _slice_ends(drawn, columns)
        elif drawn.rows is not None:
            columns[SOURCE_ROW] = drawn.rows
        yield columns, ends


def _slice_ends(drawn: Drawn, columns: dict[Key, Array]) -> Rows:
    """Behind the valid rows of each slice, and where an episode ends within one."""
    assert drawn.valid is not None
    ends = np.zeros(int(drawn.valid.sum()) + 1, np.bool_)
    ends[np.cumsum(drawn.valid.sum(axis=1))] = True
    for key in (TERMINATED, TRUNCATED):
        if key in columns:
            ends[1:] |= columns[key].reshape(-1)
    return np.flatnonzero(ends)


def _stored(dataset: Dataset, rows: Rows, keys: list[Key]) -> Iterator[Batch]:
    step = chunk_rows(dataset)
    unknown = dataset.unknown_next
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        found = read_piece(dataset, part, keys)
        columns: list[Any] = [(("row",), part, None)]
        for key in keys:
            column = dataset.schema.column(key)
            lost = np.isin(part, unknown) if column.encoding == "derived" else None
            columns.append((key, _shown(column, found[key]), lost))
        yield Batch(columns)


def _seen(draw: Draw, drawn: Drawn, keys: str | None) -> Batch:
    found = draw.seen(drawn)
    chosen = list(found) if keys is None else choose_keys(found, keys)
    columns: list[Any] = [] if drawn.rows is None else [(("row",), drawn.rows, None)]
    return Batch([*columns, *((key, found[key], None) for key in chosen)])


def _shown(column: Column, values: Array) -> Array | list[Any]:
    """Values as `rl buffer cat` shows them: bytes as hexadecimal digits, arrays of any length as lists."""
    if column.heap is None:
        return as_numbers(column, values)
    found = [None if value is None else decode(column, value) for value in values]
    return [
        v.hex() if isinstance(v, bytes) else v.tolist() if isinstance(v, np.ndarray) else v for v in found
    ]


def _add(writer: Writer, columns: dict[Key, Array], ends: Rows) -> None:
    """Rows as episodes, which end behind as many of them as `ends` says."""
    lengths = np.diff(ends, prepend=0)
    step = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    number = np.repeat(np.arange(writer.next_episode, writer.next_episode + len(ends)), lengths)
    for key, values in ((EPISODE, number), (STEP, step), (IS_INIT, step == 0)):
        if key in columns:
            columns[key] = values.astype(columns[key].dtype).reshape(columns[key].shape)
    flags = [
        columns[key].reshape(-1)[ends - 1] if key in columns else np.zeros(len(ends), bool)
        for key in (TERMINATED, TRUNCATED)
    ]
    before = writer.streams[0].rows
    writer.write(0, columns)
    for stop, terminated, truncated in zip(ends.tolist(), *(flag.tolist() for flag in flags), strict=True):
        cut = not (terminated or truncated)
        writer.end_episode(0, terminated=terminated, truncated=truncated, cut=cut, at=before + stop)
    writer.commit()
