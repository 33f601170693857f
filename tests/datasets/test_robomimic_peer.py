"""robomimic itself reads what we write; needs a Python that has it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert

PEER = os.environ.get("RL_ROBOMIMIC_PYTHON")
pytestmark = pytest.mark.skipif(not PEER, reason="RL_ROBOMIMIC_PYTHON names no Python with robomimic")

READ = """
import sys
import numpy as np
import robomimic.utils.file_utils as files
import robomimic.utils.obs_utils as observations
from robomimic.utils.dataset import SequenceDataset

path = f"{sys.argv[1]}/out.hdf5"
observations.initialize_obs_utils_with_obs_specs([{"obs": {"low_dim": ["pose", "speed"]}}])
env = files.get_env_metadata_from_dataset(path)
found = {"env": np.array(env["env_name"])}
for name in (None, "train"):
    dataset = SequenceDataset(
        path, obs_keys=("pose", "speed"), dataset_keys=("actions", "rewards", "dones"),
        filter_by_attribute=name, load_next_obs=True,
    )
    items = [dataset[index] for index in range(len(dataset))]
    for key in ("actions", "rewards", "dones"):
        found[f"{name}/{key}"] = np.concatenate([item[key] for item in items])
    for key in ("obs", "next_obs"):
        for part in ("pose", "speed"):
            found[f"{name}/{key}/{part}"] = np.concatenate([item[key][part] for item in items])
np.savez(f"{sys.argv[1]}/theirs.npz", **found)
"""


def test_robomimic_reads_what_we_write(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pose, speed = rng.normal(size=(9, 3)), rng.normal(size=(9, 2)).astype("f4")
    episode = np.repeat([0, 1, 2], [4, 1, 4])
    np.savez(
        tmp_path / "x.npz",
        **{"observations/pose": pose, "observations/speed": speed},
        **{"next_observations/pose": pose + 1, "next_observations/speed": speed + 1},
        actions=rng.normal(size=(9, 2)).astype("f4"),
        rewards=np.arange(9, dtype="f4"),
        terminals=np.isin(np.arange(9), [3, 8]),
        episode_id=episode,
        train=episode != 1,
    )
    mapping = {"train": "info/episode/mask/train"}
    convert(tmp_path / "x.npz", tmp_path / "ds", mapping=mapping, env_id="Lift")
    convert(tmp_path / "ds", tmp_path / "out.hdf5", to="robomimic", check=True)
    done = subprocess.run([str(PEER), "-c", READ, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "theirs.npz") as theirs, Dataset.open(tmp_path / "ds") as ours:
        assert str(theirs["env"]) == "Lift"
        for name, rows in (("None", np.arange(9)), ("train", np.flatnonzero(episode != 1))):
            assert (theirs[f"{name}/actions"] == ours.read(("action",), 0, 9)[rows]).all()
            assert theirs[f"{name}/rewards"].tolist() == rows.tolist()
            assert (
                np.flatnonzero(theirs[f"{name}/dones"]).tolist()
                == np.flatnonzero(np.isin(rows, [3, 8])).tolist()
            )
            for part in ("pose", "speed"):
                told = ours.read(("observation", part), 0, 9)[rows]
                assert (theirs[f"{name}/obs/{part}"] == told).all()
                assert (theirs[f"{name}/next_obs/{part}"] == told + 1).all()
