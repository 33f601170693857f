"""A policy as a file: what it says is what the policy does, for any batch, without this package."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from rlcli.errors import ExitCode, UsageError
from rlcli.main import run
from rlcli.pipeline.export_policy import Options, export_policy
from rlcli.pipeline.policy import policy_from_run


class TwoParts(gymnasium.Env):  # type: ignore[type-arg]
    """A nested observation with a discrete part."""

    observation_space = gymnasium.spaces.Dict(
        {
            "place": gymnasium.spaces.Discrete(3),
            "arm": gymnasium.spaces.Dict({"joints": gymnasium.spaces.Box(-1, 1, (2, 2), np.float32)}),
        }
    )
    action_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)

    def reset(self, *, seed=None, options=None):  # type: ignore[no-untyped-def]
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):  # type: ignore[no-untyped-def]
        return self.observation_space.sample(), 0.0, False, True, {}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SAC policy over nested observations, hardly trained."""
    gymnasium.register("TwoParts-v0", TwoParts, max_episode_steps=5)
    out = tmp_path_factory.mktemp("run") / "sac"
    options = ["--steps", "20", "--eval-every", "0", "--hidden", "8,8", "--compile", "off", "-q"]
    assert run(["train", "sac", "--env", "TwoParts-v0", "-o", str(out), *options]) == 0
    return out


def observations(size: int) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(size)
    return {
        "observation.arm.joints": rng.uniform(-1, 1, (size, 2, 2)).astype(np.float32),
        "observation.place": rng.integers(0, 3, size),
    }


def expected(trained: Path, given: dict[str, np.ndarray]) -> np.ndarray:  # type: ignore[type-arg]
    policy, _ = policy_from_run(trained)
    nested = {"arm": {"joints": given["observation.arm.joints"]}, "place": given["observation.place"]}
    return np.asarray(policy(nested))


def test_onnx_runs_any_batch_without_this_package(trained: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    report = export_policy(trained, tmp_path / "policy.onnx", Options())
    assert report["max_difference"] < 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"))
    assert [item["name"] for item in report["inputs"]] == [item.name for item in session.get_inputs()]
    for size in (1, 5):
        given = observations(size)
        (action,) = session.run(None, given)
        np.testing.assert_allclose(action, expected(trained, given), atol=1e-5)


@pytest.mark.parametrize("name", ["policy.pt2", "policy.ts"])
def test_torch_formats_run_any_batch(trained: Path, tmp_path: Path, name: str) -> None:
    report = export_policy(trained, tmp_path / name, Options(checkpoint="last"))
    assert report["max_difference"] < 1e-6
    path = tmp_path / name
    loaded = torch.export.load(path).module() if name.endswith("pt2") else torch.jit.load(str(path))
    for size in (1, 5):
        given = observations(size)
        action = loaded(*(torch.from_numpy(given[item["name"]]) for item in report["inputs"]))
        np.testing.assert_allclose(action.numpy(), expected(trained, given), atol=1e-6)


def test_the_file_has_no_optimiser(trained: Path, tmp_path: Path) -> None:
    export_policy(trained, tmp_path / "policy.ts", Options())
    names = [name for name, _ in torch.jit.load(str(tmp_path / "policy.ts")).named_buffers()]
    assert names == ["state_actor"]


def test_the_command_prints_the_file_and_the_difference(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "policy.pt2"
    assert run(["convert", str(trained), str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(out)
    assert "largest difference from the policy" in captured.err
    inputs = "observation.arm.joints float32[batch, 2, 2], observation.place int64[batch]"
    assert f"it takes {inputs}\n" in captured.err
    assert run(["convert", str(trained), str(tmp_path / "again.pt2"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["max_difference"] < 1e-6


def test_what_cannot_be_is_refused_and_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ending in \.onnx"):
        export_policy(trained, tmp_path / "policy.exe", Options())
    (tmp_path / "policy.ts").touch()
    with pytest.raises(UsageError, match="exists already"):
        export_policy(trained, tmp_path / "policy.ts", Options())
    assert [path.name for path in tmp_path.iterdir()] == ["policy.ts"]
    assert run(["convert", str(trained), str(tmp_path / "x.onnx"), "--set", "checkpoint=17"]) == 3
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("name", ["policy.pt2", "policy.ts"])
def test_a_full_disk_is_an_error_and_leaves_nothing(
    name: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        code = run(["convert", str(trained), str(tmp_path / name)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == ExitCode.RESOURCE
    assert name in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
