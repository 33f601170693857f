"""D4RL files that are damaged, or of which something is missing, are refused and named."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from rlcli.datasets import hdf5, registry
from rlcli.datasets.d4rl import detect
from rlcli.datasets.d4rl_export import write_file
from rlcli.errors import CorruptError, IncompatibleError, InputError, UsageError
from rlcli.pipeline.convert import convert


def test_too_much_that_is_not_rows_is_refused(d4rl_values, tmp_path, monkeypatch):
    monkeypatch.setattr("rlcli.datasets.d4rl._MAX_RECORD", 1000)
    write_file(tmp_path / "x.hdf5", {**d4rl_values("mujoco_v2"), "metadata/large": np.random.rand(900)})
    with pytest.raises(IncompatibleError, match="compressed bytes besides"):
        convert(tmp_path / "x.hdf5", tmp_path / "ds")
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "terminals"])
def test_a_missing_key_is_named_with_what_was_found(name, d4rl_values, tmp_path):
    values = d4rl_values("maze2d")
    del values[name]
    write_file(tmp_path / "x.hdf5", values)
    found = ", ".join(sorted({key.split("/")[0] for key in values}))
    with pytest.raises(InputError, match=rf"no {name} \(found {found}\)"):
        convert(tmp_path / "x.hdf5", tmp_path / "ds", from_="d4rl")
    assert not detect(tmp_path / "x.hdf5").matches


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": np.zeros(14)}, "lengths disagree: .*rewards 14"),
        ({"timeouts": np.zeros(16, bool)}, "lengths disagree"),
        ({"terminals": np.zeros((15, 2), bool)}, "terminals has"),
        ({"actions": np.array(["a"] * 15, "S1")}, "expected numbers"),
        ({"next_observations": np.zeros((15, 5), "f4")}, "next_observations differs"),
        ({"observations": np.float32(1)}, "single value"),
    ],
)
def test_columns_that_disagree_are_named(change, message, d4rl_values, tmp_path):
    write_file(tmp_path / "x.hdf5", {**d4rl_values("maze2d"), **change})
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "x.hdf5", tmp_path / "ds")


def test_a_file_without_rows_is_refused(tmp_path):
    empty = {name: np.zeros((0, 2)) for name in ("observations", "actions", "rewards", "terminals")}
    write_file(tmp_path / "x.hdf5", empty, compression=None)
    with pytest.raises(InputError, match="no rows"):
        convert(tmp_path / "x.hdf5", tmp_path / "ds")


def test_content_decides_not_the_name(d4rl_file, tmp_path):
    source = d4rl_file("maze2d").rename(tmp_path / "download.bin")
    assert detect(source).matches
    assert registry.recognise(source) == ("d4rl", "D4RL HDF5 file, 15 rows")
    with h5py.File(tmp_path / "robot.hdf5", "w") as file:
        file["data/demo_1/actions"] = np.zeros(3)
    assert registry.recognise(tmp_path / "robot.hdf5")[0] != "d4rl"


def test_an_unknown_format_or_split_is_a_usage_error(d4rl_file, tmp_path):
    source = d4rl_file("maze2d")
    with pytest.raises(UsageError, match="did you mean 'd4rl'"):
        convert(source, tmp_path / "ds", from_="d4r")
    with pytest.raises(UsageError, match="did you mean 'jump'"):
        convert(source, tmp_path / "ds", sets=["split=jumps"])


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_at_any_length_is_refused(fraction, d4rl_file, tmp_path):
    source = d4rl_file("adroit")
    whole = source.read_bytes()
    source.write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises((CorruptError, InputError)):
        convert(source, tmp_path / "ds")
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name]


def test_check_finds_a_row_that_differs(d4rl_file, tmp_path, monkeypatch):
    read_columns = hdf5.read_columns

    def wrong(columns, start, stop, *rest):
        arrays = read_columns(columns, start, stop, *rest)
        if "infos/qpos" in arrays:
            arrays["infos/qpos"][2, 1] += 1
        return arrays

    monkeypatch.setattr(hdf5, "read_columns", wrong)
    with pytest.raises(CorruptError, match=r"infos/qpos: 1 of 15 rows differ, first row 2"):
        convert(d4rl_file("maze2d"), tmp_path / "ds", check=True)
    assert not (tmp_path / "ds").exists()
