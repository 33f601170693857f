"""Prioritised batches of 256 and the update of their priorities, in cpprb and torchrl."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up  # type: ignore[import-not-found]  # this folder is on the path, see __main__

BATCH = 256
CHUNK = 10_000


def cpprb_ram(folder: Path, size: str) -> dict[str, Any]:
    """`PrioritizedReplayBuffer` in memory."""
    import numpy as np
    from cpprb import PrioritizedReplayBuffer

    total = made_up.rows(size)
    buffer = PrioritizedReplayBuffer(total, made_up.cpprb_columns(), alpha=0.6)
    chunk = made_up.block(CHUNK)
    for _ in range(total // CHUNK):
        buffer.add(**chunk)
    priorities = np.random.default_rng(0).random(BATCH) + 1e-3

    def call() -> None:
        batch = buffer.sample(BATCH, beta=0.4)
        buffer.update_priorities(batch["indexes"], priorities)

    return {"call": call}


def torchrl_memmap(folder: Path, size: str) -> dict[str, Any]:
    """`TensorDictReplayBuffer` with a `PrioritizedSampler` over `LazyMemmapStorage`."""
    import torch
    from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
    from torchrl.data.replay_buffers.samplers import PrioritizedSampler

    torch.set_num_threads(1)
    total = made_up.rows(size)
    storage = LazyMemmapStorage(total, scratch_dir=str(folder / "torchrl"))
    sampler = PrioritizedSampler(total, alpha=0.6, beta=0.4)
    buffer = TensorDictReplayBuffer(storage=storage, sampler=sampler, batch_size=BATCH)
    chunk = made_up.tensordict(CHUNK)
    for _ in range(total // CHUNK):
        buffer.extend(chunk)
    priorities = torch.rand(BATCH) + 1e-3

    def call() -> None:
        batch = buffer.sample()
        buffer.update_priority(batch["index"], priorities)

    return {"call": call}


ARMS: dict[str, dict[str, Callable[[Path, str], dict[str, Any]]]] = {
    "pair": {"cpprb, in memory": cpprb_ram, "torchrl, memmap": torchrl_memmap}
}
