"""Minari datasets for tests, made by Minari's own writer."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector.episode_buffer import EpisodeBuffer

from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert

FORMATS = ["hdf5", "arrow", "parquet"]

NESTED = spaces.Dict(
    {
        "pose": spaces.Tuple((spaces.Box(-1, 1, (2, 3), np.float64), spaces.Discrete(5, start=2))),
        "bits": spaces.MultiBinary(4),
        "text": spaces.Text(12, charset="aäbc 漢"),
        "grid": spaces.Box(0, 255, (8, 8), np.uint8),
    }
)
ACTIONS = spaces.Dict({"move": spaces.MultiDiscrete([3, 4]), "say": spaces.Text(5)})


def stacked(space: Any, values: list[Any]) -> Any:
    """Samples of a space as a buffer of Minari has them."""
    if isinstance(space, spaces.Dict):
        return {name: stacked(child, [v[name] for v in values]) for name, child in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked(child, [v[i] for v in values]) for i, child in enumerate(space))
    return values if isinstance(space, spaces.Text) else np.stack(values)


def buffers(observation: Any, action: Any, lengths: tuple[int, ...] = (4, 2, 7), **more: Any) -> list[Any]:
    """Episodes of random values; the last one is truncated, the others are terminated."""
    observation.seed(1)
    action.seed(2)
    rng = np.random.default_rng(3)
    found = []
    for number, length in enumerate(lengths):
        terminations = np.zeros(length, bool)
        truncations = np.zeros(length, bool)
        (truncations if number == len(lengths) - 1 else terminations)[-1] = True
        found.append(
            EpisodeBuffer(
                seed=11 * number,
                observations=stacked(observation, [observation.sample() for _ in range(length + 1)]),
                actions=stacked(action, [action.sample() for _ in range(length)]),
                rewards=rng.standard_normal(length),
                terminations=terminations,
                truncations=truncations,
                infos=more["infos"](length) if "infos" in more else {},
                options=more.get("options"),
            )
        )
    return found


def written(
    episodes: list[Any], observation: Any, action: Any, data_format: str = "hdf5", **more: Any
) -> Path:
    """A dataset by Minari's own writer; the folder that it calls the dataset's."""
    with warnings.catch_warnings(action="ignore"):
        made = minari.create_dataset_from_buffers(
            "test/toy-v0",
            episodes,
            observation_space=observation,
            action_space=action,
            data_format=data_format,
            **more,
        )
    return Path(made.storage.data_path).parent


def imported(path: Path, out: Path, **options: Any) -> tuple[Dataset, dict[str, Any]]:
    report = convert(path, out, check=True, **options)
    return Dataset.open(out), report


BOX = spaces.Box(-2, 2, (3,), np.float32)
TWO = spaces.Discrete(2)


def same(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and bool((a == b).all())


def infos(length: int) -> dict[str, Any]:
    return {
        "speed": np.arange(length + 1, dtype=np.float32),
        "deep": {"matrix": np.arange((length + 1) * 6.0).reshape(-1, 2, 3)},
        "word": [f"w{i}" for i in range(length + 1)],
        "late": np.arange(length),
    }


def rewrite(path: Path, change: Any) -> None:
    file = path / "data" / "metadata.json"
    told = json.loads(file.read_text())
    change(told)
    file.write_text(json.dumps(told))
