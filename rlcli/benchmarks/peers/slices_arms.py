"""8 slices of 32 steps from torchrl's `SliceSampler` over episodes of 1,000 steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up  # type: ignore[import-not-found]  # this folder is on the path, see __main__

SLICES, LENGTH = 8, 32
EPISODE = 1000


def torchrl_cached(folder: Path, size: str) -> dict[str, Any]:
    """With the trajectory bounds cached."""
    import torch
    from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
    from torchrl.data.replay_buffers.samplers import SliceSampler

    torch.set_num_threads(1)
    total = made_up.rows(size)
    storage = LazyMemmapStorage(total, scratch_dir=str(folder / "torchrl"))
    sampler = SliceSampler(slice_len=LENGTH, traj_key="episode", cache_values=True)
    buffer = TensorDictReplayBuffer(storage=storage, sampler=sampler, batch_size=SLICES * LENGTH)
    for start in range(0, total, 10 * EPISODE):
        chunk = made_up.tensordict(10 * EPISODE)
        chunk["episode"] = torch.arange(start, start + 10 * EPISODE) // EPISODE
        buffer.extend(chunk)
    return {"call": buffer.sample, "units": float(SLICES * LENGTH)}


ARMS: dict[str, dict[str, Callable[[Path, str], dict[str, Any]]]] = {
    "8x32": {"torchrl, caches on": torchrl_cached}
}
