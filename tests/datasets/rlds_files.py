"""RLDS folders made by the tests, with the definition of `features.json` and not with the exporter."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rlcli.datasets import rlds
from rlcli.datasets.contract import Part, Report, Request
from rlcli.datasets.example import encode
from rlcli.datasets.tfrecord import RecordWriter

DECODE = Request(images="decode")
CORE = "tensorflow_datasets.core.features."


def tensor(dtype: str, *shape: int, encoding: str = "none") -> dict[str, Any]:
    dimensions = {"dimensions": [str(n) for n in shape]} if shape else {}
    return {
        "pythonClassName": CORE + "tensor_feature.Tensor",
        "tensor": {"shape": dimensions, "dtype": dtype, "encoding": encoding},
    }


def image(*shape: int, dtype: str = "uint8", encoding: str = "") -> dict[str, Any]:
    content = {"shape": {"dimensions": [str(n) for n in shape]}, "dtype": dtype, "encodingFormat": encoding}
    return {"pythonClassName": CORE + "image_feature.Image", "image": content}


def text() -> dict[str, Any]:
    return {"pythonClassName": CORE + "text_feature.Text", "text": {}}


def group(**features: Any) -> dict[str, Any]:
    return {"pythonClassName": CORE + "features_dict.FeaturesDict", "featuresDict": {"features": features}}


def sequence(feature: Any, name: str = "sequence_feature.Sequence") -> dict[str, Any]:
    return {"pythonClassName": CORE + name, "sequence": {"feature": feature, "length": "-1"}}


def episodes_tree(steps: Mapping[str, Any], **episode: Any) -> dict[str, Any]:
    return group(steps=sequence(group(**steps), "dataset_feature.Dataset"), **episode)


FLAGS = {name: tensor("bool") for name in ("is_first", "is_last", "is_terminal")}
PLAIN = {
    **FLAGS,
    "observation": group(state=tensor("float32", 3)),
    "action": tensor("float32", 2),
    "reward": tensor("float32"),
    "discount": tensor("float32"),
}


def episode(length: int, seed: int = 0, *, terminal: bool = False, padded: bool = False) -> dict[str, Any]:
    """The features of an episode of `PLAIN`, by their keys in an Example."""
    chance = np.random.default_rng(seed)
    action, reward = chance.normal(size=(length, 2)) + 3, chance.normal(size=length) + 3
    if padded:
        action[-1], reward[-1] = 0, 0
    last = np.arange(length) == length - 1
    return {
        "steps/is_first": np.arange(length) == 0,
        "steps/is_last": last,
        "steps/is_terminal": last & terminal,
        "steps/observation/state": chance.normal(size=(length, 3)).astype(np.float32),
        "steps/action": action.astype(np.float32),
        "steps/reward": reward.astype(np.float32),
        "steps/discount": np.ones(length, np.float32),
    }


def write_rlds(
    folder: Path,
    tree: Any,
    splits: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    *,
    name: str = "toy",
    compression: Any = "none",
    info: bool = True,
) -> Path:
    """A dataset folder; `splits` has, per split, the episodes of each shard."""
    folder.mkdir(parents=True)
    (folder / "features.json").write_text(json.dumps(tree))
    entries = []
    for split, shards in splits.items():
        lengths = []
        for index, episodes in enumerate(shards):
            file = folder / f"{name}-{split}.tfrecord-{index:05d}-of-{len(shards):05d}"
            with RecordWriter(file, compression) as writer:
                for features in episodes:
                    writer.write(encode(features))
            lengths.append(str(len(episodes)))
        entries.append({"name": split, "shardLengths": lengths, "numBytes": "1"})
    if info:
        content = {"name": name, "version": "1.0.0", "fileFormat": "tfrecord", "splits": entries}
        (folder / "dataset_info.json").write_text(json.dumps(content))
    return folder


def pixels(*shape: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray[Any, Any]:
    """A picture of noise."""
    top = 2**16 if dtype == "uint16" else 256
    return np.random.default_rng(seed).integers(0, top, shape).astype(dtype)


def picture(pixels: np.ndarray[Any, Any], codec: str = "png", mode: str | None = None) -> bytes:
    """`pixels` `[height, width, channels]`, encoded by Pillow."""
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    made = Image.fromarray(np.ascontiguousarray(flat))
    out = io.BytesIO()
    (made if mode is None else made.convert(mode)).save(out, codec.upper())
    return out.getvalue()


class Found:
    """All parts of a source: rows by key, ends, lengths and the whole report."""

    def __init__(self, path: Path, request: Request | None = None, **options: Any) -> None:
        self.ends, self.lengths, self.rows = [], [], {}
        with rlds.open_source(path, request or Request(), rlds.Options(**options)) as source:
            self.source, self.schema = source, source.schema
            self.report = Report()
            self.report.add(source.report)
            for piece in source.pieces:
                told: list[int] = []
                rows = 0
                for part in source.parts(piece, self.report, told.append):
                    rows += self.add(part)
                assert rows == piece.rows
                assert sum(told) == piece.num_bytes

    def add(self, part: Part) -> int:
        given = {column.key for column in self.schema.given}
        follows = {("next", "terminated"), ("next", "truncated"), ("next", "done"), ("is_init",)}
        assert part.columns.keys() == given - follows - {("episode",), ("step",)}
        size = len(part.columns["next", "reward"])
        for key, values in part.columns.items():
            assert len(values) == size
            column = self.schema.by_key[key]
            if column.heap is None:
                assert values.dtype == column.numpy
                assert values.shape[1:] == column.shape
            self.rows.setdefault("/".join(key), []).extend(values)
        if len(self.ends) == len(self.lengths):
            self.lengths.append(0)
        self.lengths[-1] += size
        if part.end is not None:
            self.ends.append(part.end)
        return size

    def array(self, key: str) -> np.ndarray[Any, Any]:
        return np.stack(self.rows[key])


def toy(tmp_path: Path, *episodes: Any, steps: Any = PLAIN, **rest: Any) -> Path:
    """A dataset of one shard."""
    return write_rlds(tmp_path / "toy" / "1.0.0", episodes_tree(steps), {"train": [episodes]}, **rest)
