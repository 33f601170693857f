"""RLDS written: the identity of import, export and import, and TFDS' own reading of what we wrote."""

from __future__ import annotations

import json
import os
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.datasets import rlds
from rlcli.datasets.example import decode
from rlcli.datasets.tfrecord import read_records
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, ted_schema
from rlcli.format.specs import Box, Composite, Discrete
from rlcli.format.writer import Writer
from rlcli.pipeline.convert import convert
from tests.datasets import rlds_files as files
from tests.datasets.rlds_files import Found, pixels, toy


def same(first: Path, second: Path) -> None:
    """Two datasets hold the same rows, episodes and finals."""
    with Dataset.open(first) as a, Dataset.open(second) as b:
        assert a.schema == b.schema
        assert a.spec == b.spec
        for name in ("start", "length", "terminated", "truncated", "cut", "has_final", "return_"):
            assert (np.asarray(getattr(a.episodes, name)) == np.asarray(getattr(b.episodes, name))).all()
        for column in a.schema.columns:
            ours, theirs = a.read(column.key), b.read(column.key)
            if isinstance(ours, np.ndarray) and ours.dtype != object:
                assert ours.tobytes() == theirs.tobytes(), column.key
            else:
                assert all(np.array_equal(x, y) for x, y in zip(ours, theirs, strict=True)), column.key


def there_and_back(tmp_path: Path, source: Path, *sets: str, images: str = "decode") -> Path:
    convert(source, tmp_path / "one", sets=sets, images=images)
    convert(tmp_path / "one", tmp_path / "rlds", to="rlds", check=True)
    convert(tmp_path / "rlds", tmp_path / "two", images=images)
    same(tmp_path / "one", tmp_path / "two")
    return tmp_path / "rlds"


def test_bounds_of_pictures_come_back_to_the_letter(tmp_path: Path) -> None:
    """So that the digest of what came back is that of the first."""
    steps = files.PLAIN | {"observation": files.group(image=files.image(9, 12, 3))}
    told = {"steps/observation/image": [files.picture(pixels(9, 12, 3))] * 2}
    there_and_back(tmp_path, toy(tmp_path, files.episode(2) | told, steps=steps))
    with Dataset.open(tmp_path / "one") as one, Dataset.open(tmp_path / "two") as two:
        assert json.dumps(one.spec) == json.dumps(two.spec)


def collected(path: Path, *, finals: bool = True) -> Path:
    """A dataset of ours that never was RLDS: nested observations, a discrete action, an own column."""
    observation = Composite(
        {"pose": Box((3,), "float64"), "count": Box((), "uint64"), "grid": Box((2, 9, 9), "uint8")}
    )
    schema = ted_schema(
        observation, Discrete(4), extra=[Column(("log_prob",), "float16"), Column(("next", "x"), "bool")]
    )
    writer = Writer.create(
        path, schema, lineage={"op": "test"},
        spec={"env": None, "observation": observation.to_json(), "action": Discrete(4).to_json()},
    )  # fmt: skip
    chance = np.random.default_rng(0)
    with EpisodeWriter(writer) as episodes:
        for length, terminated in ((4, True), (1, False), (3, False)):
            poses = chance.normal(size=(length + 1, 3))
            counts = chance.integers(0, 2**64, length + 1, np.uint64)
            grids = chance.integers(0, 256, (length + 1, 2, 9, 9)).astype(np.uint8)
            episodes.add_rows(0, {
                ("observation", "pose"): poses[:-1], ("observation", "count"): counts[:-1],
                ("observation", "grid"): grids[:-1], ("action",): chance.integers(0, 4, length),
                ("next", "reward"): chance.normal(size=(length, 1)).astype(np.float32),
                ("log_prob",): chance.normal(size=length).astype(np.float16),
                ("next", "x"): chance.random(length) < 0.5,
            })  # fmt: skip
            final = {"pose": poses[-1], "count": counts[-1], "grid": grids[-1]} if finals else None
            episodes.end(0, terminated=terminated, truncated=not terminated, final=final)
    return path


