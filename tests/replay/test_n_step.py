"""n-step transitions: gamma^m, the last step's `terminated`, no window over an episode's end."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcli.replay.n_step import Config, NStep
from rlcli.replay.prioritized_n_step import Config as PrioritizedConfig
from rlcli.replay.prioritized_n_step import PrioritizedNStep
from tests.replay.made_up import counting


@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    n=st.integers(1, 5),
    gamma=st.floats(0, 1),
    finals=st.booleans(),
    terminated=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_targets_equal_a_loop(
    lengths: list[int], n: int, gamma: float, finals: bool, terminated: bool
) -> None:
    with TemporaryDirectory() as folder:
        dataset = counting(Path(folder) / "a", lengths, finals=finals, terminated=terminated)
        sampler = NStep(dataset, config=Config(n, gamma))
        if not len(sampler):
            return
        batch = sampler.sample(30)
        ends = np.cumsum(lengths)
        for b in range(30):
            row = int(batch["observation"][b, 0])
            end = int(ends[np.searchsorted(ends, row, side="right")])
            known = end if finals else end - 1  # what follows the last row may not be known
            m = min(n, known - row)
            last = row + m - 1
            reward = sum(gamma**k * (row + k) for k in range(m))
            np.testing.assert_allclose(batch["next"]["reward"][b, 0], reward, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(batch["next"]["discount"][b, 0], gamma**m, rtol=1e-6, atol=1e-9)
            assert batch["next"]["terminated"][b, 0] == (terminated and last == end - 1)
            assert batch["next"]["observation"][b, 0] == (last + 0.5 if last == end - 1 else last + 1)


def test_a_terminal_inside_the_window_ends_it(tmp_path: Path) -> None:
    """The case that TorchRL 0.14.1 gets wrong: three rows, a terminal at the last, n = 3."""
    sampler = NStep(counting(tmp_path / "a", [3]), config=Config(3, 0.5))
    batch = sampler.sample(60)
    first = batch["observation"][:, 0] == 0
    target = batch["next"]["reward"] + batch["next"]["discount"] * ~batch["next"]["terminated"] * 100.0
    assert (target[first] == 0 + 0.5 * 1 + 0.25 * 2).all()
    assert batch["next"]["terminated"].all()


def test_one_step_is_the_plain_transition(tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [4, 6])
    batch = NStep(dataset, config=Config(1, 0.9)).sample(50)
    np.testing.assert_array_equal(batch["next"]["reward"], batch["observation"])
    np.testing.assert_allclose(batch["next"]["discount"], 0.9)


def test_priorities_choose_rows_and_steps_make_their_transitions(tmp_path: Path) -> None:
    """The draw is that of `Prioritized`, and what follows a row that of `NStep`."""
    dataset = counting(tmp_path / "a", [4, 9, 1], finals=False, terminated=False)
    both = PrioritizedNStep(dataset, config=PrioritizedConfig(n=3, gamma=0.5, alpha=1.0, beta=1.0))
    both.sample(1)
    eligible = np.array([0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11])
    both.update(np.arange(14), np.where(np.arange(14) == 5, 10.0, 1.0))  # passed over: rows of unknown ends
    batch = both.sample(20_000)
    row = batch["row"]
    assert set(row.tolist()) == set(eligible.tolist())
    assert abs((row == 5).mean() - 0.5) < 0.02  # 10 of 20
    np.testing.assert_allclose(batch["weight"][:, 0], np.where(row == 5, 0.1, 1.0), rtol=1e-4)
    end = np.where(row < 4, 3, 12)
    m = np.minimum(3, end - row)
    np.testing.assert_array_equal(batch["observation"][:, 0], row)
    np.testing.assert_array_equal(batch["next"]["observation"][:, 0], row + m)
    np.testing.assert_allclose(batch["next"]["discount"][:, 0], 0.5**m)
    reward = sum(np.where(k < m, 0.5**k * (row + k), 0) for k in range(3))
    np.testing.assert_allclose(batch["next"]["reward"][:, 0], reward, rtol=1e-6)


def test_more_steps_than_any_episode_has_cost_nothing(tmp_path: Path) -> None:
    dataset = counting(tmp_path / "a", [3, 5])
    whole = NStep(dataset, config=Config(n=2**40, gamma=0.5)).sample(64)
    five = NStep(dataset, config=Config(n=5, gamma=0.5)).sample(64)
    np.testing.assert_array_equal(whole["next"]["reward"], five["next"]["reward"])
    np.testing.assert_array_equal(whole["next"]["discount"], five["next"]["discount"])
