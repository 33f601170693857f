"""From a source's parts to the rows of a dataset: which are taken, what they amount to, how they are kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.datasets.contract import Advance, End, Part, Piece, Report, Source
from rlcli.datasets.opened import nest
from rlcli.errors import InputError, ResourceError, UsageError
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Schema
from rlcli.format.writer import Writer
from rlcli.pipeline.convert_disk import ToDisk

_CHUNK_BYTES = 8 << 20  # rows gathered before one write
_SEGMENT_BYTES = 1 << 30
_SEGMENT_ROWS = 4096  # segments are a multiple of this, so that every column ends on a page


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
    heaps = [column.key for column in writer.schema.heaps]
    row_bytes = writer.schema.row_bytes
    waiting = 0  # bytes of heap values that were not written yet
    with (
        ToDisk(writer.path) as disk,
        EpisodeWriter(writer, chunk_rows=_chunk_rows(writer)) as episodes,
    ):
        for part in counted(parts, writer.schema, report):
            check()
            end = part.end
            episodes.add_rows(0, part.columns)
            values = sum(_size(value) for key in heaps for value in part.columns[key])
            waiting += values
            disk.wrote(part_rows(part) * row_bytes + values)
            if end is not None:
                if end.seed is not None:
                    episodes.begin(0, end.seed)
                episodes.end(
                    0, terminated=end.terminated, truncated=end.truncated, cut=end.cut, final=end.final
                )
                if waiting > _CHUNK_BYTES:  # only here: a flushed row can no longer be an episode's last
                    episodes.flush()
                    waiting = 0
        before_close()


def selected(
    source: Source, pieces: Sequence[Piece], selection: Selection, report: Report, advance: Advance
) -> Iterator[Part]:
    """The parts of `pieces` that are wanted. `selection.episodes` counts from the first of these pieces."""
    first, stop = selection.episodes or (0, None)
    parts = _chosen(source, pieces, first, stop, report, advance)
    if selection.drop_invalid_last:
        parts = _without_unknown(parts, source.schema, report)
    if selection.limit is not None:
        parts = _limited(parts, selection.limit, source.schema)
    return parts


def counted(parts: Iterator[Part], schema: Schema, report: Report) -> Iterator[Part]:
    """The same parts; rows, episodes and what is odd about them are added to `report`."""
    floating = [
        column.key for column in schema.plain if column.numpy.kind in "fc" and column.key[0] != "source"
    ]
    length = 0
    for part in parts:
        size = part_rows(part)
        length += size
        report.rows += size
        for key in floating:
            if not (finite := np.isfinite(part.columns[key])).all():
                name = "/".join(key)
                report.not_finite[name] = report.not_finite.get(name, 0) + int((~finite).sum())
        if (end := part.end) is not None:
            report.episodes += 1
            report.length_one_episodes += length == 1
            report.unknown_next += bool(schema.derived) and end.final is None
            report.unfinished_rows += length if end.cut else 0
            length = 0
        yield part


def part_rows(part: Part) -> int:
    """How many rows a part has."""
    return len(next(iter(part.columns.values())))


def segment_rows(pieces: Sequence[Piece], schema: Schema) -> int | None:
    """One segment for all rows up to 1 GiB: few manifests, one range to read. None if nobody knows yet."""
    known = [piece.rows for piece in pieces if piece.rows is not None]
    if len(known) < len(pieces):
        return None
    fitting = max(1, _SEGMENT_BYTES // schema.row_bytes)
    if fitting < _SEGMENT_ROWS:
        return fitting
    wanted = max(1, -(-sum(known) // _SEGMENT_ROWS)) * _SEGMENT_ROWS
    return min(wanted, fitting - fitting % _SEGMENT_ROWS)


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
        for part in source.parts(piece, report, advance):
            if number >= first:
                yield part
            number += part.end is not None
            if stop is not None and number >= stop:
                return


def _limited(parts: Iterator[Part], limit: int, schema: Schema) -> Iterator[Part]:
    """At most `limit` rows; the last episode is cut before the row that would follow."""
    left = limit
    held: Part | None = None  # ends where the limit is; the next part has its true next observation
    for part in parts:
        if held is not None:
            yield Part(held.columns, End(False, True, cut=True, final=_observation(part.columns, 0, schema)))
            return
        size = part_rows(part)
        if left > size or (left == size and part.end is not None):
            yield part
        elif left == size:
            held = _kept(part.columns, 0, size)
        else:
            final = _observation(part.columns, left, schema)
            yield Part(_cut(part.columns, 0, left), End(False, True, cut=True, final=final))
        left -= size
        if left <= 0 and held is None:
            return
    if held is not None:
        yield Part(held.columns, End(False, True, cut=True))


def _without_unknown(parts: Iterator[Part], schema: Schema, report: Report) -> Iterator[Part]:
    """Leaves out the last row of episodes whose next observation is unknown; see `Selection`."""
    if not schema.derived:
        yield from parts
        return
    held: Part | None = None  # the last row so far of an unfinished episode
    for part in parts:
        size = part_rows(part)
        if part.end is not None and part.end.final is not None:
            if held is not None:
                yield held
            held = None
            yield part
        elif part.end is None:
            if held is not None:
                yield held
            if size > 1:
                yield Part(_cut(part.columns, 0, size - 1), None)
            held = _kept(part.columns, size - 1, size)
        else:
            final = _observation(part.columns, size - 1, schema)
            end = End(False, True, cut=part.end.cut, final=final, seed=part.end.seed)
            if held is not None and size == 1:
                yield Part(held.columns, end)
            else:
                if held is not None:
                    yield held
                if size > 1:
                    yield Part(_cut(part.columns, 0, size - 1), end)
            held = None
            report.dropped += 1  # only now: a limit may have ended it all before this row
    if held is not None:
        yield held


def _observation(columns: Mapping[Any, Any], row: int, schema: Schema) -> Any:
    """The observation of one row, an array or a nested dict, as `End.final` takes it."""
    values = {column.of: columns[column.of][row] for column in schema.columns if column.encoding == "derived"}
    copied = {key or (): v.copy() if isinstance(v, np.ndarray) else v for key, v in values.items()}
    return nest(copied) if copied else None


def _cut(columns: Mapping[Any, Any], start: int, stop: int) -> dict[Any, Any]:
    return {key: values[start:stop] for key, values in columns.items()}


def _kept(columns: Mapping[Any, Any], start: int, stop: int) -> Part:
    """Rows that stay valid after the next part was asked for."""
    cut = _cut(columns, start, stop)
    return Part({key: v.copy() if isinstance(v, np.ndarray) else list(v) for key, v in cut.items()}, None)


def _size(value: Any) -> int:
    return int(value.nbytes) if isinstance(value, np.ndarray) else len(value)


def _chunk_rows(writer: Writer) -> int:
    """Rows that are gathered before a write: at most those of a segment, which may be all there are."""
    return max(1, min(65_536, _CHUNK_BYTES // writer.schema.row_bytes, writer.segment_rows or 65_536))
