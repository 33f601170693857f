"""robomimic HDF5, and what is made like it: MimicGen, robosuite, LIBERO, RoboCasa, Isaac Lab.

`data/demo_<i>` is an episode, in the order of its number. It has `actions`, `obs/…`, perhaps `next_obs/…`,
`rewards`, `dones`, `states`; attributes such as `model_file` and `ep_meta`. `mask/<key>` lists demos by name
and becomes a flag of the episode. `dones` may be set at success, at the end or at both, and sticks once it is
set: only the last row's ends an episode, all are kept as `("info", "dones")`. Raw files without `obs` have
their simulator `states` as observations. A folder of files, a task each, is one dataset: attributes of `data`
that differ between its files, as the language of a task does, are texts of the episodes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlcli.datasets import hdf5
from rlcli.datasets.contract import NoOptions, Request, Seen
from rlcli.datasets.episode_files import Attributes, EpisodeFiles, count_in, open_files
from rlcli.datasets.episode_groups import SEED, Layout, Scan, scan
from rlcli.datasets.episode_rows import DEMO, EPISODE, Group, GroupSource
from rlcli.datasets.mapping import storable
from rlcli.datasets.opened import told_specs
from rlcli.datasets.plain_export import METADATA, rank_of
from rlcli.datasets.robomimic_export import ExportOptions, export
from rlcli.errors import InputError
from rlcli.format.keys import Key, check_key
from rlcli.format.schema import Column, Heap, heap_column

__all__ = ["ExportOptions", "detect", "export", "open_source"]

_GROUPS = ("data", "demo_")
_LAYOUT = Layout("actions", "obs", "rewards", "dones", following="next_obs", fallback="states")


def detect(path: Path) -> Seen:
    """Whether `path` is HDF5 with `data/demo_<i>` groups, or a folder of such files."""
    files, demos = count_in(path, *_GROUPS)
    if not files:
        return Seen(
            False, "not an HDF5 file" if path.is_file() else "no HDF5 files with data/demo_<i> groups"
        )
    if not demos:
        return Seen(False, "no data/demo_<i> groups")
    return Seen(
        True,
        f"folder of {files} robomimic HDF5 files" if path.is_dir() else f"robomimic HDF5, {demos:,} demos",
    )


@contextmanager
def open_source(path: Path, request: Request, options: NoOptions) -> Iterator[GroupSource]:
    """The files, their shapes and attributes looked through once unless `request.plan` tells them.

    Raises `InputError` for missing actions or lengths that disagree, `CorruptError` for damage.
    """
    with open_files(path, *_GROUPS) as files:
        with files.fitting():
            found = scan(files.labels(), files.group, _LAYOUT, request)
            source = _source(files, found, request)
        with closing(source):
            yield source


def _source(files: EpisodeFiles, found: Scan, request: Request) -> GroupSource:
    told = Attributes(files, METADATA)
    ours = [_ours(text) for text in told.apart]
    _check_ours(files, ours)
    masks, remarks = _masks(files, found)
    invented = set(ours[0].get("invented", ()))
    extra = [] if "demo" in invented else [heap_column(DEMO, Heap("text"))]
    extra += [Column((*EPISODE, "mask", *storable(key)), "bool", ()) for key in masks]
    extra += [*files.columns, *told.columns]
    cut, truncated = set[str](), dict[str, bool]()
    for name, one in zip(files.opened, ours, strict=True):
        cut |= {files.label(name, demo) for demo in one.get("cut", ())}
        for key, is_truncated in (("both", True), ("open", False)):
            truncated |= {files.label(name, demo): is_truncated for demo in one.get(key, ())}

    def open_group(label: str, rows: int) -> Group:
        group = files.group(label)
        name, demo = files.split(label)
        values: dict[Key, Any] = {} if "demo" in invented else {DEMO: demo}
        values |= {(*EPISODE, "mask", *storable(key)): label in labels for key, labels in masks.items()}
        values |= {**files.values(label), **told.values[name]}
        seed = np.asarray(group.attributes.get(SEED, ""))
        known = int(seed.reshape(-1)[0]) if seed.size == 1 and seed.dtype.kind in "iu" else None
        return Group(group, values, known, label in cut, truncated.get(label))

    keys = {str(name): check_key(key) for name, key in ours[0].get("columns", {}).items()}
    spec = ours[0].get("spec")
    if isinstance(spec, dict):
        env = spec.get("env")
    else:
        env = _environment(told.shared["data"].get("env_args"))
    source = GroupSource(
        found,
        _LAYOUT,
        open_group,
        extra,
        request,
        where=files.path,
        files=files.files,
        keys=keys,
        env=env if isinstance(env, dict) else None,
        hidden=invented,
        rank=rank_of(ours[0]),
    )
    if isinstance(spec, dict):
        source.spec |= told_specs(source.spec, spec)
    source.report.remarks += remarks
    if any(column.key == (*EPISODE, "data", "env_args") for column in told.columns):
        source.report.remarks.append("the files have several environments; env_args of an episode says which")
    source.record |= {
        "attributes": told.shared,
        "masks": {key: "/".join(storable(key)) for key in masks},
    }
    if told.by_file:
        source.record["attributes_by_file"] = told.by_file
    for name, file in files.opened.items():
        demos = set(found.names)
        others = [each for each in file if each not in ("data", "mask")]
        others += [
            f"data/{each}"
            for each in file["data"]
            if files.label(name, each) not in demos and not each.startswith("demo_")
        ]
        if others:
            where = f"{name}: " if name else ""
            source.report.lossy.append(f"{where}{', '.join(others[:8])}: neither demos nor masks; left out")
    return source


def _check_ours(files: EpisodeFiles, ours: Sequence[Mapping[str, Any]]) -> None:
    """Raises `InputError` where a file that we wrote names its columns otherwise than the first."""
    for name, one in zip(files.opened, ours, strict=True):
        if odd := [key for key in ("columns", "invented", "spec") if one.get(key) != ours[0].get(key)]:
            where = files.path / name
            raise InputError(f"{where}: rl wrote it of other {odd[0]} than {files.files[0].name}", path=where)


def _masks(files: EpisodeFiles, found: Scan) -> tuple[dict[str, set[str]], list[str]]:
    """`mask/<key>` -> the labels of the demos of it, and what is odd about them."""
    masks: dict[str, set[str]] = {}
    remarks: list[str] = []
    known = set(found.names)
    for name, file in files.opened.items():
        place = file.get("mask")
        for key, dataset in hdf5.walk(place) if isinstance(place, h5py.Group) else ():
            where = f"{name}: " if name else ""
            if dataset.dtype.kind not in "SO" or len(dataset.shape) != 1:
                remarks.append(f"{where}mask/{key} is no list of names; left out")
                continue
            listed = {files.label(name, hdf5.text_of(value, dataset)) for value in dataset[()].tolist()}
            masks[key] = masks.get(key, set()) | listed
            if missing := len(listed - known):
                remarks.append(f"{where}mask/{key} names {missing:,} demos that are not there")
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
