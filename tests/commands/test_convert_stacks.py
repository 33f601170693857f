"""`rl convert` of stacked frames: each is stored once if every bit allows it, else stacks are stored."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify
from rlcli.main import run
from rlcli.pipeline import convert_parts
from rlcli.pipeline.convert import convert

OBSERVATION, NEXT = ("observation",), ("next", "observation")
FRAME, NEXT_FRAME = ("frame",), ("next", "frame")
LENGTHS = (1, 2, 3, 4, 5, 9)
SHAPE = (4, 2, 3)


def queue(frames: list[Any]) -> np.ndarray:
    """What an environment's wrapper shows: the last four frames, at first the first one four times."""
    shown = [frames[0]] * 4
    found = []
    for frame in frames:
        shown = [*shown[1:], frame]
        found.append(np.array(shown))
    return np.array(found)


def stacked(*, named: bool = False) -> dict[str, Any]:
    """Episodes of one to nine rows; `named` puts the stacks under a name, beside numbers."""
    rng = np.random.default_rng(0)
    shown = [queue(list(rng.integers(0, 256, (length + 1, 2, 3), np.uint8))) for length in LENGTHS]
    rows = sum(LENGTHS)
    ends = np.cumsum(LENGTHS) - 1
    name = "/pixels" if named else ""
    values = {
        f"observations{name}": np.concatenate([each[:-1] for each in shown]),
        f"next_observations{name}": np.concatenate([each[1:] for each in shown]),
        "actions": rng.normal(size=(rows, 2)).astype("f4"),
        "rewards": rng.normal(size=rows).astype("f4"),
        "terminals": np.isin(np.arange(rows), ends[::2]),
        "episode_id": np.repeat(np.arange(len(LENGTHS)), LENGTHS),
    }
    if named:
        speed = rng.normal(size=(rows + 1, 1)).astype("f4")
        values |= {"observations/speed": speed[:-1], "next_observations/speed": speed[1:]}
    return values


