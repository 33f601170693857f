"""Reading the files that `rl bench convert` converts with the libraries they are made for, in one process.

Libraries that are slow read the first part of a file; `units` is its share.
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Make = Callable[[Path, str], dict[str, Any]]


def tfds(name: str, way: str, percent: int = 100) -> Make:
    """All steps of an RLDS folder as NumPy arrays.

    `way`: `steps` as RLDS' own documentation reads them, episode by episode and step by step; `batches` of
    256 steps, made by TensorFlow; `encoded` are steps whose pictures are left as they are.
    """

    def make(folder: Path, size: str) -> dict[str, Any]:
        library: Any = importlib.import_module("tensorflow_datasets")
        builder = library.builder_from_directory(str(folder.parent / name))
        skip = {"steps": {"observation": {"image": library.decode.SkipDecoding()}}}
        options = {"decoders": skip} if way == "encoded" else {}
        split = f"train[:{percent if size == 'full' else 100}%]"
        share = builder.info.splits[split].num_examples / builder.info.splits["train"].num_examples

        def read() -> None:
            episodes = builder.as_dataset(split=split, shuffle_files=False, **options)
            if way == "batches":
                steps = episodes.flat_map(lambda episode: episode["steps"])
                for _ in steps.batch(256).prefetch(1).as_numpy_iterator():
                    pass
                return
            for episode in library.as_numpy(episodes):
                for _ in episode["steps"]:
                    pass

        return {"call": read, "units": share}

    return make


def minari_episodes(folder: Path, size: str) -> dict[str, Any]:
    """Episodes of a Minari dataset as its iterator gives them."""
    from minari.dataset.minari_dataset import MinariDataset

    dataset = MinariDataset(folder.parent / "minari" / "data")
    wanted = range(-(-dataset.total_episodes // 5))

    def read() -> None:
        for _ in dataset.iterate_episodes(wanted):
            pass

    return {"call": read, "units": len(wanted) / dataset.total_episodes}


def lerobot(name: str, most: int) -> Make:
    """Rows of a LeRobot dataset one by one, as a `DataLoader` asks for them; at most the first `most`."""

    def make(folder: Path, size: str) -> dict[str, Any]:
        if "HF_HOME" not in os.environ:  # which the library reads once, and fills with copies of the rows
            home = tempfile.mkdtemp(prefix="rl-bench-")
            atexit.register(shutil.rmtree, home, ignore_errors=True)
            os.environ |= {"HF_HOME": home, "HF_HUB_OFFLINE": "1"}
        library: Any = importlib.import_module("lerobot.datasets.lerobot_dataset")
        dataset = library.LeRobotDataset("rl/bench", root=folder.parent / name)
        count = min(most, len(dataset))

        def read() -> None:
            for index in range(count):
                dataset[index]

        return {"call": read, "units": count / len(dataset)}

    return make


def _tfds(name: str, *ways: str, percent: int = 100) -> dict[str, Make]:
    return {f"TFDS, {_TOLD[way]}": tfds(name, way, percent) for way in ways}


_TOLD = {"steps": "steps as NumPy", "batches": "batches of 256", "encoded": "pictures left encoded"}

ARMS: dict[str, dict[str, Make]] = {
    "rlds": _tfds("rlds", "steps", "batches", percent=1),
    "pictures-256": _tfds("pictures-256", "steps", "batches", "encoded", percent=15),
    "pictures-640": _tfds("pictures-640", "steps", "batches", "encoded", percent=15),
    "pixels-256": _tfds("pixels-256", "steps", "batches", percent=50),
    "pixels-640": _tfds("pixels-640", "steps", "batches", percent=50),
    "minari": {"minari, episode by episode": minari_episodes},
    "lerobot": {"lerobot, frame by frame": lerobot("lerobot", 1000)},
    "lerobot-video": {"lerobot, frame by frame": lerobot("lerobot", 20)},
}
