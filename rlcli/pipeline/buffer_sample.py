"""`rl buffer sample`: rows as a sampler draws them, to look at or as a dataset of single steps."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.errors import UsageError
from rlcli.format.copying import chunk_rows, read_piece, whole_segment_rows
from rlcli.format.dataset import Dataset
from rlcli.format.heap import decode
from rlcli.format.keys import Key
from rlcli.format.location import Location
from rlcli.format.schema import Column, Schema
from rlcli.format.spans import as_numbers
from rlcli.format.writer import Writer
from rlcli.pipeline.buffer_rows import choose_columns
from rlcli.pipeline.making import lineage, making
from rlcli.pipeline.map_block import Array, Layout, Rows
from rlcli.pipeline.row_formats import Batch, Format, import_arrow, write_batches
from rlcli.replay.choice import make_sampler
from rlcli.replay.sampler import RowSampler

EPISODE, STEP, IS_INIT, SOURCE_ROW = ("episode",), ("step",), ("is_init",), ("source_row",)
TERMINATED, TRUNCATED = ("next", "terminated"), ("next", "truncated")


MOST_ROWS = 1 << 30  # their numbers alone are 8 GiB


def sample_rows(
    path: Location,
    count: int,
    *,
    seed: int,
    sampler: str,
    sets: Sequence[str],
    keys: str | None,
    format: Format,
) -> dict[str, Any]:
    """Write `count` rows to standard output, as `rl buffer cat` does: their logical row numbers first."""
    if format == "arrow":
        import_arrow()
    with Dataset.open(path) as dataset:
        chosen = [column.key for column in dataset.schema.columns]
        chosen = chosen if keys is None else choose_columns(dataset, keys)
        rows = _draw(dataset, count, seed, sampler, sets)
        write_batches(_batches(dataset, rows, chosen), sys.stdout.buffer, format)
        sys.stdout.buffer.flush()
    return {"path": str(path), "rows": len(rows), "sampler": sampler, "seed": seed}


def sample_dataset(
    path: Location, out: Path, count: int, *, seed: int, sampler: str, sets: Sequence[str], keys: str | None
) -> dict[str, Any]:
    """Write `count` rows to a new dataset at `out` and return the report.

    Every row is an episode of one step, cut unless the row terminates or truncates one, its next values
    stored; `source_row` is its logical row in `path`. Raises `UsageError`, `Interrupted`.
    """
    with Dataset.open(path) as dataset, making(out, count, "sample") as work:
        rows = _draw(dataset, count, seed, sampler, sets)
        layout = Layout.of(dataset)
        if keys is not None:
            chosen = choose_columns(dataset, keys)
            layout.columns = {key: layout.columns[key] for key in chosen}
        for key in list(layout.columns):
            if layout.columns[key].encoding in ("derived", "stack"):
                layout.store(key)
        layout.columns[SOURCE_ROW] = Column(SOURCE_ROW, "int64")
        schema = layout.schema()
        options = {"count": count, "seed": seed, "sampler": sampler, "set": list(sets), "keys": keys}
        with Writer.create(
            work.temporary, schema, spec=layout.spec(dataset), extra=layout.extra,
            lineage=lineage("sample", options, [dataset]),
        ) as writer:  # fmt: skip
            writer.segment_rows = whole_segment_rows(schema, count)
            step = chunk_rows(dataset)
            for first in range(0, count, step):
                part = rows[first : first + step]
                _add(writer, dataset, schema, part)
                work.advance(len(part))
        return {**work.finish(), "source": str(path), "sampler": sampler, "seed": seed}


def _draw(dataset: Dataset, count: int, seed: int, sampler: str, sets: Sequence[str]) -> Rows:
    if count < 1:
        raise UsageError(f"-n must be at least 1, got {count}")
    if count > MOST_ROWS:
        raise UsageError(f"-n must be at most {MOST_ROWS:,}, got {count:,}; draw in parts, with other seeds")
    if not 0 <= seed < 2**63:
        raise UsageError(f"--seed must be a whole number from 0 to 2^63 - 1, got {seed}")
    chosen = make_sampler(sampler, dataset, sets=sets, seed=seed)
    if not isinstance(chosen, RowSampler):
        raise UsageError(f"--sampler {sampler}: its batches are made of more than the rows it draws")
    return chosen.rows(count)


def _batches(dataset: Dataset, rows: Rows, keys: list[Key]) -> Iterator[Batch]:
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


def _shown(column: Column, values: Array) -> Array | list[Any]:
    """Values as `rl buffer cat` shows them: bytes as hexadecimal digits, arrays of any length as lists."""
    if column.heap is None:
        return as_numbers(column, values)
    found = [None if value is None else decode(column, value) for value in values]
    return [
        v.hex() if isinstance(v, bytes) else v.tolist() if isinstance(v, np.ndarray) else v for v in found
    ]


def _add(writer: Writer, dataset: Dataset, schema: Schema, rows: Rows) -> None:
    """Every row as an episode of its own."""
    columns = read_piece(dataset, rows, [c.key for c in schema.given if c.key != SOURCE_ROW])
    columns[SOURCE_ROW] = rows
    numbers = np.arange(writer.next_episode, writer.next_episode + len(rows))
    for key, values in ((EPISODE, numbers), (STEP, np.zeros_like(numbers)), (IS_INIT, numbers >= 0)):
        if key in columns:
            columns[key] = values.astype(columns[key].dtype).reshape(columns[key].shape)
    flags = [
        columns[key].reshape(len(rows)) if key in columns else np.zeros(len(rows), bool)
        for key in (TERMINATED, TRUNCATED)
    ]
    before = writer.streams[0].rows
    writer.write(0, columns)
    for at, (terminated, truncated) in enumerate(zip(*(flag.tolist() for flag in flags), strict=True)):
        cut = not (terminated or truncated)
        writer.end_episode(0, terminated=terminated, truncated=truncated, cut=cut, at=before + at + 1)
    writer.commit()
