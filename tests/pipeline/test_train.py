"""Training as a user runs it: exact resume after kill -9, signals, evaluation that disturbs nothing."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format.dataset import Dataset

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
ONLINE = {
    "dqn": ["--env", "CartPole-v1", "--steps", "1200", "--learning-starts", "100", "--set", "train_freq=4"],
    "ppo": ["--env", "CartPole-v1", "--steps", "2048", "--num-envs", "2", "--num-steps", "64"],
    "sac": ["--env", "Pendulum-v1", "--steps", "500", "--learning-starts", "100", "--hidden", "16,16"],
}
OFFLINE = {
    "bc": ["--updates", "400", "--hidden", "16,16"],
    "iql": ["--updates", "400", "--hidden", "16,16"],
}
SAMPLERS = [
    ("dqn", "prioritized"),
    ("dqn", "prioritized-n-step"),
    ("sac", "prioritized"),
    ("iql", "without-replacement"),
    ("iql", "prioritized"),
]
QUICK = ["--compile", "off", "--eval-episodes", "2", "--no-tensorboard", "--quiet"]


def rl(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rlcli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    if check:
        assert done.returncode == 0, done.stderr
    return done


def last_checkpoint(run: Path) -> dict[str, Any]:
    folder = max(path for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    return json.loads((folder / "checkpoint.json").read_text())  # type: ignore[no-any-return]


def kill_after_a_checkpoint(run: Path, *arguments: str) -> None:
    """Start a training and kill -9 it as soon as it has a checkpoint and has gone on for a moment."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rlcli", *arguments],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not list(run.glob("checkpoints/[0-9]*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def assert_same_rows(first: Path, second: Path) -> None:
    """Equal rows and episodes; segments may be cut elsewhere."""
    with Dataset.open(first) as one, Dataset.open(second) as other:
        assert one.num_rows == other.num_rows
        for column in one.schema.columns:
            np.testing.assert_array_equal(one.read(column.key), other.read(column.key), str(column.key))
        for name in ("start", "length", "return_", "terminated", "cut", "has_final", "seed", "number"):
            np.testing.assert_array_equal(getattr(one.episodes, name), getattr(other.episodes, name), name)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "random"
    rl("collect", "CartPole-v1", "--steps", "2k", "-o", str(path), "--quiet")
    return path


@pytest.mark.parametrize(("algorithm", "sampler"), [*((name, "") for name in (*ONLINE, *OFFLINE)), *SAMPLERS])
def test_killed_and_resumed_equals_uninterrupted(
    algorithm: str, sampler: str, tmp_path: Path, dataset: Path
) -> None:
    source = ONLINE.get(algorithm) or ["--from-dataset", str(dataset), *OFFLINE[algorithm]]
    budget = int(source[source.index("--steps" if algorithm in ONLINE else "--updates") + 1])
    options = [
        *source,
        *(["--sampler", sampler] if sampler else []),
        *QUICK,
        "--eval-every",
        "0",
        "--checkpoint-every",
        str(budget // 8),
        "--keep-last",
        "20",
    ]
    rl("train", algorithm, *options, "-o", str(tmp_path / "straight"))
    kill_after_a_checkpoint(tmp_path / "cut", "train", algorithm, *options, "-o", str(tmp_path / "cut"))
    before = last_checkpoint(tmp_path / "cut")["step"]
    rl("train", algorithm, *options, "-o", str(tmp_path / "cut"), "--resume")
    straight, resumed = last_checkpoint(tmp_path / "straight"), last_checkpoint(tmp_path / "cut")
    assert before < resumed["step"] == straight["step"], "the kill came too late to prove anything"
    assert resumed["digest"] == straight["digest"]
    reported = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("straight", "cut")]
    steps = [[json.loads(line)["step"] for line in lines] for lines in reported]
    assert steps[0] == steps[1]
    if algorithm in ("dqn", "sac"):
        assert_same_rows(tmp_path / "straight" / "replay", tmp_path / "cut" / "replay")


def test_evaluation_does_not_touch_training(tmp_path: Path) -> None:
    for name, every in (("with", "300"), ("without", "0")):
        rl("train", "dqn", *ONLINE["dqn"], *QUICK, "--eval-every", every, "-o", str(tmp_path / name))
    states = [last_checkpoint(tmp_path / name)["state_sha256"] for name in ("with", "without")]
    assert states[0] == states[1]


def test_sigterm_leaves_a_resumable_run_and_143(tmp_path: Path) -> None:
    arguments = ["train", "dqn", *ONLINE["dqn"], *QUICK, "--eval-every", "0", "-o", str(tmp_path / "run")]
    arguments[arguments.index("--steps") + 1] = "100k"
    process = subprocess.Popen(
        [sys.executable, "-m", "rlcli", *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "run" / "replay" / "dataset.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 143
    assert out == ""
    assert "rl train dqn --resume -o" in err
    assert "Traceback" not in err
    assert last_checkpoint(tmp_path / "run")["step"] > 0
    rl("buffer", "verify", "--deep", "--semantics", str(tmp_path / "run" / "replay"))


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    options = [*ONLINE["dqn"], *QUICK, "--eval-every", "0", "--checkpoint-every", "700"]
    rl("train", "dqn", *options, "-o", str(tmp_path / "straight"))
    command = [
        sys.executable,
        "-m",
        "rlcli",
        "train",
        "dqn",
        *options,
        "-o",
        str(tmp_path / "cut"),
        "--resume",
    ]
    codes = []
    while not codes or codes[-1] == 143:
        process = subprocess.Popen(
            command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 300
        lines = (tmp_path / "cut" / "metrics.jsonl").read_text().count("\n") if codes else 0
        while process.poll() is None and time.monotonic() < deadline:
            file = tmp_path / "cut" / "metrics.jsonl"
            if len(codes) < 2 and file.exists() and file.read_text().count("\n") > lines + 10:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.002)
        codes.append(process.wait(300))
    assert codes == [143, 143, 0]
    states = [last_checkpoint(tmp_path / name)["digest"] for name in ("straight", "cut")]
    assert states[0] == states[1]
    assert_same_rows(tmp_path / "straight" / "replay", tmp_path / "cut" / "replay")


def test_the_replay_of_online_training_is_a_sound_dataset_of_all_steps(tmp_path: Path) -> None:
    rl("train", "dqn", *ONLINE["dqn"], *QUICK, "-o", str(tmp_path / "run"))
    info = json.loads(rl("buffer", "info", str(tmp_path / "run" / "replay"), "--json").stdout)
    assert info["rows"] == 1200
    rl("buffer", "verify", "--deep", "--semantics", str(tmp_path / "run" / "replay"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "dqm"], 2, "did you mean 'dqn'"),
        (["train", "dqn"], 2, "--env ENV"),
        (["train", "dqn", "--env", "CartPole-v1"], 2, "--steps is missing"),
        (["train", "dqn", "--env", "CartPol-v1", "--steps", "10"], 2, "CartPole-v1"),
        (["train", "dqn", "--env", "Pendulum-v1", "--steps", "10"], 5, "takes Discrete actions"),
        (
            ["train", "dqn", "--env", "CartPole-v1", "--steps", "10", "--set", "gama=0.9"],
            2,
            "did you mean 'gamma'",
        ),
        (["train", "dqn", "--env", "CartPole-v1", "--steps", "10", "--gamma", "1.5"], 2, "must be ≤ 1"),
        (["train", "dqn", "--env", "CartPole-v1", "--steps", "10", "--lr", "inf"], 2, "finite"),
        (["train", "dqn", "--env", "CartPole-v1", "--steps", "10", "--hidden", "0"], 2, "must be ≥ 1"),
        (
            ["train", "dqn", "--env", "CartPole-v1", "--steps", "10", "--threads", "100000"],
            2,
            "must be ≤ 1024",
        ),
        (
            ["train", "dqn", "--env", "CartPole-v1", "--steps", "10", "--hidden", "1e12"],
            7,
            "out of memory",
        ),
        (["train", "dqn", "--env", "CartPole-v1", "--steps", "10", "--lrr", "1"], 2, "no such option"),
        (["train", "sac", "--env", "x", "--learning-rate", "1"], 2, "--learning-rate; did you mean --lr?"),
        (["train", "sac", "--env", "x", "--steps", "1", "--set", "polyak=1"], 2, "did you mean 'tau'?"),
        (["train", "bc", "--clip-range", "1"], 2, "--clip-range; rl train bc --help lists them"),
        (["train", "ppo", "--from-dataset", "nowhere", "--updates", "10"], 2, "cannot learn from a dataset"),
        (["train", "bc", "--env", "CartPole-v1", "--steps", "10"], 2, "cannot learn from an environment"),
        (["train", "bc", "--from-dataset", "nowhere", "--updates", "10"], 3, "nowhere"),
        (["train", "bc", "--from-dataset", ".", "--updates", "10"], 3, "not a dataset"),
        (["eval", "nowhere"], 3, "no run at nowhere"),
        (["eval", "nowhere", "-o", "absent/report.json"], 2, "no folder absent"),
        (["eval", "nowhere", "--gate", "meann >= 4"], 2, "did you mean 'mean'"),
    ],
)
def test_a_mistake_is_one_line_with_its_code(
    arguments: list[str], code: int, said: str, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-m", "rlcli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, timeout=300)
    assert done.returncode == code, done.stderr
    assert said.lower() in done.stderr.lower()
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


BROKEN_ENV = """
import gymnasium
import numpy as np


class Env(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, fault):
        self.fault = fault

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.fault == "raises" and self.steps == 5:
            raise KeyError("gone")
        shape = 4 if self.fault == "shape" and self.steps == 5 else 3
        reward = float("nan") if self.fault == "nan" else 1.0
        return np.zeros(shape, np.float32), reward, self.steps == 10, False, {}
"""


@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [("raises", "KeyError: 'gone' at broken_env.py"), ("shape", "shape (4,)"), ("nan", "nan")],
)
def test_an_environment_that_fails_is_named_and_no_bug_of_rl(
    algorithm: str, fault: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "broken_env.py").write_text(BROKEN_ENV)
    command = [sys.executable, "-m", "rlcli", "train", algorithm, "--env", "broken_env:Env", "--steps", "100"]
    options = ["--env-arg", f"fault={fault}", "--compile", "off", "--quiet", "-o", "run"]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("error: broken_env:Env")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_a_run_has_one_trainer_at_a_time(algorithm: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["train", algorithm, "--env", "CartPole-v1", "--steps", "1000k", *QUICK, "-o", str(run)]
    with subprocess.Popen(
        [sys.executable, "-m", "rlcli", *arguments],
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 300
        while not (run / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        done = rl("train", algorithm, "--resume", "-o", str(run), check=False)
        process.send_signal(signal.SIGTERM)
    assert done.returncode == 75, done.stderr
    assert done.stderr.count("\n") == 1
    assert process.returncode == 143


def test_a_start_that_fails_leaves_no_run(tmp_path: Path, dataset: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(dataset, damaged)
    column = next(damaged.glob("segments/*/observation.memmap"))
    content = bytearray(column.read_bytes())
    content[100] ^= 1
    column.write_bytes(content)
    options = ["--updates", "50", "--hidden", "8", *QUICK, "-o", str(tmp_path / "run")]
    done = rl("train", "bc", "--from-dataset", str(damaged), *options, check=False)
    assert done.returncode == 4
    assert "observation.memmap" in done.stderr
    assert not (tmp_path / "run").exists()


def test_no_run_begins_inside_a_dataset(tmp_path: Path, dataset: Path) -> None:
    options = ["--updates", "50", "--hidden", "8", *QUICK, "-o", str(dataset / "run")]
    done = rl("train", "bc", "--from-dataset", str(dataset), *options, check=False)
    assert done.returncode == 2
    assert "lies inside the dataset" in done.stderr
    assert not (dataset / "run").exists()


def test_a_module_of_ones_own_is_an_algorithm(tmp_path: Path, dataset: Path) -> None:
    source = Path(importlib.import_module("rlcli.algorithms.bc").__file__ or "").read_text()
    (tmp_path / "my_bc.py").write_text(source.replace('"""Behavioural cloning', '"""My own cloning'))
    command = [sys.executable, "-m", "rlcli", "train", "my_bc"]
    options = ["--from-dataset", str(dataset), "--updates", "50", "--hidden", "8", "-o", "run", *QUICK]
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "run\n"
    helped = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path
    )
    assert "My own cloning" in helped.stdout
    (tmp_path / "broken.py").write_text("Config = 1\n")
    done = subprocess.run(
        [*command[:-1], "broken"], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (
        2,
        "error: the module 'broken' is no algorithm: it has no SOURCES\n",
    )
    done = subprocess.run(
        [*command[:-1], "--resume", "run"], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (
        2,
        "error: run is a run, not an algorithm (rl train ALGO --resume -o run goes on with it)\n",
    )


def test_resuming_with_another_option_is_refused(tmp_path: Path) -> None:
    options = [*QUICK, "--eval-every", "0", "-o", str(tmp_path / "run")]
    rl("train", "dqn", *ONLINE["dqn"], *options)
    done = rl("train", "dqn", *ONLINE["dqn"], *options, "--resume", "--lr", "0.5", check=False)
    assert done.returncode == 2
    assert "started with" in done.stderr
