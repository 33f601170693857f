"""Slices: one episode each, consecutive, padded and masked as said, every beginning equally likely."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcli.errors import IncompatibleError
from rlcli.replay.prioritized_slices import Config as PrioritizedConfig
from rlcli.replay.prioritized_slices import PrioritizedSlices
from rlcli.replay.slices import Config, Slices
from tests.replay.made_up import counting


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    length=st.integers(1, 6),
    burn_in=st.integers(0, 3),
    finals=st.booleans(),
    by=st.sampled_from(["step", "episode"]),
    streams=st.integers(1, 2),
)
@settings(max_examples=40, deadline=None)
def test_a_slice_is_consecutive_rows_of_one_episode(
    lengths: list[int], length: int, burn_in: int, finals: bool, by: str, streams: int
) -> None:
    with TemporaryDirectory() as folder:
        dataset = counting(Path(folder) / "a", lengths, finals=finals, streams=streams)
        config = Config(length, burn_in, "pad", by=by)  # type: ignore[arg-type]
        usable = [size - (not finals) for size in lengths]
        sampler = Slices(dataset, config=config)
        if not any(usable):
            with pytest.raises(IncompatibleError):
                sampler.sample(5)
            return
        batch = sampler.sample(20)
        episode_of = np.repeat(np.arange(len(lengths)), lengths)
        ends = np.cumsum(lengths)
        for b in range(20):
            valid, mask = batch["valid"][b, :, 0], batch["mask"][b, :, 0]
            values = batch["observation"][b, :, 0]
            inside = np.flatnonzero(valid)
            assert (np.diff(inside) == 1).all()
            assert (np.diff(values[valid]) == 1).all()
            rows = values[valid].astype(int)
            assert len(set(episode_of[rows].tolist())) == 1
            number = episode_of[rows[0]]
            begin, size = ends[number] - lengths[number], usable[number]
            start = int(values[burn_in])  # the first row that counts is always there
            assert valid[burn_in]
            assert mask.sum() == min(length, size)
            assert not mask[:burn_in].any()
            assert valid[:burn_in].sum() == min(burn_in, start - begin)
            assert (values[~valid] == 0).all()
            following = batch["next"]["observation"][b, :, 0][valid]
            expected = rows + np.where(rows == ends[number] - 1, 0.5, 1.0)
            np.testing.assert_array_equal(following, expected)


def test_every_beginning_is_equally_likely_by_step(tmp_path: Path) -> None:
    sampler = Slices(counting(tmp_path / "a", [10, 3, 5]), config=Config(4))
    assert len(sampler) == 7 + 2
    first = sampler.sample(90_000)["observation"][:, 0, 0].astype(int)
    counts = np.bincount(first, minlength=18)[[0, 1, 2, 3, 4, 5, 6, 13, 14]]
    assert counts.sum() == 90_000
    assert ((counts - 10_000.0) ** 2 / 10_000.0).sum() < 28  # 8 degrees of freedom, p = 0.0005


def test_every_episode_is_equally_likely_by_episode(tmp_path: Path) -> None:
    sampler = Slices(counting(tmp_path / "a", [10, 3, 5]), config=Config(4, by="episode"))
    first = sampler.sample(90_000)["observation"][:, 0, 0].astype(int)
    assert abs((first < 10).sum() - 45_000) < 700
    assert abs((first == 13).sum() - 22_500) < 700


def test_across_episodes_any_window_of_a_stream(tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [3, 4, 2])
    batch = Slices(dataset, config=Config(6, across=True)).sample(200)
    first = batch["observation"][:, 0, 0]
    assert sorted(set(first.tolist())) == [0, 1, 2, 3]
    np.testing.assert_array_equal(batch["observation"][:, :, 0], first[:, None] + np.arange(6))
    np.testing.assert_array_equal(
        batch["is_init"][:, :, 0], np.isin(batch["observation"][:, :, 0], [0, 3, 7])
    )


def test_no_slice_across_episodes_has_a_row_whose_next_observation_is_unknown(tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [3, 4, 2, 5], finals=False)  # the last rows, 2, 6, 8 and 13
    batch = Slices(dataset, config=Config(2, across=True, short="pad")).sample(200)
    assert set(batch["observation"][:, 0, 0].astype(int).tolist()) == {0, 3, 4, 7, 9, 10, 11}
    whole = batch["valid"][..., 0]
    np.testing.assert_array_equal(batch["next"]["observation"][whole, 0], batch["observation"][whole, 0] + 1)
    observed = Slices(dataset, [("observation",)], config=Config(2, across=True)).sample(200)
    assert set(observed["observation"][:, 0, 0].astype(int).tolist()) == set(range(13))


def test_no_episode_long_enough_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="4 rows"):
        Slices(counting(tmp_path / "a", [3, 3]), config=Config(4)).sample(1)


def test_prioritised_beginnings(tmp_path: Path) -> None:
    sampler = PrioritizedSlices(
        counting(tmp_path / "a", [6, 2, 5]), config=PrioritizedConfig(length=4, alpha=1.0, beta=1.0)
    )
    batch = sampler.sample(100)
    assert set(batch["row"].tolist()) == {0, 1, 2, 8, 9}
    np.testing.assert_array_equal(batch["observation"][:, :, 0], batch["row"][:, None] + np.arange(4))
    sampler.update(np.array([0, 1, 2, 3, 8, 9]), np.array([0.0, 3.0, 0.0, 50.0, 0.0, 1.0]))
    counts = np.bincount(sampler.sample(10_000)["row"], minlength=13)
    assert abs(counts[1] - 7500) < 5
    assert counts[3] == 0


def test_prioritised_slices_have_the_options_of_prioritised_rows(tmp_path: Path) -> None:
    config = PrioritizedConfig(length=4, beta=0.5, beta_batches=2, distinct=True)
    sampler = PrioritizedSlices(counting(tmp_path / "a", [6, 2, 5]), config=config)
    betas = []
    for _ in range(3):
        betas.append(sampler.beta)
        assert sorted(sampler.sample(5)["row"].tolist()) == [0, 1, 2, 8, 9]
    assert betas == [0.5, 0.75, 1.0]
    with pytest.raises(IncompatibleError, match="fewer than a batch"):
        sampler.sample(6)
