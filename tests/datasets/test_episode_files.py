"""One file or a folder of files with a group per episode: robomimic's and RoboSet's."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from rlcli.errors import IncompatibleError, InputError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert
from tests.datasets.robomimic_made import LENGTHS, demo, write


def trial(length, seed):
    rng = np.random.default_rng(seed)
    return {
        "actions": rng.standard_normal((length, 2)).astype("f4"),
        "observations": rng.standard_normal((length, 3)).astype("f4"),
        "rewards": rng.standard_normal(length).astype("f4"),
        "done": np.arange(length) == length - 1,
        "time": np.arange(length) / 10,
        "env_infos/obs_dict/rgb:left": rng.integers(0, 256, (length, 4, 4, 3), dtype=np.uint8),
        "env_infos/solved": np.zeros((length, 1), bool),
    }


def test_roboset_trials_of_a_robot(tmp_path):
    """Cameras and joints are observed, what was commanded is the action, the rest goes along."""
    rng = np.random.default_rng(0)
    made = []
    with h5py.File(tmp_path / "robot.h5", "w") as file:
        for trial, rows in ((0, 3), (10, 2), (2, 4)):
            values = {
                "rgb_top": rng.integers(0, 256, (rows, 6, 8, 3)).astype("u1"),
                "d_top": rng.integers(0, 9999, (rows, 6, 8)).astype("u2"),
                "qp_arm": rng.standard_normal((rows, 7)).astype("f4"),
                "ctrl_arm": rng.standard_normal((rows, 7)).astype("f4"),
                "ctrl_ee": rng.standard_normal((rows, 1)).astype("f4"),
                "time": np.arange(rows) / 5,
            }
            made.append((trial, values))
            for name, value in values.items():
                file[f"Trial{trial}/data/{name}"] = value
            file[f"Trial{trial}/derived/pose_ee"] = rng.standard_normal((rows, 6))
    report = convert(tmp_path / "robot.h5", tmp_path / "ds", check=True)
    assert (report["format"], report["episodes"], report["lossy"]) == ("roboset", 3, [])
    with Dataset.open(tmp_path / "ds") as dataset:
        for key in (
            ("observation", "rgb_top"), ("observation", "d_top"), ("observation", "qp_arm"),
            ("action", "ctrl_arm"), ("action", "ctrl_ee"), ("info", "data", "time"),
        ):  # fmt: skip
            whole = np.concatenate([values[key[-1]] for _, values in sorted(made, key=lambda each: each[0])])
            assert np.array_equal(dataset.read(key), whole), key
        assert dataset.episodes.length.tolist() == [3, 4, 2]
        assert ("observation", "time") not in dataset.schema.by_key


def test_roboset_trials_of_several_files(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    lengths = {"seed0.h5": (4, 6), "seed1.h5": (3,)}
    for name, sizes in lengths.items():
        with h5py.File(folder / name, "w") as file:
            for number, size in enumerate(sizes):
                for key, value in trial(size, size).items():
                    file[f"Trial{number * 10}/{key}"] = value
    report = convert(folder, tmp_path / "ds", check=True)
    assert report["format"] == "roboset"
    assert report["unknown_next"] == 3
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [4, 6, 3]
        assert dataset.episodes.terminated.all()
        index, table = dataset.text(("info", "episode", "file"), dataset.episodes.start)
        assert [table[at] for at in index] == ["seed0.h5", "seed0.h5", "seed1.h5"]
        assert np.array_equal(dataset.read(("observation",), 4, 10), trial(6, 6)["observations"])
        key = dataset.extra["source"]["columns"]["env_infos/obs_dict/rgb:left"]
        assert np.array_equal(dataset.read(key, 10, 13), trial(3, 3)["env_infos/obs_dict/rgb:left"])
        assert len(dataset.extra["source"]["absent"]) == 0
    one = convert(folder / "seed1.h5", tmp_path / "one", check=True)
    assert one["rows"] == 3


def suite(folder, shapes=((2, 3), (2, 3))):
    """Two tasks, a file each, as LIBERO's: the language and the scene are attributes of `data`."""
    folder.mkdir()
    made = {}
    for number, (size, width) in zip((10, 2), shapes, strict=True):
        demos = {name: demo(length, number, following=False) for name, length in LENGTHS.items()}
        for values in demos.values():
            values["actions"] = np.resize(values["actions"], (len(values["actions"]), size))
            values["states"] = np.resize(values["states"], (len(values["states"]), width + number))
        data = {"problem_info": f'{{"language_instruction": "open drawer {number}"}}', "tag": "v1"}
        data |= {"num_demos": number, "env_args": json.dumps({"env_name": "T", "env_kwargs": {"n": number}})}
        write(folder / f"task_{number}_demo.hdf5", demos, data=data, masks={"train": ["demo_2"]})
        made[f"task_{number}_demo.hdf5"] = demos
    return {name: made[name] for name in sorted(made, key=lambda each: int(each.split("_")[1]))}


