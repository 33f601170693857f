"""HDF5 files with one group per episode, of any format, looked through without their rows.

In every group an array with as many rows as the actions is per step; any other belongs to the episode as
a whole, as the group's attributes do. Which arrays are observations and rewards is the format's `Layout`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from rlcli.datasets import hdf5
from rlcli.datasets.contract import Request
from rlcli.datasets.hdf5_groups import Array, EpisodeGroup
from rlcli.datasets.opened import is_exact
from rlcli.datasets.stopping import heeding
from rlcli.errors import IncompatibleError, InputError
from rlcli.format.keys import DTYPES

Where = Literal["row", "state", "episode", "attribute"]
SEED = "rl_seed"  # the attribute of a group that our own export writes


@dataclass(frozen=True)
class Layout:
    """The names of what has a meaning inside a group; `fallback` are observations where there are none.

    `done` flags the steps that end by themselves, `truncated` those that end from outside. `states` may have
    a row more than the actions: the state after the last one.
    """

    action: str
    observation: str
    reward: str
    done: str
    following: str | None = None
    fallback: str | None = None
    truncated: str | None = None
    states: str | None = None


@dataclass
class Found:
    """An array or attribute of the groups: `text` is its dtype for strings; `shape` is per row, or whole.

    A `state` has a value per row and one more after the last.
    `count` is how many groups have it; an axis 0 of -1 varies between groups, but not within one.
    """

    where: Where
    dtype: str
    shape: tuple[int, ...]
    count: int = 1


@dataclass
class Scan:
    """What the groups hold. `rows[e]` are the steps of group `names[e]`."""

    names: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    found: dict[str, Found] = field(default_factory=dict)
    has_final: bool = False  # observations have one row more than actions
    inexact: bool = False  # rewards do not fit float32
    empty: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        found = {name: [f.where, f.dtype, list(f.shape), f.count] for name, f in self.found.items()}
        return {**self.__dict__, "found": found}

    @staticmethod
    def from_json(told: Mapping[str, Any]) -> Scan:
        found = {name: Found(f[0], f[1], tuple(f[2]), f[3]) for name, f in told["found"].items()}
        return Scan(**{**told, "found": found})


def numbered(group: h5py.Group, prefix: str) -> list[str]:
    """The groups `<prefix><number>` of a group, by number; h5py's order is that of the letters."""
    pattern = re.compile(rf"{prefix}(\d{{1,18}})")
    found = []

    def note(raw: bytes, link: h5py.h5l.LinkInfo) -> None:
        match = pattern.fullmatch(raw.decode(errors="surrogateescape"))
        if match is not None and link.type == h5py.h5l.TYPE_HARD:
            found.append((int(match[1]), match[0]))

    group.id.links.iterate(note, info=True)
    return [name for _, name in sorted(found)]


def scan(
    names: Iterable[str], members: Callable[[str], EpisodeGroup], layout: Layout, request: Request
) -> Scan:
    """What `request.plan` tells; without one, shapes, types, attributes and rewards of all groups.

    Raises `InputError` for missing actions or lengths that disagree, `CorruptError` for sizes that cannot
    be, `IncompatibleError` for shapes or dtypes that differ between episodes.
    """
    if request.plan:
        return Scan.from_json(request.plan["scan"])
    result = Scan()
    with_final: set[bool] = set()
    path: Any = None
    for name in heeding(names):
        group = members(name)
        before, path = path, group.path
        with hdf5.damage(path, f"{name}:"):
            group.check_storage()
            where, arrays = f"{path}: {group.name}", group.arrays
            if before is not None and path != before:
                _check_fits(result, arrays, layout, path, before)
            rows = _num_rows(arrays, layout, where)
            if rows == 0:
                result.empty += 1
                continue
            lengths = {
                dataset.shape[0] - rows
                for key, dataset in arrays.items()
                if is_below(key, layout.observation) and dataset.shape
            }
            if lengths - {0, 1} or len(lengths) > 1:
                raise InputError(
                    f"{where}: {rows:,} actions, and {', '.join(f'{n + rows:,}' for n in sorted(lengths))} "
                    f"observations",
                    path=path,
                )
            with_final |= {difference == 1 for difference in lengths}
            for key, dataset in arrays.items():
                _see(result, path, name, key, dataset, rows, layout)
            result.left_out |= {f"link {key}": "it is not followed" for key in group.links}
            keys: Iterable[Any] = group.attributes
            for key in keys:
                if isinstance(key, bytes):  # which is what h5py has for names that are not text
                    told = key.decode(errors="replace")
                    result.left_out[f"attribute {told}"] = "its name is not text"
                else:
                    _see_attribute(result, path, group, key, rows)
            if not result.inexact and layout.reward in arrays:
                with hdf5.damage(path, f"{group.name}/{layout.reward}:"):
                    result.inexact = not is_exact(np.asarray(arrays[layout.reward].whole()))
            result.names.append(name)
            result.rows.append(rows)
    if len(with_final) > 1:
        raise IncompatibleError(f"{path}: some episodes have a final observation and others not", path=path)
    result.has_final = with_final == {True}
    _check_complete(result, path, layout)
    return result


def is_below(key: str, top: str | None) -> bool:
    """Whether a path is `top` or inside it."""
    return top is not None and (key == top or key.startswith(f"{top}/"))


