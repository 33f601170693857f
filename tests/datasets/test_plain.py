"""Plain containers: names, mappings, episodes, and that import, export, import is the identity."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from rlcli.datasets import plain_scan
from rlcli.datasets.contract import AmbiguousMapping
from rlcli.errors import InputError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify
from rlcli.pipeline.convert import convert
from tests.datasets.plain_made import KINDS, arrays, write

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_episodes_are_those_of_the_file(kind, tmp_path):
    values = arrays()
    report = convert(write(kind, tmp_path / "x", values), tmp_path / "ds", check=True)
    assert report["format"] == kind
    assert (report["rows"], report["episodes"], report["unknown_next"]) == (24, 3, 0)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [8, 8, 8]
        assert dataset.episodes.terminated.tolist() == [True, False, False]
        assert dataset.episodes.truncated.tolist() == [False, True, True]
        for name, key in {
            "observations": ("observation",),
            "actions": ("action",),
            "next_observations": ("next", "observation"),
            "rewards": ("next", "reward"),
        }.items():
            read = dataset.read(key, 0, 24)
            assert read.dtype == np.float32
            assert read.tobytes() == values[name].tobytes()
    assert verify(tmp_path / "ds", deep=True) == []


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("unfinished", [False, True])
def test_import_export_import_is_the_identity(to, unfinished, tmp_path):
    values = arrays()
    values["speed"] = np.arange(24.0) / 3
    values["rewards"] = values["rewards"].astype("f8") / 3  # needs a second column
    values["timeouts"][3] = True  # a flag inside an episode, which the ids overrule
    if unfinished:
        del values["next_observations"]
        values["timeouts"][23] = False
    values["episode_id"] = np.repeat([5, 2, 9], 8)
    convert(write("npz", tmp_path / "x", values), tmp_path / "one", check=True)
    exported = convert(tmp_path / "one", tmp_path / "y", to=to, check=True)
    convert(tmp_path / "y", tmp_path / "two", check=True)
    with Dataset.open(tmp_path / "one") as one, Dataset.open(tmp_path / "two") as two:
        assert one.schema == two.schema
        assert one.digest == two.digest
        assert one.read(("source", "rewards"), 0, 24).tobytes() == values["rewards"].tobytes()
        assert one.read(("source", "episode_id"), 0, 24).tolist() == values["episode_id"].tolist()
        assert one.read(("info", "speed"), 0, 24).tobytes() == values["speed"].tobytes()
    assert exported["lossy"] == (["the spaces: a CSV file has only columns"] if to == "csv" else [])


def test_an_unfinished_episode_is_cut_and_its_next_observation_unknown(tmp_path):
    values = arrays()
    values["timeouts"][23] = False
    del values["next_observations"]
    report = convert(write("npz", tmp_path / "x", values), tmp_path / "ds", check=True)
    assert (report["unknown_next"], report["unfinished_rows"], report["repaired"]) == (3, 8, 1)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.cut.tolist() == [False, False, True]
        assert dataset.unknown_next.tolist() == [7, 15, 23]


def test_next_observations_that_are_not_the_next_rows_are_stored(tmp_path):
    values = arrays()
    values["next_observations"] = values["next_observations"] + 1
    report = convert(write("npz", tmp_path / "x", values), tmp_path / "ds", check=True)
    assert report["next_observation"] == "stored"
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("next", "observation"), 0, 24).tobytes() == values["next_observations"].tobytes()


def test_a_mapping_says_what_names_do_not(tmp_path):
    values = arrays()
    odd = {
        "x": values["observations"],
        "u": values["actions"],
        "stop": values["timeouts"],
        "junk": np.ones(24),
    }
    path = write("npz", tmp_path / "odd", odd)
    with pytest.raises(UsageError, match="nothing is known as observation"):
        convert(path, tmp_path / "ds")
    mapping = {"x": "observation/joints", "u": "action", "stop": "truncated", "junk": "-"}
    report = convert(path, tmp_path / "ds", mapping=mapping, check=True)
    assert report["remarks"] == ["the source has no rewards; they are 0"]
    assert report["lossy"] == ["junk: left out, as asked"]
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [16, 8]
        assert dataset.read(("observation", "joints"), 0, 24).tobytes() == odd["x"].tobytes()
    with pytest.raises(UsageError, match="did you mean 'junk'"):
        convert(path, tmp_path / "no", mapping={"junkk": "-"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v | {"obs": v["observations"]}, "may all mean observation"),
        (lambda v: {k: x for k, x in v.items() if k not in ("terminals", "timeouts")}, "where episodes end"),
        (
            lambda v: {("dones" if k == "terminals" else k): x for k, x in v.items() if k != "timeouts"},
            "dones may",
        ),
    ],
)
def test_a_guess_is_shown_and_must_be_confirmed(change, said, tmp_path):
    path = write("npz", tmp_path / "x", change(arrays()))
    with pytest.raises(AmbiguousMapping, match=said) as caught:
        convert(path, tmp_path / "ds")
    assert caught.value.mapping["actions"] == "action"
    assert convert(path, tmp_path / "ds", yes=True, check=True)["rows"] == 24


def test_done_without_truncated_is_kept_as_it_was(tmp_path):
    values = arrays()
    del values["next_observations"], values["terminals"]
    values["dones"] = (np.arange(24) == 7) | values["timeouts"]
    convert(write("npz", tmp_path / "x", values), tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.terminated.tolist() == [True, False, False]
        assert dataset.read(("source", "dones"), 0, 24).tobytes() == values["dones"].tobytes()


def test_a_replay_buffer_is_recognised_and_ends_are_its_containers(tmp_path):
    root = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=3)
    values = arrays()
    root.create_array(
        "data/img", data=np.arange(24 * 12, dtype="u1").reshape(24, 2, 2, 3), chunks=(4, 2, 2, 3)
    )
    root.create_array("data/state", data=values["observations"], chunks=(24, 3))
    root.create_array("data/action", data=values["actions"], chunks=(24, 2))
    root.create_array("meta/episode_ends", data=np.array([10, 24]))
    report = convert(tmp_path / "x.zarr", tmp_path / "ds", check=True)
    assert report["seen"] == "zarr replay buffer, version 3"
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [10, 14]
        assert dataset.episodes.truncated.all()
        assert dataset.read(("observation", "img"), 0, 24).shape == (24, 2, 2, 3)


def test_what_is_no_array_is_said(tmp_path):
    path = write("zarr", tmp_path / "x", arrays())
    (path / "extra").mkdir()
    (path / "extra" / "readme").write_text("no array")
    report = convert(path, tmp_path / "ds")
    assert len(report["remarks"]) == 1
    assert "extra is not recognized" in report["remarks"][0]


def test_missing_chunks_are_counted(tmp_path):
    path = write("zarr", tmp_path / "x", arrays())
    os.unlink(path / "actions" / "1.0")
    report = convert(path, tmp_path / "ds")
    assert report["remarks"] == ["actions: 1 of 5 chunks are missing; their values are the fill value 0.0"]


def test_a_zip_of_a_group_is_read(tmp_path):
    path = write("zarr", tmp_path / "x", arrays())
    with zipfile.ZipFile(tmp_path / "x.zarr.zip", "w") as archive:
        for file in path.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(path))
    assert (
        convert(tmp_path / "x.zarr.zip", tmp_path / "ds", check=True)["seen"] == "zarr group, version 2, zip"
    )


@pytest.mark.parametrize(
    "text", ["0.1", "1e-45", "3.4028235e38", "16777217", "nan", "-0.0", "0.1000000000000000055"]
)
def test_a_csv_number_keeps_its_value(text, tmp_path):
    (tmp_path / "x.csv").write_text(f"observation,action,timeout\n{text},0.5,True\n1.5,0.5,True\n")
    convert(tmp_path / "x.csv", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        found = dataset.read(("observation",), 0, 1)[0]
        np.testing.assert_equal(float(str(found)), float(text))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the samples are not here")
@pytest.mark.parametrize("name", ["pendulum.npz", "pendulum.csv", "pendulum_plain.h5"])
def test_the_plain_samples_give_their_numbers(name, tmp_path):
    convert(SHARED / "plain" / name, tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [50] * 4
        sums = {
            ("observation",): 72.469749405,
            ("action",): 31.703734886,
            ("next", "reward"): -1094.049486563,
            ("next", "truncated"): 4,
        }
        if not name.endswith("csv"):
            sums["next", "observation"] = 76.688468603
        for key, total in sums.items():
            assert dataset.read(key, 0, 200).sum(dtype=np.float64) == pytest.approx(total, abs=1e-6)
        assert dataset.read(("observation",), 0, 200).dtype == np.float32


@pytest.mark.skipif(not SHARED.is_dir(), reason="the samples are not here")
def test_the_zarr_sample_gives_its_numbers(tmp_path):
    convert(SHARED / "zarr" / "pusht_2ep_img.zarr.zip", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [161, 118]
        assert dataset.read(("observation", "img"), 0, 279).sum(dtype=np.int64) == 1924172881
        assert dataset.read(("action",), 0, 279).sum(dtype=np.float64) == 139221.0
        state = dataset.read(("observation", "state"), 0, 279).sum(dtype=np.float64)
        assert state == pytest.approx(288853.581198, abs=1e-6)


@pytest.mark.parametrize("to", ["hdf5", "parquet", "csv"])
def test_text_is_kept_and_comes_back(to, tmp_path):
    values = arrays()
    values["task"] = np.repeat(["push", "öffne „die“ Lade", "push"], 8)
    convert(write("npz", tmp_path / "x", values), tmp_path / "one", check=True)
    exported = convert(tmp_path / "one", tmp_path / "y", to=to, check=True)
    convert(tmp_path / "y", tmp_path / "two", check=True)
    assert not [sentence for sentence in exported["lossy"] if "task" in sentence]
    with Dataset.open(tmp_path / "one") as one, Dataset.open(tmp_path / "two") as two:
        assert list(one.read(("info", "task"), 0, 24)) == values["task"].tolist()
        assert one.digest == two.digest


@pytest.mark.parametrize("to", ["npz", "zarr"])
def test_text_that_has_no_place_is_said_to_be_lost(to, tmp_path):
    values = arrays() | {"task": np.repeat(["push", "pull", "push"], 8)}
    convert(write("npz", tmp_path / "x", values), tmp_path / "one", check=True)
    exported = convert(tmp_path / "one", tmp_path / "y", to=to, check=True)
    assert any(sentence.startswith("infos/task: ") for sentence in exported["lossy"])


def test_groups_that_are_alike_are_a_guess(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, value in arrays().items():
            file[f"test/{name}"] = file[f"train/{name}"] = value
    with pytest.raises(AmbiguousMapping, match="train/ could be the rows as well as test/"):
        convert(tmp_path / "x.h5", tmp_path / "ds")
    convert(tmp_path / "x.h5", tmp_path / "ds", yes=True, check=True)


def test_episodes_without_a_number_are_refused(tmp_path):
    path = write("npz", tmp_path / "x", arrays() | {"episode": np.full(24, np.nan)})
    with pytest.raises(InputError, match="episode is not a number in some rows"):
        convert(path, tmp_path / "ds")


def test_d4rl_files_hold_pictures_as_pixels_and_no_text(tmp_path):
    values = arrays() | {"task": np.repeat(["push", "pull", "push"], 8)}
    convert(write("npz", tmp_path / "x", values), tmp_path / "one")
    report = convert(tmp_path / "one", tmp_path / "y.hdf5", to="d4rl", check=True)
    assert report["lossy"] == ["info/task: its values are text, which D4RL files do not hold"]


def test_a_folder_without_parquet_files_is_told(tmp_path):
    with pytest.raises(InputError, match=r"no \*\.parquet file there"):
        convert(tmp_path, tmp_path / "ds", from_="parquet")


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("observatoin", "did you mean 'observation'"),
        ("Observation/x", "did you mean 'observation/x'"),
        ("rewards", "did you mean 'reward'"),
        ("terminate", "did you mean 'terminated'"),
        ("step", "that follows from the rows"),
        ("is_init", "that follows from the rows"),
    ],
)
def test_a_misspelt_key_is_no_column(tmp_path, to, said):
    path = write("npz", tmp_path / "x", arrays() | {"extra": np.ones(24)})
    with pytest.raises(UsageError, match=said):
        convert(path, tmp_path / "ds", mapping={"extra": to}, yes=True)


def starts(size=12, at=(0, 5, 9)):
    rng = np.random.default_rng(4)
    return {
        "obs": rng.standard_normal((size, 3)),
        "actions": rng.standard_normal((size, 2)),
        "episode_starts": np.isin(np.arange(size), at),
    }


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_flags_of_first_rows_say_where_episodes_begin(rows, tmp_path, monkeypatch):
    """As Stable-Baselines' recorded experts have them."""
    monkeypatch.setattr(plain_scan, "_rows_at_once", lambda table, names, slice_rows: rows)
    np.savez(tmp_path / "x.npz", **starts())
    report = convert(tmp_path / "x.npz", tmp_path / "ds", check=True)
    dataset = Dataset.open(tmp_path / "ds")
    assert dataset.episodes.length.tolist() == [5, 4, 3]
    assert dataset.episodes.truncated.all()
    assert report["episode_ends"] == ["episode_starts"]
    assert ("source", "episode_starts") not in dataset.schema.by_key