def test_a_folder_of_files_is_one_dataset_and_says_the_file_and_language_of_each_episode(tmp_path):
    made = suite(tmp_path / "libero")
    (tmp_path / "libero" / "README.md").write_text("tasks")
    report = convert(tmp_path / "libero", tmp_path / "ds", check=True)
    assert (report["format"], report["episodes"], report["lossy"]) == ("robomimic", 6, [])
    whole = [(name, key, values) for name, demos in made.items() for key, values in demos.items()]
    with Dataset.open(tmp_path / "ds") as dataset:
        starts = dataset.episodes.start

        def texts(*key):
            index, table = dataset.text(("info", "episode", *key), starts)
            return [table[at] for at in index]

        assert texts("file") == [name for name, _, _ in whole]
        assert texts("demo") == [key for _, key, _ in whole]
        languages = [json.loads(told)["language_instruction"] for told in texts("data", "problem_info")]
        assert languages == [f"open drawer {name.split('_')[1]}" for name, _, _ in whole]
        assert [json.loads(told)["env_kwargs"]["n"] for told in texts("data", "env_args")] == [2] * 3 + [
            10
        ] * 3
        train = dataset.read(("info", "episode", "mask", "train"))[starts]
        assert train.tolist() == [key == "demo_2" for _, key, _ in whole]
        for name, key in {
            "actions": ("action",),
            "obs/eef_pos": ("observation", "eef_pos"),
            "obs/agentview_image": ("observation", "agentview_image"),
        }.items():
            assert np.array_equal(dataset.read(key), np.concatenate([values[name] for *_, values in whole]))
        states = [row for *_, values in whole for row in values["states"]]
        assert all(map(np.array_equal, dataset.read(("info", "states")), states))
        source = dataset.extra["source"]
        assert source["attributes"]["data"] == {"tag": "v1"}
        assert source["attributes_by_file"]["data/num_demos"] == {
            "task_2_demo.hdf5": 2,
            "task_10_demo.hdf5": 10,
        }
        assert dataset.spec.get("env") is None
    assert convert(tmp_path / "libero", tmp_path / "two", jobs=2)["digest"] == report["digest"]
    convert(tmp_path / "ds", tmp_path / "out.hdf5", to="robomimic")
    back = convert(tmp_path / "out.hdf5", tmp_path / "back", check=True)
    with Dataset.open(tmp_path / "back") as dataset:
        index, table = dataset.text(("info", "episode", "data", "problem_info"), dataset.episodes.start)
        assert [json.loads(table[at])["language_instruction"] for at in index] == languages
    assert back["rows"] == report["rows"]


@pytest.mark.parametrize("odd", ["width", "key", "file", "empty"])
def test_files_of_a_folder_that_do_not_fit_are_named(odd, tmp_path):
    suite(tmp_path / "set", ((3, 3), (2, 3)) if odd == "width" else ((2, 3), (2, 3)))
    with h5py.File(tmp_path / "set" / "task_10_demo.hdf5", "a") as file:
        for group in file["data"].values() if odd == "key" else ():
            del group["obs/eef_pos"]
        if odd == "empty":
            del file["data"]
    if odd == "file":
        (tmp_path / "set" / "task_10_demo.hdf5").write_text("cut")
    with pytest.raises((InputError, IncompatibleError), match="task_10_demo") as caught:
        convert(tmp_path / "set", tmp_path / "out")
    assert odd == "file" or "one by one" in caught.value.hint
    assert not (tmp_path / "out").exists()
