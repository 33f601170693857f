"""ManiSkill HDF5, versions 1 to 3: `traj_<i>` groups of one file, and a JSON beside it.

A trajectory has `actions`, `obs` (an array or a tree of them) and `env_states`, both with a row more than
the actions: the last one is the true final observation. `terminated`, `truncated`, `success`, `fail` and
`rewards` are per step; where `terminated` is missing (ManiSkill 2), `success` of the last step ends the
task. Files without `obs` have their states as observations. The JSON of the same name has the environment
and, by episode, the seed and how it was reset; without it both are unknown.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import h5py

from rlcli.datasets import hdf5
from rlcli.datasets.contract import NoOptions, Request, Seen
from rlcli.datasets.episode_groups import Layout, Scan, numbered, scan
from rlcli.datasets.episode_rows import DEMO, EPISODE, Group, GroupSource
from rlcli.datasets.hdf5_groups import members
from rlcli.datasets.json_files import read_object
from rlcli.datasets.mapping import storable
from rlcli.errors import InputError
from rlcli.format.keys import Key
from rlcli.format.schema import Column, Heap, heap_column

_PREFIX = "traj_"
_SIGNS = {"env_states", "env_init_state", "success", "terminated", "episode_dones"}  # beside actions
_METADATA: Key = (*EPISODE, "metadata")
_FINAL: Key = (*EPISODE, "final")
_MAX_SEED = 2**63


def detect(path: Path) -> Seen:
    """Whether `path` is HDF5 with `traj_<i>` groups of actions and what only ManiSkill has beside them.

    Or a folder with one such file.
    """
    path = _file_of(path)
    if not hdf5.is_hdf5(path):
        return Seen(False, "not an HDF5 file")
    with hdf5.reading(path) as file, hdf5.damage(path):
        names = numbered(file, _PREFIX)
        first = file[names[0]] if names else None
        if not isinstance(first, h5py.Group) or "actions" not in first or not _SIGNS & set(first):
            return Seen(False, "no traj_<i> groups of ManiSkill")
    return Seen(True, f"ManiSkill HDF5, {len(names):,} trajectories")


@contextmanager
def open_source(path: Path, request: Request, options: NoOptions) -> Iterator[GroupSource]:
    """The trajectories, looked through once unless `request.plan` tells what is in them.

    Raises `InputError` for missing actions or lengths that disagree, `CorruptError` for damage, also in the
    JSON.
    """
    path = _file_of(path)
    with hdf5.reading(path) as file, hdf5.damage(path):
        names = numbered(file, _PREFIX)
        if not names:
            raise InputError(f"{path}: no {_PREFIX}<i> groups", path=path)
        layout = _layout(file[names[0]])
        found = scan(names, members(file), layout, request)
        told = _Told(path.with_suffix(".json"))
        source = _source(path, file, found, layout, told, request)
        if not told.is_there:
            source.report.remarks.append(f"no {told.path.name} beside it: environment and seeds are unknown")
        with closing(source):
            yield source


def _file_of(path: Path) -> Path:
    """The only HDF5 file of a folder; `path` where it is no folder, or has another number of them."""
    found = list(itertools.islice(path.glob("*.h5"), 2)) if path.is_dir() else []
    return found[0] if len(found) == 1 else path


class _Told:
    """What the JSON says, as far as it is ManiSkill's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        told = read_object(path) if path.is_file() else {}
        listed = told.get("episodes")
        self.is_there = isinstance(listed, list)
        self.rest = (
            {name: value for name, value in told.items() if name != "episodes"} if self.is_there else {}
        )
        self.episodes = {
            f"{_PREFIX}{entry['episode_id']}": entry
            for entry in (listed if isinstance(listed, list) else [])
            if isinstance(entry, dict) and isinstance(entry.get("episode_id"), int)
        }

    def env(self) -> dict[str, Any] | None:
        """The environment's entry in a spec."""
        info = self.rest.get("env_info")
        if not isinstance(info, dict) or not isinstance(info.get("env_id"), str):
            return None
        kwargs, limit = info.get("env_kwargs"), info.get("max_episode_steps")
        return {
            "library": "maniskill",
            "id": info["env_id"],
            "kwargs": kwargs if isinstance(kwargs, dict) else {},
            "max_episode_steps": limit if type(limit) is int and limit > 0 else None,
        }

    def seed(self, name: str) -> int | None:
        """The seed that an episode was reset with; several environments at once have a list of seeds."""
        entry = self.episodes.get(name, {})
        reset = entry.get("reset_kwargs")
        for seed in (reset.get("seed") if isinstance(reset, dict) else None, entry.get("episode_seed")):
            value = seed[0] if isinstance(seed, list) and len(seed) == 1 else seed
            if type(value) is int and 0 <= value < _MAX_SEED:
                return value
        return None

    def metadata(self, name: str) -> str:
        """What else is said of an episode, as JSON; empty if nothing is."""
        entry = self.episodes.get(name)
        return json.dumps(entry, sort_keys=True, separators=(",", ":")) if entry else ""


