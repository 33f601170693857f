"""Files for `rl bench convert`: transitions that our own export wrote, RLDS with JPEG, LeRobot with videos.

They lie in memory where there is a file system for it, so that reading them waits for no disk.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.benchmarks.rows import EPISODE, write_dataset
from rlcli.datasets.example import encode
from rlcli.datasets.tfrecord import RecordWriter
from rlcli.pipeline.convert import convert

_CORE = "tensorflow_datasets.core.features."
_MEMORY = Path("/dev/shm")
_ROOM = 4 << 30  # bytes that must be free there


def memory_folder(otherwise: Path) -> Path:
    """Where files are in memory, `otherwise` if there is no such place with room."""
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ROOM:
        return _MEMORY
    return otherwise


def write_transitions(path: Path, to: str, episodes: int, sets: Sequence[str] = ()) -> Path:
    """`path` as the format `to`, episodes of 1,000 made-up transitions."""
    rows = path.with_name("rows")
    write_dataset(rows, EPISODE * episodes)
    convert(rows, path, to=to, sets=sets)
    shutil.rmtree(rows)
    return path


def write_videos(folder: Path, episodes: int, steps: int, height: int, width: int) -> Path:
    """A LeRobot v3.0 dataset with a camera `[height, width, 3]` whose frames are an AV1 video."""
    pictures, rows = folder.with_name("pictures"), folder.with_name("rows")
    write_pictures(pictures, episodes, steps, height, width)
    convert(pictures, rows)
    convert(rows, folder, to="lerobot", sets=["cameras=video", "codec=av1", "fps=30"])
    shutil.rmtree(pictures)
    shutil.rmtree(rows)
    return folder


def write_pictures(
    folder: Path, episodes: int, steps: int, height: int, width: int, shards: int = 1
) -> list[bytes]:
    """Writes the folder of a dataset with pictures `[height, width, 3]`; its pictures, encoded, in order.

    At most 100 are different; each differs from the one before it. Every shard has `episodes`.
    """
    folder.mkdir()
    picture = {
        "shape": {"dimensions": [str(height), str(width), "3"]},
        "dtype": "uint8",
        "encodingFormat": "jpeg",
    }
    step = {
        "observation": _group(image={"pythonClassName": f"{_CORE}image_feature.Image", "image": picture}),
        "action": _tensor("float32", 7),
        "reward": _tensor("float32"),
        **{name: _tensor("bool") for name in ("is_first", "is_last", "is_terminal")},
    }
    sequence = {"feature": _group(**step), "length": "-1"}
    tree = _group(steps={"pythonClassName": f"{_CORE}dataset_feature.Dataset", "sequence": sequence})
    (folder / "features.json").write_text(json.dumps(tree))
    split = {"name": "train", "shardLengths": [str(episodes)] * shards, "numBytes": "1"}
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": "pictures", "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    rng = np.random.default_rng(0)
    frames = _film(rng, min(100, shards * episodes * steps), height, width)
    last = np.arange(steps) == steps - 1
    written: list[bytes] = []
    for shard in range(shards):
        name = f"pictures-train.tfrecord-{shard:05d}-of-{shards:05d}"
        with RecordWriter(folder / name, "none") as writer:
            for _ in range(episodes):
                start = len(written)
                pictures = [frames[number % len(frames)] for number in range(start, start + steps)]
                example: dict[str, Any] = {
                    "steps/observation/image": pictures,
                    "steps/action": rng.random((steps, 7), dtype=np.float32),
                    "steps/reward": np.zeros(steps, np.float32),
                    "steps/is_first": np.arange(steps) == 0,
                    "steps/is_last": last,
                    "steps/is_terminal": last,
                }
                writer.write(encode(example))
                written += pictures
    return written


def _film(rng: np.random.Generator, count: int, height: int, width: int) -> list[bytes]:
    """JPEG of a camera that pans: brightness and colour fall off with frequency as in photographs, objects
    have edges, the sensor has noise. Quality 95, which TFDS writes.
    """
    from PIL import Image

    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf

    def texture(slope: float) -> NDArray[np.float64]:
        spectrum = np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency**slope
        values = np.fft.irfft2(spectrum, (height, width))
        return np.asarray(values / values.std())

    scene = 128 + 45 * texture(1.2)[..., None] + 18 * np.stack([texture(1.6) for _ in range(3)], axis=-1)
    for _ in range(8):
        y, x = rng.integers(0, height * 7 // 8), rng.integers(0, width * 7 // 8)
        scene[y : y + height // 8, x : x + width // 8] *= 0.3
        scene[y : y + height // 8, x : x + width // 8] += rng.integers(0, 180, 3)
    found = []
    for number in range(count):
        frame = np.roll(scene, 3 * number, axis=1) + rng.normal(0, 1.5, scene.shape)
        out = io.BytesIO()
        Image.fromarray(frame.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=95)
        found.append(out.getvalue())
    return found


def _group(**features: Any) -> dict[str, Any]:
    name = f"{_CORE}features_dict.FeaturesDict"
    return {"pythonClassName": name, "featuresDict": {"features": features}}


def _tensor(dtype: str, *shape: int) -> dict[str, Any]:
    dimensions = {"dimensions": [str(n) for n in shape]} if shape else {}
    content = {"shape": dimensions, "dtype": dtype, "encoding": "none"}
    return {"pythonClassName": f"{_CORE}tensor_feature.Tensor", "tensor": content}
