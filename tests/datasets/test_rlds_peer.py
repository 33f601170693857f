"""Files that TensorFlow Datasets wrote, against its own reading of them; needs a Python that has it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.datasets.rlds_files import DECODE, Found

ORACLE = os.environ.get("RL_TFDS_PYTHON")
SCRIPT = """
import json, sys
import numpy as np
import tensorflow_datasets as tfds
F = tfds.features

class Peer(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict({
            "steps": F.Dataset({
                "observation": {
                    "png": F.Image(shape=(9, 12, 3), encoding_format="png"),
                    "grey": F.Image(shape=(9, 12, 1), encoding_format="png"),
                    "deep": F.Image(shape=(9, 12, 1), dtype=np.uint16, encoding_format="png"),
                    "float": F.Image(shape=(9, 12, 1), dtype=np.float32, encoding_format="png"),
                    "open": F.Image(encoding_format="jpeg"),
                    "wide": F.Tensor(shape=(2, 3), dtype=np.float64, encoding="zlib"),
                    "raw": F.Tensor(shape=(4,), dtype=np.int16, encoding="bytes"),
                    "dynamic": F.Tensor(shape=(None, None), dtype=np.int32, encoding="zlib"),
                    "box": F.BBoxFeature(),
                    "flag": F.Tensor(shape=(3,), dtype=np.bool_),
                    "u64": F.Scalar(dtype=np.uint64),
                },
                "action": {
                    "label": F.ClassLabel(names=["a", "b"]), "v": F.Tensor(shape=(2,), dtype=np.float16),
                },
                "pair": F.Tensor(shape=(2,), dtype=np.int64),
                "ragged": F.Sequence(F.Tensor(shape=(2,), dtype=np.float32)),
                "said": F.Text(),
                "reward": np.float32, "discount": np.float32,
                "is_first": np.bool_, "is_last": np.bool_, "is_terminal": np.bool_,
            }),
            "id": F.Text(),
        }))
    def _split_generators(self, dl):
        return {"train": self._generate_examples()}
    def _generate_examples(self):
        rng = np.random.default_rng(0)
        for episode, length in enumerate((3, 1, 4)):
            yield str(episode), {"id": f"épisode {episode}", "steps": [{
                "observation": {
                    "png": rng.integers(0, 256, (9, 12, 3)).astype(np.uint8),
                    "grey": rng.integers(0, 256, (9, 12, 1)).astype(np.uint8),
                    "deep": rng.integers(0, 2**16, (9, 12, 1)).astype(np.uint16),
                    "float": rng.normal(size=(9, 12, 1)).astype(np.float32),
                    "open": rng.integers(0, 256, (16, 24, 3)).astype(np.uint8),
                    "wide": rng.normal(size=(2, 3)), "raw": rng.integers(-9, 9, 4).astype(np.int16),
                    "dynamic": rng.integers(0, 9, (2, 5)).astype(np.int32),
                    "box": F.BBox(0.1, 0.2, 0.3, 0.4),
                    "flag": rng.random(3) < 0.5, "u64": np.uint64(2**64 - 1 - k),
                },
                "action": {"label": k % 2, "v": rng.normal(size=2).astype(np.float16)},
                "pair": np.array([k, -k]),
                "ragged": rng.normal(size=(k % 3, 2)).astype(np.float32), "said": "öffne",
                "reward": float(k), "discount": 1.0,
                "is_first": k == 0, "is_last": k == length - 1, "is_terminal": k == length - 1,
            } for k in range(length)]}

builder = Peer(data_dir=sys.argv[1])
builder.download_and_prepare()
found = []
for episode in builder.as_dataset(split="train", shuffle_files=False):
    sums = {}
    def walk(node, path):
        for name, value in node.items():
            if isinstance(value, dict):
                walk(value, path + name + "/")
            else:
                array = np.asarray(getattr(value, "flat_values", value))
                if array.dtype.kind not in "OS":
                    sums[path + name] = sums.get(path + name, 0.0) + float(array.astype(np.float64).sum())
    steps = list(episode["steps"].as_numpy_iterator())
    for step in steps:
        walk(step, "")
    found.append({"length": len(steps), "sums": sums, "id": episode["id"].numpy().decode()})
print(json.dumps({"path": str(builder.data_path), "episodes": found}))
"""


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What TFDS wrote and how it reads that."""
    if not ORACLE:
        pytest.skip("RL_TFDS_PYTHON names no Python with tensorflow_datasets")
    folder = tmp_path_factory.mktemp("peer")
    (folder / "peer.py").write_text(SCRIPT)
    env = {"TF_CPP_MIN_LOG_LEVEL": "3", "PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "-1"}
    command = [ORACLE, str(folder / "peer.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def test_every_feature_has_the_sums_that_tfds_reads(peer: dict[str, Any]) -> None:
    pytest.importorskip("simplejpeg")
    found = Found(Path(peer["path"]), DECODE, dct="fast")
    assert found.lengths == [episode["length"] for episode in peer["episodes"]]
    assert found.report.lossy == []
    first = 0
    for episode in peer["episodes"]:
        stop = first + episode["length"]
        for name, total in episode["sums"].items():
            if not name.startswith("is_"):
                values = found.rows["next/reward" if name == "reward" else name][first:stop]
                ours = sum(float(np.asarray(value).astype(np.float64).sum()) for value in values)
                assert ours == pytest.approx(total, rel=1e-6, abs=1e-6), name
        assert found.rows["info/episode/id"][first:stop] == [episode["id"]] * episode["length"]
        first = stop
    assert all(end.terminated for end in found.ends)
    assert found.rows["said"] == ["öffne"] * first
    assert found.array("pair").shape == (first, 2)
    assert found.array("observation/dynamic").shape == (first, 2, 5)
    assert found.source.record["labels"] == {"steps/action/label": ["a", "b"]}
