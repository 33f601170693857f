"""`rl bench slices`: 8 slices of 32 steps out of a thousand episodes of a thousand steps.

Limit: memcpy of as many bytes from one place to another.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rlcli.benchmarks import Setting
from rlcli.benchmarks.rows import BATCH_KEYS, write_dataset
from rlcli.format.dataset import Dataset
from rlcli.pipeline.benchmark import Arm, Goal, Item, LocalArm
from rlcli.replay.batches import Batches
from rlcli.replay.slices import Config, Slices

TITLE = "8 slices of 32 steps out of a million"
SLICES, LENGTH = 8, 32


def items(setting: Setting) -> Iterator[Item]:
    """`slices/8x32`."""
    num_rows = setting.pick(small=20_000, full=1_000_000)
    path = setting.folder / "dataset"
    write_dataset(path, num_rows)
    dataset = Dataset.open(path)
    config = Config(LENGTH)
    ring = Batches(Slices(dataset, BATCH_KEYS, config=config), SLICES, form="tensordict")
    whole = dataset.read_rows(keys=BATCH_KEYS)
    columns = [whole["observation"], whole["action"], *whole["next"].values()]
    buffers = [np.empty((SLICES * LENGTH, *column.shape[1:]), column.dtype) for column in columns]
    rng = np.random.default_rng(0)

    def numpy_slices() -> None:
        for number, start in enumerate(rng.integers(0, num_rows - LENGTH, SLICES).tolist()):
            for column, buffer in zip(columns, buffers, strict=True):
                buffer[number * LENGTH : (number + 1) * LENGTH] = column[start : start + LENGTH]

    sources = [np.ones_like(buffer) for buffer in buffers]

    def memcpy() -> None:
        for source, buffer in zip(sources, buffers, strict=True):
            np.copyto(buffer, source)

    def check() -> str:
        keys = [*BATCH_KEYS, ("episode",), ("step",)]
        batch = Slices(dataset, keys, config=config).sample(200)
        rows = batch["episode"] * 1000 + batch["step"]
        assert (np.diff(rows, axis=1) == 1).all()
        assert (batch["episode"] == batch["episode"][:, :1]).all()
        assert np.array_equal(batch["next"]["observation"], whole["next"]["observation"][rows])
        return "each slice is consecutive rows of one episode"

    arms: list[Arm] = [
        LocalArm("rl, TensorDicts in turn", "ours", lambda: next(ring), SLICES * LENGTH),
        LocalArm("numpy slice copies", "reference", numpy_slices, SLICES * LENGTH),
        LocalArm("memcpy of the same bytes", "limit", memcpy, SLICES * LENGTH),
    ]
    item = Item("slices/8x32", "steps/s", arms, check=check)
    item.goals = (Goal("torchrl, caches on", 20.0),)
    if setting.peer is not None:
        item.arms += setting.peer.arms(item.name, setting.size, setting.folder / "peers")
    yield item
    dataset.close()
