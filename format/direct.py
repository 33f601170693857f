"""A first, small read of a sealed segment without mapping it: mapping costs more than reading an episode.

Who reads from the segment again gets it mapped. Where hashes are compared, they are those of the commits that
brought the rows, of which there is mostly less than a block of 1 MiB of each column: `csrc/sealed_rows.hpp`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rlcli import _native
from rlcli.format.stream_reader import StreamReader

Array = np.ndarray[Any, Any]
_MOST_BYTES = 1 << 20
_NO_ENDS = np.zeros(0, np.int64)
_NO_FINALS = np.zeros(0, np.bool_)


def read(
    table: _native.RowMap,
    stream: StreamReader,
    low: int,
    high: int,
    columns: tuple[int, ...],
    *,
    derived: bool,
    checked: bool,
) -> list[Array] | None:
    """Stream rows `low … high` of columns by their numbers in the table, or None where they should be read
    otherwise. `derived`: some of the columns are.
    """
    segment = stream.segments[stream.position(low)]
    mapped, entry = segment.mapped, segment.mapped.entry
    if segment.is_touched or segment.was_read or not entry.sealed or high > segment.stop:
        return None
    segment.was_read = True
    ends, has_final = _NO_ENDS, _NO_FINALS
    if checked:
        stream.inspect(segment)
        if mapped.schema.heaps or not segment.records:
            return None  # commits brought values of heaps, too; elsewhere there is no journal
    if derived:
        ends, has_final = segment.episodes.ends, segment.episodes.column("has_final")
    return table.read_sealed(
        _native.SealedSegment(
            str(mapped.paths.root), entry.name, entry.first, entry.alloc, entry.rows, entry.finals
        ),
        low,
        high,
        high < stream.rows,
        ends,
        has_final,
        columns,
        segment.records if checked else None,
        _MOST_BYTES,
    )
