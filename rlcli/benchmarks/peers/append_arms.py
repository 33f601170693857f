"""Appending transitions in batches of 1,000, 8 and 1; making the buffer is not timed."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_up  # type: ignore[import-not-found]  # this folder is on the path, see __main__

BATCH = 1000


def _put_aside(path: Path) -> None:
    """Gives a folder's space back and its name free, but deletes no file, as our own arms do not."""
    if path.exists():
        for file in path.rglob("*"):
            if file.is_file():
                os.truncate(file, 0)
        path.rename(path.with_name(uuid.uuid4().hex))


def _batches(size: str) -> int:
    return 5 if size == "small" else 100


def cpprb_mmap(folder: Path, size: str) -> dict[str, Any]:
    """`ReplayBuffer(mmap_prefix=…)`, fresh files each time."""
    from cpprb import ReplayBuffer

    count, chunk = _batches(size), made_up.block(BATCH)
    state: dict[str, Any] = {}

    def prepare() -> None:
        state.clear()
        _put_aside(folder / "cpprb")
        (folder / "cpprb").mkdir()
        prefix = str(folder / "cpprb/x")
        state["buffer"] = ReplayBuffer(count * BATCH, made_up.cpprb_columns(), mmap_prefix=prefix)

    def call() -> None:
        for _ in range(count):
            state["buffer"].add(**chunk)

    return {"call": call, "prepare": prepare, "units": float(count * BATCH)}


def torchrl_memmap(folder: Path, size: str) -> dict[str, Any]:
    """`TensorDictReplayBuffer(LazyMemmapStorage).extend`, fresh files each time."""
    import torch
    from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer

    torch.set_num_threads(1)
    count, chunk = _batches(size), made_up.tensordict(BATCH)
    state: dict[str, Any] = {}

    def prepare() -> None:
        state.clear()
        _put_aside(folder / "torchrl")
        storage = LazyMemmapStorage(count * BATCH, scratch_dir=str(folder / "torchrl"))
        state["buffer"] = TensorDictReplayBuffer(storage=storage, batch_size=256)

    def call() -> None:
        for _ in range(count):
            state["buffer"].extend(chunk)

    return {"call": call, "prepare": prepare, "units": float(count * BATCH)}


def _torchrl_few(folder: Path, size: str, rows: int) -> dict[str, Any]:
    """Batches of a few rows to a buffer that is warm."""
    import torch
    from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer

    torch.set_num_threads(1)
    count, chunk = (125 if size == "small" else 1000), made_up.tensordict(rows)
    shutil.rmtree(folder / f"torchrl-{rows}", ignore_errors=True)
    storage = LazyMemmapStorage(8 * BATCH, scratch_dir=str(folder / f"torchrl-{rows}"))
    buffer = TensorDictReplayBuffer(storage=storage, batch_size=256)
    buffer.extend(made_up.tensordict(BATCH))
    one = chunk[0] if rows == 1 else None

    def call() -> None:
        for _ in range(count):
            if one is None:
                buffer.extend(chunk)
            else:
                buffer.add(one)

    return {"call": call, "units": float(count * rows)}


def torchrl_eights(folder: Path, size: str) -> dict[str, Any]:
    """`extend` of 8 rows."""
    return _torchrl_few(folder, size, 8)


def torchrl_singles(folder: Path, size: str) -> dict[str, Any]:
    """`add` of one row."""
    return _torchrl_few(folder, size, 1)


ARMS: dict[str, dict[str, Callable[[Path, str], dict[str, Any]]]] = {
    "batches": {"cpprb, mapped files": cpprb_mmap, "torchrl, memmap": torchrl_memmap},
    "eights": {"torchrl, memmap": torchrl_eights},
    "singles": {"torchrl, memmap": torchrl_singles},
}