def _layout(group: Any) -> Layout:
    """The names of what has a meaning, which changed from version to version."""
    names = set(group) if isinstance(group, h5py.Group) else set()
    done = next((name for name in ("terminated", "dones", "success") if name in names), "terminated")
    return Layout(
        "actions",
        "obs",
        "rewards",
        done,
        following="next_obs",
        fallback="env_states",
        truncated="truncated" if "truncated" in names else "is_truncated",
        states="env_states",
    )


def _source(
    path: Path, file: h5py.File, found: Scan, layout: Layout, told: _Told, request: Request
) -> GroupSource:
    observed = any(key.startswith("obs/") or key == "obs" for key in found.found)
    finals = {
        name: (*_FINAL, *storable(name))
        for name, each in found.found.items()
        if each.where == "state" and (observed or -1 in each.shape)
    }
    extra: list[Column] = [heap_column(DEMO, Heap("text"))]
    if told.episodes:
        extra.append(heap_column(_METADATA, Heap("text")))
    for name, key in finals.items():
        each = found.found[name]
        extra.append(heap_column(key, Heap("array"), each.dtype, each.shape))

    groups = members(file)

    def open_group(name: str, rows: int) -> Group:
        group = groups(name)
        values: dict[Key, Any] = {DEMO: name}
        if told.episodes:
            values[_METADATA] = told.metadata(name)
        for state, key in finals.items():
            values[key] = group.arrays[state].read(rows, rows + 1)[0].astype(found.found[state].dtype)
        return Group(group, values, told.seed(name))

    files = [path, told.path] if told.is_there else [path]
    source = GroupSource(found, layout, open_group, extra, request, where=path, files=files, env=told.env())
    source.record["metadata"] = told.rest
    source.report.remarks += _odd(found, told)
    others = [name for name in file if name not in set(found.names) and not name.startswith(_PREFIX)]
    if others:
        source.report.lossy.append(f"{', '.join(others[:8])}: no trajectories; left out")
    return source


def _odd(found: Scan, told: _Told) -> list[str]:
    """Where file and JSON disagree."""
    if not told.episodes:
        return []
    remarks = []
    if missing := sum(name not in told.episodes for name in found.names):
        remarks.append(f"the JSON does not list {missing:,} of the trajectories")
    if absent := len(told.episodes) - (len(found.names) - missing):
        remarks.append(f"the JSON lists {absent:,} trajectories that have no steps here")
    other = sum(
        told.episodes.get(name, {}).get("elapsed_steps", rows) != rows
        for name, rows in zip(found.names, found.rows, strict=True)
    )
    if other:
        remarks.append(f"elapsed_steps of the JSON is not the number of actions in {other:,} trajectories")
    return remarks
