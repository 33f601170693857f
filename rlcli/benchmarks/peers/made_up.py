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
