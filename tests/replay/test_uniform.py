"""Uniform and mixed sampling: which rows come, how often, and what a seed determines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Box, Discrete
from rlcli.format.writer import Writer
from rlcli.replay.mixture import Mixture
from rlcli.replay.uniform import Uniform

COLUMNS = [("observation",), ("action",), ("next", "observation"), ("next", "reward")]


def _dataset(path: Path, lengths: list[int], *, known_finals: bool, first: int = 0) -> Dataset:
    """Observations count 0, 1, 2, … over all episodes; the reward equals the observation."""
    spec = {"env": None, "observation": Box((1,)).to_json(), "action": Discrete(2).to_json()}
    schema = ted_schema(Box((1,)), Discrete(2))
    with EpisodeWriter(Writer.create(path, schema, spec=spec, lineage={"op": "test"})) as writer:
        value = first
        for length in lengths:
            writer.begin(0, value)
            for step in range(length):
                last = step == length - 1
                following: Any = np.array([value + 0.5], np.float32) if last and known_finals else None
                writer.add(
                    0,
                    observation=np.array([value], np.float32),
                    action=value % 2,
                    reward=float(value),
                    terminated=last,
                    truncated=False,
                    next_observation=following,
                )
                value += 1
    return Dataset.open(path)


def test_every_row_comes_equally_often(tmp_path: Path) -> None:
    sampler = Uniform(_dataset(tmp_path / "a", [30, 20, 50], known_finals=True), COLUMNS)
    counts = np.bincount(sampler.rows(100_000), minlength=100)
    chi_square = ((counts - 1000.0) ** 2 / 1000.0).sum()
    assert 58 < chi_square < 149  # 99 degrees of freedom, p = 0.0005 at each end


def test_rows_without_a_known_next_observation_are_never_drawn(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "a", [1, 3, 1, 5], known_finals=False)
    assert dataset.unknown_next.tolist() == [0, 3, 4, 9]
    sampler = Uniform(dataset, COLUMNS)
    counts = np.bincount(sampler.rows(60_000), minlength=10)
    assert len(sampler) == 6
    assert counts[[0, 3, 4, 9]].sum() == 0
    assert np.abs(counts[[1, 2, 5, 6, 7, 8]] - 10_000).max() < 500
    assert len(Uniform(dataset, [("observation",), ("action",)])) == 10  # nothing asks for the next one


def test_a_batch_is_a_true_transition(tmp_path: Path) -> None:
    batch = Uniform(_dataset(tmp_path / "a", [4, 6], known_finals=True), COLUMNS).sample(500)
    current, following = batch["observation"][:, 0], batch["next"]["observation"][:, 0]
    is_end = np.isin(current, [3, 9])
    np.testing.assert_array_equal(following, current + np.where(is_end, 0.5, 1.0).astype(np.float32))
    np.testing.assert_array_equal(batch["next"]["reward"][:, 0], current)


def test_capacity_restricts_to_the_newest_rows(tmp_path: Path) -> None:
    sampler = Uniform(_dataset(tmp_path / "a", [4, 6], known_finals=False), COLUMNS, capacity=5)
    assert sorted(set(sampler.rows(1000).tolist())) == [5, 6, 7, 8]


def test_a_seed_determines_the_batches(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path / "a", [40], known_finals=True)
    draws = [Uniform(dataset, COLUMNS, seed=seed).rows(64).tolist() for seed in (7, 7, 8)]
    assert draws[0] == draws[1] != draws[2]


def test_a_mixture_keeps_its_proportions(tmp_path: Path) -> None:
    low = Uniform(_dataset(tmp_path / "a", [50], known_finals=True), COLUMNS)
    high = Uniform(_dataset(tmp_path / "b", [50], known_finals=True, first=1000), COLUMNS)
    mixture = Mixture([low, high], [0.7, 0.3])
    shares = [float((mixture.sample(33)["observation"] >= 1000).mean()) for _ in range(400)]
    assert all(9 <= round(33 * share) <= 10 for share in shares)  # 9.9, rounded down or up
    assert abs(np.mean(shares) - 0.3) < 0.005


@pytest.mark.parametrize("weights", [[], [1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_a_mixture_needs_weights(weights: list[float], tmp_path: Path) -> None:
    part = Uniform(_dataset(tmp_path / "a", [5], known_finals=True), COLUMNS)
    with pytest.raises(ValueError, match="positive weight"):
        Mixture([part, part] if weights else [], weights)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="log_prob"):
        Uniform(_dataset(tmp_path / "a", [4], known_finals=True), [("log_prob",)])
