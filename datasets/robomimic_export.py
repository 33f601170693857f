"""Writing robomimic HDF5: a `data/demo_<i>` group per episode, as `robomimic`'s own tools read them.

A dataset that came from robomimic gets its names back; any other gets `obs/<name>`, `actions` and its other
columns under their keys. The attribute `rl.json` says which array is which column, so that reading it again
gives the same dataset.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from rlcli.config import opt
from rlcli.datasets.contract import Advance, Report
from rlcli.datasets.d4rl_export import episode_ends
from rlcli.datasets.episode_groups import SEED
from rlcli.datasets.hdf5_output import Output, creating
from rlcli.datasets.plain_export import METADATA, free_name, is_bfloat16, lost_encoding, open_ends
from rlcli.datasets.slicing import slice_rows, slices
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.schema import Column

_DERIVED = {("is_init",), ("episode",), ("step",)}
_FLAGS = {("next", "done"), ("next", "terminated"), ("next", "truncated")}
_REWARD: Key = ("next", "reward")
_EPISODE: Key = ("info", "episode")
_NAME = re.compile(r"demo_(\d{1,18})")
_DEMO: Key = (*_EPISODE, "demo")
_TOPS = ("obs", "next_obs", "actions", "rewards", "dones", "rl")
_MAX_ATTRIBUTE = 60_000  # bytes of an array; larger ones do not fit HDF5's headers
_GYM = 2  # robomimic's EnvType.GYM_TYPE


@dataclass(frozen=True)
class ExportOptions:
    """Writing robomimic HDF5."""

    compression: Literal["none", "gzip"] = opt("none", "How the arrays of a demo are compressed.")


@dataclass
class _Plan:
    """Which column goes where: arrays per step, arrays and attributes per episode, masks."""

    rows: dict[str, Column] = field(default_factory=dict)
    arrays: dict[str, Column] = field(default_factory=dict)
    attributes: dict[str, Column] = field(default_factory=dict)
    masks: dict[str, Column] = field(default_factory=dict)
    following: dict[str, Key] = field(default_factory=dict)
    reward: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))


def export(dataset: Dataset, out: Path, options: ExportOptions, advance: Advance) -> Report:
    """Write `dataset` to the new file `out`, one episode after the other in slices.

    `dones` is 1 where an episode terminated, unless the dataset kept the source's. `next_obs` is there
    for every episode whose last next observation is known.
    """
    report = Report()
    record = (dataset.extra or {}).get("source")
    record = record if isinstance(record, dict) and record.get("format") == "robomimic" else {}
    ends = episode_ends(dataset)[0]
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    names = _demo_names(dataset, starts)
    plan = _plan(dataset, record, report, named=bool(names))
    names = names or [f"demo_{number}" for number in range(len(starts))]
    unknown = set(np.asarray(dataset.unknown_next).tolist())
    masks: dict[str, list[str]] = {name: [] for name in plan.masks}
    compression = None if options.compression == "none" else options.compression
    with creating(out) as output:
        data = output.file.create_group("data")
        for name, start, end in zip(names, starts.tolist(), ends.tolist(), strict=True):
            group = data.create_group(name)
            group.attrs["num_samples"] = end + 1 - start
            _write_once(dataset, plan, group, start)
            for key, column in plan.masks.items():
                if bool(dataset.read(column.key, start, start + 1)[0]):
                    masks[key].append(name)
            _write_rows(
                dataset,
                plan,
                output,
                group,
                (start, end + 1),
                end not in unknown,
                compression,
                advance,
                report,
            )
        if names:
            _write_empty(dataset, plan, data, data[names[0]])
        for key, listed in masks.items():
            output.file[f"mask/{key}"] = np.array(listed, dtype=h5py.string_dtype())
        _write_episodes(dataset, plan, output.file, names, ends)
        _write_attributes(dataset, record, output.file)
    report.details |= {"demos": len(names), "original": bool(record)}
    return report


def _plan(dataset: Dataset, record: Mapping[str, Any], report: Report, *, named: bool) -> _Plan:
    """Where everything goes; `named` says that the demos have the names that the dataset has for them."""
    names = {tuple(key): name for name, key in record.get("columns", {}).items()}
    masks = {key: name for name, key in record.get("masks", {}).items()}
    plan = _Plan()
    for column in dataset.schema.columns:
        key = column.key
        if key in _DERIVED | _FLAGS or column.encoding == "stack" or (key == _DEMO and named):
            continue
        if key[:2] == ("next", "observation"):
            if column.is_text:
                report.lossy.append(f"{'/'.join(key)}: next_obs has no place for text")
                continue
            name = _name_of(key[1:], names)
            plan.following[_following(name)] = key
        elif key == _REWARD:
            if ("source", "rewards") not in names and "reward" not in record.get("absent", ()):
                plan.rows["rewards"] = column
                plan.reward = np.dtype(record.get("original", {}).get("rewards", ["float32"])[0])
        elif key[:3] == (*_EPISODE, "mask") and column.dtype == "bool":
            relative = "/".join(key[3:])
            plan.masks[masks.get(relative, relative)] = column
        elif column.heap is not None and column.heap.value == "bytes":
            report.lossy.append(f"{'/'.join(key)}: bytes of any length have no place in robomimic's layout")
        else:
            report.lossy += lost_encoding(column)
            if is_bfloat16(dataset, key):
                report.lossy.append(f"{'/'.join(key)}: bfloat16 is written as its bits, in uint16")
            name = _name_of(key, names)
            if key not in names and not name.startswith("@") and _is_taken(name, key, column, plan):
                name = "/".join(("rl", *key))
            if name.startswith("@"):
                plan.attributes[name[1:]] = column
            elif key[: len(_EPISODE)] == _EPISODE:
                plan.arrays[name] = column
            else:
                plan.rows[name] = column
    if record.get("observation") == "states":
        plan.following = {}
    return plan


def _is_taken(name: str, key: Key, column: Column, plan: _Plan) -> bool:
    """Whether a path means something else to robomimic, or holds another column."""
    if key[0] in ("observation", "action"):
        return column.is_text
    return name.split("/")[0] in _TOPS or free_name(name, key, [*plan.rows, *plan.arrays]) != name


def _name_of(key: Key, names: Mapping[Key, str]) -> str:
    """The path in a demo, `@name` for an attribute."""
    if key in names:
        return names[key]
    if key[0] == "observation":
        return "/".join(("obs", *(key[1:] or ("observation",))))
    if key[0] == "action":
        return "/".join(("actions", *key[1:]))
    if key[: len(_EPISODE)] == _EPISODE:
        return "/".join(key[3:]) if key[2] == "arrays" else f"@{'/'.join(key[2:])}"
    return "/".join(key[1:] if key[0] == "info" and len(key) > 1 else key)


def _following(name: str) -> str:
    return f"next_obs{name.removeprefix('obs')}"


def _demo_names(dataset: Dataset, starts: Any) -> list[str]:
    """The names that the source had, none where they are not one `demo_<i>` each."""
    column = dataset.schema.by_key.get(_DEMO)
    if column is None or column.heap is None:
        return []
    index, table = dataset.text(_DEMO, starts)
    names = [table[int(at)] for at in index]
    numbers = [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]
    rise = all(one < other for one, other in pairwise(numbers))  # they are read in the order of their numbers
    return names if rise and len(numbers) == len(names) else []


def _write_once(dataset: Dataset, plan: _Plan, group: h5py.Group, row: int) -> None:
    for name, column in plan.attributes.items():
        value = dataset.read(column.key, row, row + 1)[0]
        if column.heap is not None and len(value) == 0:
            continue  # absent in the source
        if isinstance(value, np.ndarray) and value.nbytes > _MAX_ATTRIBUTE:
            group[name] = value
        else:
            group.attrs[name] = value
    for name, column in plan.arrays.items():
        value = dataset.read(column.key, row, row + 1)[0]
        if column.heap is None or len(value):
            group[name] = value


def _write_empty(dataset: Dataset, plan: _Plan, data: h5py.Group, first: h5py.Group) -> None:
    """What no episode has a value of is written once, empty, so that its column comes back."""
    there = {name for group in data.values() for name in group.attrs}
    for name in plan.attributes.keys() - there:
        if name not in first:
            column = plan.attributes[name]
            first.attrs[name] = "" if column.is_text else np.empty((0, *column.shape[1:]), column.dtype)


def _write_rows(
    dataset: Dataset,
    plan: _Plan,
    output: Output,
    group: h5py.Group,
    rows: tuple[int, int],
    is_known: bool,
    compression: str | None,
    advance: Advance,
    report: Report,
) -> None:
    start, stop = rows
    written: list[tuple[str, Key, np.dtype[Any], tuple[int, ...]]] = []
    for name, column in plan.rows.items():
        dtype = plan.reward if column.key == _REWARD else column.numpy
        shape = () if column.key == _REWARD else _shape(dataset, column, start, stop)
        if shape is None:
            said = f"{name}: rows of one episode have different shapes, which an array cannot hold; left out"
            report.lossy += [said] if said not in report.lossy else []
            continue
        written.append((name, column.key, _storable(column, dtype), shape))
    for name, key in plan.following.items() if is_known else ():
        column = dataset.schema.column(key)
        written.append((name, key, _storable(column, column.numpy), column.shape))
    targets = {
        name: group.create_dataset(
            name, (stop - start, *shape), dtype, compression=compression, chunks=True if compression else None
        )
        for name, _, dtype, shape in written
    }
    for low, high in slices(start, stop, slice_rows(dataset.schema.row_bytes)):
        for name, key, dtype, shape in written:
            values = dataset.read(key, low, high)
            if dtype.kind != "O":
                values = np.stack(list(values)) if values.dtype.kind == "O" else values
                values = np.asarray(values, dtype).reshape(high - low, *shape)
            targets[name][low - start : high - start] = values
        output.check()
        advance((high - low) * dataset.schema.row_bytes)
    if "dones" not in plan.rows:
        dones = np.zeros(stop - start, np.int64)
        dones[-1] = int(dataset.read(("next", "terminated"), stop - 1, stop)[0, 0])
        group["dones"] = dones


def _shape(dataset: Dataset, column: Column, start: int, stop: int) -> tuple[int, ...] | None:
    """The shape of a column's rows, None where they have several."""
    if -1 not in column.shape:
        return column.shape
    shapes = {np.shape(value) for value in dataset.read(column.key, start, stop)}
    return shapes.pop() if len(shapes) == 1 else None


