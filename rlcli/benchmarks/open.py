"""`rl bench open`: open a dataset and read one random episode of 1,000 steps, all columns, cache warm.

Limit: open and `pread` of one contiguous block of as many bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from rlcli.benchmarks import Setting
from rlcli.benchmarks.rows import EPISODE, SCHEMA, block, write_dataset
from rlcli.format.dataset import Dataset
from rlcli.pipeline.benchmark import Arm, Item, LocalArm

TITLE = "open a dataset of a million transitions and read a random episode"


def items(setting: Setting) -> Iterator[Item]:
    """`open/episode`."""
    num_rows = setting.pick(small=20_000, full=1_000_000)
    path = setting.folder / "dataset"
    write_dataset(path, num_rows)
    flat = _write_flat(setting.folder, num_rows)
    rng = np.random.default_rng(0)

    def start() -> int:
        return int(rng.integers(num_rows // EPISODE)) * EPISODE

    def rl(check: Literal["touch", "none"]) -> Callable[[], Any]:
        def read() -> Any:
            with Dataset.open(path, check=check) as dataset:
                first = start()
                return dataset.read_rows(first, first + EPISODE)

        return read

    stays_open = Dataset.open(path, check="none")

    def further() -> Any:
        first = start()
        return stays_open.read_rows(first, first + EPISODE)

    def check() -> str:
        first = start()
        rows = stays_open.read_rows(first, first + EPISODE)
        expected = block(first, EPISODE)
        for key, column in expected.items():
            found: Any = rows
            for name in key:
                found = found[name]
            assert np.array_equal(found, column), key
        following = expected["observation",][1:]
        assert np.array_equal(rows["next"]["observation"][:-1], following)
        return "the episode read equals the episode written, in every column"

    size = EPISODE * sum(column.row_bytes for column in SCHEMA.columns)

    def pread() -> bytes:
        file = os.open(flat["block"], os.O_RDONLY)
        data = os.pread(file, size, (start() // EPISODE) * size)
        os.close(file)
        return data

    def hdf5() -> Any:
        with h5py.File(flat["hdf5"]) as file:
            first = start()
            return {name: dataset[first : first + EPISODE] for name, dataset in file.items()}

    def npy() -> Any:
        first = start()
        return [np.array(np.load(p, mmap_mode="r")[first : first + EPISODE]) for p in flat["npy"]]

    arms: list[Arm] = [
        LocalArm("rl, hashes checked", "ours", rl("touch")),
        LocalArm("rl, unchecked", "ours", rl("none")),
        LocalArm("rl, a further episode", "ours", further),
        LocalArm("h5py, flat columns, 1,000-row chunks", "peer", hdf5),
        LocalArm("numpy, one .npy a column, mapped", "reference", npy),
        LocalArm("pread of one block", "limit", pread),
    ]
    item = Item("open/episode", "episodes/s", arms, check=check)
    if setting.peer is not None:
        item.arms += setting.peer.arms(item.name, setting.size, setting.folder / "peers")
    yield item
    stays_open.close()


def _write_flat(folder: Path, num_rows: int) -> dict[str, Any]:
    """The same columns, next observations stored, as HDF5, as .npy files, and a file of that size."""
    columns = {"/".join(column.key): column for column in SCHEMA.columns}
    npy = {name: folder / f"{name.replace('/', '.')}.npy" for name in columns}
    maps = {
        name: np.lib.format.open_memmap(npy[name], "w+", column.numpy, (num_rows, *column.shape))
        for name, column in columns.items()
    }
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
    return {"npy": list(npy.values()), "hdf5": folder / "flat.hdf5", "block": folder / "block"}
