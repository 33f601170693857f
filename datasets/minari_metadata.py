"""What a Minari dataset says of itself: where it is, its metadata, its environment, and what we left there.

Newer datasets have `metadata.json` beside their data; those before Minari 0.5 have the same as attributes of
the HDF5 file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlcli.datasets import hdf5
from rlcli.datasets.contract import Request
from rlcli.datasets.json_files import read_object
from rlcli.datasets.minari_files import MAIN_FILE, METADATA
from rlcli.datasets.rlds_hints import Hints
from rlcli.errors import IncompatibleError, RLError, UsageError
from rlcli.format.keys import check_key
from rlcli.format.specs import Spec

HINTS = "rl"  # the entry of metadata.json that only we read
_DEPTH = 5
_MAX_FOLDERS = 2000


@dataclass(frozen=True)
class Found:
    """A dataset: the folder of its data, and its metadata, which are in `file`."""

    folder: Path
    file: Path
    metadata: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.metadata.get("dataset_id") or self.metadata.get("dataset_name") or self.folder.name)

    @property
    def format(self) -> str:
        """`hdf5`, `arrow` or `parquet`; anything else is not known to us."""
        return str(self.metadata.get("data_format", "hdf5"))

    def total(self, what: str) -> int | None:
        """How many `episodes` or `steps` the metadata promise."""
        told = self.metadata.get(f"total_{what}")
        return int(told) if isinstance(told, int | np.integer) else None


def find(path: Path) -> Found | None:
    """The dataset at `path`: its data file or folder, or a folder around it. None if there is none.

    Raises `UsageError` if there are several.
    """
    if path.is_file():
        return _at(path.parent) if path.name == MAIN_FILE else None
    for folder in (path, path / "data"):
        if (found := _at(folder)) is not None:
            return found
    below = list(_below(path))
    if len(below) > 1:
        names = ", ".join(str(found.folder.relative_to(path)) for found in below[:6])
        raise UsageError(f"{path}: several Minari datasets are there, name one: {names}", path=path)
    return below[0] if below else None


def local_names(root: Path) -> list[str]:
    """The names of all datasets below a folder, as Minari gives them: `mujoco/hopper/medium-v0`."""
    folders = (found.folder for found in _below(root))
    return [str((f.parent if f.name == "data" else f).relative_to(root)) for f in folders]


def spec_of(
    metadata: Mapping[str, Any], request: Request, observation: Spec, action: Spec, remarks: list[str]
) -> dict[str, Any]:
    """The `spec` of the dataset: the environment, the spaces, and scores to normalise returns with."""
    hints = hints_of(metadata)
    env: dict[str, Any] | None = hints.env
    if request.env_id is not None:
        env = _env(request.env_id)
    elif env is None and metadata.get("env_spec") is not None:
        try:
            told = json.loads(metadata["env_spec"])
            env = _env(str(told["id"]), dict(told.get("kwargs") or {}), told.get("max_episode_steps"))
        except (KeyError, TypeError, ValueError, RecursionError):
            remarks.append("its env_spec is malformed; the environment is unknown")
    spec = {**hints.spec, "env": env}
    spec |= {"observation": hints.spec_of("observation", observation).to_json()}
    spec |= {"action": hints.spec_of("action", action).to_json()}
    scores = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    if all(isinstance(score, int | float) for score in scores):
        spec["reference_scores"] = {"min": scores[0], "max": scores[1]}
    return spec


def hints_of(metadata: Mapping[str, Any]) -> Hints:
    """What our own export left there, empty for other datasets and where it is malformed."""
    told: Any = metadata.get(HINTS)
    try:
        if isinstance(told, str):
            told = json.loads(told)
        columns = {str(path): (check_key(key),) for path, key in told["columns"].items()}
        return Hints(dict(told["spec"]), columns)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, IncompatibleError):
        return Hints()


def cut_of(metadata: Mapping[str, Any]) -> set[int]:
    """The episodes whose end was not seen, which Minari itself cannot say; our export leaves them there."""
    told = metadata.get(HINTS)
    cut = told.get("cut") if isinstance(told, dict) else None
    return {number for number in cut if isinstance(number, int)} if isinstance(cut, list) else set()


def _env(name: str, kwargs: Mapping[str, Any] | None = None, limit: Any = None) -> dict[str, Any]:
    steps = limit if type(limit) is int else None
    return {"library": "gymnasium", "id": name, "kwargs": dict(kwargs or {}), "max_episode_steps": steps}


def _at(folder: Path) -> Found | None:
    """The dataset whose data lie in this very folder."""
    file, data = folder / METADATA, folder / MAIN_FILE
    if file.is_file():
        try:
            told = read_object(file)
        except RLError:
            if data.is_file():
                raise
            return None  # somebody else's file of that name
        known = "total_episodes" in told and ("data_format" in told or data.is_file())
        return Found(folder, file, told) if known else None
    if not data.is_file() or not hdf5.is_hdf5(data):
        return None
    with hdf5.reading(data) as opened, hdf5.damage(data):
        told = {name: _plain(value) for name, value in opened.attrs.items()}
    return Found(folder, data, told) if "total_episodes" in told else None


def _plain(value: Any) -> Any:
    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.generic):
        return value.item()
    return [str(item) for item in value.flat] if isinstance(value, np.ndarray) else value


def _below(path: Path) -> Iterator[Found]:
    """Datasets in folders below `path`, in the order of their names."""
    for looked, (name, folders, _) in enumerate(os.walk(path)):
        folder = Path(name)
        folders.sort()
        found = _at(folder) if folder != path else None
        if found is not None:
            yield found
        deep = len(folder.relative_to(path).parts) >= _DEPTH
        if found is not None or deep or looked > _MAX_FOLDERS:
            folders.clear()
