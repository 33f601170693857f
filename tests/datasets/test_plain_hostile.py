"""Plain containers that lie, are damaged, or hold what would run code: one line, and nothing is left."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.datasets import npz
from rlcli.errors import CorruptError, IncompatibleError, InputError, RLError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert
from tests.datasets.plain_made import KINDS, arrays, write


def lying_npz(tmp_path, shape: str, data: bytes = b"\0" * 96) -> Path:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path = write("npz", tmp_path / "x", {k: v for k, v in arrays().items() if k != "actions"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("actions.npy", b"\x93NUMPY\x01\x00v\x00" + header.encode() + data)
    return path


@pytest.mark.parametrize(
    "shape", ["(10**18, 1)", "(24, 10**15)", "(23, 1)", "(-24, 1)", "(24,", "(2**62, 4)"]
)
def test_an_npz_that_lies_about_a_shape_is_corrupt(shape, tmp_path):
    with pytest.raises(CorruptError, match=r"actions\.npy"):
        convert(lying_npz(tmp_path, eval_free(shape)), tmp_path / "ds")
    assert not (tmp_path / "ds").exists()


def eval_free(shape: str) -> str:
    """Powers written out: an npy header holds literals."""
    return shape.replace("10**18", str(10**18)).replace("10**15", str(10**15)).replace("2**62", str(2**62))


def test_headers_of_an_npz_are_parsed_before_threads_read_it(tmp_path, monkeypatch):
    """Python's parser, which NumPy takes for them, may fail where two threads use it at once."""
    np.savez(tmp_path / "a.npz", x=np.arange(6.0), y=np.arange(12.0).reshape(6, 2))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        table = npz.NpzTable(tmp_path / "a.npz", archive)
        monkeypatch.setattr(npz, "_header", None)
        for start in (0, 3, 0):
            assert table.read(["x", "y"], start, 6)["x"].tolist() == list(range(start, 6))
        table.close()


def test_what_an_npz_pickles_or_keeps_as_records_is_left_out_and_said(tmp_path):
    path, mark = tmp_path / "x.npz", tmp_path / "mark"
    records = np.zeros(24, [("a", "<i4"), ("b", "<f8")])
    np.savez(path, **arrays(), secret=np.array([Unpickled(mark)], object), whole=Unpickled(mark), r=records)
    report = convert(path, tmp_path / "ds", check=True)
    told = [sentence.split(" ", 1)[0] for sentence in report["lossy"] if "left out" in sentence]
    assert sorted(told) == ["r", "secret", "whole"]
    assert "Python objects" in str(report["lossy"])
    assert not mark.exists()
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.num_rows == 24
        assert not any(column.key[0] == "info" for column in dataset.schema.columns)


class Unpickled:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["rewards", "observations"])
@pytest.mark.parametrize("dtype", [object, [("a", "<f4")]])
def test_an_npz_whose_pickles_or_records_have_a_meaning_is_refused(name, dtype, tmp_path):
    path = tmp_path / "x.npz"
    other = np.zeros(24, dtype)
    np.savez(path, **{**arrays(), name: other})
    with pytest.raises(IncompatibleError, match=name):
        convert(path, tmp_path / "ds")
    np.savez(path, **arrays(), other=other)
    with pytest.raises(IncompatibleError, match="other"):
        convert(path, tmp_path / "ds", mapping={"other": "info/other"})
    assert convert(path, tmp_path / "ds", mapping={"other": "-"})["rows"] == 24


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    """A directory that claims less than the stream holds, and one that claims more than it can hold."""
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **(arrays() | {"zeros": np.zeros(1 << 22)}))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"zeros.npy") - 46  # the central directory's entry
    data[at + 20 : at + 24] = (100).to_bytes(4, "little")  # compressed bytes
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"zeros\.npy"):
        convert(path, tmp_path / "ds")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short_is_an_error_of_one_line(kind, tmp_path):
    path = write(kind, tmp_path / "x", arrays())
    if path.is_dir():
        victim = path / "actions" / "0.0"
        victim.write_bytes(victim.read_bytes()[:-9])
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises((CorruptError, InputError)) as caught:
        convert(path, tmp_path / "ds", from_=kind)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert sorted(os.listdir(tmp_path)) == [path.name]


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_never_crash(kind, tmp_path):
    """Any flip gives the right rows, other rows of a sound dataset, or a one-line error; never a crash."""
    rng = np.random.default_rng(2)
    path = write(kind, tmp_path / "x", arrays())
    files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
    for number in range(25):
        file = files[int(rng.integers(len(files)))]
        sound = file.read_bytes()
        broken = bytearray(sound)
        broken[int(rng.integers(len(sound)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(broken)
        out = tmp_path / f"ds{number}"
        message = ""
        try:
            convert(path, out, from_=kind, yes=True)
        except RLError as err:
            message = err.message
        assert "\n" not in message
        assert out.exists() == (not message)
        file.write_bytes(sound)


def test_zarr_that_declares_absurd_shapes_is_corrupt(tmp_path):
    path = write("zarr", tmp_path / "x", arrays())
    meta = json.loads((path / "actions" / ".zarray").read_text())
    (path / "actions" / ".zarray").write_text(
        json.dumps(meta | {"chunks": [1 << 40, 2], "shape": [1 << 50, 2]})
    )
    with pytest.raises(CorruptError, match="actions"):
        convert(path, tmp_path / "ds")


@pytest.mark.parametrize("chunks", [[0, 3], [0, 0]])
def test_zarr_chunks_without_rows_are_corrupt(chunks, tmp_path):
    path = write("zarr", tmp_path / "x", arrays())
    for file in path.rglob(".zarray"):
        told = json.loads(file.read_text())
        if len(told["shape"]) == 2:
            file.write_text(json.dumps({**told, "chunks": chunks}))
    with pytest.raises(CorruptError):
        convert(path, tmp_path / "ds")
