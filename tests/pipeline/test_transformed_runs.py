"""Runs with transforms from end to end: exact resume, evaluation, export, statistics of a mapped dataset."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlcli.format.dataset import Dataset

QUICK = ["--hidden", "8", "--compile", "off", "--no-tensorboard", "--quiet", "--eval-episodes", "2"]
ONLINE = {
    "dqn": [
        "--env",
        "CartPole-v1",
        "--steps",
        "1000",
        "--learning-starts",
        "100",
        "--transform",
        "frame-stack:frames=3",
    ],
    "ppo": [
        *["--env", "CartPole-v1", "--steps", "1024", "--num-envs", "2", "--num-steps", "64"],
        *["--transform", "frame-stack:frames=2"],
    ],
    "sac": ["--env", "Pendulum-v1", "--steps", "400", "--learning-starts", "50", "--transform", "cast"],
}
REWARDS = ["--transform", "normalise:clip=5", "--transform", "reward-scale:factor=0.1"]


def rl(*arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "rlcli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def last(run: Path) -> dict[str, Any]:
    folder = max(path for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    return json.loads((folder / "checkpoint.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("algorithm", list(ONLINE))
def test_a_killed_run_with_transforms_resumes_exactly(algorithm: str, tmp_path: Path) -> None:
    budget = int(ONLINE[algorithm][3])
    options = ["train", algorithm, *ONLINE[algorithm], *REWARDS, *QUICK, "--eval-every", "0"]
    options += ["--checkpoint-every", str(budget // 8), "--keep-last", "20", "-o"]
    rl(*options, str(tmp_path / "straight"))
    process = subprocess.Popen(
        [sys.executable, "-m", "rlcli", *options, str(tmp_path / "cut")], stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not list(tmp_path.glob("cut/checkpoints/[0-9]*")):
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert last(tmp_path / "cut")["step"] < last(tmp_path / "straight")["step"]
    rl(*options, str(tmp_path / "cut"), "--resume")
    assert last(tmp_path / "cut")["digest"] == last(tmp_path / "straight")["digest"]


def test_a_run_is_evaluated_and_exported_through_its_transforms(tmp_path: Path) -> None:
    run, data = str(tmp_path / "run"), str(tmp_path / "data")
    rl("collect", "CartPole-v1", "--steps", "1k", "-o", data, "--quiet")
    mapped = str(tmp_path / "mapped")
    rl("buffer", "map", data, "-o", mapped, "--normalise", "observation", "--quiet")
    options = ["--from-dataset", data, "--updates", "100", "--transform", f"normalise:statistics={mapped}"]
    rl("train", "iql", *options, *QUICK, "-o", run)
    report = json.loads(rl("eval", run, "--episodes", "2", "--json", "--quiet"))
    assert report["episodes"] == 2

    from rlcli.pipeline.policy import policy_from_run

    policy, _ = policy_from_run(Path(run))
    with Dataset.open(data) as dataset, Dataset.open(mapped) as normalised:
        raw, wanted = dataset.read(("observation",)), normalised.read(("observation",))
    seen = policy.algorithm.observation(policy.state, torch.from_numpy(raw))
    np.testing.assert_allclose(seen.numpy(), wanted, atol=1e-5)

    exported = json.loads(rl("convert", run, str(tmp_path / "policy.pt2"), "--json", "--quiet"))
    assert exported["max_difference"] < 1e-5
    loaded = torch.export.load(tmp_path / "policy.pt2").module()
    batch = torch.from_numpy(raw[:64])
    assert torch.equal(loaded(batch), torch.from_numpy(policy(raw[:64])))


def test_stacks_are_the_same_in_batches_and_in_environments(tmp_path: Path) -> None:
    """What a run does in an environment is what it would do on the stacks of the data it left there."""
    run, data = str(tmp_path / "run"), str(tmp_path / "data")
    rl("train", "dqn", *ONLINE["dqn"], "--transform", "normalise", *QUICK, "-o", run)
    more = ["--policy", run, "--deterministic", "--episodes", "5", "--num-envs", "2", "--quiet"]
    rl("collect", "CartPole-v1", *more, "-o", data)
    report = json.loads(rl("eval", run, "--record", str(tmp_path / "seen"), "--json", "--quiet"))
    assert report["episodes"] == 20

    from rlcli.pipeline.policy import policy_from_run

    policy, _ = policy_from_run(Path(run))
    for path in (data, str(tmp_path / "seen")):
        with Dataset.open(path) as dataset:
            assert dataset.schema.column(("observation",)).shape == (4,), "datasets stay raw"
            rows = np.arange(dataset.num_rows)
            stacks = np.empty((len(rows), 3, 4), np.float32)
            dataset.stack_into(rows, ("observation",), 3, stacks)
            acted = dataset.read(("action",))
        seen = policy.algorithm.act(policy.state, torch.from_numpy(stacks), policy.nets, policy.config)
        np.testing.assert_array_equal(seen.numpy(), acted)

    exported = json.loads(rl("convert", run, str(tmp_path / "policy.pt2"), "--json", "--quiet"))
    assert exported["inputs"][0]["shape"] == ["batch", 3, 4]
    assert exported["max_difference"] < 1e-5


def test_a_return_can_be_asked_for(tmp_path: Path) -> None:
    """In an environment what is to go begins at the target and falls as it would have in the data."""
    run, data = str(tmp_path / "run"), str(tmp_path / "data")
    rl("collect", "CartPole-v1", "--steps", "500", "-o", data, "--quiet")
    asked = ["--transform", "frame-stack:frames=2", "--transform", "reward-to-go:target=30"]
    options = ["--from-dataset", data, "--updates", "50", *asked, "--transform", "normalise", *QUICK]
    rl("train", "bc", *options, "-o", run)
    seen = str(tmp_path / "seen")
    rl("eval", run, "--episodes", "3", "--record", seen, "--quiet")

    from rlcli.pipeline.policy import policy_from_run

    policy, _ = policy_from_run(Path(run))
    with Dataset.open(seen) as dataset:
        stacks = np.empty((dataset.num_rows, 2, 4), np.float32)
        dataset.stack_into(np.arange(dataset.num_rows), ("observation",), 2, stacks)
        to_go = 30.0 - dataset.read(("step",)).reshape(-1, 1).astype(np.float32)  # every reward is 1
        acted = dataset.read(("action",))
    observation = {"observation": torch.from_numpy(stacks), "reward_to_go": torch.from_numpy(to_go)}
    found = policy.algorithm.act(policy.state, observation, policy.nets, policy.config)
    np.testing.assert_array_equal(found.numpy(), acted)


def test_an_environment_of_other_observations_is_refused(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    rl("train", "dqn", *ONLINE["dqn"], *QUICK, "--eval-every", "0", "-o", run)
    said = rl("eval", run, "--env", "Acrobot-v1", "--episodes", "1", "--quiet", code=5)
    assert "was made with the observation" in said


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--transform", "normalize"], 2, "did you mean 'normalise'"),
        (["--transform", "reward-clip", "--sampler", "n-step"], 2, "rewards of one step"),
        (["--transform", "normalise:statistics=nowhere"], 3, "nowhere"),
        (["--transform", "normalise", "--transform", "frame-stack"], 2, "comes first"),
        (["--transform", "reward-to-go:target=5"], 5, "observations and actions alone"),
        (["--transform", "frame-stack", "--sampler", "hindsight"], 5, "no frame-stack"),
    ],
)
def test_a_transform_that_does_not_fit_is_one_line(
    options: list[str], code: int, said: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    found = rl("train", "dqn", *ONLINE["dqn"][:4], *options, *QUICK, "-o", str(out), code=code)
    assert said in found
    assert found.count("\n") == 1
    assert not out.exists()
