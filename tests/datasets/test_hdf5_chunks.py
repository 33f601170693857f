"""Gzip chunks read past the HDF5 library: every layout of them against the library's own reading."""

from __future__ import annotations

import contextlib
import errno
import random
import unittest.mock
import zlib

import h5py
import numpy as np
import pytest

from rlcli.datasets import hdf5, hdf5_chunks
from rlcli.errors import CorruptError

RANGES = ((0, 53), (9, 31), (31, 50), (52, 53))
DTYPES = ("bool", "u1", "<f4", ">f8", ">i2", "i8")
LAYOUTS = [  # of rows, of chunks
    ((), (10,)),
    ((), (100,)),
    ((7,), (10, 7)),
    ((7,), (10, 1)),
    ((6,), (10, 2)),
    ((7,), (8, 2)),
    ((7,), (1, 1)),
    ((4, 6), (10, 2, 3)),
    ((4, 6), (10, 4, 1)),
    ((5, 6), (10, 2, 3)),
    ((2, 2, 2), (9, 1, 2, 1)),
]


def check(dataset: h5py.Dataset, ranges=RANGES) -> None:
    rows = hdf5.Rows([dataset])
    assert rows.gzip[0] is not None
    for low, high in ranges:
        read = rows.read(low, high)
        assert read.dtype == dataset.dtype.newbyteorder("=")
        assert np.array_equal(read, dataset[low:high])


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_chunks_of_every_layout_are_what_hdf5_reads(tmp_path, shuffle, version):
    path, rng = tmp_path / "x.hdf5", np.random.default_rng(0)
    names = []
    with h5py.File(path, "w", libver=version) as file:
        for number, (shape, chunks) in enumerate(LAYOUTS):
            dtype = DTYPES[number % len(DTYPES)]
            values = rng.integers(0, 2 if dtype == "bool" else 100, (53, *shape)).astype(dtype)
            limits = [(None, *shape), (None,) * values.ndim, *([values.shape] if chunks[0] <= 53 else [])]
            for limit in limits:  # each is another kind of index, in the latest version
                options = {"chunks": chunks, "compression": "gzip", "shuffle": shuffle, "maxshape": limit}
                whole, holes, empty = (f"{name}{len(names)}" for name in ("whole", "holes", "empty"))
                names += [whole, holes, empty]
                file.create_dataset(whole, values.shape, dtype, **options)
                for low in (20, 40, 0, 30, 10, 50):  # chunks that are not in order
                    file[whole][low : low + 10] = values[low : low + 10]
                file.create_dataset(holes, values.shape, dtype, fillvalue=1, **options)
                file[holes][20:30] = values[20:30]
                file.create_dataset(empty, values.shape, dtype, fillvalue=1, **options)
    with hdf5.reading(path) as file:
        for name in names:
            check(file[name])
    with h5py.File(path, "r+") as file:  # through the library
        for name in names:
            check(file[name], [(9, 31)])


@pytest.mark.parametrize("userblock", [0, 512])
def test_chunks_after_a_user_block_and_of_a_file_in_memory(tmp_path, userblock):
    path, values = tmp_path / "x.hdf5", np.random.default_rng(0).random((53, 4))
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file.create_dataset("a", data=values, chunks=(10, 2), compression="gzip")
    with hdf5.reading(path) as file:
        check(file["a"])
    with h5py.File(path, driver="core") as file:
        check(file["a"])


def test_filters_that_chunks_did_not_go_through(tmp_path):
    path, values = tmp_path / "x.hdf5", np.arange(80, dtype="<i4").reshape(40, 2)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("a", (40, 2), "<i4", chunks=(10, 2), compression="gzip", shuffle=True)
        for number, skipped in enumerate((0, 1, 2, 3)):  # shuffle is the first filter, deflate the second
            data = values[10 * number :][:10].tobytes()
            if not skipped & 1:
                data = np.frombuffer(data, np.uint8).reshape(-1, 4).T.tobytes()
            if not skipped & 2:
                data = zlib.compress(data)
            dataset.id.write_direct_chunk((10 * number, 0), data, skipped)
    with hdf5.reading(path) as file:
        assert np.array_equal(file["a"][:], values)
        check(file["a"], [(0, 40), (5, 25)])


def test_slices_in_order_unpack_a_chunk_between_them_once(tmp_path, monkeypatch):
    path, values = tmp_path / "x.hdf5", np.random.default_rng(0).random((1000, 3))
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=values, chunks=(70, 1), compression="gzip")
    unpacked = []
    plain = hdf5_chunks.inflate
    monkeypatch.setattr(hdf5_chunks, "inflate", lambda *args: unpacked.append(1) or plain(*args))
    with hdf5.reading(path) as file:
        rows = hdf5.Rows([file["a"]])
        read = [rows.read(low, min(low + 100, 1000)) for low in range(0, 1000, 100)]
    assert np.array_equal(np.concatenate(read), values)
    assert len(unpacked) == 15 * 3