def _storable(column: Column, dtype: np.dtype[Any]) -> np.dtype[Any]:
    return h5py.string_dtype() if column.is_text else dtype


def _write_episodes(dataset: Dataset, plan: _Plan, file: h5py.File, names: list[str], ends: Any) -> None:
    """What robomimic has no place for: the columns' keys, unfinished episodes, seeds, both flags at once."""
    episodes = dataset.episodes
    last = np.asarray(episodes.start) + np.asarray(episodes.length) - 1
    at = np.searchsorted(ends, last)
    without = open_ends(dataset, ends)
    cut = [names[n] for n in np.union1d(at[np.asarray(episodes.cut, np.bool_)], without).tolist()]
    both_flags = np.asarray(episodes.terminated, np.bool_) & np.asarray(episodes.truncated, np.bool_)
    seeds = np.asarray(episodes.seed)
    for number in np.flatnonzero(seeds >= 0).tolist():
        file["data"][names[int(at[number])]].attrs[SEED] = int(seeds[number])
    keys = {
        **{name: list(column.key) for name, column in {**plan.rows, **plan.arrays}.items()},
        **{f"{at}{name}": list(column.key) for name, column in plan.attributes.items() for at in ("", "@")},
    }
    keys.pop("rewards", None)
    both = [names[n] for n in at[both_flags].tolist()]
    is_named = _DEMO in dataset.schema.by_key and "demo" not in plan.attributes
    there = {"dones": "dones" in plan.rows, "demo": is_named}
    told = {
        "rl": 1,
        "spec": dataset.spec,
        "columns": keys,
        "order": [list(column.key) for column in dataset.schema.columns],
        "cut": cut,
        "both": both,
        "open": [names[n] for n in without.tolist()],
        "invented": [name for name, is_there in there.items() if not is_there],
    }
    file.attrs[METADATA] = json.dumps(told)


def _write_attributes(dataset: Dataset, record: Mapping[str, Any], file: h5py.File) -> None:
    for place, values in record.get("attributes", {}).items():
        target = file[place] if place else file
        for name, value in values.items():
            target.attrs[name] = value
    data = file["data"]
    data.attrs["total"] = dataset.num_rows
    if "env_args" not in data.attrs:
        env = dataset.spec.get("env") or {}
        told = {"env_name": env.get("id", ""), "type": _GYM, "env_kwargs": env.get("kwargs", {})}
        data.attrs["env_args"] = json.dumps(told)
