"""Prioritised sampling against closed forms: frequencies, weights, new rows, totals, windows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcli import _native
from rlcli.errors import IncompatibleError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Box, Discrete
from rlcli.format.writer import Writer
from rlcli.replay.batches import Batches
from rlcli.replay.choice import make_sampler
from rlcli.replay.prioritized import Config, Prioritized
from tests.replay.made_up import Growing, counting, flat

OBSERVED = [("observation",)]


@pytest.mark.parametrize("stratified", [False, True])
def test_rows_come_in_proportion_to_their_priorities(stratified: bool, tmp_path: Path) -> None:
    config = Config(alpha=0.7, epsilon=1e-6, stratified=stratified)
    sampler = Prioritized(counting(tmp_path / "a", [40]), OBSERVED, config=config)
    sampler.sample(1)
    priorities = np.linspace(0.0, 5.0, 40)
    sampler.update(np.arange(40), priorities)
    expected = (priorities + 1e-6) ** 0.7
    expected *= 200_000 / expected.sum()
    counts = np.bincount(sampler.sample(200_000)["row"], minlength=40)
    chi_square = (((counts - expected) ** 2 / expected)[expected > 5]).sum()
    assert chi_square < (
        2.0 if stratified else 75.0
    )  # 38 degrees of freedom; a stratum is off by one at most
    assert chi_square > 10.0 or stratified


def test_weights_are_those_of_the_paper(tmp_path: Path) -> None:
    sampler = Prioritized(
        counting(tmp_path / "a", [4]), OBSERVED, config=Config(alpha=0.5, beta=0.4, epsilon=1e-12)
    )
    sampler.sample(1)
    sampler.update(np.arange(4), np.array([1.0, 4.0, 9.0, 16.0]))
    batch = sampler.sample(400)
    share = np.array([0.1, 0.2, 0.3, 0.4])
    expected = (4 * share) ** -0.4 / ((4 * share) ** -0.4).max()
    np.testing.assert_allclose(batch["weight"][:, 0], expected[batch["row"]], rtol=1e-5)
    assert batch["weight"].dtype == np.float32
    np.testing.assert_array_equal(batch["observation"][:, 0], batch["row"])


def test_at_beta_one_weighted_means_are_unbiased(tmp_path: Path) -> None:
    sampler = Prioritized(counting(tmp_path / "a", [50]), OBSERVED, config=Config(alpha=1.0, beta=1.0))
    sampler.sample(1)
    sampler.update(np.arange(50), np.arange(1.0, 51.0))
    batch = sampler.sample(100_000)
    weight = batch["weight"][:, 0].astype(np.float64)
    assert abs((weight * batch["observation"][:, 0]).sum() / weight.sum() - 24.5) < 0.3


def test_beta_rises_to_one(tmp_path: Path) -> None:
    sampler = Prioritized(counting(tmp_path / "a", [4]), OBSERVED, config=Config(beta=0.4, beta_batches=4))
    found = []
    for _ in range(6):
        found.append(sampler.beta)
        sampler.sample(2)
    np.testing.assert_allclose(found, [0.4, 0.55, 0.7, 0.85, 1.0, 1.0])


def test_a_new_row_gets_the_greatest_priority_transformed_once(tmp_path: Path) -> None:
    path = tmp_path / "a"
    schema = ted_schema(Box((1,)), Discrete(2))
    spec = {"env": None, "observation": Box((1,)).to_json(), "action": Discrete(2).to_json()}
    with EpisodeWriter(Writer.create(path, schema, spec=spec, lineage={"op": "test"})) as writer:

        def add(value: int) -> None:
            observation = np.array([value], np.float32)
            writer.add(0, observation=observation, action=0, reward=0.0, terminated=False, truncated=False)

        writer.begin(0, 0)
        add(0), add(1)
        writer.flush()
        with Dataset.open(path) as dataset:
            config = Config(alpha=0.5, epsilon=1e-6)
            plain = Prioritized(dataset, OBSERVED, config=config)
            careful = Prioritized(dataset, [*OBSERVED, ("next", "observation")], config=config)
            plain.sample(1), careful.sample(1)
            assert set(careful.sample(50)["row"].tolist()) == {0}  # what follows row 1 is not known yet
            plain.update(np.array([0, 1]), np.array([4.0, 1.0]))
            careful.update(np.array([0, 1]), np.array([4.0, 1.0]))  # row 1 cannot be told anything yet
            add(2)
            writer.flush()
            dataset.refresh()
            plain.sample(1), careful.sample(1)
            leaf = (4.0 + 1e-6) ** 0.5
            assert plain.table.tree.total == pytest.approx(2 * leaf + (1.0 + 1e-6) ** 0.5, rel=1e-12)
            assert plain.table.tree.get(np.array([2])).tolist() == [4.0]
            assert careful.table.tree.get(np.array([0, 1, 2])).tolist() == [4.0, 4.0, -1.0]


def test_a_new_row_gets_no_less_than_one_that_nobody_updated(tmp_path: Path) -> None:
    """The greatest priority is that of any row, and all begin with 1 (algorithm 1 of the paper)."""
    growing = Growing(tmp_path / "a")
    growing.add(4)
    sampler = Prioritized(Dataset.open(tmp_path / "a"), OBSERVED)
    sampler.sample(1)
    sampler.update(np.array([0]), np.array([0.01]))
    growing.add(2)
    sampler.source.dataset.refresh()
    sampler.table.refresh()
    assert sampler.table.tree.get(np.arange(6)).tolist() == [0.01, 1.0, 1.0, 1.0, 1.0, 1.0]
    growing.writer.close()


@pytest.mark.parametrize(
    "given",
    [
        [0.5, 2, 3],
        np.array([0.5, 2, 3], np.float16),
        np.array([[0.5, 9], [2, 9], [3, 9]])[:, :1],
        torch.tensor([0.5, 2, 3], dtype=torch.bfloat16, requires_grad=True),
    ],
)
@pytest.mark.parametrize(
    "rows", [[0, 1, 2], np.arange(3, dtype=np.int32), torch.arange(3), np.arange(6)[::2] // 2]
)
def test_rows_and_priorities_are_any_numbers(rows: Any, given: Any, tmp_path: Path) -> None:
    sampler = Prioritized(counting(tmp_path / "a", [3]), OBSERVED)
    batch = next(Batches(sampler, 3, form="torch"))
    sampler.update(batch["row"], torch.ones(3))
    sampler.update(rows, given)
    assert sampler.table.tree.get(np.arange(3)).tolist() == [0.5, 2.0, 3.0]
    sampler.update([], [])


@pytest.mark.parametrize(
    ("rows", "given", "error"),
    [
        ([0.0, 1.0], [1, 2], TypeError),
        (None, [1, 2], TypeError),
        (np.array([True, False]), [1, 2], TypeError),
        ([0, 1], ["a", "b"], TypeError),
        ([0, 1], [[1], [2, 3]], TypeError),
        ([0, 1], [1j, 2j], TypeError),
        ([0, 1], [1, 2, 3], ValueError),
        ([0, 1], 3.0, ValueError),
    ],
)
def test_what_are_no_rows_or_priorities_changes_nothing(
    rows: Any, given: Any, error: type[Exception], tmp_path: Path
) -> None:
    sampler = Prioritized(counting(tmp_path / "a", [3]), OBSERVED)
    sampler.sample(1)
    before = sampler.table.tree.total
    with pytest.raises(error, match=r"rows|priorities") as raised:
        sampler.update(rows, given)
    assert "\n" not in str(raised.value)
    assert sampler.table.tree.total == before


def test_one_that_was_closed_says_so(tmp_path: Path) -> None:
    sampler = Prioritized(counting(tmp_path / "a", [3]), OBSERVED)
    sampler.sample(1)
    sampler.close()
    with pytest.raises(ValueError, match="closed"):
        sampler.sample(1)
    with pytest.raises(ValueError, match="closed"):
        sampler.update([0], [1.0])


def test_an_epsilon_that_alpha_makes_nothing(tmp_path: Path) -> None:
    """Rows with priority 0 would never be drawn, which epsilon is there for."""
    dataset = counting(tmp_path / "a", [3])
    with pytest.raises(UsageError, match="alpha 2 is 0"):
        Prioritized(dataset, OBSERVED, config=Config(alpha=2.0, epsilon=1e-300))
    sampler = Prioritized(dataset, OBSERVED, config=Config(alpha=2.0, epsilon=1e-150))
    sampler.sample(1)
    sampler.update(np.arange(3), np.zeros(3))
    assert set(sampler.sample(60)["row"].tolist()) == {0, 1, 2}


def test_capacity_evicts_and_late_updates_are_passed_over(tmp_path: Path) -> None:
    sampler = Prioritized(counting(tmp_path / "a", [10]), OBSERVED, 4)
    assert set(sampler.sample(200)["row"].tolist()) == {6, 7, 8, 9}
    before = sampler.table.tree.total
    sampler.update(np.array([0, 5, 99]), np.array([100.0, 100.0, 100.0]))
    assert sampler.table.tree.total == before


def test_distinct_rows(tmp_path: Path) -> None:
    sampler = Prioritized(counting(tmp_path / "a", [10]), OBSERVED, config=Config(distinct=True))
    assert sorted(sampler.sample(10)["row"].tolist()) == list(range(10))
    with pytest.raises(IncompatibleError, match="10 rows"):
        sampler.sample(11)
    one = Prioritized(counting(tmp_path / "b", [1]), OBSERVED, config=Config(distinct=True))
    with pytest.raises(IncompatibleError, match="1 row, "):
        one.sample(2)


def test_bad_priorities_change_nothing(tmp_path: Path) -> None:
    sampler = Prioritized(counting(tmp_path / "a", [4]), OBSERVED)
    sampler.sample(1)
    before = sampler.table.tree.total
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="priority"):
            sampler.update(np.array([0, 1]), np.array([3.0, wrong]))
    assert sampler.table.tree.total == before


def test_the_greatest_priorities_there_are_can_be_drawn_by(tmp_path: Path) -> None:
    sampler = Prioritized(counting(tmp_path / "a", [40]), OBSERVED, config=Config(alpha=2.0, beta=1.0))
    sampler.sample(1)
    sampler.update(np.arange(40), np.where(np.arange(40) % 2, 1e100, 0.0))
    batch = sampler.sample(200)
    assert (batch["row"] % 2 == 1).all()
    assert np.isfinite(sampler.table.tree.total)
    with pytest.raises(UsageError, match=r"sampler\.alpha must be ≤ 2"):
        make_sampler("prioritized", sampler.source.dataset, sets=["alpha=2.5"])


def test_several_streams_are_one_table(tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [5, 7, 6, 2], streams=2)
    sampler = Prioritized(dataset, OBSERVED)
    batch = sampler.sample(300)
    ids = dataset.row_ids(np.arange(dataset.num_rows))
    values = dataset.gather(np.arange(dataset.num_rows), OBSERVED)["observation"][:, 0]
    truth = dict(zip(ids.tolist(), values.tolist(), strict=True))
    assert flat(batch["observation"]) == [truth[row] for row in batch["row"].tolist()]
    assert set(batch["row"].tolist()) == set(ids.tolist())


@given(st.lists(st.tuples(st.integers(0, 299), st.floats(0, 1e6)), min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_the_total_is_the_sum_of_the_leaves(changes: list[tuple[int, float]]) -> None:
    tree = _native.RowPriorities(1.0, 0.0)
    tree.cover(0, 0, 300, 1.0)
    truth = [1.0] * 300
    for row, priority in changes:
        truth[row] = priority
    tree.set(np.array([row for row, _ in changes]), np.array([priority for _, priority in changes]))
    assert tree.total == pytest.approx(math.fsum(truth), rel=1e-14)
    ids, weights = np.empty(64, np.int64), np.empty(64, np.float32)
    if tree.sample(0, 0, 0, False, 1.0, ids, weights):
        assert all(truth[row] > 0 for row in ids.tolist())


def _total_after(updates: int, rows: int) -> None:
    rng = np.random.default_rng(0)
    tree = _native.RowPriorities(1.0, 0.0)
    tree.cover(0, 0, rows, 1.0)
    truth = np.ones(rows)
    batch = min(rows, 1 << 16)
    for _ in range(0, updates, batch):
        chosen = rng.permutation(rows)[:batch].astype(np.int64)
        truth[chosen] = rng.random(batch) * 10.0 ** rng.integers(-8, 8, batch)
        tree.set(chosen, truth[chosen])
    assert tree.total == pytest.approx(math.fsum(truth), rel=1e-14)


def test_totals_do_not_drift() -> None:
    _total_after(1_000_000, 20_000)


@pytest.mark.slow
def test_totals_do_not_drift_over_a_hundred_million_updates() -> None:
    _total_after(100_000_000, 1_000_000)


def _moving_window(draws: int) -> None:
    tree = _native.RowPriorities(0.6, 1e-6)
    ids, weights = np.empty(1000, np.int64), np.empty(1000, np.float32)
    rng = np.random.default_rng(1)
    rows = 0
    for batch in range(draws // 1000):
        tree.cover(0, rows, 500, 1.0)
        rows += 500
        low = max(0, rows - 20_000)
        tree.evict(0, low)
        assert tree.sample(0, 0, batch, bool(batch % 2), 0.4, ids, weights)
        assert ids.min() >= low
        assert ids.max() < rows
        tree.set(ids - rng.integers(0, 2) * 10_000, rng.random(1000))


def test_no_row_that_left_a_window_is_drawn() -> None:
    _moving_window(200_000)


@pytest.mark.slow
def test_no_row_that_left_a_window_is_drawn_in_ten_million() -> None:
    _moving_window(10_000_000)


@pytest.mark.slow
def test_frequencies_of_a_million_rows_after_a_million_updates() -> None:
    rng = np.random.default_rng(2)
    tree = _native.RowPriorities(1.0, 0.0)
    tree.cover(0, 0, 1_000_000, 1.0)
    priorities = np.ones(1_000_000)
    for _ in range(1000):
        chosen = rng.permutation(1_000_000)[:1000].astype(np.int64)
        priorities[chosen] = rng.random(1000) + 0.5
        tree.set(chosen, priorities[chosen])
    bins, counts = np.arange(1_000_000) // 1000, np.zeros(1000)
    ids, weights = np.empty(100_000, np.int64), np.empty(100_000, np.float32)
    for batch in range(100):
        tree.sample(5, 0, batch, False, 1.0, ids, weights)
        counts += np.bincount(ids // 1000, minlength=1000)
    expected = np.bincount(bins, weights=priorities) * 1e7 / priorities.sum()
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert 850 < chi_square < 1160  # 999 degrees of freedom, p = 0.0003 at each end
