"""What becomes of a D4RL file, quirk by quirk, and that the way back gives the same file."""

from __future__ import annotations

import subprocess
import sys
import uuid

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlcli.datasets.d4rl_export import write_file
from rlcli.format import semantics
from rlcli.format.dataset import Dataset
from rlcli.format.specs import Box, Discrete, spec_from_json
from rlcli.format.verify import verify
from rlcli.pipeline.convert import convert

KINDS = ["mujoco_v2", "replay_v1", "antmaze", "kitchen", "maze2d", "adroit", "unshifted", "carla"]

# rows, episode lengths, terminated, truncated, cut; worked out by hand from conftest.py
EXPECTED = {
    "mujoco_v2": ([5, 7, 4], [1, 0, 0], [0, 1, 1], [0, 0, 1]),
    "replay_v1": ([5, 7, 4], [1, 0, 0], [0, 1, 1], [0, 0, 1]),
    "unshifted": ([5, 7, 4], [1, 0, 0], [0, 1, 1], [0, 0, 1]),
    "antmaze": ([7, 1, 1, 4, 7], [1, 1, 1, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]),
    "kitchen": ([4, 5, 3], [1, 0, 1], [0, 1, 0], [0, 0, 0]),
    "maze2d": ([6, 5, 4], [0, 0, 0], [1, 1, 1], [0, 0, 1]),
    "adroit": ([50, 100, 80], [1, 0, 0], [0, 1, 1], [0, 0, 1]),
    "carla": ([3, 7, 5], [1, 1, 1], [0, 0, 0], [0, 0, 0]),
}


@pytest.fixture
def converted(d4rl_file, tmp_path):
    """`converted(kind, **options)`: the open dataset and the report."""
    opened = []

    def run(kind, **options):
        report = convert(d4rl_file(kind), tmp_path / "ds", check=True, **options)
        opened.append(Dataset.open(tmp_path / "ds"))
        return opened[-1], report

    yield run
    for dataset in opened:
        dataset.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_back_gives_the_same_file(kind, d4rl_file, tmp_path, same_hdf5):
    source = d4rl_file(kind)
    convert(source, tmp_path / "ds", check=True)
    report = convert(tmp_path / "ds", tmp_path / "again.hdf5", check=True)
    assert report["original"]
    same_hdf5(source, tmp_path / "again.hdf5")


@pytest.mark.parametrize("kind", KINDS)
def test_episodes_end_where_the_file_says(kind, converted):
    dataset, report = converted(kind)
    lengths, terminated, truncated, cut = EXPECTED[kind]
    episodes = dataset.episodes
    assert episodes.length.tolist() == lengths
    assert episodes.terminated.tolist() == terminated
    assert episodes.truncated.tolist() == truncated
    assert episodes.cut.tolist() == cut
    assert report["episodes"] == len(lengths)
    assert report["length_one_episodes"] == lengths.count(1)
    assert report["unfinished_rows"] == (lengths[-1] if cut[-1] else 0)
    assert report["dropped"] == 0
    assert report["rows"] == dataset.num_rows == sum(lengths)


@pytest.mark.parametrize(
    ("kind", "split"), [*((kind, "flags") for kind in KINDS if kind != "unshifted"), ("antmaze", "jump")]
)
def test_a_converted_file_keeps_the_rules_of_the_data_model(kind, split, converted):
    dataset, _ = converted(kind, sets=[f"split={split}"])
    assert semantics.check(dataset).errors == []
    assert not verify(dataset.path, deep=True)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_file(kind, converted, d4rl_values):
    dataset, _ = converted(kind)
    values = d4rl_values(kind)
    if kind == "carla":
        values = {
            name: np.concatenate([values[f"virtual/{k}/{name}"] for k in (0, 1, 10)])
            for name in ("observations", "actions", "rewards", "terminals")
        }
    rows = dataset.read_rows()
    assert rows["observation"].dtype == values["observations"].dtype
    assert np.array_equal(rows["observation"], values["observations"])
    assert np.array_equal(rows["action"], values["actions"])
    assert np.array_equal(rows["next"]["reward"][:, 0], values["rewards"].reshape(-1).astype(np.float32))
    assert np.array_equal(rows["next"]["terminated"][:, 0], values["terminals"].reshape(-1) != 0)
    done = rows["next"]["terminated"] | rows["next"]["truncated"]
    assert np.array_equal(rows["next"]["done"], done)
    starts = np.concatenate([[True], done[:-1, 0]])
    assert np.array_equal(rows["is_init"].reshape(-1), starts)
    for name in ("qpos", "goal", "action_log_probs"):
        if f"infos/{name}" in values:
            assert rows["info"][name].tobytes() == values[f"infos/{name}"].tobytes()


