"""Whole episodes from one dataset to the end of a writer's stream: rows in chunks, flags, finals and seeds.

Rows are read through `Dataset`, so what is copied was compared with its hashes. Columns go over unchanged,
but for `episode` where episodes get new numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from rlcli.format.dataset import Dataset
from rlcli.format.episode_table import Episodes
from rlcli.format.keys import Key
from rlcli.format.layout import FIRST_ROWS, MAX_BYTES
from rlcli.format.schema import Schema
from rlcli.format.values import as_rewards
from rlcli.format.writer import Writer

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, np.dtype[np.int64]]
CHUNK_BYTES = 8 << 20
NUMBER, STEP, IS_INIT = ("episode",), ("step",), ("is_init",)
REWARD = ("next", "reward")


@dataclass(frozen=True)
class Piece:
    """Rows that are copied at once: logical `rows` `[n]`, the position in the list of chosen episodes each is
    of `[n]`, and the positions of those that end here, with where: after that many of these rows.
    """

    rows: Rows
    position: Rows
    ending: Rows
    ends: Rows


def all_episodes(dataset: Dataset) -> Episodes:
    """Every row of a snapshot as a part of an episode: `dataset.episodes`, and the unfinished ones as cut.

    Logical order. Of a window, rows of an episode whose first row has left it are in none.
    """
    table = dataset.episodes
    tails: dict[str, list[Any]] = {field.name: [] for field in fields(Episodes)}
    snapshot = dataset.snapshot
    begin = 0
    bounds = zip(snapshot["starts"], snapshot["ended"], snapshot["rows"], strict=True)
    for stream, (first, ended, stop) in enumerate(bounds):
        start, length = begin + ended - first, stop - ended
        begin += stop - first
        lost = first > 0 and ended == first
        if not length or (lost and not _is_first(dataset, start)):
            continue
        known = {"start": start, "length": length, "cut": True, "seed": -1, "stream": stream}
        known["number"] = _number_at(dataset, start, table, np.flatnonzero(table.stream == stream))
        known["return_"] = _return_of(dataset, start, start + length)
        for name, values in tails.items():
            values.append(known.get(name, False))
    if not tails["start"]:
        return table
    joined = {
        name: np.concatenate([getattr(table, name), np.array(values, getattr(table, name).dtype)])
        for name, values in tails.items()
    }
    order = np.argsort(joined["start"], kind="stable")
    return Episodes(**{name: values[order] for name, values in joined.items()})


def _is_first(dataset: Dataset, row: int) -> bool:
    """Whether a window begins with an episode; only columns can say so, records have left with their rows."""
    if STEP in dataset.schema.by_key:
        return not dataset.read(STEP, row, row + 1).any()
    return IS_INIT in dataset.schema.by_key and bool(dataset.read(IS_INIT, row, row + 1).all())


def _number_at(dataset: Dataset, row: int, table: Episodes, mine: Rows) -> int:
    if NUMBER in dataset.schema.by_key:
        return int(dataset.read(NUMBER, row, row + 1).reshape(-1)[0])
    return int(table.number[mine[-1]]) + 1 if len(mine) else 0


def _return_of(dataset: Dataset, start: int, stop: int) -> float:
    if REWARD not in dataset.schema.by_key:
        return 0.0
    rewards = as_rewards(dataset.schema.column(REWARD), dataset.read(REWARD, start, stop))
    return float(np.add.accumulate(rewards.reshape(-1))[-1])


def pieces(table: Episodes, chosen: Rows, rows: int) -> Iterator[Piece]:
    """The rows of the `chosen` episodes (indices into `table`) in their order, at most `rows` at once."""
    lengths = table.length[chosen]
    stops = np.cumsum(lengths, dtype=np.int64)
    shift = table.start[chosen] - (stops - lengths)  # from a row's place in the copy to its logical row
    total = int(stops[-1]) if len(stops) else 0
    for low in range(0, total, rows):
        high = min(low + rows, total)
        place = np.arange(low, high)
        position = np.searchsorted(stops, place, side="right")
        ending = np.flatnonzero((stops > low) & (stops <= high))
        yield Piece(place + shift[position], position, ending, stops[ending] - low)


def read_piece(dataset: Dataset, rows: Rows, keys: list[Key]) -> dict[Key, Array]:
    """The columns `keys` at logical `rows`, copies `[n, *shape]`; of heap columns the encoded values as
    objects, None where unknown.
    """
    found: dict[Key, Array] = {}
    plain = []
    for key in keys:
        if dataset.schema.column(key).heap is None:
            plain.append(key)
            continue
        found[key] = np.empty(len(rows), object)
        found[key][:] = dataset.encoded(key, rows)
    if len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows):
        start, stop = int(rows[0]), int(rows[-1]) + 1
        return found | {key: dataset.read(key, start, stop) for key in plain}
    gathered = dataset.gather(rows, keys=plain) if plain else {}
    return found | {key: _pick(gathered, key) for key in plain}


def whole_segment_rows(schema: Schema, rows: int) -> int:
    """How many rows a segment should have so that `rows` come in few: a multiple of 4,096 up to 1 GiB."""
    fitting = max(1, MAX_BYTES // schema.row_bytes)
    if fitting < FIRST_ROWS:
        return fitting
    return min(max(1, -(-rows // FIRST_ROWS)) * FIRST_ROWS, fitting - fitting % FIRST_ROWS)


def chunk_rows(dataset: Dataset) -> int:
    """How many rows of a dataset are moved at once: about 8 MiB, heap values counted as on average."""
    row_bytes = max(dataset.schema.row_bytes, dataset.size_bytes // max(1, dataset.num_rows))
    return max(1, min(65_536, CHUNK_BYTES // row_bytes))


def copy_episodes(
    source: Dataset,
    table: Episodes,
    chosen: Rows,
    writer: Writer,
    stream: int,
    *,
    renumber: bool = False,
    commit: bool = True,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Appends the `chosen` episodes of `table` (indices) to a stream of `writer` in order.

    `writer` has the columns of `source`. With `renumber` episodes get the writer's next numbers, in their
    `episode` column too. Rows are committed in chunks as they come, or by the caller. `advance` is told of
    rows; what it raises leaves the last commit.
    """
    schema = source.schema
    given = [column.key for column in schema.given]
    shifts = schema.shifts
    numbers = np.arange(writer.next_episode, writer.next_episode + len(chosen))
    if not renumber:
        numbers = table.number[chosen]
    for piece in pieces(table, chosen, chunk_rows(source)):
        columns = read_piece(source, piece.rows, given)
        if renumber and NUMBER in columns:
            columns[NUMBER] = numbers[piece.position].reshape(columns[NUMBER].shape)
        before = writer.streams[stream].rows
        writer.write(stream, columns)
        episodes = chosen[piece.ending]
        finals = read_piece(source, piece.rows[piece.ends - 1], [column.key for column in shifts])
        for k, (episode, end) in enumerate(zip(episodes, piece.ends, strict=True)):
            final = {column.of or (): finals[column.key][k] for column in shifts}
            seed = int(table.seed[episode])
            writer.end_episode(
                stream,
                terminated=bool(table.terminated[episode]),
                truncated=bool(table.truncated[episode]),
                cut=bool(table.cut[episode]),
                final=final if table.has_final[episode] else None,
                seed=None if seed == -1 else seed,
                number=int(numbers[piece.ending[k]]),
                at=before + int(end),
            )
        if commit:
            writer.commit()
        if advance is not None:
            advance(len(piece.rows))


def _pick(nested: Any, key: Key) -> Array:
    for part in key:
        nested = nested[part]
    array: Array = nested
    return array
