"""Parts of one episode and of many: whoever takes them has the form that suits, whatever a source yields."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rlcli.datasets.contract import End, Ends, Part
from rlcli.datasets.opened import nest
from rlcli.format.keys import Key
from rlcli.format.nested import pick
from rlcli.format.schema import Schema

Columns = Mapping[Key, Any]

_NO_ENDS = Ends([], [], [], [], [])


def num_rows(columns: Columns) -> int:
    """How many rows columns have."""
    return len(next(iter(columns.values())))


def ends_of(part: Part, schema: Schema) -> Ends:
    """Where episodes end in a part; `schema` is that of its source."""
    end = part.end
    if end is None:
        return _NO_ENDS
    if isinstance(end, Ends):
        return end
    known = end.final is not None
    final = (
        {key: [pick(end.final, key[1:])] for key in [column.of or () for column in schema.shifts]}
        if known
        else {}
    )
    rows = num_rows(part.columns)
    return Ends([rows], [end.terminated], [end.truncated], [end.cut], [known], final, [end.seed])


def alone(parts: Iterable[Part]) -> Iterator[tuple[Columns, End | None]]:
    """The same rows episode by episode: columns of one, and its end where that is their last row."""
    for part in parts:
        columns, ends = part.columns, part.end
        if not isinstance(ends, Ends):
            yield columns, ends
            continue
        start = 0
        for k, stop in enumerate(ends.rows):
            final = nest({key: values[k] for key, values in ends.final.items()}) if ends.known[k] else None
            seed = None if ends.seeds is None else ends.seeds[k]
            end = End(ends.terminated[k], ends.truncated[k], ends.cut[k], final, seed)
            yield {key: values[start:stop] for key, values in columns.items()}, end
            start = stop
        if start < num_rows(columns):
            yield {key: values[start:] for key, values in columns.items()}, None
