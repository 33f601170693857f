"""`rl bench open`: open a dataset and read one random episode of 1,000 steps, all columns, cache warm; then
read further ones of a dataset that stays open.

Peers compare no hash, so the arm that is compared with them does not either. Limits: `pread` of one block of
as many bytes, and mapping bare files of the columns and copying the episode out of them.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from rlcli.benchmarks import Setting
from rlcli.benchmarks.rows import EPISODE, SCHEMA, block, write_dataset
from rlcli.format.dataset import Dataset
from rlcli.pipeline.benchmark import Arm, Goal, Item, LocalArm

TITLE = "open a dataset of a million transitions and read a random episode"
GOALS = (Goal("tensordict memmap", 2.0),)


def items(setting: Setting) -> Iterator[Item]:
    """`open/episode` and `open/further`."""
    yield from _opened(_Data(setting))
    yield from _further(_Data(setting))


class _Data:
    """The same rows as a dataset of ours and in flat files, and random episodes of them."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.num_rows = setting.pick(small=20_000, full=1_000_000)
        self.path = setting.folder / "dataset"
        self.size = EPISODE * sum(column.row_bytes for column in SCHEMA.columns)
        self.rng = np.random.default_rng(0)
        write_dataset(self.path, self.num_rows)
        self.flat = _write_flat(setting.folder, self.num_rows)

    def start(self) -> int:
        """The first row of a random episode."""
        return int(self.rng.integers(self.num_rows // EPISODE)) * EPISODE

    def read(self, dataset: Dataset) -> dict[str, Any]:
        """A random episode of ours."""
        episode = dataset.episode(int(self.rng.integers(dataset.num_episodes)))
        return dataset.read_rows(episode.start, episode.stop)


def _opened(data: _Data) -> Iterator[Item]:
    flat = data.flat

    def opened(check: Literal["touch", "none"]) -> Callable[[], Any]:
        def read() -> Any:
            with Dataset.open(data.path, check=check) as dataset:
                return data.read(dataset)

        return read

    def pread() -> bytes:
        file = os.open(flat["block"], os.O_RDONLY)
        found = os.pread(file, data.size, data.start() // EPISODE * data.size)
        os.close(file)
        return found

    def raw_mmap() -> Any:
        first = data.start()
        parts = zip(flat["raw"], SCHEMA.columns, strict=True)
        return [_copied(path, column.row_bytes, first) for path, column in parts]

    def hdf5() -> Any:
        with h5py.File(flat["hdf5"]) as file:
            first = data.start()
            return {name: dataset[first : first + EPISODE] for name, dataset in file.items()}

    def npy() -> Any:
        first = data.start()
        return [np.array(np.load(p, mmap_mode="r")[first : first + EPISODE]) for p in flat["npy"]]

    arms: list[Arm] = [
        LocalArm("rl, unchecked", "ours", opened("none")),
        LocalArm("rl, hashes checked", "ours", opened("touch")),
        LocalArm("h5py, flat columns, 1,000-row chunks", "peer", hdf5),
        LocalArm("numpy, one .npy a column, mapped", "reference", npy),
        LocalArm("mmap of bare columns", "limit", raw_mmap),
        LocalArm("pread of one block", "limit", pread),
    ]
    with Dataset.open(data.path) as dataset:
        item = Item("open/episode", "episodes/s", arms, goals=GOALS, check=lambda: _check(dataset))
        yield _with_peers(item, data.setting)


def _further(data: _Data) -> Iterator[Item]:
    columns = [np.load(path, mmap_mode="r") for path in data.flat["npy"]]
    file = os.open(data.flat["block"], os.O_RDONLY)

    def npy() -> Any:
        first = data.start()
        return [np.array(column[first : first + EPISODE]) for column in columns]

    with Dataset.open(data.path, check="none") as dataset, Dataset.open(data.path) as checked:
        arms: list[Arm] = [
            LocalArm("rl, unchecked", "ours", lambda: data.read(dataset)),
            LocalArm("rl, hashes checked", "ours", lambda: data.read(checked)),
            LocalArm("numpy, one .npy a column, mapped", "reference", npy),
            LocalArm(
                "pread of one block", "limit",
                lambda: os.pread(file, data.size, data.start() // EPISODE * data.size),
            ),
        ]  # fmt: skip
        item = Item("open/further", "episodes/s", arms, goals=GOALS, check=lambda: _check(checked))
        yield _with_peers(item, data.setting)
    os.close(file)


def _with_peers(item: Item, setting: Setting) -> Item:
    if setting.peer is not None:
        item.arms += setting.peer.arms(item.name, setting.size, setting.folder / "peers")
    return item


def _check(dataset: Dataset) -> str:
    """The episodes that are read are those that were written."""
    for index in (0, dataset.num_episodes // 2, dataset.num_episodes - 1):
        episode = dataset.episode(index)
        assert (episode.start, episode.length) == (index * EPISODE, EPISODE)
        rows = dataset.read_rows(episode.start, episode.stop)
        expected = block(episode.start, EPISODE)
        for key, column in expected.items():
            found: Any = rows
            for name in key:
                found = found[name]
            assert np.array_equal(found, column), key
        following = expected["observation",][1:]
        assert np.array_equal(rows["next"]["observation"][:-1], following)
    return "the episodes read equal the episodes written, in every column"


def _copied(path: Path, row_bytes: int, first: int) -> bytes:
    """An episode's bytes of a bare column, through a map made for it."""
    file = os.open(path, os.O_RDONLY)
    with mmap.mmap(file, 0, access=mmap.ACCESS_READ) as memory:
        os.close(file)
        return memory[first * row_bytes : (first + EPISODE) * row_bytes]


def _write_flat(folder: Path, num_rows: int) -> dict[str, Any]:
    """The same columns, next observations stored, as HDF5, .npy and bare files, and one file of that size."""
    columns = {"/".join(column.key): column for column in SCHEMA.columns}
    npy = {name: folder / f"{name.replace('/', '.')}.npy" for name in columns}
    maps = {
        name: np.lib.format.open_memmap(npy[name], "w+", column.numpy, (num_rows, *column.shape))
        for name, column in columns.items()
    }
    raw = {name: folder / f"{name.replace('/', '.')}.raw" for name in columns}
    with h5py.File(folder / "flat.hdf5", "w") as file, open(folder / "block", "wb") as whole:
        for name, column in columns.items():
            shape = (num_rows, *column.shape)
            file.create_dataset(name.replace("/", "."), shape, column.numpy, chunks=(1000, *column.shape))
        for start in range(0, num_rows, EPISODE):
            rows = {"/".join(key): value for key, value in block(start, EPISODE).items()}
            rows["next/observation"] = np.roll(rows["observation"], -1, axis=0)
            for name, value in rows.items():
                maps[name][start : start + EPISODE] = value
                dataset: Any = file[name.replace("/", ".")]
                dataset[start : start + EPISODE] = value
                whole.write(value.tobytes())
    for name, mapped in maps.items():
        mapped.tofile(raw[name])
    return {
        "npy": list(npy.values()),
        "raw": list(raw.values()),
        "hdf5": folder / "flat.hdf5",
        "block": folder / "block",
    }
