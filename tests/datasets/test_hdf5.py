"""The HDF5 layer: damage, slices, and a skeleton that keeps everything but rows."""

from __future__ import annotations

import errno
import os

import h5py
import numpy as np
import pytest

from rlcli.datasets import hdf5
from rlcli.datasets.hdf5_output import creating
from rlcli.errors import CorruptError, IncompatibleError, InputError, ResourceError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert


@pytest.fixture
def strange(tmp_path):
    """A file with about everything HDF5 can hold beside plain arrays."""
    path = tmp_path / "strange.hdf5"
    with h5py.File(path, "w") as file:
        file["rows"] = np.arange(12, dtype=">f4").reshape(6, 2)  # big-endian
        file.create_dataset("packed", data=np.arange(600).reshape(6, 100), chunks=(4, 30), compression="gzip",
                            shuffle=True, maxshape=(None, 100), fletcher32=True)  # fmt: skip
        file["rows"].attrs["unit"] = "m/s"
        file["text"] = "vlen utf-8: äöü"
        file.create_dataset("texts", data=["a", "bc"], dtype=h5py.string_dtype())
        file["fixed"] = np.bytes_(b"abc")
        file["flag"] = np.bool_(True)
        file["empty"] = h5py.Empty("f4")
        file.create_dataset("ragged", (2,), dtype=h5py.vlen_dtype("i4"))
        file["ragged"][:] = [np.array([1]), np.array([2, 3])]
        file["pair"] = np.array([(1, 2.5)], dtype=[("a", "i2"), ("b", "f8")])
        file["link"] = h5py.SoftLink("/rows")
        file["group/twice"] = file["text"]
        file.create_group("empty_group").attrs["version"] = np.int16(3)
        file.attrs.create("names", ["x", "y"], dtype="S1")
    return path


def test_a_skeleton_brings_everything_back_when_its_rows_are_written(tmp_path, strange, same_hdf5):
    rows = ["rows", "packed"]
    again = tmp_path / "again.hdf5"
    with hdf5.reading(strange) as file:
        image = hdf5.skeleton(file, rows)
        values = {name: hdf5.Rows([file[name]]).read(0, 6) for name in rows}
    with creating(again) as output:
        hdf5.revive(image, output.file, rows)
        for name in rows:
            hdf5.Rows([output.file[name]]).write(0, values[name])
    same_hdf5(strange, again)


def test_a_skeleton_holds_no_rows(tmp_path):
    path = tmp_path / "large.hdf5"
    with h5py.File(path, "w") as file:
        file["contiguous"] = np.random.default_rng(0).random((100_000, 4))
        file.create_dataset("chunked", data=np.random.default_rng(1).random((100_000, 4)), compression="gzip")
    with hdf5.reading(path) as file:
        assert len(hdf5.skeleton(file, ["contiguous", "chunked"])) < 20_000


@pytest.mark.parametrize("size", [0, 1, 100])
def test_rows_read_in_any_slices_are_the_rows(tmp_path, size):
    values = np.arange(3 * size, dtype="f8").reshape(size, 3)
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["a"], file["b"] = values[: size // 3], values[size // 3 :]
        rows = hdf5.Rows([file["a"], file["b"]])
        assert len(rows) == size
        for step in (1, 7, 1000):
            parts = [rows.read(low, min(low + step, size)) for low in range(0, size, step)]
            assert np.array_equal(np.concatenate([np.zeros((0, 3)), *parts]), values)


def test_slices_take_whole_chunks(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file.create_dataset("a", (1000, 2), "f4", chunks=(60, 1))
        file.create_dataset("b", (1000, 2), "f4", chunks=(900, 2))
        columns = [hdf5.Rows([file[name]]) for name in ("a", "b")]
    monkeypatch.setattr("rlcli.datasets.slicing.SLICE_BYTES", 16 * 200)
    with h5py.File(tmp_path / "x.hdf5") as file:
        columns = [hdf5.Rows([file[name]]) for name in ("a", "b")]
        assert hdf5.slice_rows(columns) == 180  # 200 fit; 60-row chunks; the 900-row ones cannot be whole


def test_something_else_is_not_an_hdf5_file(tmp_path):
    (tmp_path / "x.hdf5").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InputError, match="not an HDF5 file"), hdf5.reading(tmp_path / "x.hdf5"):
        pass


def test_a_file_cut_short_is_damaged(tmp_path):
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file["a"] = np.zeros(1000)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CorruptError, match="truncated"), hdf5.reading(path):
        pass


