"""robomimic HDF5, and what is made like it: MimicGen, robosuite, LIBERO, RoboCasa, Isaac Lab.

`data/demo_<i>` is an episode, in the order of its number. It has `actions`, `obs/…`, perhaps `next_obs/…`,
`rewards`, `dones`, `states`; attributes such as `model_file` and `ep_meta`. `mask/<key>` lists demos by name
and becomes a flag of the episode. `dones` may be set at success, at the end or at both, and sticks once it is
set: only the last row's ends an episode, all are kept as `("info", "dones")`. Raw files without `obs` have
their simulator `states` as observations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlcli.datasets import hdf5
from rlcli.datasets.contract import NoOptions, Request, Seen
from rlcli.datasets.episode_groups import SEED, Layout, Scan, numbered, scan
from rlcli.datasets.episode_rows import DEMO, EPISODE, Group, GroupSource
from rlcli.datasets.hdf5_groups import members
from rlcli.datasets.mapping import storable
from rlcli.datasets.opened import told_specs
from rlcli.datasets.plain_export import METADATA, rank_of
from rlcli.datasets.robomimic_export import ExportOptions, export
from rlcli.errors import InputError
from rlcli.format.keys import Key, check_key
from rlcli.format.schema import Column, Heap, heap_column

__all__ = ["ExportOptions", "detect", "export", "open_source"]

_LAYOUT = Layout("actions", "obs", "rewards", "dones", following="next_obs", fallback="states")


def detect(path: Path) -> Seen:
    """Whether `path` is HDF5 with `data/demo_<i>` groups."""
    if not hdf5.is_hdf5(path):
        return Seen(False, "not an HDF5 file")
    with hdf5.reading(path) as file, hdf5.damage(path):
        data = file.get("data")
        names = numbered(data, "demo_") if isinstance(data, h5py.Group) else []
    if not names:
        return Seen(False, "no data/demo_<i> groups")
    return Seen(True, f"robomimic HDF5, {len(names):,} demos")


@contextmanager
def open_source(path: Path, request: Request, options: NoOptions) -> Iterator[GroupSource]:
    """The file, its shapes and attributes looked through once unless `request.plan` tells them.

    Raises `InputError` for missing actions or lengths that disagree, `CorruptError` for damage.
    """
    with hdf5.reading(path) as file, hdf5.damage(path):
        data = file.get("data")
        names = numbered(data, "demo_") if isinstance(data, h5py.Group) else []
        if not names:
            raise InputError(f"{path}: no data/demo_<i> groups", path=path)
        source = _source(path, file, scan(names, members(data), _LAYOUT, request), request)
        with closing(source):
            yield source


def _source(path: Path, file: h5py.File, found: Scan, request: Request) -> GroupSource:
    attributes = {"": hdf5.attributes_of(file), "data": hdf5.attributes_of(file["data"])}
    ours = _ours(attributes[""].pop(METADATA, ""))
    masks, remarks = _masks(file, found)
    invented = set(ours.get("invented", ()))
    extra = [] if "demo" in invented else [heap_column(DEMO, Heap("text"))]
    extra += [Column((*EPISODE, "mask", *storable(key)), "bool", ()) for key in masks]
    cut = set(ours.get("cut", ()))
    truncated = dict.fromkeys(ours.get("both", ()), True) | dict.fromkeys(ours.get("open", ()), False)

    groups = members(file["data"])

    def open_group(name: str, rows: int) -> Group:
        group = groups(name)
        values: dict[Key, Any] = {} if "demo" in invented else {DEMO: name}
        values |= {(*EPISODE, "mask", *storable(key)): name in names for key, names in masks.items()}
        seed = np.asarray(group.attributes.get(SEED, ""))
        known = int(seed.reshape(-1)[0]) if seed.size == 1 and seed.dtype.kind in "iu" else None
        return Group(group, values, known, name in cut, truncated.get(name))

    keys = {str(name): check_key(key) for name, key in ours.get("columns", {}).items()}
    told = ours.get("spec")
    env = told.get("env") if isinstance(told, dict) else _environment(attributes["data"].get("env_args"))
    env = env if isinstance(env, dict) else None
    source = GroupSource(
        found,
        _LAYOUT,
        open_group,
        extra,
        request,
        where=path,
        files=[path],
        keys=keys,
        env=env,
        hidden=invented,
        rank=rank_of(ours),
    )
    if isinstance(told, dict):
        source.spec |= told_specs(source.spec, told)
    source.report.remarks += remarks
    source.record |= {
        "attributes": attributes,
        "masks": {key: "/".join(storable(key)) for key in masks},
    }
    others = [name for name in file if name not in ("data", "mask")]
    others += [f"data/{n}" for n in file["data"] if n not in set(found.names) and not n.startswith("demo_")]
    if others:
        source.report.lossy.append(f"{', '.join(others[:8])}: neither demos nor masks; left out")
    return source


def _masks(file: h5py.File, found: Scan) -> tuple[dict[str, set[str]], list[str]]:
    """`mask/<key>` -> the demos of it, and what is odd about them."""
    masks: dict[str, set[str]] = {}
    remarks: list[str] = []
    place = file.get("mask")
    known = set(found.names)
    for key, dataset in hdf5.walk(place) if isinstance(place, h5py.Group) else ():
        if dataset.dtype.kind not in "SO" or len(dataset.shape) != 1:
            remarks.append(f"mask/{key} is no list of names; left out")
            continue
        masks[key] = {hdf5.text_of(value, dataset) for value in dataset[()].tolist()}
        if missing := len(masks[key] - known):
            remarks.append(f"mask/{key} names {missing:,} demos that are not there")
    return masks, remarks


def _environment(env_args: Any) -> dict[str, Any] | None:
    """The environment of robomimic's `env_args`, JSON with `env_name`, `type` and `env_kwargs`."""
    try:
        told = json.loads(env_args)
        name, kwargs = told["env_name"], told.get("env_kwargs", {})
    except (TypeError, ValueError, KeyError):
        return None
    if not isinstance(name, str) or not isinstance(kwargs, dict):
        return None
    library = {1: "robosuite", 2: "gymnasium", 3: "ig_momart", 4: "isaaclab"}.get(
        told.get("type"), "robomimic"
    )
    return {"library": library, "id": name, "kwargs": kwargs, "max_episode_steps": None}


def _ours(text: Any) -> Mapping[str, Any]:
    """What our own export left: keys, spaces, which episodes were cut."""
    try:
        told = json.loads(text)
    except (TypeError, ValueError):
        return {}
    if not isinstance(told, dict):
        return {}
    found: dict[str, Any] = {name: _texts(told.get(name)) for name in ("invented", "cut", "both", "open")}
    columns = told.get("columns")
    keys = columns.items() if isinstance(columns, dict) else ()
    return {**told, **found, "columns": {name: parts for name, key in keys if (parts := _texts(key))}}


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
