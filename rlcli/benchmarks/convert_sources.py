"""RLDS files with pictures, for `rl bench convert`: an episode is a record, its pictures are JPEG."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from rlcli.datasets.example import encode
from rlcli.datasets.tfrecord import RecordWriter

_CORE = "tensorflow_datasets.core.features."


def write_pictures(folder: Path, episodes: int, steps: int, size: int) -> list[bytes]:
    """Writes the folder of a dataset with pictures `[size, size, 3]`; all its pictures, encoded, in order."""
    folder.mkdir()
    picture = {
        "shape": {"dimensions": [str(size), str(size), "3"]},
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
    split = {"name": "train", "shardLengths": [str(episodes)], "numBytes": "1"}
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": "pictures", "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    rng = np.random.default_rng(0)
    last = np.arange(steps) == steps - 1
    written: list[bytes] = []
    with RecordWriter(folder / "pictures-train.tfrecord-00000-of-00001", "none") as writer:
        for _ in range(episodes):
            pictures = [_jpeg(rng, size) for _ in range(steps)]
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


def _jpeg(rng: np.random.Generator, size: int) -> bytes:
    """A picture of smooth patches, about as large as one of a camera."""
    from PIL import Image

    patches = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), np.uint8))
    out = io.BytesIO()
    patches.resize((size, size), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()


def _group(**features: Any) -> dict[str, Any]:
    name = f"{_CORE}features_dict.FeaturesDict"
    return {"pythonClassName": name, "featuresDict": {"features": features}}


def _tensor(dtype: str, *shape: int) -> dict[str, Any]:
    dimensions = {"dimensions": [str(n) for n in shape]} if shape else {}
    content = {"shape": dimensions, "dtype": dtype, "encoding": "none"}
    return {"pythonClassName": f"{_CORE}tensor_feature.Tensor", "tensor": content}