def test_groups_in_a_circle_are_refused(tmp_path):
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("a")
        file["a"]["b"] = file["a"]
    with hdf5.reading(path) as file, pytest.raises(InputError, match="circle"):
        list(hdf5.walk(file))


@pytest.mark.parametrize("limit", [0, 100, 3000, 50_000, 120_000])
def test_a_disk_that_fills_at_any_moment_is_a_clean_error(tmp_path, monkeypatch, limit):
    """HDF5 itself would crash the process when it is closed after a failed write."""
    pwrite = os.pwrite

    def full(fd, data, offset):
        if offset + len(data) > limit:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    values = np.random.default_rng(0).random((2000, 10))

    def write():
        with creating(tmp_path / "x.hdf5") as output:
            for name in ("a", "b", "c"):
                output.file.create_dataset(name, data=values, compression="gzip", chunks=(100, 10))
                output.check()

    with pytest.raises(ResourceError, match="No space left"):
        write()


def test_a_new_file_does_not_replace_another(tmp_path):
    (tmp_path / "x.hdf5").write_text("mine")
    with pytest.raises(FileExistsError), creating(tmp_path / "x.hdf5"):
        pass
    assert (tmp_path / "x.hdf5").read_text() == "mine"


def test_a_type_that_numpy_lacks_is_one_line(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        space = h5py.h5s.create_simple((4,))
        h5py.h5d.create(file.id, b"times", h5py.h5t.UNIX_D32LE, space)
    with (
        pytest.raises(IncompatibleError, match="NumPy"),
        hdf5.reading(tmp_path / "x.h5") as file,
        hdf5.damage(tmp_path / "x.h5"),
    ):
        assert file["times"].dtype


def test_what_the_library_remembers_of_groups_does_not_grow_with_them(tmp_path):
    path = tmp_path / "groups.h5"
    with h5py.File(path, "w") as file:
        for number in range(600):
            file[f"{number:04d}/x"] = np.zeros(1)
    with hdf5.reading(path) as file:
        assert sum(1 for _ in hdf5.walk(file)) == 600
        assert file.id.get_mdc_config().max_size <= 2 << 20
        assert file.id.get_mdc_size()[0] <= 2 << 20


def test_text_beside_d4rl_keys_is_read_as_text(tmp_path):
    """D4RL's files have no text per row; a file with D4RL's keys and text is plain HDF5."""
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["observations/state"] = np.arange(12, dtype="f4").reshape(6, 2)
        file["observations/goal"] = ["pick é"] * 3 + ["place"] * 3
        file["actions"], file["rewards"] = np.zeros((6, 1), "f4"), np.zeros(6, "f4")
        file["terminals"] = np.isin(np.arange(6), [2, 5])
        file["language"] = [f"step {n}" for n in range(6)]
    report = convert(tmp_path / "x.hdf5", tmp_path / "ds", check=True)
    assert (report["format"], report["lossy"]) == ("hdf5", [])
    with Dataset.open(tmp_path / "ds") as dataset:
        assert list(dataset.read(("observation", "goal"), 2, 4)) == ["pick é", "place"]
        assert list(dataset.read(("info", "language"), 5, 6)) == ["step 5"]
        assert dataset.episodes.length.tolist() == [3, 3]
    with pytest.raises(InputError, match="language, observations/goal, as D4RL's files have not"):
        convert(tmp_path / "x.hdf5", tmp_path / "other", from_="d4rl")


def test_ends_beside_terminals_are_truncations(tmp_path):
    """d3rlpy's `episode_terminals`, and `done` where both flags are there: none overrules `terminals`."""
    flags = {"terminals": [0, 1, 0, 0, 0, 0], "episode_terminals": [0, 1, 0, 1, 0, 1]}
    both = {"terminated": [0, 1, 0, 0, 0, 1], "truncated": [0, 1, 0, 1, 0, 0], "done": [0, 1, 0, 1, 0, 1]}
    for name, columns in (("d3rlpy", flags), ("both", both)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["observations"], file["actions"] = np.zeros((6, 2), "f4"), np.zeros((6, 1), "f4")
            file["rewards"] = np.zeros(6, "f4")
            for key, values in columns.items():
                file[key] = np.array(values, "f4")
        convert(tmp_path / f"{name}.h5", tmp_path / name, check=True)
        with Dataset.open(tmp_path / name) as dataset:
            assert dataset.episodes.length.tolist() == [2, 2, 2]
            assert dataset.episodes.terminated.tolist() == [True, False, name == "both"]
            assert dataset.episodes.truncated.tolist() == [name == "both", True, name == "d3rlpy"]
