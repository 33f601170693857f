"""`rl bench append`: transitions to a fresh dataset in batches of 1,000, 8 and 1, each hashed and committed.

Ours is what a first append to a new dataset costs: the first batch makes the twelve files of a segment (nine
columns, two meta.json, the journal), its commit publishes a manifest; each batch is a `pwrite` per column and
one of the journal's 64 bytes, and all rows are hashed twice, for their commit and for the seal.

Limits, all into files that are made within the timed call, without fsync:

* "write() of the transitions": one file, one block per batch of what the peers are given and store:
  observation, action, reward, terminated and next observation, 165 bytes a row;
* "write() of the stored bytes": one file, one block per batch of the very bytes of our nine columns: fewer
  bytes than that, and fewer calls and page borders than any file per column can do with;
* "write() of each column": the stored bytes in nine files, a block per column and batch.

The limit of a commit alone is `write()` of the 64 bytes of its record. Rows lie in memory that was not
touched just before, as a collector's do, and so do the limits': `write()` of one block again and again, which
never leaves the cache, is shown beside them.

Nothing is deleted before the end, only put aside and emptied: to make a new file ext4 passes one by one over
the inodes that were deleted in the last minutes, so fresh files would pay for the rounds before.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlcli.benchmarks import Setting
from rlcli.benchmarks.rows import SCHEMA, Columns, block, spec
from rlcli.format import folders
from rlcli.format.dataset import Dataset
from rlcli.format.specs import Key
from rlcli.format.writer import Durability, Writer
from rlcli.pipeline.benchmark import Arm, Goal, Item, LocalArm

TITLE = "append transitions in batches of 1,000, 8 and 1"
BATCH = 1000
OBSERVATION_BYTES = SCHEMA.by_key["observation",].row_bytes
PEER_BYTES = 165  # observation, action, reward, terminated, next observation


def items(setting: Setting) -> Iterator[Item]:
    """`append/batches`, `append/eights`, `append/singles`, `append/commit`."""
    with tempfile.TemporaryDirectory(prefix="rl-bench-", dir=setting.folder.parent) as kept:
        yield from _items(replace(setting, folder=Path(kept)))


def _items(setting: Setting) -> Iterator[Item]:
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
    ours = _Ours(setting.folder / name, batches, "process")
    blocks = [_bytes_of(batch) for batch in batches]
    limit = _Fresh(setting.folder / f"plain-{name}", lambda file: _write(file, blocks, sync=False))
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

    records = [bytes(64)] * count
    limit = _Fresh(setting.folder / "records", lambda file: _write(file, records, sync=False))
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
    blocks = [_bytes_of(batch) for batch in batches]
    transitions = [_bytes_of(_given(batch)) for batch in batches]
    hot_blocks = blocks[:1] * num_batches

    ours = _Ours(setting.folder / "process", batches, "process")
    sealed = _Ours(setting.folder / "sealed", batches, "process", is_closed=True)
    durable = _Ours(setting.folder / "commit", batches, "commit")
    whole = _Fresh(setting.folder / "whole", lambda file: _write(file, transitions, sync=False))
    limit = _Fresh(setting.folder / "plain", lambda file: _write(file, blocks, sync=False))
    columns = [[batch[column.key] for column in SCHEMA.plain] for batch in batches]
    by_column = _Fresh(setting.folder / "columns", lambda folder: _write_columns(folder, columns))
    hot = _Fresh(setting.folder / "hot", lambda file: _write(file, hot_blocks, sync=False))
    synced = _Fresh(setting.folder / "synced", lambda file: _write(file, blocks, sync=True))
    hdf5 = _Fresh(setting.folder / "hdf5", lambda file: _write_hdf5(file, batches))
    arms: list[Arm] = [
        LocalArm("rl, a commit per batch", "ours", ours.call, units, ours.prepare),
        LocalArm("rl, closed and sealed", "ours", sealed.call, units, sealed.prepare),
        LocalArm("rl, a durable commit per batch", "ours", durable.call, units, durable.prepare),
        LocalArm("h5py, resized columns", "peer", hdf5.call, units, hdf5.prepare),
        LocalArm("write() of the transitions", "limit", whole.call, units, whole.prepare),
        LocalArm("write() of the stored bytes", "limit", limit.call, units, limit.prepare),
        LocalArm("write() of each column", "limit", by_column.call, units, by_column.prepare),
        LocalArm("write() of one hot block", "reference", hot.call, units, hot.prepare),
        LocalArm("write() and one fsync at the end", "reference", synced.call, units, synced.prepare),
    ]
    goals = (
        Goal("write() of the transitions", 0.5),
        Goal("write() of the stored bytes", 0.5),
        Goal("write() of each column", 0.5),
        Goal("torchrl, memmap", 3.5),
    )
    item = Item(
        "append/batches",
        "transitions/s",
        arms,
        goals,
        lambda: _reads_back(setting.folder, batches),
        (_space(setting.folder, batches, row_bytes),),
    )
    if setting.peer is not None:
        item.arms += setting.peer.arms(item.name, setting.size, setting.folder / "peers")
    yield item
    for arm in (ours, sealed, durable):
        arm.discard()


def _given(columns: Columns) -> Columns:
    """A batch as peers take it, `PEER_BYTES` a row; the last row's next observation is the first."""
    following = np.roll(columns["observation",], -1, axis=0)
    kept: list[Key] = [("observation",), ("action",), ("next", "reward"), ("next", "terminated")]
    return {**{key: columns[key] for key in kept}, ("next", "observation"): following}


