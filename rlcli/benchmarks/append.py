"""`rl bench append`: transitions to a fresh dataset in batches of 1,000, 8 and 1, each hashed and committed.

Limit: `write()` of as many bytes in as many blocks to a fresh file without fsync; of a commit alone `write()`
of the 64 bytes of its record.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlcli.benchmarks import Setting
from rlcli.benchmarks.rows import SCHEMA, Columns, block, spec
from rlcli.format.dataset import Dataset
from rlcli.format.writer import Durability, Writer
from rlcli.pipeline.benchmark import Arm, Goal, Item, LocalArm

TITLE = "append transitions in batches of 1,000, 8 and 1"
BATCH = 1000


def items(setting: Setting) -> Iterator[Item]:
    """`append/batches`, `append/eights`, `append/singles`, `append/commit`."""
    yield from _batches(setting)
    rows = [block(start, BATCH) for start in range(0, setting.pick(small=1, full=16) * BATCH, BATCH)]
    torchrl = "torchrl, memmap"
    yield from _few(setting, "eights", _cut(rows, 8), Goal(torchrl, 15.0))
    yield from _few(setting, "singles", _cut(rows[: setting.pick(small=1, full=4)], 1), Goal(torchrl, 10.0))
    yield from _commit(setting)


def _cut(blocks: list[Columns], rows: int) -> list[Columns]:
    """The blocks in pieces of `rows` rows."""
    return [
        {key: np.ascontiguousarray(values[at : at + rows]) for key, values in columns.items()}
        for columns in blocks
        for at in range(0, BATCH, rows)
    ]


def _few(setting: Setting, name: str, batches: list[Columns], goal: Goal) -> Iterator[Item]:
    """Commits of a few rows each."""
    rows = len(batches[0]["step",])
    units = float(len(batches) * rows)
    data = bytes(SCHEMA.row_bytes * rows)
    ours = _Ours(setting.folder / name, batches, "process")
    limit = _Fresh(
        setting.folder / f"plain-{name}", lambda file: _write(file, data, len(batches), sync=False)
    )
    arms: list[Arm] = [
        LocalArm("rl, a commit per batch", "ours", ours.call, units, ours.prepare),
        LocalArm("write() of the same bytes", "limit", limit.call, units, limit.prepare),
    ]
    item = Item(
        f"append/{name}", "transitions/s", arms, (goal,), lambda: _reads_back(setting.folder, batches)
    )
    if setting.peer is not None:
        item.arms += setting.peer.arms(item.name, setting.size, setting.folder / "peers")
    yield item
    ours.discard()


def _commit(setting: Setting) -> Iterator[Item]:
    """The commit alone: its record is made, hashed, chained and written; there is nothing else to write."""
    count = setting.pick(small=10, full=1000)
    ours = _Ours(setting.folder / "commits", [block(0, BATCH)], "process")

    def prepare() -> None:
        ours.prepare()
        ours.call()

    def commit() -> None:
        assert ours.writer is not None
        segment = ours.writer.streams[0].segments[-1]
        for _ in range(count):
            segment.commit(0, durable=False)

    record = bytes(64)
    limit = _Fresh(setting.folder / "records", lambda file: _write(file, record, count, sync=False))
    name = "write() of 64 bytes"
    yield Item(
        "append/commit",
        "commits/s",
        [
            LocalArm("rl", "ours", commit, count, prepare),
            LocalArm(name, "limit", limit.call, count, limit.prepare),
        ],
        (Goal(name, 0.5),),
        lambda: _reads_back(setting.folder, [block(0, BATCH)]),
    )
    ours.discard()


def _batches(setting: Setting) -> Iterator[Item]:
    num_batches = setting.pick(small=5, full=100)
    batches = [block(start * BATCH, BATCH) for start in range(num_batches)]
    units = float(num_batches * BATCH)
    row_bytes = SCHEMA.row_bytes
    data = np.random.default_rng(0).bytes(row_bytes * BATCH)

    ours = _Ours(setting.folder / "process", batches, "process")
    durable = _Ours(setting.folder / "commit", batches, "commit")
    limit = _Fresh(setting.folder / "plain", lambda file: _write(file, data, num_batches, sync=False))
    synced = _Fresh(setting.folder / "synced", lambda file: _write(file, data, num_batches, sync=True))
    hdf5 = _Fresh(setting.folder / "hdf5", lambda file: _write_hdf5(file, batches))
    arms: list[Arm] = [
        LocalArm("rl, a commit per batch", "ours", ours.call, units, ours.prepare),
        LocalArm("rl, a durable commit per batch", "ours", durable.call, units, durable.prepare),
        LocalArm("h5py, resized columns", "peer", hdf5.call, units, hdf5.prepare),
        LocalArm("write() of the same bytes", "limit", limit.call, units, limit.prepare),
        LocalArm("write() and one fsync at the end", "reference", synced.call, units, synced.prepare),
    ]
    remark = f"rl stores {row_bytes} bytes a row, the next observation once; the peers 165 with it twice"
    goals = (Goal("write() of the same bytes", 0.5), Goal("torchrl, memmap", 3.5))
    item = Item(
        "append/batches",
        "transitions/s",
        arms,
        goals,
        lambda: _reads_back(setting.folder, batches),
        (remark,),
    )
    if setting.peer is not None:
        item.arms += setting.peer.arms(item.name, setting.size, setting.folder / "peers")
    yield item
    ours.discard()
    durable.discard()


def _reads_back(folder: Path, batches: list[Columns]) -> str:
    """Appends once and compares every column of what is read."""
    arm = _Ours(folder / "check", batches, "process")
    arm.prepare()
    arm.call()
    with Dataset.open(arm.path) as dataset:
        for column in SCHEMA.plain:
            written = np.concatenate([batch[column.key] for batch in batches])
            assert np.array_equal(dataset.read(column.key), written), column.key
    arm.discard()
    return "what was appended reads back equal, hashes checked"


class _Ours:
    """Appending to a dataset that `prepare` makes anew each time."""

    def __init__(self, path: Path, batches: list[Any], durability: Durability) -> None:
        self.path, self.batches = path, batches
        self.durability: Durability = durability
        self.writer: Writer | None = None

    def prepare(self) -> None:
        self.discard()
        self.writer = Writer.create(
            self.path, SCHEMA, spec=spec(), lineage={"op": "bench"}, durability=self.durability
        )

    def call(self) -> None:
        assert self.writer is not None
        for batch in self.batches:
            self.writer.write(0, batch)
            self.writer.commit()

    def discard(self) -> None:
        """Drop the dataset with its writer."""
        if self.writer is not None:
            self.writer.abort()
            self.writer = None
        shutil.rmtree(self.path, ignore_errors=True)


class _Fresh:
    """Writing one file that does not exist before."""

    def __init__(self, path: Path, write: Callable[[Path], None]) -> None:
        self.path, self.write = path, write

    def prepare(self) -> None:
        self.path.unlink(missing_ok=True)

    def call(self) -> None:
        self.write(self.path)


def _write(path: Path, data: bytes, times: int, *, sync: bool) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for _ in range(times):
        os.write(file, data)
    if sync:
        os.fsync(file)
    os.close(file)


def _write_hdf5(path: Path, batches: list[Any]) -> None:
    with h5py.File(path, "w") as file:
        for column in SCHEMA.plain:
            file.create_dataset(
                "/".join(column.key), (0, *column.shape), column.numpy,
                chunks=(BATCH, *column.shape), maxshape=(None, *column.shape),
            )  # fmt: skip
        rows = 0
        for batch in batches:
            for key, value in batch.items():
                dataset: Any = file["/".join(key)]
                dataset.resize(rows + BATCH, axis=0)
                dataset[rows:] = value
            rows += BATCH