def test_other_datasets_are_left_to_hdf5(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file.create_dataset("sums", (53,), "f4", chunks=(10,), compression="gzip", fletcher32=True)
        file.create_dataset("plain", (53,), "f4", chunks=(10,))
        file.create_dataset("lzf", (53,), "f4", chunks=(10,), compression="lzf")
        file.create_dataset("scaled", (53,), "f4", chunks=(10,), compression="gzip", scaleoffset=2)
        file.create_dataset("contiguous", (53,), "f4")
        file.create_dataset("pairs", (53,), "f4,i4", chunks=(10,), compression="gzip")
        file.create_dataset("many", (53,), "f4", chunks=(10,), compression="gzip")
        monkeypatch.setattr(hdf5_chunks, "_MAX_CHUNKS", 5)
        for name in file:
            assert hdf5.Rows([file[name]]).gzip == [None]


def _stored(path, chunk: bytes) -> None:
    """A dataset of 1,000 float64 in one chunk that holds these bytes."""
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("a", (1000,), "f8", chunks=(1000,), compression="gzip")
        dataset.id.write_direct_chunk((0,), chunk)


@pytest.mark.parametrize(
    "chunk",
    [
        zlib.compress(bytes(7999)),
        zlib.compress(bytes(8001)),
        zlib.compress(bytes(64 << 20)),  # a bomb
        zlib.compress(bytes(8000))[:-1],
        zlib.compress(bytes(8000))[:-4],
        bytes(40),
        b"\x78",
        bytes(8000),  # as if it had gone through no filter
    ],
    ids=["short", "long", "bomb", "cut", "no checksum", "zeros", "one byte", "plain"],
)
def test_a_chunk_that_is_no_stream_of_its_size_is_named_with_its_rows(tmp_path, chunk):
    path = tmp_path / "x.hdf5"
    _stored(path, chunk)
    with hdf5.reading(path) as file, pytest.raises(CorruptError, match=r"x\.hdf5: /a rows 0\.\.999: damaged"):
        hdf5.Rows([file["a"]]).read(0, 1000)


@pytest.mark.parametrize("seed", range(3))
def test_no_flipped_bit_of_a_chunk_changes_a_value(tmp_path, seed):
    path, rng = tmp_path / "x.hdf5", random.Random(seed)
    values = np.random.default_rng(seed).integers(0, 9, 1000).astype("f8")
    _stored(path, zlib.compress(values.tobytes()))
    with h5py.File(path) as file:
        place = file["a"].id.get_chunk_info(0)
    sound = path.read_bytes()
    for _ in range(40):
        raw = bytearray(sound)
        raw[place.byte_offset + rng.randrange(place.size)] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
        with hdf5.reading(path) as file, contextlib.suppress(CorruptError):
            assert np.array_equal(hdf5.Rows([file["a"]]).read(0, 1000), values)


def test_a_chunk_beyond_the_end_of_the_file_is_damage(tmp_path):
    path = tmp_path / "x.hdf5"
    _stored(path, zlib.compress(bytes(8000)))
    with h5py.File(path) as file:
        place = file["a"].id.get_chunk_info(0)
    raw, there = path.read_bytes(), place.byte_offset.to_bytes(8, "little")
    assert raw.count(there) == 1  # in the tree of the chunks
    path.write_bytes(raw.replace(there, (len(raw) - 5).to_bytes(8, "little")))
    with hdf5.reading(path) as file, pytest.raises(CorruptError, match="beyond the end"):
        hdf5.Rows([file["a"]]).read(0, 1000)


@pytest.fixture
def inflated(monkeypatch):
    """A list that grows with every chunk that is inflated; bands are large from 100 bytes on."""
    calls, inflate = [], hdf5_chunks.inflate
    monkeypatch.setattr(hdf5_chunks, "_BAND_BYTES", 100)
    monkeypatch.setattr(hdf5_chunks, "inflate", lambda *given: calls.append(1) or inflate(*given))
    return calls


@pytest.mark.parametrize("kept", [100, 1 << 20], ids=["in a file", "in memory"])
@pytest.mark.parametrize("width", [2, 3, 6])
def test_large_chunks_are_inflated_once_when_rows_come_in_slices(
    tmp_path, monkeypatch, inflated, kept, width
):
    monkeypatch.setattr(hdf5_chunks, "_KEPT_BYTES", kept)
    values = np.random.default_rng(0).random((53, 6))
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file.create_dataset("x", data=values, chunks=(20, width), compression="gzip")
        file.create_dataset("gaps", (53, 6), "f8", chunks=(20, width), compression="gzip", fillvalue=7.0)
        file["gaps"][20:30, :2] = values[20:30, :2]
    with hdf5.reading(tmp_path / "x.hdf5") as file:
        rows = hdf5.Rows([file["x"]])
        for low in range(0, 53, 7):
            assert np.array_equal(rows.read(low, min(53, low + 7)), values[low : low + 7])
        assert len(inflated) == 3 * 6 // width
        assert not rows.gzip[0]._large
        assert np.array_equal(rows.read(5, 30), values[5:30])
        assert np.array_equal(rows.read(0, 9), values[:9])
        assert np.array_equal(rows.read(2, 53), values[2:])
        check(file["gaps"], [(low, min(53, low + 7)) for low in range(0, 53, 7)])


def test_a_band_that_no_file_has_room_for_is_inflated_again(tmp_path, monkeypatch, inflated):
    monkeypatch.setattr(hdf5_chunks, "_KEPT_BYTES", 100)
    values = np.random.default_rng(0).random((40, 6))
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file.create_dataset("x", data=values, chunks=(40, 3), compression="gzip")
    full = unittest.mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    for place, name in ((hdf5_chunks.tempfile, "TemporaryFile"), (hdf5_chunks.files, "write_at")):
        del inflated[:]
        with hdf5.reading(tmp_path / "x.hdf5") as file, monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            check(file["x"], [(0, 10), (10, 20), (20, 40)])
        assert len(inflated) == 3 * 2
