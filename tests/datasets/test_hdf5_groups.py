"""Groups told natively are what the HDF5 library says, value by value; what is not plain is left to it."""

from __future__ import annotations

import contextlib
import random

import h5py
import numpy as np
import pytest

from rlcli.datasets import hdf5
from rlcli.datasets.hdf5_groups import PlainGroups, members
from rlcli.errors import CorruptError, RLError

DTYPES = ["?", "i1", "u1", "<i2", ">u2", "<i4", ">i4", "<i8", ">u8", "<f2", "<f4", ">f4", "<f8", ">f8"]
CHUNKS = {  # of rows [23, …]
    (): [None, (5,), (23,), (40,)],
    (4,): [None, (5, 4), (5, 3), (1, 1), (40, 9)],
    (3, 2): [None, (7, 2, 2), (23, 3, 1)],
    (2, 1, 3): [None, (4, 1, 1, 2)],
    (2, 2): [(5, 1, 4), (23, 4, 1), (9, 4, 4)],  # as many values in a chunk's row as in a row
}


def found(path, name="episode_0"):
    with hdf5.reading(path) as file:
        told = PlainGroups(file).find(file.id, name.encode())
        if told is None:
            return None
        values = {path: (array.dtype, array.shape, array.read(0, (array.shape or (1,))[0]))
                  for path, array in told.arrays.items()}  # fmt: skip
        for array in told.arrays.values():
            rows = (array.shape or (1,))[0]
            for low, high in ((0, 0), (rows // 3, rows - 1), (rows - 1, rows)):
                if 0 <= low <= high:
                    whole = array.read(0, rows)[low:high]
                    assert array.read(low, high).tobytes() == whole.tobytes()
        return values, told.attributes


def check(path, name="episode_0"):
    """The same arrays and attributes as the library finds."""
    values, attributes = found(path, name)
    with h5py.File(path) as file:
        there = dict(hdf5.walk(file[name]))
        assert there.keys() == values.keys()
        for key, dataset in there.items():
            dtype, shape, value = values[key]
            assert (dtype, shape) == (dataset.dtype.newbyteorder("="), dataset.shape)
            assert np.array_equal(value.reshape(shape), dataset[()])
        if attributes is not None:
            assert attributes == dict(file[name].attrs)
            assert all(
                value.dtype == file[name].attrs[key].dtype.newbyteorder("=")
                for key, value in attributes.items()
            )
    return attributes


@pytest.mark.parametrize("dtype", DTYPES)
def test_datasets_of_every_shape_are_what_the_library_reads(tmp_path, dtype):
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        group = file.create_group("episode_0/observations/deep").parent.parent
        for shape, chunks in CHUNKS.items():
            for number, chunk in enumerate(chunks):
                values = rng.integers(0, 2 if dtype == "?" else 100, (23, *shape)).astype(dtype)
                name = f"observations/{'x'.join(map(str, shape))}-{number}"
                options = {} if chunk is None else {"chunks": chunk, "maxshape": (None,) * values.ndim}
                group.create_dataset(name, data=values, **options)
                if chunk is not None:
                    options |= {"compression": "gzip", "shuffle": number % 2 == 0}
                    group.create_dataset(f"packed/{name}", data=values, **options)
        group["single"] = values[0].reshape(-1)[0]
        group["again"] = group["single"]
        group.attrs["one"] = values[1].reshape(-1)[0]
        group.attrs["seed"] = 7
    assert check(tmp_path / "x.hdf5") is not None


def test_many_arrays_and_attributes_of_one_group(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w", track_order=True) as file:  # as Minari does
        for episode in range(12):
            group = file.create_group(f"episode_{episode}")
            for number in range(60):
                group.create_dataset(f"infos/a name of many letters {number}", data=np.arange(number + 1))
                group.attrs[f"attribute {number}"] = np.float32(number / 7)
            group.create_dataset(
                "chunks", data=np.random.default_rng(episode).random((900, 3)), chunks=(2, 2)
            )
    for episode in (0, 7, 11):
        assert len(check(tmp_path / "x.hdf5", f"episode_{episode}")) == 60


@pytest.mark.parametrize(
    "make",
    [
        lambda group: group.create_dataset("a", (9,), "f4", chunks=(2,), compression="gzip"),
        lambda group: group.create_dataset("a", data=np.zeros(9), chunks=(2,), compression="lzf"),
        lambda group: group.create_dataset("a", data=np.zeros(9), chunks=(2,), fletcher32=True),
        lambda group: group.create_dataset("a", data=np.zeros(9), chunks=(2,), shuffle=True),
        lambda group: group.create_dataset("a", (9,), "f4", chunks=(2,)),  # no chunk was written
        lambda group: group.create_dataset("a", (9,), "f4"),  # nor are values
        lambda group: group.create_dataset("a", data="text"),
        lambda group: group.create_dataset("a", data=np.zeros(3, "c8")),
        lambda group: group.create_dataset("a", (2,), h5py.vlen_dtype("u1")),
        lambda group: group.create_dataset("a", data=h5py.Empty("f4")),
        lambda group: group.create_dataset("a", (9,), "f4", external=[("raw", 0, 36)]),
        lambda group: group.create_dataset("a", data=np.zeros(3, h5py.enum_dtype({"x": 0}, "i1"))),
        lambda group: group.__setitem__("type", np.dtype("f4")),
        lambda group: group.__setitem__("circle", group),
        lambda group: group.create_group("new", track_order=True),
    ],
)
def test_what_is_not_plain_is_left_to_the_library(tmp_path, make):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        group = file.create_group("episode_0")
        group["plain"] = np.arange(3.0)
        file.flush()
        make(group)
    assert found(tmp_path / "x.hdf5") is None


@pytest.mark.parametrize("options", [{"libver": "latest"}, {"userblock_size": 512}, {"fs_strategy": "page"}])
def test_files_of_other_formats_are_read_right_or_left_to_the_library(tmp_path, options):
    with h5py.File(tmp_path / "x.hdf5", "w", **options) as file:
        file["episode_0/a"] = np.arange(30.0).reshape(10, 3)
    if found(tmp_path / "x.hdf5") is not None:
        check(tmp_path / "x.hdf5")


@pytest.mark.parametrize("value", ["text", [1, 2], np.complex64(1), h5py.Empty("f4")])
def test_attributes_that_are_not_single_numbers_are_left_to_the_library(tmp_path, value):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["episode_0/a"] = np.arange(3.0)
        file["episode_0"].attrs.update({"one": 1, "other": value})
    values, attributes = found(tmp_path / "x.hdf5")
    assert values.keys() == {"a"}
    assert attributes is None


def test_large_compressed_arrays_are_read_by_several_threads(tmp_path):
    path, values = tmp_path / "x.hdf5", np.random.default_rng(0).integers(0, 9, (400, 60, 50), np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset("episode_0/a", data=values, chunks=(30, 40, 50), compression="gzip", shuffle=True)
        file.create_dataset("episode_0/b", data=values, chunks=(1, 60, 50), compression="gzip")
    assert found(path) is not None
    check(path)


@pytest.mark.parametrize(
    ("sound", "damaged"),
    [
        (b"second\0\0", b"second/\0"),  # names that are paths to the library
        (b"second\0\0", b"first\0\0\0"),  # or there twice: it finds one of them
        (b"other\0\0\0", b"chosen\0\0"),
        (b"other\0\0\0", b"othe\xff\0\0\0"),
        (b"\6\0\x0c\0\x08\0other", b"\5\0\x0c\0\x08\0other"),  # a name without its end
        (b"shuffle\0\x04", b"shuffle\0\x02"),  # items of another size than the values
    ],
)
def test_what_would_be_told_otherwise_than_the_library_does_is_left_to_it(tmp_path, sound, damaged):
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        group = file.create_group("episode_0")
        group["first"] = np.arange(5.0)
        group["second"] = np.arange(5.0) + 1
        group.create_dataset(
            "third", data=np.arange(40, dtype="f4"), chunks=(20,), compression="gzip", shuffle=True
        )
        group.attrs.update({"chosen": 1, "other": 2})
    check(path)
    raw = path.read_bytes()
    assert raw.count(sound) == 1
    path.write_bytes(raw.replace(sound, damaged))
    told = found(path)
    assert told is None or told[1] is None


@pytest.mark.parametrize(("key", "damaged"), [((20, 0), (20, 1)), ((20, 8), (20, 0)), ((0, 0), (20, 0))])
def test_chunks_that_the_library_would_not_find_are_left_to_it(tmp_path, key, damaged):
    """One that begins within a value, and ones that are not between the keys about them."""
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        places = file.create_dataset("episode_0/a", data=np.arange(40.0), chunks=(20,)).id
        first = places.get_chunk_info(0).byte_offset
    raw = bytearray(path.read_bytes())
    begin = raw.index(b"TREE\1") + 24
    keys = np.frombuffer(raw, "<u8", 11, begin)  # of two chunks and of what is behind them, places between
    assert keys[3] == first
    assert keys[[1, 2, 5, 6, 9, 10]].tolist() == [0, 0, 20, 0, 20, 8]
    at = {(0, 0): 1, (20, 0): 5, (20, 8): 9}[key]
    keys[at : at + 2] = damaged
    path.write_bytes(raw)
    assert found(path) is None


def test_a_header_that_has_more_than_it_says_is_left_to_the_library(tmp_path):
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        group = file.create_group("episode_0")
        group["a"] = np.arange(3.0)
        group.attrs.update({"one": 1, "two": 2})
        header = h5py.h5o.get_info(group.id).addr
    raw = bytearray(path.read_bytes())
    assert raw[header] == 1  # its version
    raw[header + 2] -= 1  # how many messages
    path.write_bytes(raw)
    assert found(path) is None


def test_arrays_without_values_have_no_chunks(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        values = file.create_dataset(
            "a", (7, 1), "f4", chunks=(2, 1), maxshape=(None, None), compression="gzip"
        )
        values.resize((7, 0))
    with hdf5.reading(tmp_path / "x.hdf5") as file:
        assert hdf5.Rows([file["a"]]).read(1, 5).shape == (4, 0)


def test_a_damaged_chunk_of_a_group_is_named(tmp_path):
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        values = np.random.default_rng(0).random(1000)
        place = file.create_dataset(
            "demo/a", data=values, chunks=(500,), compression="gzip"
        ).id.get_chunk_info(1)
    raw = bytearray(path.read_bytes())
    raw[place.byte_offset + 100] ^= 1
    path.write_bytes(raw)
    with hdf5.reading(path) as file:
        group = members(file)("demo")
        assert np.array_equal(group.arrays["a"].read(0, 500), values[:500])
        with pytest.raises(CorruptError, match=r"x\.hdf5: /demo/a rows 500\.\.999: damaged HDF5"):
            group.arrays["a"].whole()


def test_links_that_are_not_hard_are_left_to_the_library(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["real/a"] = np.arange(3.0)
        file["episode_0"] = h5py.SoftLink("/real")
        file["episode_1"] = np.arange(3.0)
        file["episode_2/a"] = np.arange(3.0)
        file["episode_2/b"] = h5py.SoftLink("/real/a")
    for name in ("episode_0", "episode_1", "episode_2"):
        assert found(tmp_path / "x.hdf5", name) is None


@pytest.mark.parametrize("seed", range(2))
def test_damage_is_found_or_changes_what_the_library_reads_too(tmp_path, seed):
    path, rng = tmp_path / "x.hdf5", random.Random(seed)
    with h5py.File(path, "w") as file:
        group = file.create_group("episode_0")
        group["a/b"] = np.arange(5, dtype="i2")
        group.create_dataset("c", data=np.arange(20.0).reshape(10, 2), chunks=(4, 2))
        group.create_dataset("d", data=np.arange(20.0), chunks=(8,), compression="gzip")
        group.attrs["id"] = 3
    sound = path.read_bytes()
    for _ in range(300):
        raw = bytearray(sound)
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
        told = None
        with contextlib.suppress(RLError, OSError, KeyError, RuntimeError, ValueError):  # of the library
            told = found(path)
        if told is not None:
            assert sum(value.nbytes for _, _, value in told[0].values()) <= 2 * len(raw)
