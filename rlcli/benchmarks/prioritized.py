"""`rl bench prioritized`: draw 256 of a million rows by priority, deliver them, give them new priorities.

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
from rlcli.replay.prioritized import Config, Prioritized

TITLE = "prioritised batches of 256 transitions from a million, and their new priorities"
BATCH = 256


def items(setting: Setting) -> Iterator[Item]:
    """`prioritized/pair`."""
    num_rows = setting.pick(small=20_000, full=1_000_000)
    path = setting.folder / "dataset"
    write_dataset(path, num_rows)
    dataset = Dataset.open(path)
    config = Config(alpha=0.6, beta=0.4)
    sampler = Prioritized(dataset, BATCH_KEYS, config=config)
    ring = Batches(sampler, BATCH, form="tensordict")
    rng = np.random.default_rng(0)
    priorities = rng.random((64, BATCH)) + 1e-3
    turn = 0

    def pair() -> None:
        nonlocal turn
        turn = (turn + 1) % 64
        batch = next(ring)
        sampler.update(batch["row"].numpy(), priorities[turn])

    bare = Prioritized(dataset, BATCH_KEYS[:1], config=config)
    bare.sample(1)
    ids, weights = np.empty(BATCH, np.int64), np.empty(BATCH, np.float32)

    def tree() -> None:
        nonlocal turn
        turn = (turn + 1) % 64
        bare.table.tree.sample(0, 0, turn, True, 0.4, ids, weights)
        bare.table.tree.set(ids, priorities[turn])

    row_bytes = sum(dataset.schema.column(key).row_bytes for key in BATCH_KEYS)
    source, copy = np.ones(BATCH * row_bytes, np.uint8), np.empty(BATCH * row_bytes, np.uint8)

    def check() -> str:
        fresh = Prioritized(dataset, BATCH_KEYS, config=Config(alpha=1.0, beta=1.0))
        fresh.sample(1)
        fresh.update(np.arange(num_rows), np.arange(num_rows) % 2 * 1.0)
        batch = fresh.sample(10_000)
        assert (batch["row"] % 2).mean() > 0.99
        return "rows of no priority do not come"

    arms: list[Arm] = [
        LocalArm("rl, TensorDicts in turn", "ours", pair, 1),
        LocalArm("rl, the trees alone", "ours", tree, 1),
        LocalArm("memcpy of the same bytes", "limit", lambda: np.copyto(copy, source), 1),
    ]
    item = Item("prioritized/pair", "pairs/s", arms, check=check)
    item.goals = (Goal("cpprb, in memory", 6.0), Goal("torchrl, memmap", 7.0))
    if setting.peer is not None:
        item.arms += setting.peer.arms(item.name, setting.size, setting.folder / "peers")
    yield item
    dataset.close()
