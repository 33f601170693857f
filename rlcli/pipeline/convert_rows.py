"""From a source's parts to the rows of a dataset: which are taken, what they amount to, how they are kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from rlcli.datasets.contract import Advance, End, Ends, Part, Piece, Report, Source
from rlcli.datasets.opened import nest
from rlcli.datasets.parts import Columns, alone, ends_of, num_rows
from rlcli.errors import InputError, ResourceError, UsageError
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.given import Stored
from rlcli.format.keys import Key
from rlcli.format.schema import Schema
from rlcli.format.writer import Writer
from rlcli.pipeline.convert_disk import ToDisk

_CHUNK_BYTES = 8 << 20  # rows gathered before one write
_SEGMENT_BYTES = 1 << 30
_SEGMENT_ROWS = 4096  # segments are a multiple of this, so that every column ends on a page
_WIDE_BYTES = 16 << 10  # but for larger rows: the room that is left would be much larger than what there is


@dataclass(frozen=True)
class Selection:
    """Which rows of a source are wanted.

    `episodes` is `(first, stop)`, numbered as in the source; stop None is the end. `limit` is a number of
    rows; an episode that it cuts is marked cut, with its true next observation. `drop_invalid_last` leaves
    out the last row of each episode whose next observation is unknown; the row before it ends the episode
    then, truncated.
    """

    episodes: tuple[int, int | None] | None = None
    limit: int | None = None
    drop_invalid_last: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether every row is wanted."""
        return self == Selection()

    def to_json(self) -> dict[str, Any]:
        return {
            "episodes": None if self.episodes is None else list(self.episodes),
            "limit": self.limit,
            "drop_invalid_last": self.drop_invalid_last,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Selection:
        episodes = value["episodes"]
        chosen = None if episodes is None else (episodes[0], episodes[1])
        return Selection(chosen, value["limit"], value["drop_invalid_last"])


def parse_episodes(text: str) -> tuple[int, int | None]:
    """`A:B`, `A:`, `:B` or a single number as `(first, stop)`. Raises `UsageError`."""
    first, colon, stop = text.strip().partition(":")
    try:
        low = int(first or "0")
        high = (int(stop) if stop else None) if colon else low + 1
        if (not first and not colon) or low < 0 or (high is not None and high <= low):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--episodes {text!r} is not A:B with 0 <= A < B (examples: 0:100, 50:, 7)"
        ) from None
    return low, high


def write(
    writer: Writer,
    parts: Iterator[Part],
    report: Report,
    check: Callable[[], None],
    before_close: Callable[[], None] = lambda: None,
) -> None:
    """Writes all parts to stream 0, counts them in `report` and closes the writer; aborts it on an error.

    All of it is on the disk then. `check` is called before each part, `before_close` after the last; both
    may raise.
    """
    schema = writer.schema
    heaps = [column.key for column in schema.heaps]
    counts = _Counts(schema, report)
    waiting = 0  # bytes of heap values that may not be written yet
    with (
        ToDisk(writer.path) as disk,
        EpisodeWriter(writer, chunk_rows=_chunk_rows(writer), watch=counts.watch) as episodes,
    ):
        for part in parts:
            check()
            if waiting > _CHUNK_BYTES:  # only here: what was flushed goes on, so it is no episode's last row
                episodes.flush()
                waiting = 0
            ends = ends_of(part, schema)
            rows = num_rows(part.columns)
            counts.add(rows, ends)
            episodes.add_rows(0, part.columns, ends)
            values = sum(_size(part.columns[key]) for key in heaps)
            waiting += values
            disk.wrote(rows * schema.row_bytes + values)
        before_close()


def selected(
    source: Source, pieces: Sequence[Piece], selection: Selection, report: Report, advance: Advance
) -> Iterator[Part]:
    """The parts of `pieces` that are wanted. `selection.episodes` counts from the first of these pieces."""
    parts: Iterator[Part]
    if selection.episodes is None:
        parts = (part for piece in pieces for part in source.parts(piece, report, advance))
    else:
        parts = _chosen(source, pieces, *selection.episodes, report, advance)
    if selection.drop_invalid_last:
        parts = _without_unknown(parts, source.schema, report)
    if selection.limit is not None:
        parts = _limited(parts, selection.limit, source.schema)
    return parts


class _Counts:
    """Adds rows, episodes and what is odd about them to a report."""

    def __init__(self, schema: Schema, report: Report) -> None:
        self.report = report
        self._floating = {
            at: "/".join(column.key)
            for at, column in enumerate(schema.given)
            if column.heap is None and column.numpy.kind in "fc" and column.key[0] != "source"
        }
        self._derives = bool(schema.derived)
        self._length = 0  # of the episode that goes on

    def add(self, rows: int, ends: Ends) -> None:
        """So many rows, among which episodes end."""
        report, before = self.report, -self._length
        report.rows += rows
        report.episodes += len(ends)
        for row, cut, known in zip(ends.rows, ends.cut, ends.known, strict=True):
            report.length_one_episodes += row - before == 1
            report.unfinished_rows += (row - before) * cut
            report.unknown_next += self._derives and not known
            before = row
        self._length = rows - before

    def watch(self, stored: Sequence[Stored], rows: int) -> None:
        """The values of rows."""
        for at, name in self._floating.items():
            finite = np.isfinite(cast("np.ndarray[Any, Any]", stored[at]))
            if not finite.all():
                self.report.not_finite[name] = self.report.not_finite.get(name, 0) + int((~finite).sum())


