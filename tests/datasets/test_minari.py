"""Minari: files of its own writer come back value by value."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

from rlcli.datasets import minari as ours
from rlcli.errors import UsageError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert
from tests.datasets.minari_made import (
    ACTIONS,
    BOX,
    FORMATS,
    NESTED,
    TWO,
    buffers,
    imported,
    infos,
    rewrite,
    same,
    written,
)

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "minari" / "sample"

pytestmark = pytest.mark.usefixtures("minari_root")


@pytest.mark.parametrize("data_format", FORMATS)
def test_nested_spaces_come_back_value_by_value(tmp_path: Path, data_format: str) -> None:
    episodes = buffers(NESTED, ACTIONS)
    dataset, report = imported(written(episodes, NESTED, ACTIONS, data_format), tmp_path / "ds")
    assert (report["rows"], report["episodes"], report["unknown_next"]) == (13, 3, 0)
    assert report["lossy"] == []
    table = dataset.episodes
    assert table.length.tolist() == [4, 2, 7]
    assert table.seed.tolist() == [0, 11, 22]
    assert table.terminated.tolist() == [True, True, False]
    assert table.truncated.tolist() == [False, False, True]
    columns = {
        ("observation", "pose", "0"): lambda e: e.observations["pose"][0],
        ("observation", "pose", "1"): lambda e: e.observations["pose"][1],
        ("observation", "bits"): lambda e: e.observations["bits"],
        ("observation", "text"): lambda e: np.array(e.observations["text"], object),
        ("observation", "grid"): lambda e: e.observations["grid"],
    }
    for key, of in columns.items():
        for episode, start, length in zip(episodes, table.start, table.length, strict=True):
            assert same(dataset.read(key, start, start + length), of(episode)[:-1]), key
            assert same(dataset.read(("next", *key), start, start + length), of(episode)[1:]), key
    assert same(dataset.read(("action", "move")), np.concatenate([e.actions["move"] for e in episodes]))
    assert list(dataset.read(("action", "say"))) == [text for e in episodes for text in e.actions["say"]]
    rewards = np.concatenate([e.rewards for e in episodes])
    assert same(dataset.read(("source", "rewards")), rewards)
    assert same(dataset.read(("next", "reward"))[:, 0], rewards.astype(np.float32))
    spec = dataset.spec["observation"]["fields"]
    assert spec["pose"]["fields"]["1"] == {"type": "discrete", "n": 5, "start": 2}
    assert spec["bits"] == {"type": "multi_binary", "n": 4}
    assert spec["pose"]["fields"]["0"]["low"] == -1
    assert dataset.spec["action"]["fields"]["move"] == {"type": "multi_discrete", "nvec": [3, 4]}


@pytest.mark.parametrize("data_format", FORMATS)
def test_jpeg_stays_as_it_is_or_becomes_pixels(tmp_path: Path, data_format: str) -> None:
    space = spaces.Dict(
        {"rgb": spaces.Box(0, 255, (32, 40, 3), np.uint8), "grey": spaces.Box(0, 255, (33, 32), np.uint8)}
    )
    path = written(buffers(space, TWO, (3, 1)), space, TWO, data_format)
    kept, _ = imported(path, tmp_path / "kept")
    pixels, _ = imported(path, tmp_path / "pixels", images="decode")
    wanted = list(minari.MinariDataset(path / "data"))
    for name in ("rgb", "grey"):
        column = kept.schema.by_key["observation", name]
        assert column.heap is not None
        assert column.heap.codec == "jpeg"
        assert kept.encoded(("observation", name), np.array([0]))[0][:2] == b"\xff\xd8"
        for start, episode in zip((0, 3), wanted, strict=True):
            theirs = episode.observations[name]
            for dataset in (kept, pixels):
                stop = start + len(theirs) - 1
                assert same(dataset.read(("observation", name), start, stop), theirs[:-1])
                assert same(dataset.read(("next", "observation", name), start, stop), theirs[1:])


def test_pictures_stored_raw_are_arrays(tmp_path: Path) -> None:
    space = spaces.Box(0, 255, (32, 32, 3), np.uint8)
    episodes = buffers(space, TWO)
    for data_format in FORMATS:
        path = written(episodes, space, TWO, data_format, jpeg_encoding=False)
        dataset, _ = imported(path, tmp_path / data_format)
        assert same(dataset.read(("observation",), 0, 4), episodes[0].observations[:-1])
        shutil.rmtree(path)


def test_infos_of_observations_and_of_steps_are_kept(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO, infos=infos), BOX, TWO)
    dataset, report = imported(path, tmp_path / "ds")
    assert report["lossy"] == []
    assert dataset.read(("info", "speed"), 0, 4).tolist() == [0, 1, 2, 3]
    assert dataset.read(("next", "info", "speed"), 0, 4).tolist() == [1, 2, 3, 4]
    assert dataset.read(("next", "info", "deep", "matrix"), 3, 4).tolist() == [
        np.arange(24.0, 30).reshape(2, 3).tolist()
    ]
    assert list(dataset.read(("next", "info", "word"), 4, 6)) == ["w1", "w2"]
    assert dataset.read(("info", "late"), 4, 6).tolist() == [0, 1]
    assert ("next", "info", "late") not in dataset.schema.by_key


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_infos_of_arrow_have_their_shapes(tmp_path: Path, data_format: str) -> None:
    def some(length: int) -> dict[str, Any]:
        return {name: values for name, values in infos(length).items() if name != "late"}

    path = written(buffers(BOX, TWO, infos=some), BOX, TWO, data_format)
    dataset, _ = imported(path, tmp_path / "ds")
    assert dataset.read(("next", "info", "deep", "matrix"), 3, 4).tolist() == [
        np.arange(24.0, 30).reshape(2, 3).tolist()
    ]
    assert dataset.read(("next", "info", "speed"), 0, 4).tolist() == [1, 2, 3, 4]


def test_values_of_infos_missing_in_an_episode_are_counted(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO, infos=infos), BOX, TWO)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1/infos/speed"]
        del file["episode_2/infos/late"]
        file["episode_2/infos/late"] = np.zeros(3)
    dataset, report = imported(path, tmp_path / "ds")
    assert report["absent infos/speed"] == 1
    assert dataset.read(("info", "speed"), 4, 6).tolist() == [0, 0]
    assert report["lossy"] == ["infos/late is not kept: 3 values of 7 steps"]


@pytest.mark.parametrize("data_format", FORMATS)
def test_as_many_observations_as_steps_leave_the_last_next_one_unknown(
    tmp_path: Path, data_format: str
) -> None:
    episodes = buffers(BOX, TWO)
    short = [EpisodeBuffer(**{**vars(e), "observations": e.observations[:-1], "infos": {}}) for e in episodes]
    dataset, report = imported(written(short, BOX, TWO, data_format), tmp_path / "ds")
    assert report["unknown_next"] == report["episodes_without_final_observation"] == 3
    assert dataset.unknown_next.tolist() == [3, 5, 12]
    assert same(dataset.read(("observation",), 0, 4), episodes[0].observations[:4])
    assert same(dataset.read(("action",), 0, 4), episodes[0].actions)


def test_episodes_follow_their_numbers_not_their_names(tmp_path: Path) -> None:
    lengths = tuple(range(1, 13))
    dataset, _ = imported(written(buffers(BOX, TWO, lengths), BOX, TWO), tmp_path / "ds")
    assert dataset.episodes.length.tolist() == list(lengths)
    assert dataset.episodes.seed.tolist() == [11 * n for n in range(12)]


@pytest.mark.parametrize("data_format", FORMATS)
def test_options_and_attributes_are_kept(tmp_path: Path, data_format: str) -> None:
    options = {"goal": 3, "nested": {"scale": 0.5, "name": "far"}}
    path = written(buffers(BOX, TWO, options=options), BOX, TWO, data_format)
    storage = minari.MinariDataset(path / "data").storage
    storage.update_episode_metadata([{"note": "first"}], [0])
    storage.update_episode_metadata([{"success": True}] * 3, [0, 1, 2])
    dataset, _ = imported(path, tmp_path / "ds")
    assert dataset.read(("info", "episode", "options", "goal")).tolist() == [3] * 13
    assert dataset.read(("info", "episode", "options", "nested", "scale")).tolist() == [0.5] * 13
    assert set(dataset.read(("info", "episode", "options", "nested", "name"))) == {"far"}
    assert dataset.read(("info", "episode", "success")).tolist() == [True] * 13
    assert [json.loads(text or "{}") for text in dataset.read(("info", "episode", "attributes"), 3, 5)] == [
        {"note": "first"},
        {},
    ]


def test_statistics_that_follow_from_the_rewards_take_no_column(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        for group in file.values():
            group.attrs["rewards_sum"] = np.sum(group["rewards"][()])
            group.attrs["rewards_max"] = 0.25  # of something else
    dataset, _ = imported(path, tmp_path / "ds")
    assert ("info", "episode", "rewards_sum") not in dataset.schema.by_key
    assert dataset.read(("info", "episode", "rewards_max"), 0, 2).tolist() == [0.25, 0.25]


def test_flags_that_the_episodes_do_not_give_back_are_kept(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/terminations"][1] = True
        file["episode_1/terminations"][-1] = False
    dataset, report = imported(path, tmp_path / "ds")
    assert dataset.num_episodes == 3
    assert report["repaired"] == 1
    assert dataset.episodes.truncated.tolist() == [False, True, True]
    assert dataset.read(("source", "terminations")).tolist()[:6] == [False, True, False, True, False, False]


def test_types_that_differ_from_the_space_are_those_on_disk(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        for name, dtype in (("episode_0", "float64"), ("episode_1", "float32"), ("episode_2", "float64")):
            values = file[name]["observations"][()]
            del file[name]["observations"]
            file[name]["observations"] = values.astype(dtype)
            actions = file[name]["actions"][()]
            del file[name]["actions"]
            file[name]["actions"] = actions.astype("int32")
    dataset, report = imported(path, tmp_path / "ds")
    assert dataset.schema.by_key["observation",].dtype == "float64"
    assert dataset.spec["action"] == {"type": "discrete", "n": 2, "start": 0}
    assert any("float64 holds them all" in remark for remark in report["remarks"])


def test_spaces_that_are_missing_are_what_is_stored(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    rewrite(path, lambda told: [told.pop("observation_space"), told.pop("action_space")])
    dataset, _ = imported(path, tmp_path / "ds")
    assert dataset.schema.by_key["observation",].shape == (3,)
    assert dataset.schema.by_key["action",].dtype == "int64"


def test_old_datasets_have_their_metadata_as_attributes(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    told = json.loads((path / "data" / "metadata.json").read_text())
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        for name in ("total_episodes", "total_steps", "observation_space", "action_space", "dataset_id"):
            file.attrs[name] = told[name]
    (path / "data" / "metadata.json").unlink()
    dataset, report = imported(path, tmp_path / "ds")
    assert report["seen"] == "Minari dataset test/toy-v0, hdf5, 3 episodes"
    assert dataset.num_rows == 13


def test_the_environment_and_the_reference_scores(tmp_path: Path) -> None:
    env = gymnasium.make("CartPole-v1", max_episode_steps=77)
    space, action = env.observation_space, env.action_space
    made = minari.create_dataset_from_buffers(
        "cartpole/x-v0", buffers(space, action), env=env, ref_min_score=1.0, ref_max_score=9.5
    )
    dataset, report = imported(Path(made.storage.data_path), tmp_path / "ds")
    assert report["env"] == "CartPole-v1"
    assert dataset.spec["env"] == {
        "library": "gymnasium",
        "id": "CartPole-v1",
        "kwargs": {},
        "max_episode_steps": 77,
    }
    if made.storage.metadata.get("ref_max_score") is not None:
        assert dataset.spec["reference_scores"] == {"min": 1.0, "max": 9.5}


def test_datasets_are_found_at_any_level_and_by_name(tmp_path: Path, minari_root: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    for place in (path, path / "data", path / "data" / "main_data.hdf5", minari_root, minari_root / "test"):
        assert ours.detect(place).matches
    assert convert("minari:test/toy-v0", tmp_path / "ds")["rows"] == 13
    with pytest.raises(UsageError, match=r"no Minari dataset 'test/toy-v1'.*did you mean 'test/toy-v0'"):
        convert("minari:test/toy-v1", tmp_path / "other")
    minari.create_dataset_from_buffers(
        "test/two-v0", buffers(BOX, TWO), observation_space=BOX, action_space=TWO
    )
    with pytest.raises(UsageError, match="several Minari datasets"):
        ours.detect(minari_root)
    assert not ours.detect(tmp_path / "ds").matches


def test_some_episodes_and_rows(tmp_path: Path) -> None:
    path = written(buffers(BOX, TWO), BOX, TWO)
    assert convert(path, tmp_path / "a", episodes="1:3")["rows"] == 9
    assert convert(path, tmp_path / "b", limit=5)["rows"] == 5
    with Dataset.open(tmp_path / "b") as dataset:
        assert dataset.episodes.seed.tolist() == [0, 11]  # also of the one that the limit cuts
    assert convert(path, tmp_path / "c", mapping={"observations": "-"}, yes=True)["rows"] == 13


@pytest.mark.skipif(not SAMPLES.exists(), reason="the sample files are not here")
@pytest.mark.parametrize(
    ("name", "lengths", "reward", "observations", "actions"),
    [
        ("hopper/random-v0", [13, 20, 29, 16, 22, 14, 33, 21], 110.85275101, -377.81276, -9.60314),
        ("cartpole/random-arrow-v0", [14, 88, 30, 37, 15, 11], 195, 148.13238, 99),
    ],
)
def test_samples_give_their_numbers(
    tmp_path: Path, name: str, lengths: list[int], reward: float, observations: float, actions: float
) -> None:
    dataset, report = imported(SAMPLES / name, tmp_path / "ds")
    table = dataset.episodes
    assert table.length.tolist() == lengths
    assert table.terminated.all()
    key = ("source", "rewards") if ("source", "rewards") in dataset.schema.by_key else ("next", "reward")
    assert dataset.read(key).sum(dtype=np.float64) == pytest.approx(reward, abs=1e-6)
    last = dataset.gather(table.start + table.length - 1, [("next", "observation")])
    finals = np.asarray(last["next"]["observation"]).sum(dtype=np.float64)
    total = dataset.read(("observation",)).sum(dtype=np.float64) + finals
    assert total == pytest.approx(observations, abs=1e-5)
    assert dataset.read(("action",)).sum(dtype=np.float64) == pytest.approx(actions, abs=1e-5)
    assert report["unknown_next"] == 0
