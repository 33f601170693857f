"""Zarr groups that are legal and unusual: text, shards, filters, odd bytes, empty episodes, no actions."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import Blosc, Delta, GZip, Zstd
from zarr.codecs import BloscCodec, GzipCodec, TransposeCodec, ZstdCodec

from rlcli.datasets import zarr_groups, zarr_rows
from rlcli.datasets.rooms import Rooms
from rlcli.datasets.zarr_groups import ZarrTable
from rlcli.datasets.zarr_rows import Chunks, reading, zstd_bytes
from rlcli.errors import CorruptError, ExitCode, IncompatibleError, InputError, MissingExtraError
from rlcli.format.dataset import Dataset
from rlcli.main import run
from rlcli.pipeline.convert import convert

ROWS = 10
RNG = np.random.default_rng(3)
STATE = RNG.normal(size=(ROWS, 3))
ACTION = RNG.normal(size=(ROWS, 2)).astype("f4")
PICTURES = RNG.integers(0, 256, (ROWS, 4, 4, 3)).astype("u1")


def group(path: Path, version: int = 2, ends: Any = (4, ROWS), **arrays: Any) -> Path:
    """A replay buffer of `arrays`, which are values or arguments of `create_array`."""
    root = zarr.open_group(path, mode="w", zarr_format=version)
    for name, told in {**arrays, "meta/episode_ends": np.array(ends)}.items():
        told = told if isinstance(told, dict) else {"data": told}
        values = told.pop("data")
        array = root.create_array(name, shape=values.shape, dtype=told.pop("dtype", values.dtype), **told)
        array[:] = values
    return path


def columns(path: Path, out: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report, and all rows by key."""
    report = convert(path, out, check=True, **options)
    with Dataset.open(out) as dataset:
        keys = [column.key for column in dataset.schema.columns if column.encoding != "derived"]
        return report, {"/".join(key): dataset.read(key, 0, dataset.num_rows) for key in keys}


def test_version_2_in_any_byte_order_with_filters_comes_as_it_is(tmp_path):
    told = {
        "data/state": {"data": STATE, "dtype": ">f8", "chunks": (3, 2), "compressors": Blosc("zstd")},
        "data/action": {"data": ACTION, "chunks": (7, 2), "compressors": None},
        "data/count": {
            "data": np.arange(ROWS, dtype="i4"),
            "filters": [Delta("i4", "i8")],  # wider on disk
            "compressors": Blosc("lz4"),
        },
    }
    _, found = columns(group(tmp_path / "x.zarr", **told), tmp_path / "ds")
    assert found["observation/state"].tolist() == STATE.tolist()
    assert found["action"].tolist() == ACTION.tolist()
    assert found["observation/count"].tolist() == list(range(ROWS))


def test_shards_of_version_3_are_read(tmp_path):
    told = {
        "data/cam/rgb": {"data": PICTURES, "chunks": (1, 4, 4, 3), "shards": (5, 4, 4, 3)},
        "data/state": {"data": STATE.astype("f2"), "chunks": (2, 3), "shards": (4, 3)},
        "data/action": ACTION,
    }
    _, found = columns(group(tmp_path / "x.zarr", 3, **told), tmp_path / "ds")
    assert (found["observation/cam/rgb"] == PICTURES).all()
    assert found["observation/state"].tolist() == STATE.astype("f2").tolist()


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("version", [2, 3])
def test_text_of_a_replay_buffer_is_no_observation(version, tmp_path):
    words = [f"öffne {n}" * (n % 3) for n in range(ROWS)]
    arrays = {"data/obs": STATE, "data/action": ACTION, "data/said": np.array(words)}
    if version == 3:
        arrays["data/said"] = {"data": np.array(words), "dtype": "str"}
    _, found = columns(group(tmp_path / "x.zarr", version, **arrays), tmp_path / "ds")
    assert list(found["info/said"]) == words
    assert found["observation"].shape == (ROWS, 3)


