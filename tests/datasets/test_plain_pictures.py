"""Encoded pictures in plain tables: JPEG and PNG stay as they are, or become the pixels that Pillow gives."""

from __future__ import annotations

import io

import h5py
import numpy as np
import pytest
from PIL import Image

from rlcli.errors import CorruptError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert

LAYOUTS = ["padded text", "padded rows", "lists", "text"]
KEY = ("observation", "rgb")


def encoded(size: int, kind: str = "JPEG", shape: tuple[int, ...] = (12, 16, 3)) -> list[bytes]:
    rng = np.random.default_rng(size)
    found = []
    for _ in range(size):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(stream, kind)
        found.append(stream.getvalue())
    return found


def pixels(values: list[bytes]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(value))) for value in values])


def write(path, values: list[bytes], layout: str = "lists") -> None:
    """An episode as RoboTwin, ALOHA and others have them."""
    size, width = len(values), max(map(len, values)) + 3
    with h5py.File(path, "w") as file:
        file["action"] = np.arange(size * 2.0).reshape(size, 2)
        name = "observation/rgb"
        if layout == "padded text":
            file.create_dataset(name, data=values, dtype=f"S{width}")
        elif layout == "padded rows":
            file[name] = np.stack([np.frombuffer(value.ljust(width, b"\0"), np.uint8) for value in values])
        elif layout == "text":
            file.create_dataset(name, (size,), h5py.string_dtype("ascii", width))[:] = values
        else:
            rows = file.create_dataset(name, (size,), h5py.vlen_dtype("u1"))
            for row, value in enumerate(values):
                rows[row] = np.frombuffer(value, np.uint8)


@pytest.mark.parametrize("images", ["keep", "decode"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pictures_of_hdf5_files_are_pictures(layout, images, tmp_path):
    """Their padding differs between the files of a folder."""
    first, second = encoded(5), encoded(3)
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "episode_0.hdf5", first, layout)
    write(tmp_path / "set" / "episode_1.hdf5", second, layout)
    convert(tmp_path / "set", tmp_path / "ds", yes=True, check=True, images=images)
    dataset = Dataset.open(tmp_path / "ds")
    column = dataset.schema.by_key[KEY]
    assert (column.dtype, column.shape) == ("uint8", (12, 16, 3))
    assert (column.heap is None) == (images == "decode")
    np.testing.assert_array_equal(dataset.read(KEY), pixels(first + second))
    if images == "keep":
        assert list(dataset.encoded(KEY, np.arange(8))) == first + second


@pytest.mark.parametrize("shape", [(12, 16), (12, 16, 4)])
def test_png_keeps_its_channels(shape, tmp_path):
    values = encoded(4, "PNG", shape)
    write(tmp_path / "x.h5", values)
    convert(tmp_path / "x.h5", tmp_path / "ds", yes=True, check=True)
    read = Dataset.open(tmp_path / "ds").read(KEY)
    np.testing.assert_array_equal(read, pixels(values).reshape(read.shape))


@pytest.mark.parametrize("images", ["keep", "decode"])
def test_a_picture_of_another_size_is_corrupt(images, tmp_path):
    write(tmp_path / "x.h5", [*encoded(2), *encoded(1, shape=(8, 16, 3))])
    with pytest.raises(CorruptError, match="rgb"):
        convert(tmp_path / "x.h5", tmp_path / "ds", yes=True, images=images)
    assert not (tmp_path / "ds").exists()


def test_text_and_bytes_that_are_no_pictures_are_what_they_were(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["observations"] = np.full((3, 40), 255, np.uint8)
        file["actions"], file["terminals"] = np.zeros((3, 2)), np.array([False, False, True])
        file["note"] = np.array([b"\xc3\xa9", b"b", b""])
    convert(tmp_path / "x.h5", tmp_path / "ds", from_="hdf5", check=True)
    dataset = Dataset.open(tmp_path / "ds")
    assert dataset.read(("observation",)).shape == (3, 40)
    assert list(dataset.read(("info", "note"))) == ["é", "b", ""]


@pytest.mark.parametrize("name", ["data/demo_{}", "ep_{}"])
def test_pictures_in_groups_of_episodes_are_left_out_and_said(name, tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for number in range(2):
            group = file.create_group(name.format(number))
            group["obs/state"], group["actions"] = np.zeros((3, 2)), np.zeros((3, 1))
            group.create_dataset("obs/rgb", data=encoded(3), dtype="S2000")
    report = convert(tmp_path / "x.hdf5", tmp_path / "ds", yes=True, check=True)
    assert any(told.startswith("obs/rgb: encoded pictures are not read") for told in report["lossy"])
    assert ("observation", "rgb") not in Dataset.open(tmp_path / "ds").schema.by_key


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pictures_in_byte_strings_of_npz(kind, tmp_path):
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(5):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 6, 3), np.uint8)).save(stream, kind)
        encoded.append(stream.getvalue())
    arrays = {"observations": np.zeros((5, 3)), "actions": np.zeros((5, 2)), "terminals": np.arange(5) == 4}
    np.savez(tmp_path / "x.npz", image=np.array(encoded), **arrays)
    convert(tmp_path / "x.npz", tmp_path / "ds", images="decode", yes=True, check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        (key,) = [column.key for column in dataset.schema.columns if column.key[-1] == "image"]
        pixels = [np.asarray(Image.open(io.BytesIO(each))) for each in encoded]
        assert np.abs(dataset.read(key).astype(int) - np.stack(pixels)).max() <= (4 if kind == "JPEG" else 0)
