"""Plain files in a folder: rows of one after those of the other, and no episode in two files."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

from rlcli.datasets import registry
from rlcli.datasets.contract import AmbiguousMapping, NoOptions, Report, Request
from rlcli.errors import IncompatibleError, InputError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert

LENGTHS = {2: 4, 10: 3, 1: 5}  # by the number in the name


def values(number: int, size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    return {
        "observations/qpos": rng.standard_normal((size, 3)),
        "observations/image": rng.integers(0, 256, (size, 4, 5, 3), np.uint8),
        "action": rng.standard_normal((size, 2)),
    }


def folder(kind: str, path, make=values):
    """A file per episode, as ALOHA's are."""
    path.mkdir()
    for number, size in LENGTHS.items():
        arrays = make(number, size)
        if kind == "npz":
            np.savez(path / f"episode_{number}.npz", **arrays)
            continue
        with h5py.File(path / f"episode_{number}.hdf5", "w") as file:
            for name, value in arrays.items():
                file[name] = value
    return path


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_files_without_flags_are_episodes_in_the_order_of_their_numbers(kind, tmp_path):
    source = folder(kind, tmp_path / "set")
    with pytest.raises(AmbiguousMapping, match="each file is one"):
        convert(source, tmp_path / "no")
    assert not (tmp_path / "no").exists()
    report = convert(source, tmp_path / "ds", yes=True, check=True)
    assert (report["rows"], report["episodes"], report["unknown_next"]) == (12, 3, 3)
    dataset = Dataset.open(tmp_path / "ds")
    assert dataset.episodes.length.tolist() == [5, 4, 3]
    assert dataset.episodes.truncated.all()
    assert not dataset.episodes.terminated.any()
    for name, key in {
        "observations/qpos": ("observation", "qpos"),
        "observations/image": ("observation", "image"),
        "action": ("action",),
    }.items():
        expected = np.concatenate([values(number, LENGTHS[number])[name] for number in sorted(LENGTHS)])
        np.testing.assert_array_equal(dataset.read(key), expected)
    names = [f"episode_{number}.{kind}" for number in sorted(LENGTHS) for _ in range(LENGTHS[number])]
    assert list(dataset.read(("info", "episode", "file"))) == names


def test_parts_of_a_folder_by_several_processes_are_the_same_rows(tmp_path):
    source = folder("npz", tmp_path / "set")
    whole = convert(source, tmp_path / "one", yes=True)
    assert convert(source, tmp_path / "two", yes=True, jobs=2)["digest"] == whole["digest"]
    convert(source, tmp_path / "some", yes=True, episodes="1:3", check=True)
    assert Dataset.open(tmp_path / "some").episodes.length.tolist() == [4, 3]


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_a_folder_opened_with_its_plan_opens_no_file_until_rows_are_read(kind, tmp_path, monkeypatch):
    source = folder(kind, tmp_path / "set")
    module, request = registry.load(kind), Request(confirmed=True)
    with module.open_source(source, request, NoOptions()) as first:
        plan = json.loads(json.dumps(first.plan))
    opened, whole = [], module._opened
    monkeypatch.setattr(module, "_opened", lambda path: opened.append(path.name) or whole(path))
    with module.open_source(source, replace(request, plan=plan), NoOptions()) as again:
        assert opened == []
        assert (again.schema, again.record, again.plan) == (first.schema, first.record, plan)
        parts = list(again.parts(again.pieces[0], Report(), lambda size: None))
        assert len(opened) == len(LENGTHS)
    expected = np.concatenate([values(number, LENGTHS[number])["action"] for number in sorted(LENGTHS)])
    np.testing.assert_array_equal(np.concatenate([part.columns["action",] for part in parts]), expected)


def test_flags_end_episodes_within_files_and_an_unflagged_end_of_a_file_truncates(tmp_path):
    def make(number, size):
        return {**values(number, size), "terminals": np.arange(size) == 1, "timeouts": np.zeros(size, bool)}

    report = convert(folder("npz", tmp_path / "set", make), tmp_path / "ds", check=True)
    episodes = Dataset.open(tmp_path / "ds").episodes
    assert episodes.length.tolist() == [2, 3, 2, 2, 2, 1]
    assert episodes.terminated.tolist() == [True, False] * 3
    assert episodes.truncated.tolist() == [False, True] * 3
    assert report["repaired"] == 3


def test_episode_numbers_that_begin_anew_in_every_file_are_kept(tmp_path):
    def make(number, size):
        return {**values(number, size), "episode_id": np.zeros(size, "i4")}

    convert(folder("hdf5", tmp_path / "set", make), tmp_path / "ds", check=True)
    dataset = Dataset.open(tmp_path / "ds")
    assert dataset.episodes.length.tolist() == [5, 4, 3]
    assert not dataset.read(("source", "episode_id")).any()


def test_files_of_other_arrays_are_refused_by_name(tmp_path):
    source = folder("npz", tmp_path / "set")
    np.savez(source / "episode_3.npz", **{**values(3, 2), "action": np.zeros((2, 7))})
    with pytest.raises(InputError, match=r"episode_3.npz: action has float64\[7\] per row"):
        convert(source, tmp_path / "ds", yes=True)
    np.savez(source / "episode_3.npz", action=np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"episode_3.npz: has no observations/qpos"):
        convert(source, tmp_path / "ds", yes=True)
    np.savez(source / "episode_3.npz", **{**values(3, 2), "action": np.zeros((1, 2))})
    with pytest.raises(InputError, match=r"lengths disagree"):
        convert(source, tmp_path / "ds", yes=True)
    assert not (tmp_path / "ds").exists()


def test_a_folder_of_files_that_are_datasets_each_is_said(tmp_path):
    (tmp_path / "suite").mkdir()
    for name in ("open", "close"):
        with h5py.File(tmp_path / "suite" / f"{name}.h5", "w") as file:
            for key, value in {
                "actions": np.zeros((3, 2)),
                "obs": np.zeros((4, 4)),
                "success": np.zeros(3),
            }.items():
                file[f"traj_0/{key}"] = file[f"traj_1/{key}"] = value
    with pytest.raises(InputError) as caught:
        registry.recognise(tmp_path / "suite")
    assert ".h5" in str(caught.value.hint)
    assert "ManiSkill" in str(caught.value.hint)


@pytest.mark.parametrize("suffix", [".npy", ".pkl"])
def test_files_that_only_pickle_or_nobody_can_read_say_what_to_do(suffix, tmp_path):
    (tmp_path / f"x{suffix}").write_bytes(b"\x93NUMPY\x01\x00" if suffix == ".npy" else b"\x80\x04]\x94.")
    with pytest.raises(InputError) as caught:
        registry.recognise(tmp_path / f"x{suffix}")
    assert "numpy.savez" in str(caught.value.hint)


def test_lists_that_have_a_meaning_are_refused_in_hdf5_too(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["observations"] = np.zeros((4, 2))
        file.create_dataset("actions", (4,), h5py.vlen_dtype("f4"))
    with pytest.raises(IncompatibleError, match="actions holds"):
        convert(tmp_path / "x.h5", tmp_path / "ds", yes=True)


@pytest.mark.parametrize("kind", ["csv", "sb3", "npz", "hdf5", "parquet"])
def test_a_folder_that_holds_nothing_of_the_format_is_named(kind, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises((InputError, IsADirectoryError)) as caught:
        convert(tmp_path / "empty", tmp_path / "ds", from_=kind, trust_pickle=True)
    assert str(tmp_path / "empty") in str(caught.value)
