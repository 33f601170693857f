"""Evaluation: which episodes, their scores, gates; with an environment whose scores are known."""

from __future__ import annotations

import errno
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import pytest

from rlcli.errors import ConditionFalse, IncompatibleError, UsageError
from rlcli.format.specs import Box, Discrete
from rlcli.pipeline.evaluate import (
    Episode,
    Gate,
    Recorder,
    check_gates,
    check_same_specs,
    evaluation_seeds,
    rollouts,
    summary,
)
from rlcli.pipeline.rollout_files import Recorders


class SeedEnv:
    """An episode lasts `seed % 7 + 1` steps of reward 0.5; the observation is `[seed, step]`."""

    observation_spec = Box((2,))
    action_spec = Discrete(3)
    spec_json: ClassVar = {"library": "python", "id": "test", "kwargs": {}, "max_episode_steps": None}

    def reset(self, seed: int) -> Any:
        self.seed, self.steps = seed, 0
        return np.array([seed, 0], np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool]:
        assert action == self.steps % 3, "the policy answers to the observation of its own environment"
        self.steps += 1
        is_last = self.steps == self.seed % 7 + 1
        return (
            np.array([self.seed, self.steps], np.float32),
            0.5,
            is_last and self.seed % 2 == 0,
            is_last and self.seed % 2 == 1,
        )

    def render(self) -> Any:
        return None

    def close(self) -> None:
        pass


def policy(observation: Any) -> Any:
    return (observation[:, 1] % 3).astype(np.int64)


@pytest.mark.parametrize("num_envs", [1, 2, 5])
def test_scores_and_lengths_do_not_depend_on_how_many_run_together(num_envs: int) -> None:
    seeds = list(range(11))
    episodes = rollouts(policy, [SeedEnv() for _ in range(num_envs)], seeds)
    assert [episode.seed for episode in episodes] == seeds
    assert [episode.length for episode in episodes] == [seed % 7 + 1 for seed in seeds]
    assert [episode.score for episode in episodes] == [0.5 * (seed % 7 + 1) for seed in seeds]
    assert [episode.terminated for episode in episodes] == [seed % 2 == 0 for seed in seeds]
    assert [episode.truncated for episode in episodes] == [seed % 2 == 1 for seed in seeds]


def test_training_and_evaluation_never_share_seeds() -> None:
    training = evaluation_seeds(0, 1000, purpose="training")
    evaluation = evaluation_seeds(0, 1000, purpose="eval")
    assert len({*training, *evaluation}) == 2000
    assert evaluation_seeds(0, 5, purpose="eval") == evaluation[:5]
    assert evaluation_seeds(1, 5, purpose="eval") != evaluation[:5]


def test_summary_of_known_scores() -> None:
    episodes = [Episode(seed, float(score), 10, True, False) for seed, score in enumerate([0, 10, 20, 90])]
    found = summary(episodes, (10.0, 30.0))
    assert found["iqm"] == 15.0
    assert found["mean"] == 30.0
    assert found["median"] == 15.0
    assert found["normalised"] == pytest.approx(100.0)
    low, high = found["iqm_interval"]
    assert 0 <= low <= 15 <= high <= 90


def test_gates_hold_or_end_with_the_condition() -> None:
    report = {"run": "r", "iqm": 400.0, "mean": 10.0, "normalised": None}
    check_gates([Gate.parse("iqm >= 400"), Gate.parse("mean<11")], [report])
    with pytest.raises(ConditionFalse, match="iqm is 400, the gate is iqm > 400"):
        check_gates([Gate.parse("iqm > 400")], [report])
    with pytest.raises(IncompatibleError, match="reference scores"):
        check_gates([Gate.parse("normalised > 0")], [report])


@pytest.mark.parametrize("text", ["iqm", "iqm >= ", ">= 4", "iqm ~ 4", "iqm >= four", "__import__('os') > 1"])
def test_a_malformed_gate_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="iqm >= 400"):
        Gate.parse(text)


def test_an_unknown_score_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'median'"):
        Gate.parse("mediann >= 3")


def test_other_specs_are_refused() -> None:
    spec = {"observation": Box((3,)).to_json(), "action": Discrete(3).to_json()}
    with pytest.raises(IncompatibleError, match="observation"):
        check_same_specs(spec, SeedEnv(), "run")


class _Part(Recorder):
    """Notes what becomes of it; `fails` is what it cannot do."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.told: list[str] = []

    def complete(self) -> None:
        self._note("complete")

    def drop(self) -> None:
        self._note("drop")

    def _note(self, word: str) -> None:
        self.told.append(word)
        if word == self.fails:
            raise OSError(errno.ENOSPC, word)


@pytest.mark.parametrize("fails", ["", "complete"])
def test_records_are_completed_or_all_of_them_dropped(fails: str) -> None:
    parts = [_Part(), _Part(fails), _Part("drop")]
    with pytest.raises(OSError) if fails else nullcontext(), Recorders(*parts):
        pass
    told = ["complete"] if not fails else ["complete", "drop"]
    assert [part.told for part in parts[:2]] == [told, told]
    assert parts[2].told == (["drop"] if fails else ["complete"])


def test_a_rollout_that_fails_drops_every_record() -> None:
    parts = [_Part("drop"), _Part()]
    with pytest.raises(OSError), Recorders(*parts):
        raise KeyError
    assert [part.told for part in parts] == [["drop"], ["drop"]]
