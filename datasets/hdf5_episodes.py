"""HDF5 files of nobody's format with a group per episode, `ep_0`, `ep_1` and so on: what their names mean.

The rows are read as those of any format of groups (`episode_rows.py`). Whether a group is an episode is a
guess that a user confirms: the same layout may hold a table of many episodes for each seed or task.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlcli.datasets import hdf5
from rlcli.datasets.contract import AmbiguousMapping, Request
from rlcli.datasets.episode_groups import Layout, numbered, scan
from rlcli.datasets.episode_rows import DEMO, Group, GroupSource
from rlcli.datasets.hdf5_groups import members
from rlcli.datasets.mapping import Roles, recognised, roles_of
from rlcli.errors import UsageError
from rlcli.format.keys import Key
from rlcli.format.schema import Heap, heap_column

_NUMBERED = re.compile(r"(.*?)\d{1,18}", re.DOTALL)
_LOOKED_AT = 64  # names of a group, to see whether its members are numbered
_FOLLOWING: Key = ("next", "observation")
_FLAGS = ("terminated", "truncated", "done")


def episodes_of(file: h5py.File) -> tuple[h5py.Group, list[str]] | None:
    """The group whose members are episodes, and their names by number; None if there are no two of them."""
    for place in (file, *_only_group(file)):
        names = [name for name in _first(place) if isinstance(name, str)]  # not text: bytes to h5py
        prefixes = [match[1] for name in names if (match := _NUMBERED.fullmatch(name))]
        for prefix in dict.fromkeys(prefixes):
            names = numbered(place, re.escape(prefix))
            if len(names) > 1 and _is_episode(place[names[0]]):
                return place, names
    return None


def open_episodes(path: Path, place: h5py.Group, names: list[str], request: Request) -> GroupSource:
    """The groups as episodes. Raises `AmbiguousMapping` unless the user confirmed what they mean."""
    inside = [name for name, _ in hdf5.walk(place[names[0]])]
    roles = roles_of(inside, request.mapping, confirmed=True, where=path)
    meant = {name: "/".join(key) for name, key in roles.columns.items()}
    meant |= {name: role for role, name in roles.single.items()}
    if not request.confirmed:
        raise AmbiguousMapping(
            f"{path}: the groups {names[0]} to {names[-1]} may be an episode each, with these keys in them",
            {name: to for name, to in meant.items() if not to.startswith("info/")},
        )
    layout = _layout(roles, path)
    groups = members(place)
    found = scan(names, groups, layout, request)
    kept = {*roles.left_out, *(name for name, key in roles.columns.items() if key[:2] != _FOLLOWING)}
    told = {name: to for name, to in request.mapping.items() if name in kept}
    source = GroupSource(
        found,
        layout,
        lambda name, rows: Group(groups(name), {DEMO: name}),
        [heap_column(DEMO, Heap("text"))],
        dataclasses.replace(request, mapping=told),
        where=path,
        files=[path],
    )
    source.report.details["mapping"] = meant
    source.report.remarks.append(f"{len(names):,} groups beside each other are taken for an episode each")
    return source


def _first(place: h5py.Group) -> list[str]:
    return [name for name, _ in zip(place, range(_LOOKED_AT), strict=False)]


def _only_group(file: h5py.File) -> list[h5py.Group]:
    names = _first(file)
    if len(names) != 1 or not isinstance(file.get(names[0], getlink=True), h5py.HardLink):
        return []
    return [found] if isinstance(found := file[names[0]], h5py.Group) else []


def _is_episode(group: Any) -> bool:
    """Whether a group has observations and actions, and no flag in it falls again after an end."""
    if not isinstance(group, h5py.Group):
        return False
    arrays = dict(hdf5.walk(group))
    roles = {recognised(name.split("/")[0]) for name in arrays}
    if not {"observation", "action"} <= roles or "episode" in roles or "episode_ends" in roles:
        return False
    for name, array in arrays.items():
        if recognised(name) in _FLAGS and array.dtype.kind in "biuf":
            values = np.asarray(array[()]).reshape(-1) != 0
            if (values[:-1] & ~values[1:]).any():
                return False
    return True


def _layout(roles: Roles, path: Path) -> Layout:
    """The names of what has a meaning, as a group's layout has them."""
    single = roles.single
    return Layout(
        _top(roles.below("action"), 1, path) or "actions",
        _top(roles.below("observation"), 1, path) or "observations",
        single.get("reward", "rewards"),
        single.get("terminated") or single.get("done", "terminals"),
        following=_top(roles.below(*_FOLLOWING), 2, path),
        truncated=single.get("truncated"),
    )


def _top(names: Mapping[str, Key], depth: int, path: Path) -> str | None:
    """The array, or the group of all arrays, that has this meaning."""
    tops = {name.removesuffix("/".join(key[depth:])).rstrip("/") for name, key in names.items()}
    if len(tops) > 1:
        told = ", ".join(sorted(names)[:6])
        raise UsageError(f"{path}: {told} are not in one group, as the parts of an episode's space must be")
    return next(iter(tops), None)
