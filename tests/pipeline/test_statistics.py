"""Interquartile mean and bootstrap interval against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from rlcli.pipeline.statistics import bootstrap_interval, iqm


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    assert iqm([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -50.0]) == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_iqm_cuts_floor_n_over_4_at_each_end() -> None:
    assert iqm([0.0, 1.0, 2.0]) == pytest.approx(1.0)  # nothing is cut
    assert iqm([0.0, 1.0, 2.0, 9.0, 30.0]) == pytest.approx(4.0)  # one at each end


def test_iqm_ignores_one_outlier_in_four() -> None:
    assert iqm([1e9, 5.0, 5.0, 5.0]) == 5.0


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(
            rng.normal(3.0, 1.0, 40), lambda x: x.mean(axis=-1), resamples=400, seed=trial
        )
        covered += low <= 3.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_interval_of_constant_scores_is_a_point() -> None:
    assert bootstrap_interval([7.0] * 5) == (7.0, 7.0)