def test_empty_episodes_are_counted_and_take_no_row(tmp_path):
    path = group(tmp_path / "x.zarr", ends=[0, 4, 4, ROWS], **{"data/obs": STATE, "data/action": ACTION})
    report, found = columns(path, tmp_path / "ds")
    assert found["episode"].tolist() == [0] * 4 + [1] * 6
    assert "2 episodes have no steps" in report["remarks"]
    falling = group(tmp_path / "y.zarr", ends=[6, 4], **{"data/obs": STATE, "data/action": ACTION})
    with pytest.raises(InputError, match="does not rise"):
        convert(falling, tmp_path / "other")


def test_a_replay_buffer_without_actions_is_taken_if_the_user_says_so(tmp_path, capsys):
    """UMI's buffers have poses and pictures only; what the action is, the learner decides."""
    path = group(tmp_path / "x.zarr", **{"data/pose": STATE, "data/camera": PICTURES})
    assert run(["convert", str(path), str(tmp_path / "ds")]) == ExitCode.USAGE
    told = capsys.readouterr()
    assert '"data/pose" = "observation/pose"' in told.out
    assert "nothing is known as action" in told.err
    report, found = columns(path, tmp_path / "ds", yes=True)
    assert "the source has no actions" in report["remarks"]
    assert (found["observation/camera"] == PICTURES).all()
    assert not [key for key in found if key.startswith("action")]


@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_a_pickle_behind_text_is_refused_before_it_is_read(place, tmp_path):
    """zarr takes the first codec of objects for the type and still runs the others."""
    path = group(tmp_path / "x.zarr", **{"data/obs": STATE, "data/action": ACTION})
    (header,) = (path / "data" / "obs").glob(".zarray")
    told = json.loads(header.read_text()) | {"dtype": "|O", "fill_value": "", "compressor": None}
    told["filters"] = [{"id": "vlen-utf8"}]
    codec = {"id": "pickle", "protocol": 4}
    told[place] = [*told["filters"], codec] if place == "filters" else codec
    header.write_text(json.dumps(told))
    mark = tmp_path / "ran"
    for chunk in header.parent.glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(_Runs(str(mark))))
    with pytest.raises(IncompatibleError, match="pickles"):
        convert(path, tmp_path / "ds", yes=True)
    assert not mark.exists()


@pytest.mark.skipif(importlib.util.find_spec("imagecodecs") is not None, reason="imagecodecs is installed")
def test_a_codec_of_imagecodecs_names_the_extra(tmp_path):
    path = group(tmp_path / "x.zarr", **{"data/obs": PICTURES, "data/action": ACTION})
    header = path / "data" / "obs" / ".zarray"
    told = json.loads(header.read_text()) | {"compressor": {"id": "imagecodecs_jpegxl", "level": 99}}
    header.write_text(json.dumps(told))
    with pytest.raises(MissingExtraError, match="imagecodecs"):
        convert(path, tmp_path / "ds")


