"""Opening a stored TensorDict and reading one episode of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up  # type: ignore[import-not-found]  # this folder is on the path, see __main__

EPISODE = 1000


def tensordict_memmap(folder: Path, size: str) -> dict[str, Any]:
    """`TensorDict.load_memmap` and a slice, copied out."""
    from tensordict import TensorDict

    path, start = _written(folder, size)

    def read() -> Any:
        first = start()
        return TensorDict.load_memmap(path)[first : first + EPISODE].clone()

    return {"call": read}


def tensordict_further(folder: Path, size: str) -> dict[str, Any]:
    """A slice of a TensorDict that stays mapped, copied out."""
    from tensordict import TensorDict

    path, start = _written(folder, size)
    mapped = TensorDict.load_memmap(path)

    def read() -> Any:
        first = start()
        return mapped[first : first + EPISODE].clone()

    return {"call": read}


def _written(folder: Path, size: str) -> tuple[str, Callable[[], int]]:
    """A stored TensorDict of made-up rows, and what draws the first row of an episode."""
    import random

    import torch

    torch.set_num_threads(1)
    total = made_up.rows(size)
    path = str(folder / "tensordict")
    made_up.tensordict(1).expand(total).clone().memmap_(path)
    return path, lambda: random.randrange(total // EPISODE) * EPISODE


ARMS: dict[str, dict[str, Callable[[Path, str], dict[str, Any]]]] = {
    "episode": {"tensordict memmap": tensordict_memmap},
    "further": {"tensordict memmap": tensordict_further},
}
