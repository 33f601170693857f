"""Uniform batches of 256 out of cpprb, SB3 and torchrl."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up  # type: ignore[import-not-found]  # this folder is on the path, see __main__

BATCH = 256
CHUNK = 10_000


def cpprb_ram(folder: Path, size: str) -> dict[str, Any]:
    """`ReplayBuffer` in memory."""
    from cpprb import ReplayBuffer

    total = made_up.rows(size)
    buffer = ReplayBuffer(total, made_up.cpprb_columns())
    chunk = made_up.block(CHUNK)
    for _ in range(total // CHUNK):
        buffer.add(**chunk)
    return {"call": lambda: buffer.sample(BATCH), "units": float(BATCH)}


def sb3(folder: Path, size: str) -> dict[str, Any]:
    """`ReplayBuffer` in memory."""
    import torch
    from stable_baselines3.common.buffers import ReplayBuffer

    torch.set_num_threads(1)
    buffer = made_up.sb3_buffer(ReplayBuffer, made_up.rows(size), handle_timeout_termination=False)
    return {"call": lambda: buffer.sample(BATCH), "units": float(BATCH)}


def torchrl_memmap(folder: Path, size: str) -> dict[str, Any]:
    """`TensorDictReplayBuffer` over `LazyMemmapStorage`."""
    import torch
    from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer

    torch.set_num_threads(1)
    total = made_up.rows(size)
    storage = LazyMemmapStorage(total, scratch_dir=str(folder / "torchrl"))
    buffer = TensorDictReplayBuffer(storage=storage, batch_size=BATCH)
    chunk = made_up.tensordict(CHUNK)
    for _ in range(total // CHUNK):
        buffer.extend(chunk)
    return {"call": buffer.sample, "units": float(BATCH)}


PIXELS = {"obs": (4, 84, 84), "next_obs": (4, 84, 84)}


def _pixel_rows(size: str) -> int:
    return 200 if size == "small" else 10_000


def cpprb_pixels(folder: Path, size: str) -> dict[str, Any]:
    """`ReplayBuffer` in memory, both stacks of each transition."""
    import numpy as np
    from cpprb import ReplayBuffer

    columns = {name: {"shape": shape, "dtype": np.uint8} for name, shape in PIXELS.items()}
    columns |= {"act": {"dtype": np.int64}, "rew": {"dtype": np.float32}, "done": {"dtype": np.bool_}}
    total, rng = _pixel_rows(size), np.random.default_rng(0)
    buffer = ReplayBuffer(total, columns)
    for _ in range(total // 100):
        stacks = {name: rng.integers(0, 256, (100, *shape), np.uint8) for name, shape in PIXELS.items()}
        buffer.add(**stacks, act=np.zeros(100, np.int64), rew=np.zeros(100), done=np.zeros(100, np.bool_))
    return {"call": lambda: buffer.sample(BATCH), "units": float(BATCH)}


def torchrl_pixels(folder: Path, size: str) -> dict[str, Any]:
    """`TensorDictReplayBuffer` over `LazyMemmapStorage`, both stacks of each transition."""
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer

    torch.set_num_threads(2)
    total = _pixel_rows(size)
    storage = LazyMemmapStorage(total, scratch_dir=str(folder / "torchrl"))
    buffer = TensorDictReplayBuffer(storage=storage, batch_size=BATCH)
    for _ in range(total // 100):
        stacks = {
            name: torch.randint(0, 256, (100, *shape), dtype=torch.uint8) for name, shape in PIXELS.items()
        }
        one = {"act": torch.zeros(100), "rew": torch.zeros(100, 1), "done": torch.zeros(100, 1).bool()}
        buffer.extend(TensorDict({**stacks, **one}, [100]))
    return {"call": buffer.sample, "units": float(BATCH)}


ARMS: dict[str, dict[str, Callable[[Path, str], dict[str, Any]]]] = {
    "uniform": {"cpprb, in memory": cpprb_ram, "SB3, in memory": sb3, "torchrl, memmap": torchrl_memmap},
    "pixels": {"cpprb, in memory": cpprb_pixels, "torchrl, memmap, two threads": torchrl_pixels},
}
