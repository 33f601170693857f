"""How many rows are in memory at once wherever a format is read or written in slices."""

from __future__ import annotations

from collections.abc import Iterator

#: Decoded bytes of a slice, all columns that are read together. The next slice may be read meanwhile.
SLICE_BYTES = 8 << 20


def slice_rows(row_bytes: int, slice_bytes: int | None = None) -> int:
    """Rows of a slice, of `SLICE_BYTES` unless others are said; one where a row alone is larger."""
    return max(1, (slice_bytes or SLICE_BYTES) // max(1, row_bytes))


def slices(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `step` that make up `start … stop - 1`."""
    for low in range(start, stop, step):
        yield low, min(low + step, stop)