@pytest.mark.parametrize("kind", ["mujoco_v2", "replay_v1"])
def test_next_observations_equal_to_the_following_rows_are_stored_once(kind, converted, d4rl_values):
    dataset, report = converted(kind)
    values = d4rl_values(kind)
    assert report["next_observation"] == "derived"
    assert dataset.schema.column(("next", "observation")).encoding == "derived"
    assert dataset.unknown_next.tolist() == []
    assert dataset.read(("next", "observation")).tobytes() == values["next_observations"].tobytes()


def test_next_observations_that_differ_are_stored_as_they_are(converted, d4rl_values):
    dataset, report = converted("unshifted")
    assert report["next_observation"] == "stored"
    assert dataset.schema.column(("next", "observation")).encoding == "plain"
    stored = dataset.read(("next", "observation"))
    assert stored.tobytes() == d4rl_values("unshifted")["next_observations"].tobytes()
    rules = {finding.rule for finding in semantics.check(dataset).errors}
    assert rules == {"next[t] = observation[t+1]"}  # the file says so, and a reader can learn of it


def test_one_bit_of_difference_inside_an_episode_is_enough(d4rl_values, tmp_path):
    values = d4rl_values("mujoco_v2")
    values["observations"][8, 1] = 0.0
    values["next_observations"][7, 1] = -0.0
    write_file(tmp_path / "x.hdf5", values)
    report = convert(tmp_path / "x.hdf5", tmp_path / "ds", check=True)
    assert report["next_observation"] == "stored"


@pytest.mark.parametrize("kind", ["antmaze", "kitchen", "maze2d", "adroit", "carla"])
def test_without_next_observations_the_last_of_an_episode_is_unknown(kind, converted):
    """TRAPS 13: the row stays, and nothing pretends to be its next observation."""
    dataset, report = converted(kind)
    last = np.cumsum(EXPECTED[kind][0]) - 1
    assert dataset.unknown_next.tolist() == last.tolist()
    assert report["unknown_next"] == len(last)
    following = dataset.read(("next", "observation"))
    inside = np.setdiff1d(np.arange(dataset.num_rows), last)
    assert np.array_equal(following[inside], dataset.read(("observation",))[inside + 1])


def test_float64_rewards_that_float32_cannot_hold_are_kept_beside(converted, d4rl_values):
    dataset, _ = converted("replay_v1")
    original = d4rl_values("replay_v1")["rewards"]
    assert dataset.read(("source", "rewards")).tobytes() == original.tobytes()
    assert dataset.read(("next", "reward")).dtype == np.float32


def test_float64_rewards_of_zero_and_one_need_no_second_column(converted):
    dataset, _ = converted("antmaze")
    assert [column.key for column in dataset.schema.columns if column.key[0] == "source"] == []


@pytest.mark.parametrize("reward", [np.nan, -0.0, 1e-320, 1e300, np.inf])
def test_any_reward_survives_the_way_back(reward, d4rl_values, tmp_path, same_hdf5):
    values = d4rl_values("replay_v1")
    values["rewards"][3] = reward
    write_file(tmp_path / "x.hdf5", values)
    report = convert(tmp_path / "x.hdf5", tmp_path / "ds", check=True)
    with np.errstate(over="ignore"):
        expected = {} if np.isfinite(np.float32(reward)) else {"next/reward": 1}
    assert report["not_finite"] == expected
    convert(tmp_path / "ds", tmp_path / "y.hdf5")
    same_hdf5(tmp_path / "x.hdf5", tmp_path / "y.hdf5")