def segment_rows(pieces: Sequence[Piece], schema: Schema) -> int | None:
    """One segment for all rows up to 1 GiB: few manifests, one range to read. None if nobody knows yet."""
    known = [piece.rows for piece in pieces if piece.rows is not None]
    if len(known) < len(pieces):
        return None
    rows, fitting = max(1, sum(known)), max(1, _SEGMENT_BYTES // schema.row_bytes)
    if schema.row_bytes > _WIDE_BYTES:
        return min(rows, fitting)
    wanted = -(-rows // _SEGMENT_ROWS) * _SEGMENT_ROWS
    return min(wanted, fitting - fitting % _SEGMENT_ROWS)


def writer_at(path: Path, source: Source, pieces: Sequence[Piece]) -> Writer:
    """What takes the rows of some pieces; nobody relies on them before the whole is published."""
    return Writer.create(
        path,
        source.schema,
        spec=source.spec,
        lineage={"op": "convert"},
        durability="process",
        segment_rows=segment_rows(pieces, source.schema),
    )


def check_space(path: Path, pieces: Sequence[Piece], schema: Schema) -> None:
    """Raises `ResourceError` if the rows that are known to come do not fit on the disk of `path`."""
    known = sum(piece.rows or 0 for piece in pieces) * schema.row_bytes
    free = shutil.disk_usage(path.absolute().parent).free
    if known > free:
        raise ResourceError(
            f"{path.parent}: the rows take {known:,} bytes, {free:,} are free", path=path.parent
        )


def check_not_empty(path: Path, report: Report, selection: Selection) -> None:
    """Raises if a conversion found no row: a dataset without rows is nobody's intention."""
    if report.rows:
        return
    if selection.is_whole:
        raise InputError(f"{path}: has no rows", path=path)
    raise UsageError(f"{path}: none of its rows is wanted by the options; nothing was written", path=path)


def _chosen(
    source: Source,
    pieces: Sequence[Piece],
    first: int,
    stop: int | None,
    report: Report,
    advance: Advance,
) -> Iterator[Part]:
    number = 0
    for piece in pieces:
        if stop is not None and number >= stop:
            return
        if piece.episodes is not None and number + piece.episodes <= first:
            number += piece.episodes
            advance(piece.num_bytes)
            continue
        for columns, end in alone(source.parts(piece, report, advance)):
            if number >= first:
                yield Part(columns, end)
            number += end is not None
            if stop is not None and number >= stop:
                return


def _limited(parts: Iterator[Part], limit: int, schema: Schema) -> Iterator[Part]:
    """At most `limit` rows; the last episode is cut before the row that would follow."""
    left = limit
    held: Columns | None = None  # end where the limit is; what follows has their true next observation
    for columns, end in alone(parts):
        if held is not None:
            yield Part(held, End(False, True, cut=True, final=_observation(columns, 0, schema)))
            return
        size = num_rows(columns)
        if left > size or (left == size and end is not None):
            yield Part(columns, end)
        elif left == size:
            held = _kept(columns, 0, size)
        else:
            final, seed = _observation(columns, left, schema), None if end is None else end.seed
            yield Part(_cut(columns, 0, left), End(False, True, cut=True, final=final, seed=seed))
        left -= size
        if left <= 0 and held is None:
            return
    if held is not None:
        yield Part(held, End(False, True, cut=True))


def _without_unknown(parts: Iterator[Part], schema: Schema, report: Report) -> Iterator[Part]:
    """Leaves out the last row of episodes whose next observation is unknown; see `Selection`."""
    if not schema.derived:
        yield from parts
        return
    held: Columns | None = None  # the last row so far of an unfinished episode
    for columns, end in alone(parts):
        size = num_rows(columns)
        if held is not None and (size > 1 or end is None or end.final is not None):
            yield Part(held, None)
            held = None
        if end is None:
            if size > 1:
                yield Part(_cut(columns, 0, size - 1), None)
            held = _kept(columns, size - 1, size)
        elif end.final is not None:
            yield Part(columns, end)
        else:
            final = _observation(columns, size - 1, schema)
            end = End(False, True, cut=end.cut, final=final, seed=end.seed)
            if held is not None:
                yield Part(held, end)
                held = None
            elif size > 1:
                yield Part(_cut(columns, 0, size - 1), end)
            report.dropped += 1  # only now: a limit may have ended it all before this row
    if held is not None:
        yield Part(held, None)


def _observation(columns: Columns, row: int, schema: Schema) -> Any:
    """The observation of one row, an array or a nested dict, as `End.final` takes it."""
    values = {column.of or (): columns[column.of or ()][row] for column in schema.shifts}
    copied = {key: v.copy() if isinstance(v, np.ndarray) else v for key, v in values.items()}
    return nest(copied) if copied else None


def _cut(columns: Columns, start: int, stop: int) -> dict[Key, Any]:
    return {key: values[start:stop] for key, values in columns.items()}


def _kept(columns: Columns, start: int, stop: int) -> dict[Key, Any]:
    """Rows that stay valid after the next part was asked for."""
    cut = _cut(columns, start, stop)
    return {key: v.copy() if isinstance(v, np.ndarray) else list(v) for key, v in cut.items()}


def _size(values: Sequence[Any]) -> int:
    """About how many bytes the values of a heap column have."""
    if len(values) and isinstance(values[0], str):
        return sum(map(len, values))
    return sum(int(value.nbytes) if isinstance(value, np.ndarray) else len(value) for value in values)


def _chunk_rows(writer: Writer) -> int:
    """Rows that are gathered before a write: at most those of a segment, which may be all there are."""
    return max(1, min(65_536, _CHUNK_BYTES // writer.schema.row_bytes, writer.segment_rows or 65_536))
