"""Damaged input of every format: an exit code of 2 to 7, one line, nothing left, 10 s and 1 GiB at most."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
import test_atari
import test_episode_files
import test_hdf5_episodes
import test_maniskill
import test_parquet_episodes
import test_rlu
import test_vd4rl
from PIL import Image
from rlds_files import FLAGS, episodes_tree, group, image, tensor, write_rlds

from rlcli.benchmarks.rows import SCHEMA, spec
from rlcli.datasets.registry import CONVERTERS
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.writer import Writer
from rlcli.pipeline.convert import convert

SCRIPT = Path(__file__).with_name("convert_mutants.py")
EPISODES, LENGTH = 3, 5
LAYOUTS = {"pictures": "rlds", "groups": "hdf5", "lists": "parquet"}  # more than one of a format
WRITTEN = sorted(name for name, converter in CONVERTERS.items() if converter.writes)


def dataset(path: Path) -> Path:
    """Three episodes of five rows."""
    rng = np.random.default_rng(0)
    written = ("observation",), ("action",), ("next", "reward")
    columns = {column.key: column for column in SCHEMA.plain}
    with EpisodeWriter(Writer.create(path, SCHEMA, spec=spec(), lineage={"op": "test"})) as writer:
        for _ in range(EPISODES):
            values = {
                key: rng.random((LENGTH, *columns[key].shape)).astype(columns[key].dtype) for key in written
            }
            writer.add_rows(0, values)
            writer.end(0, terminated=False, truncated=True, final=rng.random(17).astype("f4"))
    return path


def rlu(path: Path) -> Path:
    return test_rlu.shards(path, [test_rlu.dm_env(4), test_rlu.dm_env(3, terminal=True)], compression="none")


def roboset(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        for number in range(2):
            for key, value in test_episode_files.trial(4, number).items():
                file[f"Trial{number}/{key}"] = value
    return path


def maniskill(path: Path) -> Path:
    path.mkdir()
    test_maniskill.written(path / "trajectory.h5", test_maniskill.trajectories())
    return path


def atari(path: Path) -> Path:
    test_atari.play(test_atari.Ring(path, 40), 9, 7, unfinished=3).finish()
    return path


def vd4rl(path: Path) -> Path:
    return test_vd4rl.save(path, test_vd4rl.episode(5, 0), test_vd4rl.episode(4, 1, terminal=True))


MADE = {"rlu": rlu, "roboset": roboset, "maniskill": maniskill, "atari": atari, "vd4rl": vd4rl}


def pictures(path: Path) -> Path:
    """RLDS with JPEG and PNG."""
    rng = np.random.default_rng(0)

    def encoded(codec: str) -> bytes:
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(out, codec)
        return out.getvalue()

    steps = {
        **FLAGS,
        "observation": group(a=image(16, 16, 3, encoding="jpeg"), b=image(16, 16, 3, encoding="png")),
        "action": tensor("float32", 2),
        "reward": tensor("float32"),
    }
    values = {
        "steps/observation/a": [encoded("JPEG") for _ in range(3)],
        "steps/observation/b": [encoded("PNG") for _ in range(3)],
        "steps/action": np.ones((3, 2), np.float32),
        "steps/reward": np.ones(3, np.float32),
        **{f"steps/{name}": np.array([False, False, name != "is_first"]) for name in FLAGS},
    }
    return write_rlds(path, episodes_tree(steps), {"train": [[values], [values]]})


def source(name: str, tmp_path: Path) -> Path:
    """A small sound source of a format."""
    converter = CONVERTERS[name]
    path = tmp_path / f"source{converter.suffixes[0] if converter.suffixes else ''}"
    if name in MADE:
        return MADE[name](path)
    convert(dataset(tmp_path / "dataset"), path, to=name)
    return path


def layout(name: str, path: Path) -> Path:
    """A small sound source of a layout."""
    if name == "pictures":
        return pictures(path)
    if name == "groups":
        test_hdf5_episodes.written(path, final=1)
        return path
    return test_parquet_episodes.written(path, test_parquet_episodes.columns(final=1))


def run(path: Path, name: str, count: int, seed: int, folder: Path) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), str(path), name, str(count), str(seed), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print({key: value for key, value in found.items() if key != "violations"})
    return found


@pytest.mark.parametrize("count", [10, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*WRITTEN, *MADE, *LAYOUTS])
def test_damage_is_one_line_and_leaves_nothing(name: str, count: int, tmp_path: Path) -> None:
    path = layout(name, tmp_path / "source") if name in LAYOUTS else source(name, tmp_path)
    name = LAYOUTS.get(name, name)
    convert(path, tmp_path / "sound", from_=name, yes=True)
    found = run(path, name, count, 0, tmp_path / "work")
    assert not found["violations"], "\n".join(found["violations"])
