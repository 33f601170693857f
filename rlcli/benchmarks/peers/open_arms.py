"""Opening a stored TensorDict and reading one episode of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up  # type: ignore[import-not-found]  # this folder is on the path, see __main__

EPISODE = 1000


def tensordict_memmap(folder: Path, size: str) -> dict[str, Any]:
    """`TensorDict.load_memmap` and a slice, copied out."""
    import random

    import torch
    from tensordict import TensorDict

    torch.set_num_threads(1)
    total = made_up.rows(size)
    path = folder / "tensordict"
    made_up.tensordict(1).expand(total).clone().memmap_(str(path))

    def read() -> Any:
        start = random.randrange(total // EPISODE) * EPISODE
        return TensorDict.load_memmap(str(path))[start : start + EPISODE].clone()

    return {"call": read}


ARMS: dict[str, dict[str, Callable[[Path, str], dict[str, Any]]]] = {
    "episode": {"tensordict memmap": tensordict_memmap}
}
