"""Batches of 256 three-step transitions out of cpprb, SB3 and torchrl.

cpprb and torchrl sum the rewards when steps are added, so drawing them is drawing any row; SB3 when they are
drawn, as we do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up  # type: ignore[import-not-found]  # this folder is on the path, see __main__

BATCH, N, GAMMA = 256, 3, 0.99
CHUNK = 10_000


def cpprb_ram(folder: Path, size: str) -> dict[str, Any]:
    """`ReplayBuffer(Nstep=…)` in memory."""
    from cpprb import ReplayBuffer

    total = made_up.rows(size)
    steps = {"size": N, "gamma": GAMMA, "rew": "rew", "next": "next_obs"}
    buffer = ReplayBuffer(total, made_up.cpprb_columns(), Nstep=steps)
    chunk = made_up.block(CHUNK)
    chunk["done"][-1] = True
    for _ in range(total // CHUNK):
        buffer.add(**chunk)
        buffer.on_episode_end()
    return {"call": lambda: buffer.sample(BATCH), "units": float(BATCH)}


def sb3(folder: Path, size: str) -> dict[str, Any]:
    """`NStepReplayBuffer` in memory."""
    import torch
    from stable_baselines3.common.buffers import NStepReplayBuffer

    torch.set_num_threads(1)
    buffer = made_up.sb3_buffer(NStepReplayBuffer, made_up.rows(size), n_steps=N, gamma=GAMMA)
    return {"call": lambda: buffer.sample(BATCH), "units": float(BATCH)}


def torchrl_memmap(folder: Path, size: str) -> dict[str, Any]:
    """`TensorDictReplayBuffer` over `LazyMemmapStorage`, filled through `MultiStepTransform`."""
    import torch
    from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
    from torchrl.envs.transforms import MultiStepTransform

    torch.set_num_threads(1)
    total = made_up.rows(size)
    storage = LazyMemmapStorage(total, scratch_dir=str(folder / "torchrl"))
    transform = MultiStepTransform(n_steps=N, gamma=GAMMA)
    buffer = TensorDictReplayBuffer(storage=storage, batch_size=BATCH, transform=transform)
    chunk = made_up.tensordict(CHUNK)
    chunk["next", "done"] = chunk["next", "terminated"]
    for _ in range(total // CHUNK):
        buffer.extend(chunk)
    return {"call": buffer.sample, "units": float(BATCH)}


ARMS: dict[str, dict[str, Callable[[Path, str], dict[str, Any]]]] = {
    "batches": {"cpprb, in memory": cpprb_ram, "SB3, in memory": sb3, "torchrl, memmap": torchrl_memmap}
}
