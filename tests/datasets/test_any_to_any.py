"""A dataset with all that is odd goes to every format under --check, and comes back but for what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, Heap, heap_column, ted_schema
from rlcli.format.specs import Box, Composite, Discrete
from rlcli.format.writer import Writer
from rlcli.pipeline.convert import convert

LENGTHS = (4, 1, 3)
ROWS = sum(LENGTHS)
SEEDS = "3 seeds of episodes are not written"
# target: what of the dataset it loses, as keys and as words of its report
LOST: dict[str, tuple[set[str], tuple[str, ...]]] = {
    "hdf5": (set(), ()),
    "parquet": (set(), ()),
    "torchrl": (set(), ()),
    "robomimic": (set(), ()),
    "zarr": (
        {"observation/words", "info/episode/task"},
        ("words: a zarr array has no place for text",),
    ),
    "npz": (
        {"observation/words", "info/episode/task"},
        ("words: an npz archive has no place for text",),
    ),
    "minari": (set(), ()),
    "rlds": (set(), (SEEDS,)),
}


def made(path: Path) -> Path:
    """Parts of observations named by digits and of text, narrow dtypes, keys that look like other arrays."""
    observation = Composite({
        "parts": Composite({"0": Box((2,), "float32"), "1": Box((), "uint8"), "2": Box((2, 2), "int8")}),
    })  # fmt: skip
    action = Box((2,), "float16", -1.0, 1.0)
    extra = [
        heap_column(("observation", "words"), Heap("text")),
        heap_column(("info", "episode", "task"), Heap("text")),
        Column(("rewards", "speed"), "float64"),
        Column(("info", "speed"), "int16"),
        Column(("speed",), "uint16"),
        Column(("next", "success"), "bool"),
    ]
    schema = ted_schema(observation, action, extra=extra)
    spec = {"env": None, "observation": observation.to_json(), "action": action.to_json()}
    writer = Writer.create(path, schema, spec=spec, lineage={"op": "test"})
    rng = np.random.default_rng(5)
    with EpisodeWriter(writer) as rows:
        for episode, length in enumerate(LENGTHS):
            rows.begin(0, 2**40 + episode)
            columns: dict[Any, Any] = {
                ("observation", "parts", "0"): rng.normal(size=(length, 2)).astype("f4"),
                ("observation", "parts", "1"): rng.integers(0, 256, length).astype("u1"),
                ("observation", "parts", "2"): rng.integers(-99, 99, (length, 2, 2)).astype("i1"),
                ("observation", "words"): [f"é{step}" for step in range(length)],
                ("info", "episode", "task"): ["go"] * length,
                ("action",): rng.uniform(-1, 1, (length, 2)).astype("f2"),
                ("next", "reward"): rng.normal(size=(length, 1)).astype("f4"),
                ("rewards", "speed"): rng.normal(size=length),
                ("info", "speed"): np.arange(length, dtype="i2"),
                ("speed",): np.arange(length, dtype="u2") + 60000,
                ("next", "success"): np.arange(length) == length - 1,
            }
            final = {"parts": {"0": np.ones(2, "f4"), "1": np.uint8(7), "2": np.ones((2, 2), "i1")}}
            rows.add_rows(0, columns)
            rows.end(0, terminated=episode == 0, truncated=episode != 0, final=final)
    writer.close()
    return path


def values_of(dataset: Dataset, key: tuple[str, ...]) -> list[Any]:
    """The rows of a column as Python has them, flat."""
    rows = dataset.read(key, 0, ROWS)
    return [np.asarray(row).reshape(-1).tolist() for row in rows]


@pytest.mark.parametrize("target", [*LOST, "csv", "d4rl"])
def test_what_is_odd_comes_back_or_is_said(target: str, tmp_path: Path) -> None:
    report = convert(made(tmp_path / "one"), tmp_path / "out", to=target, check=True)
    convert(tmp_path / "out", tmp_path / "two", from_=target, check=True)
    with Dataset.open(tmp_path / "one") as one, Dataset.open(tmp_path / "two") as two:
        assert two.num_rows == ROWS
        ours, theirs = ({column.key for column in dataset.schema.columns} for dataset in (one, two))
        shared = [key for key in ours & theirs if key[0] != "next" or key[-1] != "words"]
        for key in shared:
            assert values_of(one, key) == values_of(two, key), key
        if target in LOST:
            lost, said = LOST[target]
            assert {"/".join(key) for key in ours - theirs} == lost
            assert all(any(words in sentence for sentence in report["lossy"]) for words in said)
            assert all(one.schema.column(key).dtype == two.schema.column(key).dtype for key in shared)
            assert one.spec["action"] == two.spec["action"]
            if SEEDS not in said:
                assert list(one.episodes.seed) == list(two.episodes.seed)
            if not said and target != "minari":  # whose columns come in another order
                assert one.digest == two.digest


@pytest.mark.parametrize("target", ["hdf5", "npz", "torchrl", "robomimic", "rlds", "lerobot"])
def test_actions_of_few_bits_stay_discrete(target: str, tmp_path: Path) -> None:
    observation, action = Box((2,), "float32"), Discrete(18, dtype="int32")
    schema = ted_schema(observation, action)
    spec = {"env": None, "observation": observation.to_json(), "action": action.to_json()}
    writer = Writer.create(tmp_path / "one", schema, spec=spec, lineage={"op": "test"})
    with EpisodeWriter(writer) as rows:
        rows.begin(0, 1)
        numbers = np.array([0, 3, 17, 4], "i4")
        columns: dict[Any, Any] = {("observation",): np.ones((4, 2), "f4"), ("action",): numbers}
        rows.add_rows(0, {**columns, ("next", "reward"): np.ones((4, 1), "f4")})
        rows.end(0, terminated=True, truncated=False, final=np.ones(2, "f4"))
    writer.close()
    convert(tmp_path / "one", tmp_path / "out", to=target, check=True)
    convert(tmp_path / "out", tmp_path / "two", from_=target, check=True)
    with Dataset.open(tmp_path / "two") as two:
        assert two.schema.column(("action",)).dtype == "int32"
        assert two.spec["action"] == spec["action"]
        assert two.read(("action",), 0, 4).tolist() == numbers.tolist()
