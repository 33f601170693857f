"""Reading the files that `rl bench convert` converts with the libraries they are made for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def tfds(name: str, way: str, percent: int = 100) -> Callable[[Path, str], dict[str, Any]]:
    """All steps of an RLDS folder as NumPy arrays.

    `way`: `steps` as RLDS' own documentation reads them, episode by episode and step by step; `batches` of
    256 steps, made by TensorFlow; `encoded` are steps whose pictures are left as they are. Read are the first
    `percent` of the episodes.
    """

    def make(folder: Path, size: str) -> dict[str, Any]:
        library: Any = importlib.import_module("tensorflow_datasets")
        builder = library.builder_from_directory(str(folder.parent / name))
        skip = {"steps": {"observation": {"image": library.decode.SkipDecoding()}}}
        options = {"decoders": skip} if way == "encoded" else {}

        def read() -> None:
            episodes = builder.as_dataset(split=f"train[:{percent}%]", shuffle_files=False, **options)
            if way == "batches":
                steps = episodes.flat_map(lambda episode: episode["steps"])
                for _ in steps.batch(256).prefetch(1).as_numpy_iterator():
                    pass
                return
            for episode in library.as_numpy(episodes):
                for _ in episode["steps"]:
                    pass

        return {"call": read, "units": percent / 100}

    return make


def minari_episodes(folder: Path, size: str) -> dict[str, Any]:
    """A fifth of the episodes of a Minari dataset."""
    from minari.dataset.minari_dataset import MinariDataset

    dataset = MinariDataset(folder.parent / "minari" / "data")
    wanted = range(-(-dataset.total_episodes // 5))

    def read() -> None:
        for _ in dataset.iterate_episodes(wanted):
            pass

    return {"call": read, "units": len(wanted) / dataset.total_episodes}


def _tfds(name: str, *ways: str, percent: int = 100) -> dict[str, Callable[[Path, str], dict[str, Any]]]:
    return {f"TFDS, {_TOLD[way]}": tfds(name, way, percent) for way in ways}


_TOLD = {"steps": "steps as NumPy", "batches": "batches of 256", "encoded": "pictures left encoded"}

ARMS: dict[str, dict[str, Callable[[Path, str], dict[str, Any]]]] = {
    "rlds": _tfds("rlds", "steps", "batches", percent=2),
    "pictures-256": _tfds("pictures-256", "steps", "batches", "encoded", percent=20),
    "pictures-640": _tfds("pictures-640", "steps", "batches", "encoded", percent=20),
    "pixels-256": _tfds("pixels-256", "steps", "batches"),
    "pixels-640": _tfds("pixels-640", "steps", "batches"),
    "minari": {"minari": minari_episodes},
}
