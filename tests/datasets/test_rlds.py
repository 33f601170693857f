"""RLDS: what becomes of episodes, splits, flags, pictures, text and what is missing or odd."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest

from rlcli.datasets import openx, rlds
from rlcli.datasets.contract import Request
from rlcli.datasets.example import encode
from rlcli.datasets.tfrecord import RecordWriter, read_records
from rlcli.errors import (
    CorruptError,
    IncompatibleError,
    InputError,
    MissingExtraError,
    RLError,
    UsageError,
)
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert
from tests.datasets import rlds_files as files
from tests.datasets.rlds_files import DECODE, Found, pixels, toy

# -- episodes ----------------------------------------------------------------------------------------------


def test_a_record_is_an_episode_and_a_step_a_row(tmp_path: Path) -> None:
    episodes = [files.episode(4, 0, terminal=True), files.episode(1, 1), files.episode(3, 2)]
    found = Found(toy(tmp_path, *episodes))
    assert found.lengths == [4, 1, 3]
    assert [(end.terminated, end.truncated) for end in found.ends] == [
        (True, False),
        (False, True),
        (False, True),
    ]
    assert all(end.final is None for end in found.ends)
    for key, name in (
        ("observation/state", "observation/state"),
        ("action", "action"),
        ("discount", "discount"),
    ):
        whole = np.concatenate([episode[f"steps/{name}"] for episode in episodes])
        assert (found.array(key) == whole).all()
    rewards = np.concatenate([episode["steps/reward"] for episode in episodes])
    assert (found.array("next/reward") == rewards[:, None]).all()
    assert not any(key.startswith("source") for key in found.rows)


def test_the_whole_folder_a_folder_around_it_and_a_shard_are_found(tmp_path: Path) -> None:
    tree = files.episodes_tree(files.PLAIN)
    folder = files.write_rlds(
        tmp_path / "toy" / "1.0.0", tree, {"train": [[files.episode(2)], [files.episode(3)]]}
    )
    for path in (folder, folder.parent, tmp_path):
        assert rlds.detect(path).matches
        assert Found(path).lengths == [2, 3]
    assert Found(folder / "toy-train.tfrecord-00001-of-00002").lengths == [3]


def test_of_several_versions_the_newest_is_taken_and_of_several_datasets_none(tmp_path: Path) -> None:
    tree = files.episodes_tree(files.PLAIN)
    for version, length in (("1.9.0", 1), ("1.10.0", 2), ("0.0.1", 3)):
        files.write_rlds(tmp_path / "toy" / version, tree, {"train": [[files.episode(length)]]})
    assert Found(tmp_path / "toy").lengths == [2]
    files.write_rlds(tmp_path / "other" / "1.0.0", tree, {"train": [[files.episode(1)]]})
    with pytest.raises(UsageError, match="several datasets"):
        Found(tmp_path)


@pytest.mark.parametrize("compression", ["gzip", "zlib"])
def test_compressed_shards_are_recognised_by_content(tmp_path: Path, compression: str) -> None:
    assert Found(toy(tmp_path, files.episode(3), compression=compression)).lengths == [3]


def test_drop_makes_the_last_step_the_final_observation(tmp_path: Path) -> None:
    episodes = [files.episode(4, 0, terminal=True, padded=True), files.episode(1, 1), files.episode(3, 2)]
    found = Found(toy(tmp_path, *episodes), last_step="drop")
    assert found.lengths == [3, 2]
    assert [(end.terminated, end.truncated) for end in found.ends] == [(True, False), (False, True)]
    for end, episode in zip(found.ends, (episodes[0], episodes[2]), strict=True):
        assert (end.final["state"] == episode["steps/observation/state"][-1]).all()
    assert (found.report.dropped, found.report.details["episodes_of_an_observation_alone"]) == (3, 1)
    assert found.report.details["last_step"] == "drop"


@pytest.mark.parametrize("padded", [True, False])
def test_auto_drops_last_steps_that_all_are_padding(tmp_path: Path, padded: bool) -> None:
    episodes = [files.episode(4, seed, padded=padded) for seed in range(2)]
    found = Found(toy(tmp_path, *episodes), last_step="auto")
    assert found.lengths == ([3, 3] if padded else [4, 4])
    assert found.report.details["last_step"] == ("drop" if padded else "keep")


def test_auto_keeps_everything_where_all_actions_are_zero(tmp_path: Path) -> None:
    still = files.episode(4) | {"steps/action": np.zeros((4, 2), np.float32), "steps/reward": np.zeros(4)}
    assert Found(toy(tmp_path, still), last_step="auto").lengths == [4]


def test_an_end_that_is_never_flagged_is_an_end_all_the_same(tmp_path: Path) -> None:
    open_end = files.episode(4) | {"steps/is_last": np.zeros(4, bool)}
    found = Found(toy(tmp_path, open_end, files.episode(2)), last_step="drop")
    assert found.lengths == [4, 1]
    assert found.report.repaired == 1
    assert found.array("source/is_last").tolist() == [False] * 5


def test_flags_inside_an_episode_end_nothing_and_are_kept(tmp_path: Path) -> None:
    odd = files.episode(4, terminal=True) | {"steps/is_terminal": np.array([0, 1, 0, 1])}
    found = Found(toy(tmp_path, odd))
    assert found.lengths == [4]
    assert found.ends[0].terminated
    assert found.array("source/is_terminal").tolist() == [False, True, False, True]


def test_rewards_that_float32_cannot_hold_are_kept_beside(tmp_path: Path) -> None:
    steps = files.PLAIN | {"reward": files.tensor("int64")}
    found = Found(toy(tmp_path, files.episode(2) | {"steps/reward": np.array([2**40 + 1, 3])}, steps=steps))
    assert found.array("source/reward").tolist() == [2**40 + 1, 3]
    assert found.array("next/reward").tolist() == [[2.0**40], [3.0]]


def test_a_source_without_rewards_says_so(tmp_path: Path) -> None:
    steps = {name: feature for name, feature in files.PLAIN.items() if name != "reward"}
    found = Found(toy(tmp_path, files.episode(2), steps=steps))
    assert found.array("next/reward").tolist() == [[0.0], [0.0]]
    assert any("no reward" in remark for remark in found.report.remarks)


def test_nested_actions_stay_nested_and_labels_keep_their_names(tmp_path: Path) -> None:
    steps = files.PLAIN | {
        "action": files.group(
            world=files.group(vector=files.tensor("float32", 3)), mode={"classLabel": {"numClasses": "3"}}
        )
    }
    episode = files.episode(2) | {
        "steps/action/world/vector": np.arange(6, dtype=np.float32),
        "steps/action/mode": np.array([2, 0]),
    }
    folder = toy(tmp_path, episode, steps=steps)
    (folder / "steps-action-mode.labels.txt").write_text("a\nb\nc\n")
    found = Found(folder)
    assert found.array("action/world/vector").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found.array("action/mode").tolist() == [2, 0]
    assert found.source.spec["action"]["fields"]["mode"] == {"type": "discrete", "n": 3, "start": 0}
    assert found.source.record["labels"] == {"steps/action/mode": ["a", "b", "c"]}


def test_features_of_an_episode_are_in_each_of_its_rows(tmp_path: Path) -> None:
    tree = files.episodes_tree(
        files.PLAIN,
        episode_id=files.tensor("int64"),
        goal=files.tensor("float32", -1),
        episode_metadata=files.group(path=files.text(), ids=files.sequence(files.tensor("int64"))),
    )
    told = {
        "episode_id": np.array([7]),
        "goal": np.array([0.5, 1.5], np.float32),
        "episode_metadata/path": [b"/a"],
        "episode_metadata/ids": np.array([1, 2, 3]),
    }
    folder = files.write_rlds(tmp_path / "t", tree, {"train": [[files.episode(2) | told]]})
    found = Found(folder)
    assert found.rows["info/episode/path"] == ["/a", "/a"]
    assert found.array("info/episode/episode_id").tolist() == [7, 7]
    assert found.array("info/episode/goal").tolist() == [[0.5, 1.5], [0.5, 1.5]]
    assert [ids.tolist() for ids in found.rows["info/episode/ids"]] == [[1, 2, 3], [1, 2, 3]]


def test_what_is_large_and_of_an_episode_is_stored_once_and_not_in_each_row(tmp_path: Path) -> None:
    weights = [np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float32) for seed in range(2)]
    episodes = [
        {**files.episode(200, seed), "policy/weight": weights[seed], "policy/bias": weights[seed][0]}
        for seed in range(2)
    ]
    tree = files.episodes_tree(
        files.PLAIN,
        policy=files.group(weight=files.tensor("float32", 64, 64), bias=files.tensor("float32", 64)),
    )
    path = files.write_rlds(tmp_path / "toy" / "1.0.0", tree, {"train": [episodes]})
    assert convert(path, tmp_path / "out", check=True)["rows"] == 400
    with Dataset.open(tmp_path / "out") as dataset:
        whole, column = dataset.read(("info", "episode", "policy", "weight"), 0, 400), weights[0].nbytes
        assert all(np.array_equal(value, weights[row // 200]) for row, value in enumerate(whole))
        bias = dataset.read(("info", "episode", "policy", "bias"), 0, 400)
        assert np.array_equal(bias, np.repeat([each[0] for each in weights], 200, axis=0))
    heaps = [file.stat().st_size for file in (tmp_path / "out").rglob("weight.heap")]
    assert sum(heaps) == 2 * column


def test_features_that_would_take_one_key_have_one_each(tmp_path: Path) -> None:
    steps = {**files.PLAIN, "episode": files.tensor("int64"), "a": files.tensor("int64"),
             "a/b": files.tensor("int64")}  # fmt: skip
    texts = {"split": files.text(), "episode_metadata": files.group(split=files.text())}
    tree = files.episodes_tree(steps, **texts)
    numbers = {f"steps/{name}": np.arange(3) + at for at, name in enumerate(("episode", "a", "a/b"))}
    made = {**files.episode(3), **numbers, "split": [b"told"], "episode_metadata/split": [b"meta"]}
    path = files.write_rlds(tmp_path / "toy" / "1.0.0", tree, {"train": [[made]], "val": [[made]]})
    found = Found(path)
    keys = found.source.record["columns"]
    for name, values in numbers.items():
        assert found.rows["/".join(keys[name][0])] == [*values, *values]
    assert found.rows["/".join(keys["split"][0])] == ["told"] * 6
    assert found.rows["/".join(keys["episode_metadata/split"][0])] == ["meta"] * 6
    assert found.rows["info/episode/split"] == ["train"] * 3 + ["val"] * 3


def test_names_that_are_ours_or_not_storable_move(tmp_path: Path) -> None:
    steps = files.PLAIN | {"step": files.tensor("int64"), "robot pose": files.tensor("int64")}
    told = {"steps/step": np.arange(2), "steps/robot pose": np.arange(2)}
    found = Found(toy(tmp_path, files.episode(2) | told, steps=steps))
    assert found.array("info/step").tolist() == [0, 1]
    ((key,),) = found.source.record["columns"]["steps/robot pose"]
    assert found.array(key).tolist() == [0, 1]


# -- splits and shards -------------------------------------------------------------------------------------


def several(tmp_path: Path) -> Path:
    tree = files.episodes_tree(files.PLAIN)
    one, two, three = ([files.episode(length, length)] for length in (1, 2, 3))
    return files.write_rlds(tmp_path / "toy" / "1.0.0", tree, {"train": [one, two], "val": [three]})


@pytest.mark.parametrize(
    ("split", "lengths"),
    [("train", [1, 2]), ("val", [3]), ("val,train", [3, 1, 2]), ("train+val", [1, 2, 3]), ("", [1, 2, 3])],
)
def test_splits_are_read_by_name(tmp_path: Path, split: str, lengths: list[int]) -> None:
    found = Found(several(tmp_path), split=split)
    assert found.lengths == lengths
    if split in ("", "train+val"):
        assert found.rows["info/episode/split"] == ["train"] * 3 + ["val"] * 3


def test_an_unknown_split_proposes_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'train'"):
        Found(several(tmp_path), split="trian")


@pytest.mark.parametrize("info", [True, False])
def test_a_missing_shard_is_named_and_counted_only_if_allowed(tmp_path: Path, info: bool) -> None:
    folder = several(tmp_path)
    if not info:
        (folder / "dataset_info.json").unlink()
    (folder / "toy-train.tfrecord-00000-of-00002").unlink()
    with pytest.raises(InputError, match=r"toy-train\.tfrecord-00000-of-00002 is missing") as caught:
        Found(folder)
    assert "allow_missing_shards" in str(caught.value.hint)
    found = Found(folder, allow_missing_shards=True)
    assert found.lengths == [2, 3]
    assert found.report.details["missing_shards"] == 1


def test_a_split_that_is_not_there_is_missing_only_if_asked_for(tmp_path: Path) -> None:
    folder = several(tmp_path)
    (folder / "toy-val.tfrecord-00000-of-00001").unlink()
    assert Found(folder).lengths == [1, 2]
    with pytest.raises(InputError, match="val"):
        Found(folder, split="val")


def test_a_shard_cut_between_two_records_is_found_by_its_length(tmp_path: Path) -> None:
    folder = toy(tmp_path, files.episode(2), files.episode(2))
    shard = folder / "toy-train.tfrecord-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    with pytest.raises(CorruptError, match=r"has 1 records, dataset_info\.json says 2"):
        Found(folder)


def test_damage_is_named_with_file_and_place(tmp_path: Path) -> None:
    folder = toy(tmp_path, files.episode(2), files.episode(2))
    shard = folder / "toy-train.tfrecord-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[len(data) - 20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptError, match=rf"{shard.name}: byte [\d,]+: the checksum"):
        Found(folder)


def test_features_that_disagree_about_the_steps_are_named(tmp_path: Path) -> None:
    folder = toy(tmp_path, files.episode(4) | {"steps/reward": np.zeros(3, np.float32)})
    with pytest.raises(CorruptError, match="record at 0: steps/is_first has 4 steps, steps/reward has 3"):
        Found(folder)


def test_records_without_steps_are_counted(tmp_path: Path) -> None:
    found = Found(toy(tmp_path, {}, files.episode(2)))
    assert found.lengths == [2]
    assert found.report.details["records_without_steps"] == 1


def test_array_records_are_read_and_a_cut_one_is_damage(tmp_path: Path) -> None:
    module = pytest.importorskip("array_record.python.array_record_module")
    folder = toy(tmp_path, files.episode(2), files.episode(3), info=False)
    shard = folder / "toy-train.tfrecord-00000-of-00001"
    target = folder / "toy-train.array_record-00000-of-00001"
    writer = module.ArrayRecordWriter(str(target), "group_size:1")
    for _, record in read_records(shard):
        writer.write(record)
    writer.close()
    shard.unlink()
    assert Found(folder).lengths == [2, 3]
    target.write_bytes(target.read_bytes()[:-3])
    with pytest.raises(CorruptError, match="damaged or cut"):
        Found(folder)


@pytest.mark.skipif(importlib.util.find_spec("array_record") is not None, reason="array_record is installed")
def test_array_records_need_their_package(tmp_path: Path) -> None:
    folder = toy(tmp_path, files.episode(2), info=False)
    (folder / "toy-train.tfrecord-00000-of-00001").rename(folder / "toy-train.array_record-00000-of-00001")
    with pytest.raises(MissingExtraError):
        Found(folder)


@pytest.mark.parametrize("name", ["toy-train.riegeli-00000-of-00001", "toy-train.parquet-00000-of-00001"])
def test_other_file_formats_are_named(tmp_path: Path, name: str) -> None:
    folder = toy(tmp_path, files.episode(2), info=False)
    (folder / "toy-train.tfrecord-00000-of-00001").rename(folder / name)
    with pytest.raises(IncompatibleError, match="only tfrecord and array_record"):
        Found(folder)


# -- mapping -----------------------------------------------------------------------------------------------


def test_a_mapping_moves_features_and_the_rest_makes_room(tmp_path: Path) -> None:
    request = Request(
        mapping={"observation/state": "observation", "steps/discount": "-", "action": "info/act"}
    )
    steps = files.PLAIN | {
        "observation": files.group(state=files.tensor("float32", 3), other=files.tensor("int64"))
    }
    found = Found(
        toy(tmp_path, files.episode(2) | {"steps/observation/other": np.arange(2)}, steps=steps), request
    )
    assert found.rows.keys() == {"observation", "info/observation/other", "info/act", "next/reward"}
    assert any("steps/discount is left out" in lost for lost in found.report.lossy)


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"observation/stat": "observation"}, "did you mean"),
        ({"reward": "next/done"}, "cannot become"),
        ({"reward": "a b"}, "cannot become"),
    ],
)
def test_mappings_that_cannot_be_are_usage_errors(tmp_path: Path, mapping: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Found(toy(tmp_path, files.episode(2)), Request(mapping=mapping))


def test_a_preset_says_what_the_features_of_a_known_dataset_are(tmp_path: Path) -> None:
    steps = files.PLAIN | {
        "observation": files.group(
            image=files.image(9, 12, 3),
            hand_image=files.image(9, 12, 3),
            natural_language_instruction=files.text(),
        )
    }
    pictures = [files.picture(pixels(9, 12, 3))] * 2
    told = {"steps/observation/image": pictures, "steps/observation/hand_image": pictures,
            "steps/observation/natural_language_instruction": [b"pick", b"place"]}  # fmt: skip
    folder = toy(tmp_path, files.episode(2) | told, steps=steps, name="berkeley_autolab_ur5")
    found = Found(folder, preset="openx")
    assert {"observation/primary", "observation/wrist"} <= found.rows.keys()
    assert found.rows["language_instruction"] == ["pick", "place"]
    mine = Request(mapping={"observation/image": "observation/mine"})
    assert {"observation/mine", "observation/wrist"} <= Found(folder, mine, preset="openx").rows.keys()
    with pytest.raises(UsageError, match="no preset knows 'toy'"):
        Found(toy(tmp_path / "other", files.episode(2)), preset="openx")


@pytest.mark.parametrize(
    "name", ["cmu_stretch", "stanford_robocook_converted_externally_to_rlds", "fmb_dataset"]
)
def test_a_preset_gives_each_camera_a_role_of_its_own(name: str) -> None:
    every = [f"steps/observation/{camera}" for camera in (
        "image", "image_1", "image_2", "depth_1", "depth_2", "image_side_1", "image_side_2", "image_wrist_1",
    )]  # fmt: skip
    told = openx.preset(name, [*every, "steps/language_instruction"], "x")
    assert "observation/primary" in told.values()
    assert len(set(told.values())) == len(told)
    assert all(
        key.split("/")[1].removeprefix("depth_") in ("primary", "secondary", "wrist") for key in told.values()
    )


def test_known_datasets_with_blue_first_are_flagged(tmp_path: Path) -> None:
    found = Found(toy(tmp_path, files.episode(2), name="utaustin_mutex"))
    assert any("BGR" in remark for remark in found.report.remarks)


def test_a_plan_makes_opening_again_the_same(tmp_path: Path) -> None:
    folder = several(tmp_path)
    first = Found(folder)
    plan = json.loads(json.dumps(first.source.plan))
    again = Found(folder, Request(plan=plan))
    assert (again.schema, again.source.pieces) == (first.schema, first.source.pieces)
    assert again.lengths == first.lengths


# -- what is not RLDS, and hostile files -------------------------------------------------------------------


def test_other_folders_are_not_rlds(tmp_path: Path) -> None:
    assert not rlds.detect(tmp_path).matches
    (tmp_path / "features.json").write_text(json.dumps(files.group(image=files.image(3, 3, 3))))
    assert "no steps" in rlds.detect(tmp_path).what


@pytest.mark.parametrize(
    "info",
    [
        "[]",
        "{",
        '{"splits": 3}',
        '{"splits": [{"name": "train", "shardLengths": ["x"]}]}',
        '{"splits": [{"name": "train", "shardLengths": ["-1"]}]}',
        '{"splits": [{"name": "train", "shardLengths": [1e999]}]}',
        '{"splits": [{"name": "train", "numShards": "x"}]}',
    ],
)
def test_a_malformed_dataset_info_is_corrupt(tmp_path: Path, info: str) -> None:
    folder = toy(tmp_path, files.episode(2))
    (folder / "dataset_info.json").write_text(info)
    with pytest.raises(CorruptError, match=r"dataset_info\.json"):
        Found(folder)


def test_a_file_name_template_does_not_leave_the_folder(tmp_path: Path) -> None:
    folder = toy(tmp_path, files.episode(2))
    (tmp_path / "secret").write_bytes((folder / "toy-train.tfrecord-00000-of-00001").read_bytes())
    (folder / "toy-train.tfrecord-00000-of-00001").unlink()
    split = {"name": "train", "shardLengths": ["1"], "filepathTemplate": "../../secret"}
    (folder / "dataset_info.json").write_text(json.dumps({"name": "toy", "splits": [split]}))
    with pytest.raises(InputError):
        Found(folder)


def test_mutated_records_end_in_a_clean_error_or_rows(tmp_path: Path) -> None:
    steps = files.PLAIN | {"eye": files.image(9, 12, 3), "said": files.text(),
                           "tokens": files.sequence(files.tensor("int64"))}  # fmt: skip
    told = {
        "steps/eye": [files.picture(pixels(9, 12, 3))] * 2, "steps/said": [b"a", b"b"],
        "steps/tokens/ragged_flat_values": np.arange(3),
        "steps/tokens/ragged_row_lengths_0": np.array([3, 0]),
    }  # fmt: skip
    folder = toy(tmp_path, files.episode(2) | told, steps=steps)
    shard = folder / "toy-train.tfrecord-00000-of-00001"
    record = encode(files.episode(2) | told)
    chance = random.Random(0)
    for _ in range(150):
        mutated = bytearray(record)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(mutated))
            noise = bytes(chance.randrange(256) for _ in range(chance.randrange(3)))
            mutated[at : at + chance.randrange(3)] = noise
        shard.unlink()
        with RecordWriter(shard) as writer:  # with good checksums, so that the damage gets through
            writer.write(bytes(mutated))
        try:
            Found(folder, DECODE if chance.random() < 0.5 else Request())
        except RLError as err:
            assert str(folder) in err.message or err.message.startswith("steps/")  # noqa: PT017
