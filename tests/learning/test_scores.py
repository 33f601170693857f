"""Does it learn? Five seeds per claim; `pytest -m slow tests/learning -s` prints the scores.

A score is the mean over 20 fresh episodes of the checkpoint that training kept as best.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SEEDS = range(5)
pytestmark = pytest.mark.slow


def rl(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "rlcli", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def score(run: Path, *options: object) -> float:
    return float(rl("eval", run, "--episodes", 20, "--seed", 1000, *options)["mean"])


def trained(folder: Path, algorithm: str, seed: int, *options: object) -> float:
    run = folder / f"{algorithm}-{seed}"
    rl("train", algorithm, *options, "--seed", seed, "-o", run)
    return score(run)


def report(claim: str, scores: list[float]) -> None:
    print(f"\n{claim}: {' '.join(f'{value:.1f}' for value in scores)}  mean {np.mean(scores):.1f}")


@pytest.mark.parametrize(
    ("algorithm", "env", "steps", "needed"),
    [
        ("dqn", "CartPole-v1", "50k", 475.0),
        ("ppo", "CartPole-v1", "100k", 475.0),
        ("sac", "Pendulum-v1", "20k", -200.0),
    ],
)
def test_online_training_reaches_the_score(
    algorithm: str, env: str, steps: str, needed: float, tmp_path: Path
) -> None:
    scores = [trained(tmp_path, algorithm, seed, "--env", env, "--steps", steps) for seed in SEEDS]
    report(f"{algorithm} {env} {steps}", scores)
    assert min(scores) >= needed


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`<env>-good` from a trained policy that samples its actions, and `<env>-random`."""
    folder = tmp_path_factory.mktemp("data")
    for env, algorithm, budget in (("CartPole-v1", "ppo", "50k"), ("Pendulum-v1", "sac", "10k")):
        rl("train", algorithm, "--env", env, "--steps", budget, "--seed", 100, "-o", folder / algorithm)
        rl(
            "collect",
            env,
            "--policy",
            folder / algorithm,
            "--steps",
            "20k",
            "--seed",
            7,
            "-o",
            folder / f"{env}-good",
        )
        rl("collect", env, "--steps", "20k", "--seed", 8, "-o", folder / f"{env}-random")
    return folder


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("algorithm", ["bc", "iql"])
@pytest.mark.parametrize("kind", ["good", "mixed"])
def test_offline_training_reaches_the_behaviour(
    env: str, algorithm: str, kind: str, data: Path, tmp_path: Path
) -> None:
    """Good data: as good as the behaviour. A mixture, half of it random: IQL above the behaviour's mean."""
    names = ["good"] if kind == "good" else ["good", "random"]
    sources = [option for name in names for option in ("--from-dataset", data / f"{env}-{name}")]
    means = [rl("buffer", "info", data / f"{env}-{name}")["return"]["mean"] for name in names]
    behaviour = float(np.mean(means))
    scores = [trained(tmp_path, algorithm, seed, *sources, "--updates", "3k") for seed in SEEDS]
    report(f"{algorithm} {env} {kind} (behaviour {behaviour:.1f})", scores)
    if kind == "good":
        assert np.mean(scores) >= behaviour - 0.1 * abs(behaviour)
    elif algorithm == "iql":
        assert min(scores) > behaviour