def test_flags_with_odd_values_survive_the_way_back(d4rl_values, tmp_path, same_hdf5):
    values = d4rl_values("replay_v1")
    values["terminals"][4], values["timeouts"][11] = 2.0, np.nan
    write_file(tmp_path / "x.hdf5", values)
    convert(tmp_path / "x.hdf5", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [5, 7, 4]
    convert(tmp_path / "ds", tmp_path / "y.hdf5", check=True)
    same_hdf5(tmp_path / "x.hdf5", tmp_path / "y.hdf5")


def test_a_row_that_is_terminal_and_timed_out_keeps_both_flags(d4rl_values, tmp_path):
    values = d4rl_values("mujoco_v2")
    values["timeouts"][4] = True
    write_file(tmp_path / "x.hdf5", values)
    convert(tmp_path / "x.hdf5", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.terminated.tolist() == [True, False, False]
        assert dataset.episodes.truncated.tolist() == [True, True, True]


def test_a_kitchen_demonstration_ends_where_its_index_changes(converted, d4rl_values):
    dataset, report = converted("kitchen")
    assert report["episode_ends"] == ["terminals", "infos"]
    assert report["repaired"] == 1  # the demonstration without a terminal
    assert dataset.read(("info", "index")).tolist() == d4rl_values("kitchen")["infos"].tolist()


def test_a_time_limit_ends_episodes_only_if_the_environment_is_known(d4rl_file, tmp_path):
    source = d4rl_file("adroit")
    unknown = source.rename(tmp_path / "unknown.hdf5")
    report = convert(unknown, tmp_path / "a", check=True)
    assert (report["env"], report["episodes"], report["episode_ends"]) == (None, 2, ["terminals"])
    report = convert(unknown, tmp_path / "b", env_id="pen-expert-v1", check=True)
    assert (report["env"], report["episodes"], report["repaired"]) == ("pen-expert-v1", 3, 2)
    assert report["reference_scores"] == {"min": 96.262799, "max": 3076.8331017826877}


def test_antmaze_can_be_split_where_positions_jump(converted, d4rl_values):
    dataset, report = converted("antmaze", sets=["split=jump"])
    assert dataset.episodes.length.tolist() == [10, 10]
    assert dataset.episodes.truncated.tolist() == [True, True]
    assert report["episode_ends"] == ["jump"]
    original = d4rl_values("antmaze")["terminals"]
    assert dataset.read(("source", "terminals")).tobytes() == original.tobytes()


def test_splitting_at_jumps_survives_the_way_back(d4rl_file, tmp_path, same_hdf5):
    source = d4rl_file("antmaze")
    convert(source, tmp_path / "ds", sets=["split=jump"], check=True)
    convert(tmp_path / "ds", tmp_path / "again.hdf5", check=True)
    same_hdf5(source, tmp_path / "again.hdf5")


@pytest.mark.parametrize("kind", ["mujoco_v2", "antmaze", "kitchen", "adroit", "carla"])
@pytest.mark.parametrize("slice_bytes", [1, 700])
def test_the_size_of_slices_does_not_matter(kind, slice_bytes, d4rl_file, tmp_path, monkeypatch):
    source = d4rl_file(kind)
    whole = convert(source, tmp_path / "whole")
    monkeypatch.setattr("rlcli.datasets.slicing.SLICE_BYTES", slice_bytes)
    sliced = convert(source, tmp_path / "sliced", check=True)
    assert sliced["digest"] == whole["digest"]
    facts = (
        "rows",
        "episodes",
        "terminals",
        "timeouts",
        "repaired",
        "length_one_episodes",
        "unfinished_rows",
    )
    assert [sliced[name] for name in facts] == [whole[name] for name in facts]


def test_the_spec_names_environment_scores_and_bounds(converted):
    dataset, _ = converted("mujoco_v2")
    assert dataset.spec["env"] == {
        "library": "d4rl",
        "id": "hopper-medium-v2",
        "kwargs": {},
        "max_episode_steps": 1000,
    }
    assert dataset.spec["reference_scores"] == {"min": -20.272305, "max": 3234.3}
    assert spec_from_json(dataset.spec["observation"]) == Box((3,), "float32")
    assert spec_from_json(dataset.spec["action"]) == Box((2,), "float32", -1.0, 1.0)


def test_actions_outside_the_usual_bounds_claim_no_bounds(d4rl_values, tmp_path):
    values = d4rl_values("mujoco_v2")
    values["actions"][3, 0] = 1.5
    write_file(tmp_path / "hopper_medium-v2.hdf5", values)
    convert(tmp_path / "hopper_medium-v2.hdf5", tmp_path / "ds")
    with Dataset.open(tmp_path / "ds") as dataset:
        assert spec_from_json(dataset.spec["action"]) == Box((2,), "float32")


def test_whole_numbers_are_discrete_actions(d4rl_values, tmp_path, same_hdf5):
    values = {**d4rl_values("mujoco_v2"), "actions": np.arange(16, dtype="int32") % 7}
    write_file(tmp_path / "minigrid4rooms.hdf5", values)
    convert(tmp_path / "minigrid4rooms.hdf5", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert spec_from_json(dataset.spec["action"]) == Discrete(7)
        assert dataset.read(("action",)).dtype == np.int64
    convert(tmp_path / "ds", tmp_path / "again.hdf5", check=True)
    same_hdf5(tmp_path / "minigrid4rooms.hdf5", tmp_path / "again.hdf5")


def test_lineage_has_the_source_and_its_digest(converted, tmp_path):
    dataset, report = converted("mujoco_v2")
    entry = dataset.lineage[0]
    assert entry["op"] == "convert"
    assert entry["parents"][0]["sha256"] == report["source"]["sha256"]
    assert entry["parents"][0]["file"].endswith("hopper_medium-v2.hdf5")
    assert dataset.extra["source"]["sha256"] == report["source"]["sha256"]
    assert dataset.extra["source"]["other"]["metadata/algorithm"] == "SAC"
    assert dataset.extra["source"]["other"]["metadata/iteration"] == 200


def test_everything_else_in_the_file_comes_back(d4rl_values, tmp_path, same_hdf5):
    path = tmp_path / "x.hdf5"
    write_file(path, d4rl_values("mujoco_v2"))
    with h5py.File(path, "a") as file:
        file.attrs["author"] = "somebody"
        file["observations"].attrs["unit"] = np.float32(2)
        file["infos/names"] = ["not", "rows"]
        file["infos/strange name/é"] = np.arange(16)
        file["mc_returns"] = np.arange(16.0)
        file["metadata/notes"] = "vlen ü"
        file["alias"] = h5py.SoftLink("/actions")
        file.create_dataset("big_endian", data=np.arange(16, dtype=">i4"))
        file.create_group("metadata/empty")
        ragged = file.create_dataset("infos/ragged", (16,), h5py.vlen_dtype(np.int32))
        ragged[3] = np.arange(5)
    convert(path, tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("source", "mc_returns")).tolist() == list(range(16))
    convert(tmp_path / "ds", tmp_path / "again.hdf5", check=True)
    same_hdf5(path, tmp_path / "again.hdf5")


def test_nested_observations_stay_nested(d4rl_values, tmp_path, same_hdf5):
    values = d4rl_values("mujoco_v2")
    for top in ("observations", "next_observations"):
        flat = values.pop(top)
        values[f"{top}/joint"], values[f"{top}/body/pose"] = flat[:, :2], flat[:, 2:]
    write_file(tmp_path / "x.hdf5", values)
    report = convert(tmp_path / "x.hdf5", tmp_path / "ds", check=True)
    assert report["next_observation"] == "derived"
    with Dataset.open(tmp_path / "ds") as dataset:
        pose = dataset.read(("next", "observation", "body", "pose"))
        assert pose.tobytes() == np.ascontiguousarray(values["next_observations/body/pose"]).tobytes()
    convert(tmp_path / "ds", tmp_path / "again.hdf5", check=True)
    same_hdf5(tmp_path / "x.hdf5", tmp_path / "again.hdf5")


flag_dtypes = st.sampled_from(["bool", "f4", "f8", "i1"])


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), size=st.integers(1, 30), width=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_any_file_comes_back(data, size, width, seed, tmp_path, same_hdf5):
    """Whatever its dtypes, its flags, its shapes and its absent keys are."""
    rng = np.random.default_rng(seed)
    dtype = data.draw(st.sampled_from(["f4", "f8", ">f4", "u1"]))
    column = data.draw(st.sampled_from([(size,), (size, 1)]))

    def flags():
        return (rng.random(size) < 0.2).astype(data.draw(flag_dtypes)).reshape(column)

    stream = (rng.standard_normal((size + 1, width)) * 50).astype(dtype)
    values = {
        "observations": stream[:-1],
        "actions": rng.standard_normal((size, 2)).astype(data.draw(st.sampled_from(["f4", "f8"]))),
        "rewards": rng.standard_normal(size)
        .astype(data.draw(st.sampled_from(["f2", "f4", "f8"])))
        .reshape(column),
        "terminals": flags(),
    }
    if data.draw(st.booleans()):
        values["timeouts"] = flags()
    if data.draw(st.booleans()):
        values["next_observations"] = stream[1:].copy()
        if data.draw(st.booleans()):
            values["next_observations"][rng.integers(size)] = 7
    if data.draw(st.booleans()):
        values["infos"] = np.sort(rng.integers(0, 3, size))
    folder = tmp_path / uuid.uuid4().hex
    folder.mkdir()
    write_file(folder / "x.hdf5", values)
    report = convert(folder / "x.hdf5", folder / "ds", check=True)
    assert report["rows"] == size
    with Dataset.open(folder / "ds") as dataset:
        if report["next_observation"] != "stored":
            assert semantics.check(dataset).errors == []
    convert(folder / "ds", folder / "y.hdf5", check=True)
    same_hdf5(folder / "x.hdf5", folder / "y.hdf5")


_MEASURED = """
import resource, sys
from pathlib import Path
from rlcli.format.verify import verify
from rlcli.pipeline.convert import convert
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(Path(sys.argv[1]), Path(sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    """400 MB of rows convert within a slice of 64 MiB, its split and some buffers."""
    size, width = 2_000_000, 24
    row = np.arange(width, dtype="f4")
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name in ("observations", "next_observations"):
            file.create_dataset(name, (size, width), "f4", chunks=(10_000, width))
        for start in range(0, size, 100_000):
            block = np.add.outer(np.arange(start, start + 100_001, dtype="f4"), row)
            file["observations"][start : start + 100_000] = block[:-1]
            file["next_observations"][start : start + 100_000] = block[1:]
        for name in ("actions", "rewards", "terminals"):
            file.create_dataset(name, (size,), "f4", chunks=(100_000,), compression="gzip")
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, tmp_path / "x.hdf5", tmp_path / "ds"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 230, "MiB"


def test_views_of_other_arrays_are_rows_like_any_other(d4rl_file, tmp_path):
    source = d4rl_file("mujoco_v2")
    layout = h5py.VirtualLayout((16, 4), "f8")
    layout[:] = h5py.VirtualSource(".", "infos/qpos", (16, 4))
    with h5py.File(source, "a") as file:
        file.create_virtual_dataset("infos/seen", layout)
        expected = file["infos/qpos"][()]
    convert(source, tmp_path / "ds", check=True)
    np.testing.assert_array_equal(Dataset.open(tmp_path / "ds").read(("info", "seen")), expected)
    convert(tmp_path / "ds", tmp_path / "again.hdf5", check=True)
    with h5py.File(tmp_path / "again.hdf5") as file:
        np.testing.assert_array_equal(file["infos/seen"][()], expected)


@pytest.mark.parametrize("largest", [(1 << 63) - 2, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_whole_actions_beyond_int64_are_what_they_were(largest, d4rl_values, tmp_path):
    values = d4rl_values("mujoco_v2") | {"actions": np.full((16, 1), largest, "u8")}
    values["actions"][0] = 1
    write_file(tmp_path / "x.hdf5", values)
    convert(tmp_path / "x.hdf5", tmp_path / "ds", check=True)
    read = Dataset.open(tmp_path / "ds").read(("action",))
    assert [int(value) for value in read.reshape(-1)] == [1, *[largest] * 15]
