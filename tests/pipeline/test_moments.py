"""Streaming moments equal those of the whole array, however it is cut, and hold where naive sums fail."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rlcli.pipeline.moments import Moments

DTYPES = st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=DTYPES, rows=st.integers(1, 40), elements=st.integers(1, 3))
def test_parts_give_what_the_whole_gives(data: st.DataObject, dtype: type, rows: int, elements: int) -> None:
    items = None
    if np.issubdtype(dtype, np.floating):
        items = st.floats(-1e3, 1e3, width=16) | st.sampled_from([np.nan, np.inf, -np.inf])
    elif dtype is np.int64:
        items = st.integers(-(2**60), 2**60)
    values = data.draw(arrays.arrays(dtype, (rows, elements), elements=items))
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=4)))
    moments = Moments(elements)
    for part in np.split(values, cuts):
        moments.add(part)
    wide = values.astype(np.float64)
    finite = np.isfinite(wide)
    np.testing.assert_array_equal(moments.count, finite.sum(axis=0))
    np.testing.assert_array_equal(moments.nan, np.isnan(wide).sum(axis=0))
    np.testing.assert_array_equal(moments.inf, np.isinf(wide).sum(axis=0))
    scale = float(np.abs(wide[finite]).max(initial=1.0))
    for k in range(elements):
        column, raw = wide[finite[:, k], k], values[finite[:, k], k]
        if not len(column):
            assert np.isnan(moments.std[k])
            continue
        assert moments.mean[k] == pytest.approx(column.mean(), rel=1e-12, abs=1e-12 * scale)
        assert moments.std[k] == pytest.approx(column.std(), rel=1e-9, abs=1e-9 * scale)
        assert moments.min is not None
        assert moments.max is not None
        assert (moments.min[k], moments.max[k]) == (raw.min(), raw.max())
        assert moments.constant[k] == (len(column) == rows and raw.min() == raw.max())
    if finite.any():
        mean, std = moments.pooled()
        assert mean == pytest.approx(wide[finite].mean(), rel=1e-12, abs=1e-12 * scale)
        assert std == pytest.approx(wide[finite].std(), rel=1e-9, abs=1e-9 * scale)


def test_a_large_mean_does_not_eat_the_deviation() -> None:
    moments = Moments(1)
    for _ in range(1000):
        moments.add(np.array([[1e9 - 1], [1e9], [1e9 + 1]]))
    assert moments.mean[0] == 1e9
    assert moments.std[0] == pytest.approx(np.sqrt(2 / 3), rel=1e-12)


def test_nothing_is_not_zero() -> None:
    moments = Moments(2)
    moments.add(np.zeros((0, 2)))
    assert np.isnan(moments.pooled()).all()
    assert moments.min is None
    assert not moments.constant.any()