class _Runs:
    """Makes the file that it is given when it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("room", [0, 1 << 20])
@pytest.mark.parametrize(("columns", "dtype"), [(2, "<f8"), (3, "<f8"), (3, ">f8")])
def test_rows_in_any_order_are_those_of_the_chunks(room, columns, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(zarr_groups, "_CACHE_BYTES", room)  # with none, only the largest chunk stays
    values = np.arange(69.0).reshape(23, 3)
    root = zarr.open_group(tmp_path / "z", mode="w")
    for name, chunk in (("a", 4), ("b", 23), ("c", 1)):
        root.create_array(name, data=values.astype(dtype), chunks=(chunk, columns))
    with reading(tmp_path / "z") as read:
        table = ZarrTable(tmp_path / "z", root, read)
        table.rooms = Rooms()
        for start, stop in ((0, 3), (3, 10), (10, 11), (11, 23), (5, 9), (2, 20), (20, 23), (0, 23)):
            for found in table.read(["a", "b", "c"], start, stop).values():
                np.testing.assert_array_equal(found, values[start:stop])


@pytest.mark.parametrize("compressor", [None, Zstd(), Blosc()])
def test_in_order_each_chunk_is_decoded_once(compressor, tmp_path, monkeypatch):
    values = np.arange(300).reshape(100, 3)
    root = zarr.open_group(tmp_path / "z", mode="w", zarr_format=2)
    for name, chunk in (("a", 7), ("b", 64), ("c", 10)):
        root.create_array(name, data=values, chunks=(chunk, 3), compressors=compressor)
    keys: list[str] = []
    with reading(tmp_path / "z") as read:
        table = ZarrTable(tmp_path / "z", root, lambda key: (keys.append(key), read(key))[1])
        table.rooms = Rooms()
        for start in range(0, 100, 10):
            for found in table.read(["a", "b", "c"], start, start + 10).values():
                np.testing.assert_array_equal(found, values[start : start + 10])
    assert len(keys) == len(set(keys)) == 15 + 2 + 10


def test_of_a_large_shard_only_the_wanted_rows_are_in_memory(tmp_path):
    values = np.random.default_rng(0).random((60_000, 16))
    root = zarr.open_group(tmp_path / "x", mode="w")
    root.create_array("x", data=values, chunks=(100, 16), shards=values.shape)
    with reading(tmp_path / "x") as read:
        table = ZarrTable(tmp_path / "x", zarr.open_group(tmp_path / "x", mode="r"), read)
        tracemalloc.start()
        for low in range(0, 60_000, 7_001):
            found = table.read(["x"], low, min(60_000, low + 7_001))["x"]
            assert np.array_equal(found, values[low : low + 7_001])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < values.nbytes


def test_an_empty_frame_of_zstandard_is_no_chunk(tmp_path):
    root = zarr.open_group(tmp_path / "z", mode="w", zarr_format=2)
    root.create_array("a", data=np.ones((8, 2)), chunks=(4, 2), compressors=Zstd())
    (tmp_path / "z/a/1.0").write_bytes(Zstd().encode(b""))
    with reading(tmp_path / "z") as read, pytest.raises(CorruptError, match=r"a rows 0\.\.7: damaged zarr"):
        ZarrTable(tmp_path / "z", root, read).read(["a"], 0, 8)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("as_zip", [False, True])
def test_what_we_decode_ourselves_is_what_zarr_reads(version, as_zip, tmp_path):
    path = tmp_path / "z"
    root = zarr.open_group(path, mode="w", zarr_format=version)
    values = np.arange(-33, 36).reshape(23, 3)
    blosc, zstd = (Blosc(), Zstd()) if version == 2 else (BloscCodec(), ZstdCodec())
    ours = {"blosc": {"compressors": blosc}, "zstd": {"compressors": zstd}, "none": {"compressors": None}}
    zarrs = {"gzip": {"compressors": GZip() if version == 2 else GzipCodec()}}
    if version == 2:
        zarrs["fortran"] = {"order": "F"}
        zarrs["delta"] = {"filters": [Delta("<f4")]}
    else:
        ours["key"] = {"chunk_key_encoding": {"name": "v2", "separator": "."}}
        zarrs["shards"] = {"shards": (8, 3)}
        zarrs["turned"] = {"filters": [TransposeCodec(order=(1, 0))]}
    names = []
    for name, how in {**ours, **zarrs}.items():
        for dtype in ("<f4", ">f4", "i1", "bool", ">i8", "<c8"):
            if name == "delta" and dtype != "<f4":
                continue
            names.append(f"{name}/x{len(names)}")
            array = root.create_array(names[-1], shape=(23, 3), chunks=(4, 3), dtype=dtype, **how)
            array[:20] = values[:20].astype(dtype)  # the last chunk is not stored
            array[20:] = 0
    if as_zip:
        shutil.make_archive(str(path), "zip", path)
        path = path.with_suffix(".zip")
    store = zarr.storage.ZipStore(path, mode="r") if as_zip else path
    with reading(path) as read:
        root = zarr.open_group(store, mode="r")
        left = {name for name in names if Chunks.of(read, name, root[name]) is None}
        assert left == {name for name in names if name.split("/")[0] in zarrs}
        table = ZarrTable(path, root, read)
        for name in names:
            found = table.read([name], 1, 22)[name]
            assert found.dtype.isnative
            np.testing.assert_array_equal(found, root[name][1:22])


@pytest.mark.parametrize("compressor", [None, Zstd(), Blosc()])
def test_a_chunk_of_another_length_is_corrupt(compressor, tmp_path):
    root = zarr.open_group(tmp_path / "z", mode="w", zarr_format=2)
    root.create_array("a", data=np.ones((8, 2)), chunks=(4, 2), compressors=compressor)
    short = np.ones(7)
    (tmp_path / "z/a/1.0").write_bytes(short.tobytes() if compressor is None else compressor.encode(short))
    with reading(tmp_path / "z") as read, pytest.raises(CorruptError, match=r"a rows 0..7|a: chunk 1.0"):
        ZarrTable(tmp_path / "z", root, read).read(["a"], 0, 8)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65_791, 65_792, 1 << 20, 5 << 20])
def test_zstandard_frames_say_their_size(size):
    assert zstd_bytes(Zstd().encode(bytes(size))) == size
    dictionary = b"\x28\xb5\x2f\xfd" + bytes([0xC3]) + b"w" + b"dict" + (1 << 40).to_bytes(8, "little")
    assert zstd_bytes(dictionary) == 1 << 40
    assert zstd_bytes(b"\x28\xb5\x2f\xfd\x00\x58\x00") is None
    for other in (b"", b"\x28\xb5\x2f\xfd", b"PK\3\4 anything"):
        with pytest.raises(ValueError, match="no Zstandard frame"):
            zstd_bytes(other)


def test_a_bomb_of_zstandard_is_not_unpacked(tmp_path, monkeypatch):
    root = zarr.open_group(tmp_path / "z", mode="w", zarr_format=2)
    root.create_array("a", data=np.ones((8, 2)), chunks=(4, 2), compressors=Zstd())
    (tmp_path / "z/a/1.0").write_bytes(Zstd().encode(bytes(1 << 24)))
    monkeypatch.setitem(zarr_rows._DECODERS, "Zstd", lambda: pytest.fail)
    with reading(tmp_path / "z") as read:
        chunks = Chunks.of(read, "a", root["a"])
        with pytest.raises(ValueError, match="a chunk of 16,777,216 bytes, expected 64"):
            chunks.get(1)


@pytest.mark.parametrize("name", ["data/state/0.0", "data/action/.zarray", ".zgroup"])
def test_a_pipe_among_the_files_is_refused(name, tmp_path):
    path = group(tmp_path / "x.zarr", **{"data/state": STATE, "data/action": ACTION})
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    with pytest.raises(InputError, match="not a regular file"):
        convert(path, tmp_path / "ds", from_="zarr")
    assert not (tmp_path / "ds").exists()


def test_a_zip_whose_members_begin_before_it_is_corrupt(tmp_path, capsys):
    folder = group(tmp_path / "x", **{"data/state": STATE, "data/action": ACTION})
    with zipfile.ZipFile(tmp_path / "x.zarr.zip", "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    data = bytearray((tmp_path / "x.zarr.zip").read_bytes())
    end = data.rindex(b"PK\5\6")
    (offset,) = struct.unpack_from("<I", data, end + 16)
    struct.pack_into("<I", data, end + 16, offset + 99)
    (tmp_path / "x.zarr.zip").write_bytes(data)
    assert run(["convert", str(tmp_path / "x.zarr.zip"), str(tmp_path / "ds")]) == ExitCode.CORRUPT
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("version", [2, 3])
def test_an_array_alone_is_no_group(version, tmp_path):
    zarr.create_array(tmp_path / "x.zarr", shape=(4, 2), dtype="f4", zarr_format=version)
    with pytest.raises(InputError, match="array alone"):
        convert(tmp_path / "x.zarr", tmp_path / "ds", from_="zarr")