def _bytes_of(columns: Columns) -> bytes:
    """The bytes of a batch, one column after the other."""
    return b"".join(values.tobytes() for values in columns.values())


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


def _space(folder: Path, batches: list[Columns], row_bytes: int) -> str:
    """What a sealed dataset of the batches takes, in words: its files, its journal and its manifests too."""
    arm = _Ours(folder / "space", batches, "process", is_closed=True)
    arm.prepare()
    arm.call()
    rows = len(batches) * BATCH
    taken = folders.space(arm.path) / rows
    arm.discard()
    twice = row_bytes + OBSERVATION_BYTES
    return (
        f"on disk {taken:.0f} bytes a row, {taken / twice:.2f} of the {twice} with next observations stored; "
        f"the peers, without flags, episode and step, store {PEER_BYTES}"
    )


class _Ours:
    """Appending to a dataset that `prepare` makes anew each time, and perhaps closing it."""

    def __init__(
        self, path: Path, batches: list[Any], durability: Durability, *, is_closed: bool = False
    ) -> None:
        self.path, self.batches = path, batches
        self.durability: Durability = durability
        self.is_closed = is_closed
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
        if self.is_closed:
            self.writer.close()

    def discard(self) -> None:
        """Drop the dataset with its writer."""
        if self.writer is not None:
            self.writer.abort()
            self.writer = None
        _put_aside(self.path)


class _Fresh:
    """Writing one file, or a folder of files, that does not exist before."""

    def __init__(self, path: Path, write: Callable[[Path], None]) -> None:
        self.path, self.write = path, write

    def prepare(self) -> None:
        _put_aside(self.path)

    def call(self) -> None:
        self.write(self.path)


def _put_aside(path: Path) -> None:
    """Gives the space of a file or folder back and its name free, but deletes nothing."""
    if not path.exists():
        return
    for file in [path, *path.rglob("*")]:
        if file.is_file():
            os.truncate(file, 0)
    aside = path.with_name("aside")
    aside.mkdir(exist_ok=True)
    path.rename(aside / uuid.uuid4().hex)


def _write(path: Path, blocks: list[bytes], *, sync: bool) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for block_ in blocks:
        os.write(file, block_)
    if sync:
        os.fsync(file)
    os.close(file)


def _write_columns(folder: Path, batches: list[list[Any]]) -> None:
    folder.mkdir()
    fds = [os.open(folder / str(n), os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for n in range(len(batches[0]))]
    for batch in batches:
        for fd, values in zip(fds, batch, strict=True):
            os.write(fd, values)
    for fd in fds:
        os.close(fd)


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
