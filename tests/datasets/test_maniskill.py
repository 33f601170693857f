"""ManiSkill HDF5: what its `RecordEpisode` writes, laid out by hand (it needs SAPIEN to run)."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from rlcli.errors import CorruptError, InputError
from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify
from rlcli.pipeline.convert import convert

LENGTHS = {"traj_0": 5, "traj_1": 7, "traj_10": 3, "traj_2": 4}  # as HDF5 orders them; by number 10 is last
IN_ORDER = ["traj_0", "traj_1", "traj_2", "traj_10"]


def trajectory(length: int, seed: int, *, obs: str = "tree") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ended = np.zeros(length, bool)
    ended[-1] = True
    values = {
        "actions": rng.uniform(-1, 1, (length, 2)).astype("f4"),
        "terminated": ended & (seed % 2 == 0),
        "truncated": ended & (seed % 2 == 1),
        "success": np.arange(length) >= length - 2,
        "rewards": rng.standard_normal(length).astype("f4"),
        "env_states/actors/cube": rng.standard_normal((length + 1, 13)).astype("f4"),
        "env_states/articulations/panda": rng.standard_normal((length + 1, 6)).astype("f4"),
    }
    if obs == "tree":
        values["obs/agent/qpos"] = rng.standard_normal((length + 1, 3)).astype("f4")
        values["obs/sensor_data/base_camera/rgb"] = rng.integers(0, 256, (length + 1, 4, 5, 3), np.uint8)
        values["obs/sensor_data/base_camera/depth"] = rng.integers(0, 999, (length + 1, 4, 5, 1), np.int16)
    elif obs == "flat":
        values["obs"] = rng.standard_normal((length + 1, 3)).astype("f4")
    return values


def written(path, trajectories, *, beside=True, seed=lambda n: n + 40, **info):
    with h5py.File(path, "w") as file:
        for name, values in trajectories.items():
            group = file.create_group(name, track_order=True)
            for key, value in values.items():
                group.create_dataset(key, data=value, **({"compression": "gzip"} if value.ndim > 2 else {}))
    if beside:
        env = {"env_id": "PickCube-v1", "env_kwargs": {"obs_mode": "rgbd"}, "max_episode_steps": 50}
        episodes = [
            {
                "episode_id": (number := int(name[5:])),
                "episode_seed": seed(number),
                "control_mode": "pd_joint_pos",
                "elapsed_steps": len(values["actions"]),
                "reset_kwargs": {"options": {}, "seed": seed(number)},
                "success": True,
            }
            for name, values in trajectories.items()
        ]
        told = {"env_info": env, "episodes": episodes, "source_type": "motionplanning", **info}
        path.with_suffix(".json").write_text(json.dumps(told))
    return path


def trajectories(**kwargs):
    return {name: trajectory(length, int(name[5:]), **kwargs) for name, length in LENGTHS.items()}


def test_trees_of_observations_with_true_finals_seeds_and_environment(tmp_path):
    given = trajectories()
    written(tmp_path / "trajectory.rgbd.h5", given)
    report = convert(tmp_path / "trajectory.rgbd.h5", tmp_path / "ds", check=True)
    assert report["seen"] == "ManiSkill HDF5, 4 trajectories"
    assert (report["rows"], report["episodes"], report["unknown_next"], report["repaired"]) == (19, 4, 0, 0)
    assert report["lossy"] == []
    assert report["next_observation"] == "final"
    verify(tmp_path / "ds")
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.spec["env"] == {
            "library": "maniskill",
            "id": "PickCube-v1",
            "kwargs": {"obs_mode": "rgbd"},
            "max_episode_steps": 50,
        }
        assert list(dataset.episodes.length) == [5, 7, 4, 3]
        assert list(dataset.episodes.seed) == [40, 41, 42, 50]
        start = 0
        for name in IN_ORDER:
            stop = start + LENGTHS[name]
            for part in ("agent/qpos", "sensor_data/base_camera/rgb", "sensor_data/base_camera/depth"):
                key = tuple(part.split("/"))
                values = given[name][f"obs/{part}"]
                assert (dataset.read(("observation", *key), start, stop) == values[:-1]).all()
                assert (dataset.read(("next", "observation", *key), start, stop) == values[1:]).all()
            assert (dataset.read(("action",), start, stop) == given[name]["actions"]).all()
            assert (dataset.read(("next", "reward"), start, stop)[:, 0] == given[name]["rewards"]).all()
            assert (dataset.read(("info", "success"), start, stop) == given[name]["success"]).all()
            for flag in ("terminated", "truncated"):
                assert (dataset.read(("next", flag), start, stop)[:, 0] == given[name][flag]).all()
            cube = given[name]["env_states/actors/cube"]
            assert (dataset.read(("info", "env_states", "actors", "cube"), start, stop) == cube[:-1]).all()
            final = dataset.read(("info", "episode", "final", "env_states", "actors", "cube"), start, stop)
            assert (np.asarray(final) == cube[-1]).all()
            start = stop
        metadata = json.loads(dataset.read(("info", "episode", "metadata"), 0, 1)[0])
        assert metadata["control_mode"] == "pd_joint_pos"
        assert metadata["success"] is True
        assert dataset.extra["source"]["metadata"]["source_type"] == "motionplanning"


def test_flat_observations_of_the_only_file_in_a_folder(tmp_path):
    given = trajectories(obs="flat")
    (tmp_path / "motionplanning").mkdir()
    written(tmp_path / "motionplanning" / "trajectory.h5", given)
    report = convert(tmp_path / "motionplanning", tmp_path / "ds", check=True)
    assert report["seen"] == "ManiSkill HDF5, 4 trajectories"
    with Dataset.open(tmp_path / "ds") as dataset:
        assert (dataset.read(("next", "observation"), 4, 5)[0] == given["traj_0"]["obs"][5]).all()


def test_states_stand_for_observations_that_were_not_recorded(tmp_path):
    given = trajectories(obs="none")
    written(tmp_path / "trajectory.h5", given)
    with h5py.File(tmp_path / "trajectory.h5", "a") as file:
        for name in given:
            file.create_group(f"{name}/obs")  # what obs_mode "none" leaves
    report = convert(tmp_path / "trajectory.h5", tmp_path / "ds", check=True)
    assert "the source has no observations; env_states stand for them" in report["remarks"]
    assert report["unknown_next"] == 0
    with Dataset.open(tmp_path / "ds") as dataset:
        states = given["traj_0"]["env_states/actors/cube"]
        assert (dataset.read(("observation", "actors", "cube"), 0, 5) == states[:-1]).all()
        assert (dataset.read(("next", "observation", "actors", "cube"), 4, 5)[0] == states[-1]).all()


def test_actors_of_some_trajectories_only_are_kept_by_episode(tmp_path):
    given = trajectories()
    given["traj_1"]["env_states/actors/apple"] = np.arange(16, dtype="f4").reshape(8, 2)
    written(tmp_path / "t.h5", given)
    report = convert(tmp_path / "t.h5", tmp_path / "ds", check=True)
    assert report["lossy"] == []
    with Dataset.open(tmp_path / "ds") as dataset:
        column = dataset.read(("info", "episode", "arrays", "env_states", "actors", "apple"), 4, 6)
        assert len(column[0]) == 0
        assert np.asarray(column[1]).tolist() == given["traj_1"]["env_states/actors/apple"].tolist()


def test_maniskill_2_ends_by_success_and_has_flat_states(tmp_path):
    rng = np.random.default_rng(0)
    given = {
        f"traj_{number}": {
            "actions": rng.standard_normal((6, 2)).astype("f4"),
            "success": np.arange(6) == (5 if number else 99),
            "env_states": rng.standard_normal((7, 20)).astype("f4"),
        }
        for number in range(2)
    }
    written(tmp_path / "t.h5", given, seed=lambda n: [n])
    report = convert(tmp_path / "t.h5", tmp_path / "ds", check=True)
    assert report["repaired"] == 1  # without success, something else ended the first
    assert "the source has no rewards; they are 0" in report["remarks"]
    with Dataset.open(tmp_path / "ds") as dataset:
        assert list(dataset.episodes.seed) == [0, 1]
        assert dataset.read(("next", "terminated"), 0, 12)[:, 0].nonzero()[0].tolist() == [11]
        assert dataset.read(("next", "truncated"), 0, 12)[:, 0].nonzero()[0].tolist() == [5]


def test_without_json_environment_and_seeds_are_unknown(tmp_path):
    written(tmp_path / "t.h5", trajectories(), beside=False)
    report = convert(tmp_path / "t.h5", tmp_path / "ds", env_id="PickCube-v1")
    assert "no t.json beside it: environment and seeds are unknown" in report["remarks"]
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.spec["env"]["id"] == "PickCube-v1"
        assert list(dataset.episodes.seed) == [-1] * 4


@pytest.mark.parametrize(
    "text",
    [
        '{"episodes": 3}',
        '{"episodes": [1, {"episode_id": "a"}, {"episode_id": 0, "reset_kwargs": 3, "episode_seed": []}]}',
        '{"episodes": [{"episode_id": 0, "reset_kwargs": {"seed": -1}}], "env_info": {"env_id": 3}}',
        '{"episodes": [], "env_info": []}',
    ],
)
def test_a_json_that_says_little_is_no_error(tmp_path, text):
    written(tmp_path / "t.h5", trajectories(), beside=False)
    (tmp_path / "t.json").write_text(text)
    convert(tmp_path / "t.h5", tmp_path / "ds")
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.spec["env"] is None
        assert list(dataset.episodes.seed) == [-1] * 4


def test_a_damaged_json_is_damage(tmp_path):
    written(tmp_path / "t.h5", trajectories(), beside=False)
    (tmp_path / "t.json").write_text('{"episodes": [')
    with pytest.raises(CorruptError, match=r"t\.json: damaged JSON"):
        convert(tmp_path / "t.h5", tmp_path / "ds")
    assert not (tmp_path / "ds").exists()


def test_lengths_that_disagree_are_refused(tmp_path):
    given = trajectories(obs="flat")
    given["traj_1"]["obs"] = given["traj_1"]["obs"][:-2]
    written(tmp_path / "t.h5", given)
    with pytest.raises(InputError, match="traj_1: 7 actions, and 6 observations"):
        convert(tmp_path / "t.h5", tmp_path / "ds")


def test_file_and_json_that_disagree_are_remarked(tmp_path):
    given = trajectories()
    written(tmp_path / "t.h5", given)
    told = json.loads((tmp_path / "t.json").read_text())
    told["episodes"][0]["elapsed_steps"] = 99
    told["episodes"][1]["episode_id"] = 77
    (tmp_path / "t.json").write_text(json.dumps(told))
    remarks = convert(tmp_path / "t.h5", tmp_path / "ds")["remarks"]
    assert "elapsed_steps of the JSON is not the number of actions in 1 trajectories" in remarks
    assert "the JSON does not list 1 of the trajectories" in remarks
    assert "the JSON lists 1 trajectories that have no steps here" in remarks


@pytest.mark.parametrize(
    "told",
    [
        '{"env_id": "a", "max_episode_steps": 1000000000000000000000}',
        '{"env_id": "a", "env_kwargs": {"a": NaN}}',
        '{"env_id": "a", "env_kwargs": {"a": 36893488147419103232}}',
        "[" * 60 + "]" * 60,
    ],
)
def test_numbers_and_depths_that_our_files_do_not_have_are_told_as_text(tmp_path, told):
    written(tmp_path / "t.h5", trajectories(), beside=False)
    (tmp_path / "t.json").write_text(f'{{"episodes": [], "env_info": {told}}}')
    convert(tmp_path / "t.h5", tmp_path / "ds", check=True)
    verify(tmp_path / "ds")


@pytest.mark.parametrize(
    "to", ["minari", "robomimic", "rlds", "torchrl", "d4rl", "hdf5", "parquet", "csv", "npz"]
)
def test_trajectories_go_to_every_format(tmp_path, to):
    if to == "parquet":
        pytest.importorskip("pyarrow")
    given = trajectories(obs="flat")
    given["traj_1"]["env_states/actors/apple"] = np.arange(16, dtype="f4").reshape(8, 2)
    written(tmp_path / "t.h5", given)
    convert(tmp_path / "t.h5", tmp_path / "one")
    convert(tmp_path / "one", tmp_path / "out", to=to, check=True)
    convert(tmp_path / "out", tmp_path / "two", from_=to, check=True)
    with Dataset.open(tmp_path / "one") as one, Dataset.open(tmp_path / "two") as two:
        assert (one.read(("action",), 0, 19) == two.read(("action",), 0, 19)).all()
        key = ("info", "episode", "final", "env_states", "actors", "cube")
        final = [np.asarray(list(dataset.read(key, 0, 19))).reshape(19, 13) for dataset in (one, two)]
        assert (final[0] == final[1]).all()
        if to in ("minari", "robomimic"):
            names = [list(dataset.read(("info", "episode", "demo"), 0, 19)) for dataset in (one, two)]
            assert names[0] == names[1]
