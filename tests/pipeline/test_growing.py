"""Training from datasets that grow: exact resume on the snapshot; following, killable on both sides."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify

QUICK = ["--hidden", "8", "--compile", "off", "--eval-every", "0", "--no-tensorboard", "--quiet"]
LIMIT = 300.0


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rlcli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def rl(*arguments: str, code: int = 0) -> str:
    process = start(*arguments)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == code, said
    return said


def until(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT
    while not reached():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def checkpoints(run: Path) -> list[dict[str, Any]]:
    folders = sorted(path for path in run.glob("checkpoints/[0-9]*"))
    return [json.loads((folder / "checkpoint.json").read_text()) for folder in folders]


def rows(path: Path) -> int:
    with Dataset.open(path) as dataset:
        return dataset.num_rows


@pytest.mark.parametrize("sampler", ["uniform", "without-replacement", "prioritized"])
def test_a_run_resumes_on_the_rows_it_was_started_on(sampler: str, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    rl("collect", "CartPole-v1", "--steps", "1k", "-o", data, "--quiet")
    options = ["--from-dataset", data, "--updates", "400", "--checkpoint-every", "50", "--keep-last", "20"]
    options = ["train", "iql", *options, "--sampler", sampler, *QUICK, "-o"]
    rl(*options, str(tmp_path / "straight"))
    process = start(*options, str(tmp_path / "cut"))
    until(lambda: len(checkpoints(tmp_path / "cut")) > 1, process)
    process.kill()
    process.communicate()
    rl("collect", "CartPole-v1", "--steps", "500", "-o", data, "--append", "--quiet")
    rl("train", "iql", "--resume", "-o", str(tmp_path / "cut"), "--quiet")
    straight, cut = checkpoints(tmp_path / "straight")[-1], checkpoints(tmp_path / "cut")[-1]
    assert rows(tmp_path / "data") == 1500
    assert (cut["step"], cut["state_sha256"]) == (400, straight["state_sha256"])


@pytest.mark.parametrize("sampler", ["uniform", "prioritized"])
def test_trainer_and_collector_meet_at_a_dataset_and_either_may_be_killed(
    sampler: str, tmp_path: Path
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    rl("collect", "CartPole-v1", "--steps", "100", "-o", str(data), "--quiet")
    options = ["--follow", "--min-rows", "1000", "--samples-per-insert", "32", "--updates", "600"]
    options += ["--sampler", sampler, "--checkpoint-every", "50", "--keep-last", "20"]
    options = ["train", "dqn", "--from-dataset", str(data), *options, *QUICK, "-o", str(run)]
    trainer = start(*options)
    collector = start("collect", "CartPole-v1", "--steps", "10m", "-o", str(data), "--append", "--quiet")
    until(lambda: len(checkpoints(run)) > 1, trainer)
    trainer.kill()
    collector.kill()
    for process in (trainer, collector):
        process.communicate()
    step, seen = checkpoints(run)[-1]["step"], rows(data)
    assert 0 < step < 600
    collector = start("collect", "CartPole-v1", "--steps", "10m", "-o", str(data), "--share", "--quiet")
    until(lambda: rows(data) > seen, collector)
    rl("train", "dqn", "--resume", "-o", str(run), "--quiet")
    collector.send_signal(signal.SIGTERM)
    collector.communicate()
    done = checkpoints(run)[-1]
    drawn = done["progress"]["loop"]["sampler"]["drawn"]
    assert (done["step"], done["progress"]["updates"], drawn) == (600, 600, 600 * 128)
    assert drawn - 128 <= 32 * (rows(data) - 1000)
    assert verify(data, deep=True) == []


def test_a_trainer_that_waits_for_rows_stops_when_it_is_told_to(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    rl("collect", "CartPole-v1", "--steps", "100", "-o", str(data), "--quiet")
    options = ["train", "dqn", "--from-dataset", str(data), "--follow", "--min-rows", "1k", "--updates", "20"]
    trainer = start(*options, *QUICK, "-o", str(run))
    until(lambda: (run / "metrics.jsonl").exists() or (run / "run.json").exists(), trainer)
    trainer.send_signal(signal.SIGTERM)
    assert "resumable" in trainer.communicate(timeout=300)[1]
    assert trainer.returncode == 143
    said = rl("train", "dqn", "--resume", "-o", str(run), "--quiet", "--wait-seconds", "0.1", code=5)
    assert "100 rows after 0.1 s, fewer than --min-rows 1,000" in said
    rl("collect", "CartPole-v1", "--steps", "1k", "-o", str(data), "--append", "--quiet")
    rl("train", "dqn", "--resume", "-o", str(run), "--quiet")
    assert checkpoints(run)[-1]["step"] == 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--env", "CartPole-v1", "--steps", "10", "--follow"],
            "--follow is for training with --from-dataset",
        ),
        (["--from-dataset", "x", "--updates", "10", "--min-rows", "5"], "add --follow"),
    ],
)
def test_following_is_for_datasets(options: list[str], said: str) -> None:
    assert said in rl("train", "dqn", *options, "--quiet", code=2)
