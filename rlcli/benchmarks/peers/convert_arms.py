"""Reading the files that `rl bench convert` converts with the libraries they are made for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def tfds(name: str) -> Callable[[Path, str], dict[str, Any]]:
    """All steps of an RLDS folder as NumPy arrays, in batches of 256, pictures decoded."""

    def make(folder: Path, size: str) -> dict[str, Any]:
        library: Any = importlib.import_module("tensorflow_datasets")
        builder = library.builder_from_directory(str(folder.parent / name))

        def read() -> None:
            episodes = builder.as_dataset(split="train", shuffle_files=False)
            steps = episodes.flat_map(lambda episode: episode["steps"])
            for _ in steps.batch(256).prefetch(1).as_numpy_iterator():
                pass

        return {"call": read}

    return make


def minari_episodes(folder: Path, size: str) -> dict[str, Any]:
    """All episodes of a Minari dataset."""
    from minari.dataset.minari_dataset import MinariDataset

    dataset = MinariDataset(folder.parent / "minari" / "data")

    def read() -> None:
        for _ in dataset.iterate_episodes():
            pass

    return {"call": read}


ARMS: dict[str, dict[str, Callable[[Path, str], dict[str, Any]]]] = {
    "rlds": {"TFDS": tfds("rlds")},
    "jpeg": {"TFDS": tfds("jpeg")},
    "minari": {"minari": minari_episodes},
}