def test_flags_of_first_rows_that_are_none_are_kept(tmp_path):
    np.savez(tmp_path / "x.npz", **starts(at=(5, 9)))  # nothing flags the very first row
    convert(tmp_path / "x.npz", tmp_path / "ds", check=True)
    dataset = Dataset.open(tmp_path / "ds")
    assert dataset.episodes.length.tolist() == [5, 4, 3]
    assert np.flatnonzero(dataset.read(("source", "episode_starts"))).tolist() == [5, 9]


def test_rows_flagged_as_rlds_does_end_and_terminate(tmp_path):
    values = starts()
    del values["episode_starts"]
    values["is_first"] = np.isin(np.arange(12), (0, 5, 9))
    values["is_last"], values["is_terminal"] = np.isin(np.arange(12), (4, 8, 11)), np.arange(12) == 8
    np.savez(tmp_path / "x.npz", **values)
    with pytest.raises(AmbiguousMapping, match="in the row after their action"):
        convert(tmp_path / "x.npz", tmp_path / "ds")
    convert(tmp_path / "x.npz", tmp_path / "ds", check=True, yes=True)
    episodes = Dataset.open(tmp_path / "ds").episodes
    assert episodes.length.tolist() == [5, 4, 3]
    assert episodes.terminated.tolist() == [False, True, False]
    assert episodes.truncated.tolist() == [True, False, True]
