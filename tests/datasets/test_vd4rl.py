"""V-D4RL: T + 1 rows aligned by arrival are T transitions."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from rlcli.datasets import vd4rl
from rlcli.errors import CorruptError, InputError, RLError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def episode(size, seed, *, terminal=False, old=False):
    """`size` rows as Dreamer stores them: the first action and reward are dummies."""
    rng = np.random.default_rng(seed)
    values = {
        "image": rng.integers(0, 256, (size, 8, 8, 3), dtype=np.uint8),
        "action": rng.uniform(-1, 1, (size, 2)).astype("f4"),
        "reward": rng.standard_normal(size).astype("f4"),
        "discount": np.ones(size, "f4"),
    }
    values["action"][0], values["reward"][0] = 0, 0
    values["discount"][-1] = not terminal
    if not old:
        values["is_first"] = np.arange(size) == 0
        values["is_last"] = np.arange(size) == size - 1
        values["is_terminal"] = values["is_last"] & terminal
    return values


def save(folder, *episodes):
    folder.mkdir(exist_ok=True)
    for number, values in enumerate(episodes):
        np.savez_compressed(folder / f"2022T{number:06d}-x-{len(values['image'])}.npz", **values)
    return folder


def shard(path, sizes, *, terminal=()):
    """84 px HDF5: episodes in a row, channels first, everything but pictures and actions float64."""
    rng = np.random.default_rng(1)
    total = sum(sizes)
    kinds = np.concatenate([[0, *[1] * (size - 2), 2] for size in sizes]).astype("f8")
    values = {
        "observation": rng.integers(0, 256, (total, 3, 8, 8), dtype=np.uint8),
        "action": rng.uniform(-1, 1, (total, 2)).astype("f4"),
        "reward": rng.standard_normal(total),
        "discount": np.ones(total),
        "step_type": kinds,
    }
    for number in terminal:
        values["discount"][sum(sizes[: number + 1]) - 1] = 0
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            file.create_dataset(name, data=value, compression="gzip")
    return values


@pytest.mark.parametrize(("folder", "lengths"), [("64px", [40, 40]), ("84px", [30, 30])])
def test_the_published_layout_gives_its_numbers(tmp_path, folder, lengths):
    path = SHARED / "vd4rl" / "main" / "walker_walk" / "medium" / folder
    if not path.exists():
        pytest.skip("no sample files here")
    report = convert(path, tmp_path / "ds", check=True)
    assert report["format"] == "vd4rl"
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == lengths
        assert dataset.episodes.has_final.all()
        if folder == "64px":
            assert dataset.episodes.return_ == pytest.approx([23.620950, 17.581286], abs=1e-5)


@pytest.mark.parametrize("slice_bytes", [1, 1 << 20])
def test_action_and_reward_are_those_of_the_next_row(tmp_path, slice_bytes, monkeypatch):
    monkeypatch.setattr("rlcli.datasets.slicing.SLICE_BYTES", slice_bytes)
    episodes = [episode(6, 0), episode(4, 1, terminal=True), episode(5, 2, terminal=True, old=True)]
    report = convert(save(tmp_path / "set", *episodes), tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        for key, name, low, high in (
            (("observation",), "image", 0, -1),
            (("next", "observation"), "image", 1, None),
            (("action",), "action", 1, None),
            (("next", "reward"), "reward", 1, None),
            (("discount",), "discount", 1, None),
        ):
            expected = np.concatenate([values[name][low:high] for values in episodes])
            found = dataset.read(key).reshape(expected.shape)
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected), key
        assert dataset.episodes.length.tolist() == [5, 3, 4]
        assert dataset.episodes.terminated.tolist() == [False, True, True]
        assert dataset.extra["source"]["alignment"].startswith("arrival")
        index, table = dataset.text(("info", "episode", "file"), np.array([0, 5]))
        assert table[index[1]] == "2022T000001-x-4.npz"
    assert report["unknown_next"] == 0
    assert report["remarks"] == []


def test_flags_one_longer_than_the_rest_are_read(tmp_path):
    """humanoid/medium_replay."""
    values = episode(6, 0)
    for name in ("is_first", "is_last", "is_terminal"):
        values[name] = np.append(values[name], False)
    values["is_terminal"][-1] = True
    report = convert(save(tmp_path / "set", values), tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [5]
        assert dataset.episodes.terminated.tolist() == [True]
    assert "1 files have flags one longer" in report["remarks"][0]


def test_hdf5_shards_hold_episodes_in_a_row(tmp_path):
    values = shard(tmp_path / "shard_0.hdf5", [5, 2, 4], terminal=[1])
    report = convert(tmp_path / "shard_0.hdf5", tmp_path / "ds", check=True)
    inside = np.array([0, 1, 2, 3, 5, 7, 8, 9])
    with Dataset.open(tmp_path / "ds") as dataset:
        assert np.array_equal(dataset.read(("observation",)), values["observation"][inside])
        assert np.array_equal(dataset.read(("next", "observation")), values["observation"][inside + 1])
        assert np.array_equal(dataset.read(("action",)), values["action"][inside + 1])
        assert np.array_equal(dataset.read(("source", "reward")), values["reward"][inside + 1])
        assert dataset.episodes.terminated.tolist() == [False, True, False]
        assert dataset.extra["source"]["axes"] == "CHW"
    assert "3 episodes have a reward before any action" in report["remarks"][0]
    convert(tmp_path / "shard_0.hdf5", tmp_path / "hwc", sets=["axes=hwc"], check=True)
    with Dataset.open(tmp_path / "hwc") as dataset:
        expected = np.moveaxis(values["observation"][inside], 1, -1)
        assert np.array_equal(dataset.read(("observation",)), expected)


def test_an_observation_alone_is_no_transition(tmp_path):
    report = convert(save(tmp_path / "set", episode(1, 0), episode(3, 1)), tmp_path / "ds", check=True)
    assert report["rows"] == 2
    assert report["episodes_of_an_observation_alone"] == 1


def test_jobs_and_episode_ranges(tmp_path):
    folder = save(tmp_path / "set", episode(3, 0), episode(4, 1), episode(5, 2))
    convert(folder, tmp_path / "ds", episodes="1:3", jobs=2)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [3, 4]


def test_wrong_folders_are_one_line(tmp_path):
    folder = save(tmp_path / "set", episode(6, 0))
    shard(folder / "shard.hdf5", [5])
    with pytest.raises(InputError, match="give one of the folders"):
        convert(folder, tmp_path / "ds", from_="vd4rl")
    values = episode(6, 0)
    values["action"] = values["action"][:4]
    with pytest.raises(InputError, match="image has 6 rows, action 4"):
        convert(save(tmp_path / "b", values), tmp_path / "ds")
    values["action"] = np.array([{}] * 6, object)
    with pytest.raises(RLError, match="pickle"):
        convert(save(tmp_path / "c", values), tmp_path / "ds", from_="vd4rl")
    assert not (tmp_path / "ds").exists()


def test_damage_is_one_line_and_leaves_nothing(tmp_path):
    folder = save(tmp_path / "set", episode(6, 0), episode(5, 1))
    file = sorted(folder.iterdir())[1]
    sound = file.read_bytes()
    rng = np.random.default_rng(3)
    for number in range(40):
        data = bytearray(sound)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(data if number % 2 else data[: int(rng.integers(len(data)))])
        out = tmp_path / f"out{number}"
        try:
            convert(folder, out, from_="vd4rl")
        except RLError:
            assert not out.exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_other_files_are_not_taken_for_it(tmp_path):
    np.savez(tmp_path / "plain.npz", observations=np.zeros((3, 2)), actions=np.zeros((3, 1)))
    assert not vd4rl.detect(tmp_path / "plain.npz").matches
    assert not vd4rl.detect(tmp_path).matches
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises((CorruptError, InputError)):
        convert(tmp_path / "broken.npz", tmp_path / "ds")


def test_replay_of_drq_v2_is_aligned_by_arrival(tmp_path):
    """ExORL's episodes: vectors, no flags, and the number of transitions in the name."""
    rng = np.random.default_rng(5)
    files = []
    for number, size in enumerate((6, 4)):
        values = {
            "observation": rng.standard_normal((size, 3)).astype("f4"),
            "action": rng.uniform(-1, 1, (size, 2)).astype("f4"),
            "reward": rng.standard_normal((size, 1)).astype("f4"),
            "discount": np.ones((size, 1), "f4"),
            "physics": rng.standard_normal((size, 4)),
        }
        values["action"][0], values["reward"][0] = 0, 0
        np.savez_compressed(tmp_path / f"20220101T00000{number}_{number}_{size - 1}.npz", **values)
        files.append(values)
    report = convert(tmp_path, tmp_path / "ds", check=True)
    assert (report["format"], report["rows"], report["unknown_next"]) == ("vd4rl", 8, 0)
    dataset = Dataset.open(tmp_path / "ds")
    assert dataset.episodes.length.tolist() == [5, 3]
    assert dataset.episodes.truncated.all()
    for key, name, part in [
        (("observation",), "observation", slice(None, -1)),
        (("next", "observation"), "observation", slice(1, None)),
        (("action",), "action", slice(1, None)),
        (("next", "reward"), "reward", slice(1, None)),
        (("info", "physics"), "physics", slice(None, -1)),
    ]:
        np.testing.assert_array_equal(
            dataset.read(key), np.concatenate([values[name][part] for values in files])
        )
