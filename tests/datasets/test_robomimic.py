"""robomimic HDF5: one group per episode."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from rlcli.errors import CorruptError, IncompatibleError, InputError, RLError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify
from rlcli.pipeline import convert_parts
from rlcli.pipeline.convert import convert
from tests.datasets.robomimic_made import LENGTHS, demo, demos, write

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def test_the_published_sample_gives_its_numbers(tmp_path):
    path = SHARED / "robomimic" / "robomimic_test.hdf5"
    if not path.exists():
        pytest.skip("no sample files here")
    report = convert(path, tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        episodes = dataset.episodes
        assert (report["format"], report["rows"], report["unknown_next"]) == ("robomimic", 115, 0)
        assert episodes.length.tolist() == [58, 57]
        assert episodes.return_.tolist() == [5.0, 5.0]
        assert episodes.terminated.tolist() == [True, True]
        assert dataset.read(("info", "dones"))[:, ...].sum() == 10
        sums = {("action",): (-28.801604, -22.835747), None: (600.587271, 541.350941)}
        observed = [c for c in dataset.schema.given if c.key[0] == "observation"]
        assert len(observed) == 11
        assert sum(c.shape[0] for c in observed) == 55
        assert {c.dtype for c in observed} == {"float64"}
        for number, (start, length) in enumerate(zip(episodes.start, episodes.length, strict=True)):
            rows = (int(start), int(start + length))
            assert dataset.read(("action",), *rows).sum() == pytest.approx(sums["action",][number], abs=1e-6)
            total = sum(dataset.read(c.key, *rows).sum() for c in observed)
            assert total == pytest.approx(sums[None][number], abs=1e-6)
        index, table = dataset.text(("info", "episode", "model_file"), np.array([0, 114]))
        assert table[index[0]] == ""
        assert table[index[1]].startswith("<mujoco")


def test_demos_come_by_number_and_keep_names_types_and_pictures(tmp_path):
    values = demos()
    path = write(tmp_path / "x.hdf5", values)
    report = convert(path, tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [5, 7, 4]
        for key in ("agentview_image", "eef_pos"):
            expected = np.concatenate([demo[f"obs/{key}"] for demo in values.values()])
            found = dataset.read(("observation", key))
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)
            following = np.concatenate([demo[f"next_obs/{key}"] for demo in values.values()])
            assert np.array_equal(dataset.read(("next", "observation", key)), following)
        rewards = np.concatenate([demo["rewards"] for demo in values.values()])
        assert np.array_equal(dataset.read(("source", "rewards")), rewards)  # float64 does not fit ours
        index, table = dataset.text(("info", "episode", "demo"), np.array([0, 5, 12]))
        assert [table[at] for at in index] == list(LENGTHS)
        assert dataset.extra["source"]["alignment"].startswith("same row")
        verify(tmp_path / "ds", deep=True)
    assert report["next_observation"] == "derived"
    assert report["unknown_next"] == 0


def test_only_the_last_dones_ends_an_episode(tmp_path):
    values = demos()
    values["demo_2"]["dones"][:] = [0, 1, 1, 0, 0, 0, 0]  # success only, and not at the end
    del values["demo_2"]["rewards"]
    for each in values.values():
        each.pop("rewards", None)
    report = convert(write(tmp_path / "x.hdf5", values), tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.terminated.tolist() == [True, False, True]
        assert dataset.episodes.truncated.tolist() == [False, True, False]
        kept = np.concatenate([each["dones"] for each in values.values()])
        assert np.array_equal(dataset.read(("info", "dones")), kept)
    assert report["repaired"] == 1
    assert "no rewards" in " ".join(report["remarks"])


def test_without_next_obs_the_last_one_is_unknown(tmp_path):
    report = convert(write(tmp_path / "x.hdf5", demos(following=False)), tmp_path / "ds", check=True)
    assert report["unknown_next"] == 3
    assert report["next_observation"] == "absent"
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.unknown_next.tolist() == [4, 11, 15]


def test_next_obs_of_some_demos_only(tmp_path):
    values = demos()
    values["demo_2"] = demo(7, 1, following=False)
    report = convert(write(tmp_path / "x.hdf5", values), tmp_path / "ds", check=True)
    assert report["unknown_next"] == 1


def test_next_obs_that_are_not_the_following_rows_are_all_stored(tmp_path):
    values = demos()
    values["demo_2"]["next_obs/eef_pos"][3] += 1
    report = convert(write(tmp_path / "x.hdf5", values), tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        stored = dataset.read(("next", "observation", "eef_pos"))
        assert np.array_equal(stored, np.concatenate([v["next_obs/eef_pos"] for v in values.values()]))
    assert report["next_observation"] == "stored"


def test_one_observation_more_than_actions_is_the_final_one(tmp_path):
    values = demos()
    for each in values.values():
        for key in ("agentview_image", "eef_pos"):
            each[f"obs/{key}"] = np.concatenate([each[f"obs/{key}"], each.pop(f"next_obs/{key}")[-1:]])
    report = convert(write(tmp_path / "x.hdf5", values), tmp_path / "ds", check=True)
    assert report["unknown_next"] == 0
    assert report["rows"] == 16


def test_masks_attributes_and_arrays_belong_to_the_episode(tmp_path):
    values = demos()
    values["demo_0"]["camera_matrix"] = np.eye(3)
    values["demo_10"]["camera_matrix"] = np.eye(3)[:2]
    attributes = {
        "demo_0": {"num_samples": 5, "model_file": "<mujoco>" * 9000, "ep_meta": '{"lang": "öffne"}'},
        "demo_2": {"num_samples": 6, "init_state": np.arange(4.0), "success": np.bool_(True)},
    }
    masks = {"train": ["demo_0", "demo_10"], "20_percent": ["demo_2"], "valid": ["demo_7"]}
    data = {"total": 16, "env_args": json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"a": 1}})}
    path = write(tmp_path / "x.hdf5", values, attributes=attributes, masks=masks, data=data)
    report = convert(path, tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        starts = dataset.episodes.start
        whole = {c.key[2:]: c for c in dataset.schema.given if c.key[:2] == ("info", "episode")}
        at = lambda *key: dataset.gather(starts, [("info", "episode", *key)])["info"]["episode"]  # noqa: E731
        assert at("mask", "train")["mask"]["train"].tolist() == [True, False, True]
        assert at("mask", "20_percent")["mask"]["20_percent"].tolist() == [False, True, False]
        assert at("model_file")["model_file"].tolist() == ["<mujoco>" * 9000, "", ""]
        assert at("ep_meta")["ep_meta"][0] == '{"lang": "öffne"}'
        assert [len(v) for v in at("init_state")["init_state"]] == [0, 4, 0]
        assert [v.shape for v in at("arrays", "camera_matrix")["arrays"]["camera_matrix"]] == [
            (3, 3), (0, 3), (2, 3)]  # fmt: skip
        assert ("success",) in whole
        assert dataset.spec["env"] == {
            "library": "robosuite", "id": "Lift", "kwargs": {"a": 1}, "max_episode_steps": None}  # fmt: skip
        assert dataset.extra["source"]["attributes"]["data"]["total"] == 16
    told = " ".join(report["remarks"])
    assert "num_samples says 6" in told
    assert "mask/valid names 1 demos that are not there" in told


def test_raw_states_stand_for_observations(tmp_path):
    values = {n: {"actions": v["actions"], "states": v["states"]} for n, v in demos().items()}
    report = convert(write(tmp_path / "x.hdf5", values), tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        expected = np.concatenate([v["states"] for v in values.values()])
        assert np.array_equal(dataset.read(("observation",)), expected)
        assert dataset.episodes.truncated.all()
        assert not dataset.episodes.terminated.any()
    assert "states stand for them" in " ".join(report["remarks"])
    convert(tmp_path / "ds", tmp_path / "y.hdf5", to="robomimic", check=True)
    with h5py.File(tmp_path / "y.hdf5") as file:
        assert np.array_equal(file["data/demo_2/states"][()], values["demo_2"]["states"])
    convert(tmp_path / "y.hdf5", tmp_path / "again", check=True)
    with Dataset.open(tmp_path / "ds") as one, Dataset.open(tmp_path / "again") as two:
        assert np.array_equal(one.read(("observation",)), two.read(("observation",)))


@pytest.mark.parametrize("raw", [False, True])
def test_states_of_another_width_per_demo_are_kept(tmp_path, raw):
    """Kitchens with other objects have other states (RoboCasa)."""
    values = demos()
    for width, one in enumerate(values.values(), 4):
        one["states"] = np.random.default_rng(width).standard_normal((len(one["actions"]), width))
        if raw:
            for name in [name for name in one if name not in ("actions", "states")]:
                del one[name]
    report = convert(write(tmp_path / "x.hdf5", values), tmp_path / "one", check=True)
    assert report["lossy"] == []
    convert(tmp_path / "one", tmp_path / "y.hdf5", to="robomimic", check=True)
    convert(tmp_path / "y.hdf5", tmp_path / "two", check=True)
    with Dataset.open(tmp_path / "one") as one, Dataset.open(tmp_path / "two") as two:
        assert one.digest == two.digest
        expected = [row for value in values.values() for row in value["states"]]
        found = one.read(("info", "states"))
        assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    with h5py.File(tmp_path / "y.hdf5") as file:
        for name, value in values.items():
            assert np.array_equal(file[f"data/{name}/states"][()], value["states"])


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_import_export_import_is_the_identity(tmp_path, compression):
    values = demos()
    values["demo_0"]["camera_matrix"] = np.eye(3)
    attributes = {"demo_0": {"model_file": "<m>"}, "demo_2": {"init_state": np.arange(9000.0)}}
    masks = {"train": ["demo_0", "demo_2"]}
    values["demo_2"].pop("next_obs/agentview_image"), values["demo_2"].pop("next_obs/eef_pos")
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w", libver="latest"):
        pass
    attributes["demo_2"]["init_state"] = np.arange(900.0)
    write(path, values, attributes=attributes, masks=masks, data={"env_args": "{}", "tag": "libero"})
    convert(path, tmp_path / "one", check=True)
    sets = [f"compression={compression}"]
    report = convert(tmp_path / "one", tmp_path / "y.hdf5", to="robomimic", check=True, sets=sets)
    assert report["lossy"] == []
    convert(tmp_path / "y.hdf5", tmp_path / "two", check=True)
    with Dataset.open(tmp_path / "one") as one, Dataset.open(tmp_path / "two") as two:
        assert one.digest == two.digest
        assert one.spec == two.spec
    with h5py.File(path) as source, h5py.File(tmp_path / "y.hdf5") as result:
        assert result["data"].attrs["tag"] == "libero"
        assert result["data"].attrs["total"] == 16
        assert list(result["data"]) == list(source["data"])
        for name in LENGTHS:
            theirs, ours = source["data"][name], result["data"][name]
            assert sorted(theirs) == sorted(ours)
            assert ours.attrs["num_samples"] == LENGTHS[name]
            for key in ("rewards", "dones", "states", "obs/agentview_image"):
                assert theirs[key].dtype == ours[key].dtype
                assert np.array_equal(theirs[key][()], ours[key][()])
            assert ("next_obs" in ours) == ("next_obs" in theirs)
        assert result["mask/train"][()].tolist() == [b"demo_0", b"demo_2"]


def test_any_dataset_becomes_robomimic_and_comes_back(tmp_path):
    rng = np.random.default_rng(3)
    size = 20
    np.savez(
        tmp_path / "plain.npz",
        observations=rng.standard_normal((size, 3)).astype("f4"),
        actions=rng.standard_normal((size, 2)).astype("f4"),
        rewards=rng.standard_normal(size).astype("f4"),
        terminals=np.arange(size) == 6,
        timeouts=np.isin(np.arange(size), [6, 15]),
        infos_speed=np.arange(size),
    )
    convert(tmp_path / "plain.npz", tmp_path / "one")
    convert(tmp_path / "one", tmp_path / "y.hdf5", to="robomimic", check=True)
    convert(tmp_path / "y.hdf5", tmp_path / "two", check=True)
    with Dataset.open(tmp_path / "one") as one, Dataset.open(tmp_path / "two") as two:
        for column in one.schema.given:
            assert np.array_equal(one.read(column.key), two.read(column.key)), column.key
        for name in ("length", "terminated", "truncated", "cut", "has_final"):
            assert getattr(one.episodes, name).tolist() == getattr(two.episodes, name).tolist(), name


def test_pieces_are_demos(tmp_path, monkeypatch):
    path = write(tmp_path / "x.hdf5", demos())
    convert(path, tmp_path / "one")
    monkeypatch.setattr(convert_parts, "_GROUP_BYTES", 1)
    convert(path, tmp_path / "two", jobs=2)
    with Dataset.open(tmp_path / "one") as one, Dataset.open(tmp_path / "two") as two:
        assert np.array_equal(one.read(("observation", "eef_pos")), two.read(("observation", "eef_pos")))
        assert one.episodes.length.tolist() == two.episodes.length.tolist()
    convert(path, tmp_path / "three", episodes="1:2")
    with Dataset.open(tmp_path / "three") as three:
        assert three.episodes.length.tolist() == [7]


def test_a_camera_can_be_left_out_or_renamed(tmp_path):
    path = write(tmp_path / "x.hdf5", demos())
    convert(path, tmp_path / "ds", mapping={"obs/agentview_image": "-", "obs/eef_pos": "observation/hand"})
    with Dataset.open(tmp_path / "ds") as dataset:
        assert [c.key for c in dataset.schema.given if c.key[0] == "observation"] == [("observation", "hand")]
    with pytest.raises(UsageError, match="did you mean"):
        convert(path, tmp_path / "no", mapping={"obs/eef_po": "-"})


def test_wrong_files_are_one_line(tmp_path):
    values = demos()
    del values["demo_2"]["actions"]
    with pytest.raises(InputError, match="demo_2 has no actions"):
        convert(write(tmp_path / "a.hdf5", values), tmp_path / "ds")
    values = demos()
    values["demo_2"]["obs/eef_pos"] = values["demo_2"]["obs/eef_pos"][:3]
    with pytest.raises(InputError, match="7 actions, and 3, 7 observations"):
        convert(write(tmp_path / "b.hdf5", values), tmp_path / "ds")
    values = demos()
    values["demo_2"]["obs/eef_pos"] = np.zeros((7, 4))
    with pytest.raises(IncompatibleError, match=r"obs/eef_pos is float64\[4\] in demo_2"):
        convert(write(tmp_path / "c.hdf5", values), tmp_path / "ds")
    values = demos()
    del values["demo_2"]["rewards"]
    with pytest.raises(InputError, match="rewards is in 2 of 3 episodes only"):
        convert(write(tmp_path / "d.hdf5", values), tmp_path / "ds")
    assert not list(tmp_path.glob("*ds*"))


def test_a_lying_shape_is_refused_before_memory_is_taken(tmp_path):
    path = write(tmp_path / "x.hdf5", demos())
    with h5py.File(path, "a") as file:
        group = file["data/demo_0"]
        del group["states"]
        group.create_dataset("states", (5, 1 << 34), "f8", chunks=(1, 1 << 20))
    with pytest.raises(CorruptError, match="none is stored"):
        convert(path, tmp_path / "ds")


def test_damage_is_one_line_and_leaves_nothing(tmp_path):
    path = write(tmp_path / "x.hdf5", demos(), compression="gzip")
    sound = path.read_bytes()
    rng = np.random.default_rng(5)
    for number in range(45):
        data = bytearray(sound)
        if number % 3 == 0:
            data = data[: int(rng.integers(len(data)))]
        else:
            for at in rng.integers(0, len(data), 1 + number % 5):
                data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        out = tmp_path / f"out{number}"
        message = outcome(path, out)
        assert "\n" not in message
        assert out.exists() == (not message)
    left = {p.name for p in tmp_path.iterdir()} - {f"out{number}" for number in range(45)}
    assert left == {"x.hdf5"}


def outcome(path, out):
    try:
        convert(path, out, from_="robomimic")
    except RLError as err:
        return err.message
    return ""


def test_links_in_place_of_next_obs_are_not_followed(tmp_path):
    path = write(tmp_path / "x.hdf5", demos())
    with h5py.File(path, "a") as file:
        last = list(file["data"].values())[-1]
        del last["next_obs/eef_pos"], last["next_obs/agentview_image"]
        last["next_obs/eef_pos"] = h5py.ExternalLink("/etc/passwd", "/x")
        last["next_obs/agentview_image"] = h5py.SoftLink("/data")
    report = convert(path, tmp_path / "ds", check=True)
    assert report["unknown_next"] == 1
    assert sum("link next_obs/" in told for told in report["lossy"]) == 2


def test_an_attribute_of_a_type_that_json_has_not_is_named(tmp_path):
    path = write(tmp_path / "x.hdf5", demos(), data={"total": np.longdouble(1) / 3})
    convert(path, tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.extra["source"]["attributes"]["data"]["total"] == str(np.dtype(np.longdouble))


@pytest.mark.parametrize(
    "told", [{"cut": 7}, {"columns": "x"}, {"columns": {"obs/eef_pos": 3}}, {"spec": {"env": 7}}, [1]]
)
def test_what_our_export_left_is_not_trusted(told, tmp_path):
    path = write(tmp_path / "x.hdf5", demos())
    with h5py.File(path, "a") as file:
        file.attrs["rl.json"] = json.dumps(told)
        file["data/demo_0"].attrs["rl_seed"] = np.array([1.5, 2])
        file["data/demo_0"].attrs["num_samples"] = np.array([1, 2])
    report = convert(path, tmp_path / "ds")
    assert any("num_samples says [1 2]" in remark for remark in report["remarks"])


def test_an_attribute_that_is_empty_in_all_episodes_comes_back(tmp_path):
    attributes = {name: {"note": "", "model": "x" if name == "demo_2" else ""} for name in LENGTHS}
    write(tmp_path / "a.hdf5", demos(), attributes=attributes)
    convert(tmp_path / "a.hdf5", tmp_path / "one")
    convert(tmp_path / "one", tmp_path / "b.hdf5", to="robomimic", check=True)
    convert(tmp_path / "b.hdf5", tmp_path / "two", check=True)
    with Dataset.open(tmp_path / "one") as one, Dataset.open(tmp_path / "two") as two:
        assert ("info", "episode", "note") in two.schema.by_key
        assert one.digest == two.digest