def written(folder: Path, values: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    np.savez(folder / "x.npz", **values)
    return folder / "x.npz"


def test_each_frame_is_stored_once_and_read_as_stacks(tmp_path):
    values = stacked()
    report = convert(written(tmp_path / "in", values), tmp_path / "ds", check=True)
    assert "observation: 4 frames a row, each stored once" in report["remarks"]
    assert report["check"]["rows"] == sum(LENGTHS)
    assert verify(tmp_path / "ds") == []
    with Dataset.open(tmp_path / "ds") as dataset:
        schema = dataset.schema
        assert [schema.column(key).encoding for key in (FRAME, NEXT_FRAME)] == ["plain", "derived"]
        assert [schema.column(key).of for key in (OBSERVATION, NEXT)] == [FRAME, NEXT_FRAME]
        assert schema.column(OBSERVATION).shape == SHAPE
        assert np.array_equal(dataset.read(FRAME), values["observations"][:, -1])
        rows = np.random.default_rng(1).permutation(dataset.num_rows)
        found = dataset.gather(rows, [OBSERVATION, NEXT])
        assert np.array_equal(found["observation"], values["observations"][rows])
        assert np.array_equal(found["next"]["observation"], values["next_observations"][rows])
        assert dataset.spec["observation"]["shape"] == list(SHAPE)
        assert not len(dataset.unknown_next)
    assert run(["buffer", "verify", str(tmp_path / "ds"), "--semantics", "-q"]) == 0


def test_a_named_stack_stands_beside_other_observations(tmp_path):
    values = stacked(named=True)
    report = convert(written(tmp_path / "in", values), tmp_path / "ds", check=True)
    assert "observation/pixels: 4 frames a row, each stored once" in report["remarks"]
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.schema.column(("frame", "pixels")).shape == SHAPE[1:]
        for name in ("pixels", "speed"):
            assert np.array_equal(dataset.read((*OBSERVATION, name)), values[f"observations/{name}"])
            assert np.array_equal(dataset.read((*NEXT, name)), values[f"next_observations/{name}"])


@pytest.mark.parametrize("row", [0, 8, 23])
@pytest.mark.parametrize("frame", range(4))
def test_one_broken_bit_and_stacks_are_stored(row, frame, tmp_path):
    values = stacked()
    begins = row in np.cumsum((0, *LENGTHS))
    for name, at in (("observations", row), ("next_observations", row - 1)):
        if name == "observations" or not begins:
            values[name][at, frame, 1, 1] ^= 1
    report = convert(written(tmp_path / "in", values), tmp_path / "ds", check=True)
    assert not any("stored once" in sentence for sentence in report["remarks"])
    with Dataset.open(tmp_path / "ds") as dataset:
        encodings = [dataset.schema.column(key).encoding for key in (OBSERVATION, NEXT)]
        assert encodings == ["plain", "derived"]
        assert np.array_equal(dataset.read(OBSERVATION), values["observations"])
        assert np.array_equal(dataset.read(NEXT), values["next_observations"])


def test_a_final_stack_that_holds_another_past_is_stored(tmp_path):
    values = stacked()
    values["next_observations"][-1, 0, 0, 0] ^= 1
    convert(written(tmp_path / "in", values), tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.schema.column(OBSERVATION).encoding == "plain"
        assert np.array_equal(dataset.read(NEXT), values["next_observations"])


def test_next_stacks_that_are_no_following_rows_are_stored_in_every_row(tmp_path):
    values = stacked()
    values["next_observations"][-2] ^= 1
    convert(written(tmp_path / "in", values), tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert [dataset.schema.column(key).encoding for key in (OBSERVATION, NEXT)] == ["plain", "plain"]
        assert np.array_equal(dataset.read(NEXT), values["next_observations"])


def test_stacks_that_begin_with_zeros_are_stored(tmp_path):
    values = stacked()
    values["observations"][np.cumsum((0, *LENGTHS[:-1])), :-1] = 0
    convert(written(tmp_path / "in", values), tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.schema.column(OBSERVATION).encoding == "plain"


def test_unknown_next_stacks_stay_unknown(tmp_path):
    values = stacked()
    del values["next_observations"]
    convert(written(tmp_path / "in", values), tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.schema.column(OBSERVATION).of == FRAME
        assert np.array_equal(dataset.read(OBSERVATION), values["observations"])
        assert dataset.unknown_next.tolist() == (np.cumsum(LENGTHS) - 1).tolist()


@pytest.mark.parametrize("broken", [False, True])
def test_any_number_of_jobs_and_a_stopped_conversion_give_the_same_dataset(broken, tmp_path, monkeypatch):
    monkeypatch.setattr("rlcli.datasets.plain._PIECE_BYTES", 200)
    monkeypatch.setattr(convert_parts, "_GROUP_BYTES", 1)
    values = stacked()
    if broken:
        values["observations"][-1, 0, 1, 1] ^= 1
        values["next_observations"][-2, 0, 1, 1] ^= 1
    path = written(tmp_path / "in", values)
    digests = {convert(path, tmp_path / f"j{n}", jobs=n, check=True)["digest"] for n in (1, 2)}
    keep = convert_parts.discard
    monkeypatch.setattr(convert_parts, "discard", lambda out: None)
    if not broken:  # the parts of a finished conversion stay, as those of a stopped one do
        convert(path, tmp_path / "again", resume=True)
        shutil.rmtree(tmp_path / "again")
        digests.add(convert(path, tmp_path / "again", resume=True, check=True)["digest"])
    keep(tmp_path / "again")
    assert len(digests) == 1
    with Dataset.open(tmp_path / "j2") as dataset:
        assert dataset.schema.column(OBSERVATION).encoding == ("plain" if broken else "stack")
        assert np.array_equal(dataset.read(OBSERVATION), values["observations"])


@pytest.mark.parametrize("given", [["--limit", "13"], ["--episodes", "2:5"], ["--limit", "1"]])
def test_some_rows_of_a_stacked_source(given, tmp_path):
    values = stacked()
    path = written(tmp_path / "in", values)
    assert run(["convert", str(path), str(tmp_path / "ds"), "--check", "-q", *given]) == 0
    first = 3 if "--episodes" in given else 0
    with Dataset.open(tmp_path / "ds") as dataset:
        rows = slice(first, first + dataset.num_rows)
        assert dataset.schema.column(OBSERVATION).of == FRAME
        assert np.array_equal(dataset.read(OBSERVATION), values["observations"][rows])
        assert np.array_equal(dataset.read(NEXT), values["next_observations"][rows])


@pytest.mark.parametrize("target", ["d4rl", "hdf5", "npz", "zarr", "parquet", "robomimic", "torchrl", "rlds"])
def test_every_format_gets_stacks_and_gives_them_back(target, tmp_path):
    values = stacked()
    one, out, two = (tmp_path / name for name in ("one", "out", "two"))
    convert(written(tmp_path / "in", values), one, check=True)
    report = convert(one, out, to=target, check=True)
    assert report["lossy"] == []
    convert(out, two, from_=target, check=True, yes=True)
    with Dataset.open(one) as first, Dataset.open(two) as second:
        assert second.schema == first.schema
        assert second.digest == first.digest
        assert np.array_equal(second.read(NEXT), values["next_observations"])


def test_without_the_last_rows_whose_next_observation_is_unknown(tmp_path):
    values = stacked()
    del values["next_observations"]
    path = written(tmp_path / "in", values)
    assert run(["convert", str(path), str(tmp_path / "ds"), "--drop-invalid-last", "--check", "-q"]) == 0
    last = np.cumsum(LENGTHS) - 1
    kept = np.setdiff1d(np.arange(sum(LENGTHS)), last)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert np.array_equal(dataset.read(OBSERVATION), values["observations"][kept])
        assert np.array_equal(dataset.read(NEXT), values["observations"][kept + 1])


@pytest.mark.parametrize(
    "change",
    [
        ["--exclude", "frame"],
        ["--exclude", "next/frame"],
        ["--exclude", "frame,next/frame"],
        ["--rename", "frame=single"],
        ["--cast", "frame=int16"],
    ],
)
def test_with_other_frame_columns_stacks_are_the_same(change, tmp_path):
    values = stacked()
    one, two, three = (str(tmp_path / name) for name in ("one", "two", "three.npz"))
    convert(written(tmp_path / "in", values), one)
    assert run(["buffer", "map", one, "-o", two, "-q", *change]) == 0
    assert run(["buffer", "verify", two, "--semantics", "-q"]) == 0
    with Dataset.open(two) as dataset:
        assert np.array_equal(dataset.read(OBSERVATION), values["observations"])
        assert np.array_equal(dataset.read(NEXT), values["next_observations"])
    convert(two, three, check=True)
    with np.load(three) as found:
        assert np.array_equal(found["observations"], values["observations"])
        assert np.array_equal(found["next_observations"], values["next_observations"])


def test_where_next_stacks_are_stored_no_row_has_an_unknown_one(tmp_path):
    values = stacked()
    del values["next_observations"]
    values["terminals"][:] = False
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    convert(written(tmp_path / "in", values), one)
    assert run(["buffer", "map", one, "-o", two, "-q", "--cast", "observation=float32"]) == 0
    kept = np.setdiff1d(np.arange(sum(LENGTHS)), np.cumsum(LENGTHS) - 1)
    with Dataset.open(two) as dataset:
        assert np.array_equal(dataset.read(NEXT), values["observations"][kept + 1])