def _check_fits(result: Scan, arrays: Mapping[str, Array], layout: Layout, path: Path, before: Path) -> None:
    """Whether the first episode of a file has the observations, actions and rewards of the file before."""
    tops = (layout.action, layout.observation, layout.reward, layout.done, layout.truncated)
    ours = {key for key in arrays if any(is_below(key, top) for top in tops)}
    known = {key for key in result.found if any(is_below(key, top) for top in tops)}
    if result.names and (odd := sorted((ours ^ known) - result.left_out.keys())):
        without, other = (path, before) if odd[0] in known else (before, path)
        raise InputError(f"{without}: has no {odd[0]}, which {other.name} has", path=without)


def _num_rows(arrays: Mapping[str, Array], layout: Layout, where: str) -> int:
    lengths = {
        key: d.shape[0] if d.shape else -1 for key, d in arrays.items() if is_below(key, layout.action)
    }
    if not lengths:
        raise InputError(f"{where} has no {layout.action}, without which it is no episode")
    if len(set(lengths.values())) > 1 or -1 in lengths.values():
        raise InputError(f"{where}: lengths disagree: {', '.join(f'{k} {n:,}' for k, n in lengths.items())}")
    rows: int = next(iter(lengths.values()))
    for key in (layout.reward, layout.done, layout.truncated):
        if key is not None and key in arrays and arrays[key].size != rows:
            raise InputError(f"{where}: {rows:,} {layout.action}, but {arrays[key].size:,} {key}")
    return rows


def _see(result: Scan, path: Path, name: str, key: str, dataset: Array, rows: int, layout: Layout) -> None:
    if key in result.left_out:
        return
    is_text = dataset.is_text
    if is_text and key not in result.found and dataset.is_pictures():
        result.left_out[key] = "encoded pictures are not read where episodes are groups"
        return
    dtype = "text" if is_text else str(dataset.dtype.newbyteorder("="))
    is_role = any(
        is_below(key, top) for top in (layout.action, layout.observation, layout.following, layout.reward)
    )
    is_part = is_below(key, layout.observation) and key != layout.observation
    if dtype not in DTYPES and (dtype != "text" or (is_role and not is_part)):
        if is_role:
            raise IncompatibleError(f"{path}: {dataset.name} has {dtype} values, expected numbers", path=path)
        result.left_out[key] = f"{dtype} values cannot be stored"
        return
    is_state = bool(dataset.shape) and is_below(key, layout.states) and dataset.shape[0] == rows + 1
    per_row = is_role or is_state or (bool(dataset.shape) and dataset.shape[0] == rows)
    if is_text and (dataset.size != (rows if per_row else 1)):
        result.left_out[key] = "texts of more than one per step or episode cannot be stored"
        return
    shape = tuple(dataset.shape[1:]) if per_row else tuple(dataset.shape)
    if is_text:
        shape = ()
    where: Where = "state" if is_state else "row" if per_row else "episode"
    _join(result, path, name, key, Found(where, dtype, shape), is_role)


def _see_attribute(result: Scan, path: Path, group: EpisodeGroup, key: str, rows: int) -> None:
    if key == SEED:
        return
    value = group.attributes[key]
    if key == "num_samples":
        told = np.asarray(value)
        if told.size != 1 or told.dtype.kind not in "iuf" or told.reshape(-1)[0] != rows:
            result.remarks.append(f"{group.name} has {rows:,} rows, num_samples says {str(value)[:40]}")
        return
    if isinstance(value, str | bytes):
        kind = Found("attribute", "text", ())
    else:
        array = np.asarray(value)
        if str(array.dtype) not in DTYPES:
            result.left_out[f"attribute {key}"] = f"{array.dtype} values cannot be stored"
            return
        kind = Found("attribute", str(array.dtype), array.shape)
    _join(result, path, group.name, f"@{key}", kind, False)


def _join(result: Scan, path: Path, name: str, key: str, new: Found, is_role: bool) -> None:
    """Takes what one group has into account; what differs between groups is refused or left out."""
    old = result.found.get(key)
    if old is None:
        result.found[key] = new
        return
    old.count += 1
    if new.where != old.where and new.dtype == old.dtype and {new.where, old.where} == {"row", "episode"}:
        # as long as the actions by chance: it belongs to the episode
        whole, row = (new, old) if old.where == "row" else (old, new)
        if len(whole.shape) == len(row.shape) + 1 and whole.shape[1:] == row.shape:
            old.where, old.shape = "episode", (-1, *row.shape)
            return
    if new.dtype == old.dtype and new.where == old.where:
        if new.shape == old.shape:
            return
        varies = 0 < len(new.shape) == len(old.shape) and new.shape[1:] == old.shape[1:]
        if varies and not (is_role and new.where == "row"):
            old.shape = (-1, *new.shape[1:])
            return
    told = f"{new.dtype}{list(new.shape)} in {name} and {old.dtype}{list(old.shape)} before"
    if is_role:
        raise IncompatibleError(f"{path}: {key} is {told}; a column has one shape and dtype", path=path)
    del result.found[key]
    result.left_out[key] = told


def _check_complete(result: Scan, path: Path, layout: Layout) -> None:
    """Observations, actions and rewards are in all groups or in none; other arrays per step are left out.

    States of some episodes only, of objects that come and go, become arrays of the episode.
    """
    groups = len(result.names)
    for key, found in list(result.found.items()):
        if found.where not in ("row", "state") or found.count == groups or is_below(key, layout.following):
            continue
        if found.where == "state" and -1 not in found.shape:
            found.where, found.shape = "episode", (-1, *found.shape)
            continue
        roles = (layout.action, layout.observation, layout.reward, layout.done, layout.truncated)
        if any(is_below(key, top) for top in roles):
            raise InputError(f"{path}: {key} is in {found.count:,} of {groups:,} episodes only", path=path)
        del result.found[key]
        result.left_out[key] = f"in {found.count:,} of {groups:,} episodes only"
