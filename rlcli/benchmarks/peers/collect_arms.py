"""CartPole-v1 under a random policy, every transition kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def _steps(size: str) -> int:
    return 1_000 if size == "small" else 10_000


def sb3(folder: Path, size: str) -> dict[str, Any]:
    """`DummyVecEnv` of one environment into a `ReplayBuffer`."""
    import gymnasium
    import numpy as np
    import torch
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.vec_env import DummyVecEnv

    torch.set_num_threads(1)
    steps = _steps(size)
    envs = DummyVecEnv([lambda: gymnasium.make("CartPole-v1")])
    buffer = ReplayBuffer(100_000, envs.observation_space, envs.action_space, device="cpu")
    rng = np.random.default_rng(0)

    def call() -> None:
        observation = envs.reset()
        for _ in range(steps):
            action = rng.integers(0, 2, 1)
            following, reward, done, infos = envs.step(action)
            buffer.add(observation, following, action, reward, done, infos)
            observation = following

    return {"call": call, "units": float(steps)}


def torchrl_collector(folder: Path, size: str) -> dict[str, Any]:
    """`Collector` of one `GymEnv` into a memmap buffer."""
    import torch
    from torchrl.collectors import Collector
    from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
    from torchrl.envs import GymEnv

    torch.set_num_threads(1)
    steps = _steps(size)
    storage = LazyMemmapStorage(100_000, scratch_dir=str(folder / "torchrl"))
    buffer = TensorDictReplayBuffer(storage=storage, batch_size=256)
    collector = Collector(lambda: GymEnv("CartPole-v1"), None, frames_per_batch=1000, total_frames=-1)
    batches = iter(collector)

    def call() -> None:
        for _ in range(steps // 1000):
            buffer.extend(next(batches).reshape(-1))

    return {"call": call, "units": float(steps)}


ARMS: dict[str, dict[str, Callable[[Path, str], dict[str, Any]]]] = {
    "cartpole": {"SB3, one environment": sb3, "torchrl, one environment": torchrl_collector}
}
