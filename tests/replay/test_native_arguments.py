"""What kernels are given is checked: sums that would overflow, and targets that are no arrays."""

from __future__ import annotations

import numpy as np
import pytest

from rlcli import _native

MOST = np.iinfo(np.int64).max


def _rows() -> tuple[_native.RowMap, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """A map of ten rows, and the memory that they are in."""
    values = np.arange(10)
    table = _native.RowMap()
    table.add_plain(values.dtype, ())
    table.add_stream()
    table.add_segments(0, [(0, 10, [values.ctypes.data])])
    table.fill(0, 0, 10, np.zeros(0, np.int64), np.zeros(0, np.bool_), [])
    return table, values


@pytest.mark.parametrize(("at", "count"), [(MOST, 1), (MOST - 7, 8), (0, MOST), (4, 5), (-1, 1)])
def test_a_run_that_does_not_fit_where_it_goes(at: int, count: int) -> None:
    table, _ = _rows()
    with pytest.raises(ValueError, match="does not fit"):
        table.read_runs(np.array([0]), np.array([count]), np.array([at]), 8, (0,), [np.zeros(8, np.int64)])


@pytest.mark.parametrize("start", [MOST, MOST - 3, 3])
def test_positions_outside_a_permutation(start: int) -> None:
    with pytest.raises(ValueError, match="outside the permutation"):
        _native.permuted(0, 0, 0, 10, start, np.zeros(8, np.int64))


def test_a_list_is_not_filled_instead_of_an_array() -> None:
    table, values = _rows()
    rows, given = values[:2].copy(), [[0, 0]]
    for fill in (
        lambda out: table.gather(rows, (0,), out),
        lambda out: table.read(0, 2, (0,), out),
        lambda out: table.read_runs(rows[:1], rows[1:] + 1, rows[:1], 2, (0,), out),
        lambda out: table.stacks(rows, (0,), (1,), out),
        lambda out: table.bind((0,), out),
    ):
        with pytest.raises(TypeError, match="arrays are expected"):
            fill(given)
