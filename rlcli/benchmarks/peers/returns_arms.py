"""Advantages and targets of whole rollouts by torchrl and SB3, each in the layout it wants."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

GAMMA, LAM = 0.99, 0.95
LONG = {"small": (64, 8), "full": (2048, 8)}
WIDE = {"small": (16, 64), "full": (128, 4096)}
Shapes = dict[str, tuple[int, int]]


def torchrl_function(name: str, shapes: Shapes, folder: Path, size: str) -> dict[str, Any]:
    """A function of `torchrl.objectives.value.functional` on `[E, T, 1]`."""
    import torch
    from torchrl.objectives.value import functional

    torch.set_num_threads(1)
    num_steps, num_envs = shapes[size]
    value, next_value, reward = torch.randn(3, num_envs, num_steps, 1)
    done, terminated = torch.rand(2, num_envs, num_steps, 1) < 0.005
    done = done | terminated
    function = getattr(functional, name)
    arguments: tuple[Any, ...]
    if "vtrace" in name:
        ratio = 0.1 * torch.randn(num_envs, num_steps, 1)
        arguments = (GAMMA, ratio, torch.zeros_like(ratio), value, next_value, reward, done, terminated)
    elif "lambda" in name:
        arguments = (GAMMA, LAM, next_value, reward, done, terminated)
    else:
        arguments = (GAMMA, LAM, value, next_value, reward, done, terminated)
    return {"call": lambda: function(*arguments), "units": float(num_steps * num_envs)}


def sb3_rollout(shapes: Shapes, folder: Path, size: str) -> dict[str, Any]:
    """`RolloutBuffer.compute_returns_and_advantage`."""
    import gymnasium
    import numpy as np
    import torch
    from stable_baselines3.common.buffers import RolloutBuffer

    torch.set_num_threads(1)
    num_steps, num_envs = shapes[size]
    box = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    buffer = RolloutBuffer(num_steps, box, box, "cpu", gae_lambda=LAM, gamma=GAMMA, n_envs=num_envs)
    rng = np.random.default_rng(0)
    buffer.values = rng.standard_normal((num_steps, num_envs), np.float32)
    buffer.rewards = rng.standard_normal((num_steps, num_envs), np.float32)
    buffer.episode_starts = (rng.random((num_steps, num_envs)) < 0.01).astype(np.float32)
    last_values, dones = torch.zeros(num_envs), np.zeros(num_envs)
    return {
        "call": lambda: buffer.compute_returns_and_advantage(last_values, dones),
        "units": float(num_steps * num_envs),
    }


def _gae(shapes: Shapes) -> dict[str, Callable[[Path, str], dict[str, Any]]]:
    return {
        "torchrl, vectorised": partial(torchrl_function, "vec_generalized_advantage_estimate", shapes),
        "torchrl, loop": partial(torchrl_function, "generalized_advantage_estimate", shapes),
        "SB3": partial(sb3_rollout, shapes),
    }


ARMS: dict[str, dict[str, Callable[[Path, str], dict[str, Any]]]] = {
    "gae": _gae(LONG),
    "gae-wide": _gae(WIDE),
    "td-lambda": {
        "torchrl, vectorised": partial(torchrl_function, "vec_td_lambda_return_estimate", LONG),
        "torchrl, loop": partial(torchrl_function, "td_lambda_return_estimate", LONG),
    },
    "v-trace": {"torchrl": partial(torchrl_function, "vtrace_advantage_estimate", LONG)},
}
