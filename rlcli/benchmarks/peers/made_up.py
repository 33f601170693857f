"""The same made-up transitions for every peer: 17 observations, 6 actions, both observations: 165 bytes."""

from __future__ import annotations

from typing import Any

SHAPES = {"obs": 17, "act": 6, "next_obs": 17, "rew": 1}


def rows(size: str) -> int:
    """How many transitions a dataset of this size has."""
    return 20_000 if size == "small" else 1_000_000


def block(count: int) -> dict[str, Any]:
    """`count` transitions as float32 arrays and a bool `done` `[count, 1]`."""
    import numpy as np

    rng = np.random.default_rng(0)
    columns = {name: rng.standard_normal((count, width), dtype=np.float32) for name, width in SHAPES.items()}
    return columns | {"done": rng.random((count, 1)) < 0.001}


def tensordict(count: int) -> Any:
    """The same as a TensorDict in TED layout."""
    import torch
    from tensordict import TensorDict

    columns = {name: torch.from_numpy(value) for name, value in block(count).items()}
    following = {
        "observation": columns["next_obs"],
        "reward": columns["rew"],
        "terminated": columns["done"],
    }
    content = {
        "observation": columns["obs"],
        "action": columns["act"],
        "next": TensorDict(following, [count]),
    }
    return TensorDict(content, [count])


def cpprb_columns() -> dict[str, Any]:
    """cpprb's `env_dict` for them."""
    import numpy as np

    widths = {name: {"shape": width} for name, width in SHAPES.items()}
    return {**widths, "done": {"dtype": np.bool_}}


def sb3_buffer(buffer_class: Any, total: int, **options: Any) -> Any:
    """A full buffer of SB3, filled behind its back because adding a million steps takes minutes."""
    import gymnasium
    import numpy as np

    observation = gymnasium.spaces.Box(-np.inf, np.inf, (SHAPES["obs"],), np.float32)
    action = gymnasium.spaces.Box(-1, 1, (SHAPES["act"],), np.float32)
    buffer = buffer_class(total, observation, action, device="cpu", **options)
    chunk = block(10_000)
    for start in range(0, total, 10_000):
        part = slice(start, start + 10_000)
        buffer.observations[part, 0], buffer.next_observations[part, 0] = chunk["obs"], chunk["next_obs"]
        buffer.actions[part, 0], buffer.rewards[part] = chunk["act"], chunk["rew"]
        buffer.dones[part] = chunk["done"]
    buffer.full = True
    return buffer