def test_arrays_that_are_bytes_in_a_list_come_back_each_by_itself(tmp_path: Path) -> None:
    packed = files.sequence(files.tensor("float32", 2, encoding="zlib"))
    rows = [zlib.compress(np.float32([at, -at]).tobytes()) for at in range(4)]
    listed = {
        "steps/observation/box/ragged_flat_values": rows[:3],
        "steps/observation/box/ragged_row_lengths_0": np.array([2, 0, 1]),
        "goals": rows,
    }
    tree = files.episodes_tree(files.PLAIN | {"observation": files.group(box=packed)}, goals=packed)
    made = files.episode(3)
    made.pop("steps/observation/state")
    path = files.write_rlds(tmp_path / "toy" / "1.0.0", tree, {"train": [[made | listed]]})
    out = there_and_back(tmp_path, path)
    example = decode(next(read_records(next(out.glob("*.tfrecord-*"))))[1])
    for name, values in listed.items():
        there = example[name]
        assert there is not None
        assert list(there) == list(values), name


def test_a_large_picture_of_an_episode_is_the_same_to_other_formats(tmp_path: Path) -> None:
    """It is in a heap without a codec; another format may hold it as a PNG."""
    pytest.importorskip("pyarrow")
    tree = files.episodes_tree(files.PLAIN, goal=files.image(40, 50, 3, encoding="png"))
    goals = [files.pixels(40, 50, 3, seed=seed) for seed in range(2)]
    made = [files.episode(3, seed) | {"goal": [files.picture(goals[seed])]} for seed in range(2)]
    path = files.write_rlds(tmp_path / "toy" / "1.0.0", tree, {"train": [made]})
    convert(path, tmp_path / "one", images="decode", check=True)
    with Dataset.open(tmp_path / "one") as dataset:
        found = dataset.read(("info", "episode", "goal"), 0, 6)
        assert all(np.array_equal(picture, goals[row // 3]) for row, picture in enumerate(found))
    for to, name in (("lerobot", "lerobot"), ("rlds", "rlds"), ("npz", "x.npz")):
        assert convert(tmp_path / "one", tmp_path / name, to=to, check=True)["rows"] == 6


def test_import_export_import_is_the_identity(tmp_path: Path) -> None:
    tree_of_all = files.PLAIN | {
        "observation": files.group(
            state=files.tensor("float32", 3), half=files.tensor("float16", 2), wide=files.tensor("float64"),
            matrix=files.tensor("float32", 2, 2, encoding="zlib"), eye=files.image(9, 12, 3, encoding="png"),
            depth=files.image(9, 12, 1, dtype="uint16", encoding="png"),
        ),
        "big": files.tensor("uint64"),
    }  # fmt: skip
    episodes = []
    for length in (3, 1):
        matrix = np.arange(4 * length, dtype=np.float32).reshape(length, 4)
        episodes.append(files.episode(length, length, terminal=length == 3) | {
            "steps/observation/half": np.arange(2 * length, dtype=np.float32),
            "steps/observation/wide": np.arange(length, dtype=np.float32) / 7,
            "steps/observation/matrix": [row.tobytes() for row in matrix],
            "steps/observation/eye": [files.picture(files.pixels(9, 12, 3, seed=i)) for i in range(length)],
            "steps/observation/depth": [
                files.picture(files.pixels(9, 12, 1, dtype="uint16", seed=i)) for i in range(length)
            ],
            "steps/big": np.full(length, 2**64 - 1, np.uint64),
        })  # fmt: skip
    tree_of_all["observation"]["featuresDict"]["features"]["matrix"]["tensor"]["encoding"] = "bytes"
    out = there_and_back(tmp_path, toy(tmp_path, *episodes, steps=tree_of_all))
    assert json.loads((out / "features.json").read_text()) == files.episodes_tree(tree_of_all)


@pytest.mark.parametrize("images", ["keep", "decode"])
@pytest.mark.parametrize("last_step", ["keep", "drop"])
def test_text_pictures_and_ragged_values_come_back(tmp_path: Path, images: str, last_step: str) -> None:
    eye, grey = files.image(16, 24, 3, encoding="jpeg"), files.image(9, 12, 1, encoding="png")
    tree = files.PLAIN | {
        "observation": files.group(state=files.tensor("float32", 3), eye=eye, grey=grey),
        "said": files.text(),
        "raw": files.tensor("string"),
        "tokens": files.sequence(files.tensor("int64", 2)),
        "words": files.sequence(files.text()),
        "blobs": files.sequence(files.tensor("string")),
        "pair": files.tensor("string", 2),
        "clip": files.sequence(files.image(9, 12, 1, encoding="png")),
    }
    episodes = []
    for length in (3, 2):
        pixels = [files.pixels(16, 24, 3, seed=seed) for seed in range(length)]
        greys = [files.pixels(9, 12, 1, seed=seed) for seed in range(length)]
        episodes.append(files.episode(length, length, terminal=length == 3) | {
            "steps/observation/eye": [files.picture(each, "jpeg") for each in pixels],
            "steps/observation/grey": [files.picture(each) for each in greys],
            "steps/said": ["öffne".encode()] * length,
            "steps/raw": [b"\xff\x00"] * length,
            "steps/tokens/ragged_flat_values": np.arange(2 * length),
            "steps/tokens/ragged_row_lengths_0": np.array([length, *[0] * (length - 1)]),
            "steps/words/ragged_flat_values": ["ä".encode(), b"", b'"c"'],
            "steps/words/ragged_row_lengths_0": np.array([3, *[0] * (length - 1)]),
            "steps/blobs/ragged_flat_values": [b"\xff"] * length,
            "steps/blobs/ragged_row_lengths_0": np.array([1] * length),
            "steps/pair": [b"a", b"b"] * length,
            "steps/clip/ragged_flat_values": [files.picture(each) for each in greys],
            "steps/clip/ragged_row_lengths_0": np.array([length, *[0] * (length - 1)]),
        })  # fmt: skip
    source = toy(tmp_path, *episodes, steps=tree)
    out = there_and_back(tmp_path, source, f"last_step={last_step}", images=images)
    if images == "keep":
        again = Found(out, last_step="keep").rows["observation/eye"]
        assert again == [data for episode in episodes for data in episode["steps/observation/eye"]]
    if (images, last_step) == ("keep", "keep"):
        assert json.loads((out / "features.json").read_text()) == files.episodes_tree(tree)


def test_splits_survive(tmp_path: Path) -> None:
    one, two, three = ([files.episode(length, length)] for length in (1, 2, 3))
    folder = files.write_rlds(
        tmp_path / "toy", files.episodes_tree(files.PLAIN), {"train": [one, two], "val": [three]}
    )
    out = there_and_back(tmp_path, folder)
    assert Found(out, split="train").lengths == [1, 2]
    assert Found(out, split="val").lengths == [3]


def test_odd_flags_survive(tmp_path: Path) -> None:
    odd = files.episode(4, terminal=True) | {"steps/is_terminal": np.array([0, 1, 0, 1])}
    never = files.episode(3, 1) | {"steps/is_last": np.zeros(3, bool)}
    out = there_and_back(tmp_path, toy(tmp_path, odd, never))
    assert Found(out).array("source/is_terminal").tolist() == [False, True, False, True] + [False] * 3


def test_dropped_last_steps_come_back_as_final_observations(tmp_path: Path) -> None:
    episodes = [files.episode(4, padded=True), files.episode(2, 1, padded=True)]
    out = there_and_back(tmp_path, toy(tmp_path, *episodes), "last_step=drop")
    kept = Found(out, last_step="keep")
    assert kept.lengths == [4, 2]
    states = np.concatenate([episode["steps/observation/state"] for episode in episodes])
    assert (kept.array("observation/state") == states).all()


@pytest.mark.parametrize("finals", [True, False])
def test_a_dataset_that_never_was_rlds_comes_back(tmp_path: Path, finals: bool) -> None:
    one = collected(tmp_path / "one", finals=finals)
    report = convert(one, tmp_path / "rlds", to="rlds")
    assert report["lossy"] == []
    convert(tmp_path / "rlds", tmp_path / "two", images="decode")
    same(one, tmp_path / "two")
    strict = Found(tmp_path / "rlds", last_step="keep")
    assert strict.lengths == ([5, 2, 4] if finals else [4, 1, 3])


def test_shards_are_begun_by_size_and_counted(tmp_path: Path) -> None:
    big = [files.episode(40_000, seed) for seed in range(3)]
    convert(toy(tmp_path, *big), tmp_path / "one")
    convert(tmp_path / "one", tmp_path / "rlds", to="rlds", sets=["shard_mb=1", "name=big", "split=all"])
    info = json.loads((tmp_path / "rlds" / "dataset_info.json").read_text())
    assert info["splits"][0]["shardLengths"] == ["1", "1", "1"]
    names = sorted(path.name for path in (tmp_path / "rlds").glob("*tfrecord*"))
    assert names == [f"big-all.tfrecord-0000{n}-of-00003" for n in range(3)]
    assert not list((tmp_path / "rlds").glob(".*"))
    assert Found(tmp_path / "rlds").lengths == [40_000] * 3


def test_label_names_are_written_beside(tmp_path: Path) -> None:
    steps = files.PLAIN | {"action": {"classLabel": {"numClasses": "2"}}}
    folder = toy(tmp_path, files.episode(2) | {"steps/action": np.array([0, 1])}, steps=steps)
    (folder / "steps-action.labels.txt").write_text("stay\ngo\n")
    out = there_and_back(tmp_path, folder)
    assert (out / "steps-action.labels.txt").read_text() == "stay\ngo\n"


ORACLE = os.environ.get("RL_TFDS_PYTHON")
SCRIPT = """
import json, sys
import numpy as np
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
found = {"splits": {k: v.num_examples for k, v in builder.info.splits.items()}, "episodes": []}
for split in builder.info.splits:
    for episode in builder.as_dataset(split=split, read_config=tfds.ReadConfig(interleave_cycle_length=1)):
        steps = list(episode["steps"].as_numpy_iterator())
        flat = {}
        def walk(node, path):
            for name, value in node.items():
                if isinstance(value, dict):
                    walk(value, path + name + "/")
                else:
                    flat.setdefault(path + name, []).append(np.asarray(value))
        for step in steps:
            walk(step, "")
        found["episodes"].append({
            name: [str(np.stack(values).dtype), list(np.stack(values).shape),
                   float(np.stack(values).astype(np.float64).sum())]
            for name, values in flat.items() if values[0].dtype.kind != "O"
        })
print(json.dumps(found))
"""


@pytest.mark.skipif(not ORACLE, reason="RL_TFDS_PYTHON names no Python with tensorflow_datasets")
def test_tfds_reads_what_we_write(tmp_path: Path) -> None:
    one = collected(tmp_path / "one")
    convert(one, tmp_path / "rlds", to="rlds", sets=["name=collected"])
    env = {"TF_CPP_MIN_LOG_LEVEL": "3", "PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        [str(ORACLE), "-c", SCRIPT, str(tmp_path / "rlds")],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs: dict[str, Any] = json.loads(done.stdout)
    assert theirs["splits"] == {"train": 3}
    with rlds.open_source(tmp_path / "rlds", files.DECODE, rlds.Options()) as source:
        assert source.report.details["last_step"] == "drop"
    ours = Found(tmp_path / "rlds", files.DECODE, last_step="keep")
    first = 0
    for length, episode in zip(ours.lengths, theirs["episodes"], strict=True):
        for name, (dtype, shape, total) in episode.items():
            key = "next/reward" if name == "reward" else name
            if not name.startswith("is_") and name != "discount":  # those are not columns of ours
                values = ours.array(key)[first : first + length]
                assert (str(values.dtype), shape[0]) == (dtype, length), name
                assert float(values.astype(np.float64).sum()) == pytest.approx(total, rel=1e-12), name
        first += length
