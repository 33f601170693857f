"""`rl bench sample`: uniform batches of 256 transitions from a million on disk, draw included, cache warm.

Limit: memcpy of as many bytes from one place to another.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.benchmarks import Setting
from rlcli.benchmarks.rows import BATCH_KEYS, EPISODE, SCHEMA, block, write_dataset
from rlcli.format.dataset import Dataset
from rlcli.pipeline.benchmark import Arm, Goal, Item, LocalArm
from rlcli.replay.batches import Batches
from rlcli.replay.uniform import Uniform

TITLE = "uniform batches of 256 transitions from a million"
BATCH = 256


def items(setting: Setting) -> Iterator[Item]:
    """`sample/uniform`."""
    num_rows = setting.pick(small=20_000, full=1_000_000)
    path = setting.folder / "dataset"
    write_dataset(path, num_rows)
    columns = _write_columns(setting.folder, num_rows)
    dataset = Dataset.open(path)
    sampler = Uniform(dataset, BATCH_KEYS)
    ring = Batches(Uniform(dataset, BATCH_KEYS), BATCH, form="tensordict")
    rng = np.random.default_rng(0)
    buffers = [np.empty((BATCH, *column.shape[1:]), column.dtype) for column in columns]

    def take() -> None:
        rows = rng.integers(0, num_rows, BATCH)
        for column, buffer in zip(columns, buffers, strict=True):
            np.take(column, rows, axis=0, out=buffer, mode="clip")

    sources = [np.ones_like(buffer) for buffer in buffers]

    def memcpy() -> None:
        for source, buffer in zip(sources, buffers, strict=True):
            np.copyto(buffer, source)

    def check() -> str:
        rows = Uniform(dataset, BATCH_KEYS, seed=3).rows(BATCH)
        batch = next(Batches(Uniform(dataset, BATCH_KEYS, seed=3), BATCH, form="tensordict"))
        for key, column in zip(BATCH_KEYS, columns, strict=True):
            assert np.array_equal(batch[key].numpy(), column[rows])
        return "batches equal NumPy's gather of the same rows"

    arms: list[Arm] = [
        LocalArm("rl, TensorDicts in turn", "ours", lambda: next(ring), BATCH),
        LocalArm("rl, fresh NumPy arrays", "ours", lambda: sampler.sample(BATCH), BATCH),
        LocalArm("numpy take(out=) of mapped columns", "reference", take, BATCH),
        LocalArm("memcpy of the same bytes", "limit", memcpy, BATCH),
    ]
    item = Item("sample/uniform", "transitions/s", arms, check=check)
    item.goals = (Goal("cpprb, in memory", 3.0), Goal("torchrl, memmap", 7.0))
    if setting.peer is not None:
        item.arms += setting.peer.arms(item.name, setting.size, setting.folder / "peers")
    yield item
    dataset.close()


def _write_columns(folder: Path, num_rows: int) -> list[np.memmap[Any, Any]]:
    """The same rows as mapped columns of their own, next observations stored."""
    columns = []
    for key in BATCH_KEYS:
        column = SCHEMA.column(key)
        file = folder / ".".join(key)
        columns.append(np.memmap(file, column.numpy, "w+", shape=(num_rows, *column.shape)))
    for start in range(0, num_rows, EPISODE):
        rows = block(start, EPISODE)
        following = np.roll(rows["observation",], -1, axis=0)
        following[-1] = 0  # the final observation of `write_dataset`
        rows["next", "observation"] = following
        for key, mapped in zip(BATCH_KEYS, columns, strict=True):
            mapped[start : start + EPISODE] = rows[key]
    return columns
