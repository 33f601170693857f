"""Plain HDF5 files with legal members that no dataset holds."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from rlcli.errors import InputError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert


def arrays() -> dict[str, np.ndarray]:
    """Three episodes of 8 rows."""
    return {
        "observations": np.arange(72, dtype="f4").reshape(24, 3),
        "actions": np.ones((24, 2), "f4"),
        "rewards": np.ones(24, "f4"),
        "terminals": np.arange(24) % 8 == 7,
        "timeouts": np.zeros(24, bool),
    }


def test_references_and_lists_of_a_file_are_left_out_and_said(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name, value in arrays().items():
            file[name] = value
        file["refs"] = np.array([file.ref] * 24, h5py.ref_dtype)
        file.create_dataset("lists", (24,), h5py.vlen_dtype("f4"))
    report = convert(tmp_path / "x.hdf5", tmp_path / "ds", from_="hdf5", check=True)
    assert report["rows"] == 24
    assert sorted(told.split()[0] for told in report["lossy"]) == ["lists", "refs"]


@pytest.mark.parametrize("format_", ["hdf5", "d4rl"])
def test_names_of_a_file_that_are_not_text_do_no_harm(format_, tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name, value in arrays().items():
            file[name] = value
        space = h5py.h5s.create_simple((24,))
        if format_ == "hdf5":
            h5py.h5d.create(file.id, b"speed\x95", h5py.h5t.NATIVE_INT32, space)
        h5py.h5a.create(file.id, b"note\x95", h5py.h5t.NATIVE_INT32, space).write(np.arange(24, dtype="i4"))
    assert convert(tmp_path / "x.hdf5", tmp_path / "ds", from_=format_)["rows"] == 24


def test_links_of_a_file_are_not_followed_and_said(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name, value in arrays().items():
            file[name] = value
        file["far"] = h5py.ExternalLink("/etc/passwd", "/x")
        file["deep/again"] = h5py.SoftLink("/rewards")
    lossy = convert(tmp_path / "x.hdf5", tmp_path / "ds", from_="hdf5", check=True)["lossy"]
    assert sorted(told.split(":")[0] for told in lossy) == ["link deep/again", "link far"]


@pytest.mark.parametrize("place", ["data", "data/demo_1"])
@pytest.mark.parametrize("format_", ["robomimic", "hdf5"])
def test_attributes_of_groups_whose_names_are_not_text_do_no_harm(format_, place, tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for number in range(2):
            group = file.create_group(f"data/demo_{number}")
            group["actions"], group["obs/x"] = np.ones((3, 2)), np.full((3, 4), number)
            group.attrs["note"] = number
        space = h5py.h5s.create(h5py.h5s.SCALAR)
        h5py.h5a.create(file[place].id, b"odd\x95", h5py.h5t.NATIVE_INT32, space).write(np.array(7, "i4"))
    report = convert(tmp_path / "x.hdf5", tmp_path / "ds", from_=format_, yes=True, check=True)
    assert report["rows"] == 6
    said = [told for told in report["lossy"] if told.startswith("attribute odd\ufffd")]
    assert len(said) == (place == "data/demo_1")
    assert Dataset.open(tmp_path / "ds").read(("info", "episode", "note")).tolist() == [0] * 3 + [1] * 3


def test_attributes_of_a_file_are_recorded_and_those_of_arrays_are_said(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name, value in arrays().items():
            file[name] = value
        file.attrs["sim"], file.attrs["gains"], file.attrs["robot"] = True, [0.5, np.nan], "aloha"
        file.attrs["self"] = file.ref
        file["actions"].attrs["unit"] = "rad"
        file["time"] = np.arange(24)
        file["time"].make_scale("time")
        file["rewards"].dims[0].attach_scale(file["time"])
    report = convert(tmp_path / "x.hdf5", tmp_path / "ds", from_="hdf5", check=True)
    assert report["lossy"] == ["attributes of actions; left out"]
    told = Dataset.open(tmp_path / "ds").extra["source"]["other"]["@"]
    assert (told["sim"], told["gains"][0], told["robot"], told["self"]) == (True, 0.5, "aloha", "object")


@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_a_file_of_records_alone_says_so(kind, tmp_path):
    records = np.zeros(5, [("obs", "f4", (2,)), ("act", "f4")])
    if kind == "npz":
        np.savez(tmp_path / "x.npz", data=records)
    else:
        with h5py.File(tmp_path / "x.hdf5", "w") as file:
            file["data"] = records
    with pytest.raises(InputError, match=r"no arrays of numbers: data has .*\('obs', '<f4', \(2,\)\)"):
        convert(tmp_path / f"x.{kind}", tmp_path / "ds")
