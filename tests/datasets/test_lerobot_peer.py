"""LeRobot itself: what it writes, we read, and what we write, it reads; needs a Python that has it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, Heap, heap_column, ted_schema
from rlcli.format.specs import Box, Composite
from rlcli.format.writer import Writer
from rlcli.pipeline.convert import convert

PEER = os.environ.get("RL_LEROBOT_PYTHON")
pytestmark = pytest.mark.skipif(not PEER, reason="RL_LEROBOT_PYTHON names no Python with lerobot")

WRITE = """
import sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

names = ["height", "width", "channels"]
features = {
    "observation.images.top": {"dtype": "video", "shape": (48, 64, 3), "names": names},
    "observation.images.wrist": {"dtype": "image", "shape": (8, 9, 3), "names": names},
    "observation.state": {"dtype": "float32", "shape": (2, 3), "names": None},
    "count": {"dtype": "int64", "shape": (2,), "names": None},
    "note": {"dtype": "string", "shape": (1,), "names": None},
    "action": {"dtype": "float64", "shape": (2,), "names": ["x", "y"]},
}
out = sys.argv[1]
dataset = LeRobotDataset.create("peer/toy", fps=7, root=f"{out}/toy", features=features)
rng = np.random.default_rng(0)
truth = {name: [] for name in features}
for episode, length in enumerate((2, 6, 3)):
    for step in range(length):
        frame = {
            "observation.images.top": np.full((48, 64, 3), 20 + 60 * episode + 8 * step, np.uint8),
            "observation.images.wrist": rng.integers(0, 256, (8, 9, 3)).astype(np.uint8),
            "observation.state": rng.normal(size=(2, 3)).astype(np.float32),
            "count": np.array([2**62 + step, -episode]),
            "note": f"öffne {step}",
            "action": rng.normal(size=2),
        }
        for name, value in frame.items():
            truth[name].append(value)
        dataset.add_frame({**frame, "task": f"task {episode % 2}"})
    dataset.save_episode()
dataset.finalize()
np.savez(f"{out}/truth.npz", **{name: np.array(values) for name, values in truth.items()})
"""

READ = """
import json, sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

dataset = LeRobotDataset("peer/out", root=f"{sys.argv[1]}/out", video_backend="pyav")
rows = [dataset[index] for index in range(len(dataset))]
names = ["observation.state", "action", "next.reward", "next.done", "episode_index", "frame_index", "index"]
found = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in names}
for camera in dataset.meta.camera_keys:
    pictures = np.stack([np.asarray(row[camera]) for row in rows])
    found[camera] = np.rint(pictures * 255).astype(np.uint8).transpose(0, 2, 3, 1)
found["task"] = np.array([row["task"] for row in rows])
found["mean"] = np.asarray(dataset.meta.stats["action"]["mean"])
print(json.dumps({"episodes": dataset.num_episodes, "fps": dataset.fps}))
np.savez(f"{sys.argv[1]}/theirs.npz", **found)
"""


def peer(script: str, folder: Path) -> str:
    """What the script prints in LeRobot's Python, which may not use the network."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    command = [str(PEER), "-c", script, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_what_lerobot_writes_is_read_row_by_row(tmp_path: Path) -> None:
    peer(WRITE, tmp_path)
    report = convert(tmp_path / "toy", tmp_path / "ds", check=True)
    assert (report["rows"], report["episodes"], report["lossy"]) == (11, 3, [])
    with np.load(tmp_path / "truth.npz") as truth, Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [2, 6, 3]
        for name in truth.files:
            ours, theirs = dataset.read(tuple(name.split(".")), 0, 11), truth[name]
            if name == "observation.images.top":
                assert abs(np.asarray(ours).astype(int) - theirs).max() <= 3  # AV1
            elif name == "note":
                assert list(ours) == theirs.tolist()
            else:
                assert np.asarray(ours).dtype == theirs.dtype
                assert (np.asarray(ours).reshape(theirs.shape) == theirs).all()
        assert list(dataset.read(("task",), 0, 11)) == ["task 0"] * 2 + ["task 1"] * 6 + ["task 0"] * 3


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Any]:
    """A dataset of another origin with a camera, and its columns; frames are of one grey each."""
    observation = Composite({"state": Box((3,), "float32"), "camera": Box((32, 48, 3), "uint8")})
    schema = ted_schema(
        observation,
        Box((2,), "float32"),
        extra=[heap_column(("task",), Heap("text")), Column(("info", "speed"), "float64")],
    )
    rng = np.random.default_rng(1)
    grey = np.arange(20, 230, 30)
    columns: dict[Any, Any] = {
        ("observation", "state"): rng.normal(size=(7, 3)).astype("f4"),
        ("observation", "camera"): np.broadcast_to(grey[:, None, None, None], (7, 32, 48, 3)).astype("u1"),
        ("action",): rng.normal(size=(7, 2)).astype("f4"),
        ("next", "reward"): rng.normal(size=(7, 1)).astype("f4"),
        ("task",): ["push"] * 4 + ["zieh"] * 3,
        ("info", "speed"): rng.normal(size=7),
    }
    writer = Writer.create(
        tmp_path / "ds", schema, lineage={"op": "test"},
        spec={"env": None, "observation": observation.to_json(), "action": Box((2,), "float32").to_json()},
    )  # fmt: skip
    with EpisodeWriter(writer) as episodes:
        for low, high in ((0, 4), (4, 7)):
            episodes.add_rows(0, {key: values[low:high] for key, values in columns.items()})
            episodes.end(0, terminated=low == 0, truncated=low > 0, final=None)
    return columns


@pytest.mark.parametrize("cameras", ["image", "video"])
def test_lerobot_reads_what_we_write(cameras: str, made: dict[str, Any], tmp_path: Path) -> None:
    options = [f"cameras={cameras}", "fps=9", "codec=h264", "quality=8"]
    convert(tmp_path / "ds", tmp_path / "out", to="lerobot", sets=options, check=True)
    assert '{"episodes": 2, "fps": 9}' in peer(READ, tmp_path)
    with np.load(tmp_path / "theirs.npz") as theirs:
        assert (theirs["observation.state"] == made["observation", "state"]).all()
        assert (theirs["action"] == made["action",]).all()
        assert (theirs["next.reward"].reshape(-1) == made["next", "reward"].reshape(-1)).all()
        assert theirs["next.done"].reshape(-1).tolist() == [False] * 3 + [True] + [False] * 2 + [True]
        assert theirs["episode_index"].reshape(-1).tolist() == [0] * 4 + [1] * 3
        assert theirs["task"].tolist() == made["task",]
        assert theirs["mean"] == pytest.approx(made["action",].mean(0), abs=1e-6)
        levels = abs(theirs["observation.camera"].astype(int) - made["observation", "camera"])
        assert levels.max() <= (0 if cameras == "image" else 3)
