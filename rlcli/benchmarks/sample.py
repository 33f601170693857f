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
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Box, Discrete
from rlcli.format.writer import Writer
from rlcli.pipeline.benchmark import Arm, Goal, Item, LocalArm
from rlcli.replay.batches import Batches
from rlcli.replay.uniform import Uniform

TITLE = "uniform batches of 256 transitions from a million"
BATCH = 256


def items(setting: Setting) -> Iterator[Item]:
    """`sample/uniform`, `sample/pixels`."""
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
    yield _pixels(setting)


def _pixels(setting: Setting) -> Item:
    """`sample/pixels`: stacks of four frames and the next stacks, which are stored once."""
    num_rows = setting.pick(small=200, full=10_000)
    space = Box((4, 84, 84), dtype="uint8", low=0, high=255)
    schema = ted_schema(space, Discrete(4))
    rng = np.random.default_rng(0)
    spec = {"env": None, "observation": space.to_json(), "action": Discrete(4).to_json()}
    path = setting.folder / "pixels"
    with EpisodeWriter(
        Writer.create(path, schema, spec=spec, lineage={"op": "bench"}), chunk_rows=64
    ) as writer:
        for row in range(num_rows):
            if row % 200 == 0:
                writer.begin(0, row)
            last = row % 200 == 199
            pixels = rng.integers(0, 256, space.shape, np.uint8)
            writer.add(
                0,
                observation=pixels,
                action=row % 4,
                reward=0.0,
                terminated=False,
                truncated=last,
                next_observation=pixels if last else None,
            )
    dataset = Dataset.open(path)
    dataset.set_threads(2)
    ring = Batches(Uniform(dataset, BATCH_KEYS), BATCH, form="tensordict", keep=2)

    def check() -> str:
        rows = Uniform(dataset, BATCH_KEYS, seed=3).rows(BATCH)
        batch = Uniform(dataset, BATCH_KEYS, seed=3).sample(BATCH)
        following = dataset.gather(np.minimum(rows + 1, num_rows - 1), [("observation",)])["observation"]
        inside = rows % 200 != 199
        assert np.array_equal(batch["next"]["observation"][inside], following[inside])
        return "next stacks are those of the next rows"

    source = np.ones((2, BATCH, *space.shape), np.uint8)
    copy = np.empty_like(source)
    arms: list[Arm] = [
        LocalArm("rl, two threads", "ours", lambda: next(ring), BATCH),
        LocalArm("memcpy of the same bytes, one thread", "limit", lambda: np.copyto(copy, source), BATCH),
    ]
    item = Item("sample/pixels", "transitions/s", arms, check=check)
    item.goals = (Goal("cpprb, in memory", 1.6), Goal("torchrl, memmap, two threads", 6.5))
    if setting.peer is not None:
        item.arms += setting.peer.arms(item.name, setting.size, setting.folder / "peers")
    return item


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
