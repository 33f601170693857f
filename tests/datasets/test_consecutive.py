"""What is found out natively of rows that follow each other, against NumPy; arguments that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from rlcli import _native
from rlcli.datasets.opened import differing_rows


@pytest.mark.parametrize("dtype", ["?", "u1", "f2", "f4", "f8", "c16"])
@pytest.mark.parametrize("shape", [(), (1,), (17,), (3, 5), (0,)])
def test_differing_rows_are_those_that_numpy_finds(dtype, shape):
    rng = np.random.default_rng(3)
    for rows in (0, 1, 7, 3000):
        one = rng.integers(0, 2, (rows, *shape)).astype(dtype)
        other = one.copy()
        other[rng.random(rows) < 0.01] = 1
        expected = np.flatnonzero((one != other).reshape(rows, int(np.prod(shape))).any(1))
        assert differing_rows(one, other).tolist() == expected.tolist()
        assert differing_rows(np.asfortranarray(one), other).tolist() == expected.tolist()


def test_differing_rows_compares_bits():
    nan, zeros = np.array([[np.nan], [0.0]]), np.array([[np.nan], [-0.0]])
    assert differing_rows(nan, nan).tolist() == []
    assert differing_rows(nan, zeros).tolist() == [1]


def test_rows_are_numbered_by_the_parts_they_are_in():
    parts = np.array([[0, 5, 3], [2, 0, 4], [6, 0, 5]], np.int64)
    step, episode, is_first = np.full(9, -1), np.full(9, -1), np.ones(9, np.bool_)
    _native.number_rows(parts, step, episode, is_first)
    assert step.tolist() == [5, 6, 0, 1, 2, 3, 0, 1, 2]
    assert episode.tolist() == [3, 3, 4, 4, 4, 4, 5, 5, 5]
    assert np.flatnonzero(is_first).tolist() == [2, 6]


@pytest.mark.parametrize(
    "parts",
    [[], [[1, 0, 0]], [[0, 0, 0], [5, 0, 1]], [[0, 0, 0], [3, 0, 1], [2, 0, 2]], [[0, 0]], [[-1, 0, 0]]],
)
def test_parts_that_are_not_of_the_rows_are_refused(parts):
    rows = np.zeros(4, np.int64)
    with pytest.raises(ValueError, match="part"):
        _native.number_rows(np.array(parts, np.int64), rows, rows.copy(), np.zeros(4, np.bool_))


def test_arrays_of_other_sizes_are_refused():
    rows = np.zeros((4, 2))
    for other in (rows[:3], rows.astype("f4"), rows[:, ::2], rows.reshape(2, 4)):
        with pytest.raises(ValueError, match="as many rows and bytes"):
            _native.differing_rows(rows, other)
    step = np.zeros(4, np.int64)
    with pytest.raises(ValueError, match="as many rows"):
        _native.number_rows(np.zeros((1, 3), np.int64), step, step[:3], np.zeros(4, np.bool_))
