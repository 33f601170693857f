"""What kernels are given is checked: sums that would overflow, memory that is not there, what is no array."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

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
    table.add_segments(0, [([values.ctypes.data], [(0, 10, 10, 0)])])
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


@pytest.mark.parametrize(("first", "count"), [(0, MOST), (MOST, 1), (MOST, MOST), (1 << 40, 1), (-1, 1)])
def test_priorities_of_rows_that_cannot_be(first: int, count: int) -> None:
    with pytest.raises(IndexError, match="no such row"):
        _native.RowPriorities(1.0, 0.0).cover(0, first, count, 1.0)


@pytest.mark.parametrize("dtype", [np.dtype(object), np.dtype([("a", "i4"), ("b", "O")]), np.dtype("S0")])
def test_a_column_of_what_no_memory_holds(dtype: np.dtype[Any]) -> None:
    with pytest.raises(ValueError, match=r"object|no bytes"):
        _native.RowMap().add_plain(dtype, ())


def test_columns_come_before_streams() -> None:
    table, values = _rows()
    with pytest.raises(ValueError, match="before streams"):
        table.add_plain(values.dtype, ())
    with pytest.raises(ValueError, match="before streams"):
        table.add_shift(0)


@pytest.mark.parametrize(
    ("rows", "room", "base"),
    [(10, 10, 0), (10, 9, 8), (1, 1 << 41, 8), (1, MOST, 8), (1, 1 << 40, (1 << 64) - 8), (-1, 1, 8)],
)
def test_segments_that_cannot_be_in_memory(rows: int, room: int, base: int) -> None:
    table = _native.RowMap()
    table.add_plain(np.dtype(np.int64), ())
    table.add_stream()
    with pytest.raises(ValueError, match=r"memory|join|2\^40"):
        table.add_segments(0, [([base], [(0, rows, room, 0)])])


def test_a_segment_grows_no_further_than_its_memory() -> None:
    table, _ = _rows()
    for rows in (11, 1 << 40, MOST):
        with pytest.raises(ValueError, match="room"):
            table.fill(0, 0, rows, np.zeros(0, np.int64), np.zeros(0, np.bool_), [])


def test_a_final_value_that_is_nowhere() -> None:
    values = np.arange(10)
    table = _native.RowMap()
    table.add_shift(table.add_plain(values.dtype, ()))
    table.add_stream()
    table.add_segments(0, [([values.ctypes.data], [(0, 10, 10, 0)])])
    for bases in ([], [0]):
        with pytest.raises(ValueError, match="finals must be there"):
            table.fill(0, 0, 10, np.array([4]), np.array([True]), bases)


def test_arrays_that_are_not_aligned_are_refused() -> None:
    table, _ = _rows()
    odd = np.zeros(8 * 2 + 1, np.uint8)[1:].view(np.int64)
    reals, flags = odd.view(np.float64), np.zeros(2, np.bool_)
    rows, out = np.zeros(2, np.int64), [np.zeros(2, np.int64)]
    priorities = _native.RowPriorities(1.0, 0.0)
    calls: list[Callable[[], object]] = [
        lambda: table.gather(odd, (0,), out),
        lambda: table.gather(rows, (0,), [odd]),
        lambda: table.bind((0,), [odd]),
        lambda: table.bind((0,), out).gather(odd),
        lambda: _native.uniform_rows(0, 0, 0, 0, 4, rows, odd),
        lambda: priorities.set(odd, np.zeros(2)),
        lambda: priorities.set(rows, reals),
        lambda: _native.gae(reals, reals, reals, flags, flags, gamma=0.9, lam=0.9, threads=1),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="align"):
            call()


@pytest.mark.parametrize("count", [0, 257, 5000, MOST])
def test_so_many_threads_nobody_means(count: int) -> None:
    table, _ = _rows()
    with pytest.raises(ValueError, match="1 to 256"):
        table.set_threads(count)


TOO_FEW = """
import resource
import numpy as np
from rlcli import _native
values, rows = np.arange(1 << 17), np.arange(1 << 17)
table = _native.RowMap()
table.add_plain(values.dtype, ())
table.add_stream()
table.add_segments(0, [([values.ctypes.data], [(0, len(values), len(values), 0)])])
table.fill(0, 0, len(values), np.zeros(0, np.int64), np.zeros(0, np.bool_), [])
table.set_threads(256)
out = [np.zeros_like(values)]
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (96 << 20),) * 2)
try:
    table.gather(rows, (0,), out)
except OSError as err:
    print(err)
table.set_threads(1)
table.gather(rows, (0,), out)
assert (out[0] == values).all()
"""


def test_threads_that_the_system_does_not_give() -> None:
    """A few start, the next one cannot: their memory is all there may be."""
    ended = subprocess.run([sys.executable, "-c", TOO_FEW], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "unavailable" in ended.stdout
