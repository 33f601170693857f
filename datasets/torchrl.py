"""TorchRL: folders of `ReplayBuffer.dumps`, and plain TensorDict memory maps, read without either library.

A ring that is full begins at the writer's cursor. Two batch axes are time and environments, in this order in
a buffer; of a plain folder `time_axis` says which. TED (TorchRL's episode data format) has observation,
action and flags of a step in one row, the reward and the flags after it below `next`; ours is the same.
Keys that are also below `next` are observations, except flags and counters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlcli.config import opt
from rlcli.datasets.contract import Request, Seen
from rlcli.datasets.mapping import storable
from rlcli.datasets.plain import PlainSource
from rlcli.datasets.plain_export import METADATA, is_unobserved, told_keys
from rlcli.datasets.ring_table import EPISODE, TERMINATED, TRUNCATED, Flags, RingTable
from rlcli.datasets.torchrl_export import ExportOptions, export
from rlcli.datasets.torchrl_tree import Tree, read_json, read_tree
from rlcli.errors import CorruptError, IncompatibleError, InputError, RLError, UsageError

__all__ = ["ExportOptions", "Options", "detect", "export", "open_source"]

_FLAGS = ("done", "terminated", "truncated")
_NUMBERS = ("collector/traj_ids", "traj_ids", "traj", "episode")
_COMPRESSED = "storage/compressed_data"  # of CompressedListStorage: each value by itself
_COUNTERS = {"step_count", "reward_sum", "episode_reward", "traj_ids", "reward", "is_init", "step", "episode"}
_KNOWN = ("observation", "pixels", "state", "obs")
_VALID = "next/observation_valid"
ALIGNMENT = "same row: observation, the action applied to it; below next what followed"


@dataclass(frozen=True)
class Options:
    """Reading TensorDict folders."""

    time_axis: Literal["auto", "0", "1"] = opt("auto", "Which of two batch axes is time.")


def detect(path: Path) -> Seen:
    """Whether `path` is a dump of a replay buffer, or a TensorDict folder."""
    if (path / _COMPRESSED).is_dir():
        return Seen(True, "TorchRL ReplayBuffer dump, compressed")
    if (path / "storage" / "storage_metadata.json").is_file():
        return Seen(True, "TorchRL replay buffer")
    meta = path / "meta.json"
    if not meta.is_file():
        return Seen(False, "no TensorDict there")
    try:
        is_tree = "tensordict" in str(read_json(meta).get("_type", ""))
    except RLError as err:
        return Seen(False, err.message)
    return Seen(True, "TensorDict memory maps") if is_tree else Seen(False, "no TensorDict there")


@contextmanager
def open_source(path: Path, request: Request, options: Options) -> Iterator[PlainSource]:
    """The folder, every array mapped.

    Raises `CorruptError` for files that have not the size they should, `IncompatibleError` for compressed
    dumps.
    """
    if (path / _COMPRESSED).is_dir():
        raise IncompatibleError(
            f"{path}: a dump of CompressedListStorage, which does not say how its values are compressed",
            hint="load it with TorchRL and dump it from a buffer with LazyMemmapStorage",
            path=path,
        )
    is_dump = (path / "storage").is_dir()
    folder = path / "storage" if is_dump else path
    told = read_json(folder / "storage_metadata.json") if is_dump else {}
    if told.get("is_pytree") or (is_dump and not (folder / "meta.json").exists()):
        raise IncompatibleError(f"{path}: the storage holds no TensorDict", path=path)
    tree = read_tree(folder)
    table = _table(path, tree, told, is_dump, options)
    told = told_keys(table.metadata, [name for name in table.fields if name not in request.mapping])
    mapping = {name: to for name, to in _mapping(table, path).items() if name not in told} | {
        **request.mapping
    }
    source = PlainSource(table, dataclasses.replace(request, mapping=mapping, confirmed=True))
    source.report.details["mapping"] = {k: v for k, v in mapping.items() if not k.startswith("rl:")}
    source.report.repaired = table.repaired
    source.record |= {"alignment": ALIGNMENT, "is_dump": is_dump, "batch": list(tree.batch)}
    pickles = [file for file in path.rglob("*") if file.suffix in (".pkl", ".pickle", ".pt")]
    if pickles:
        source.report.remarks.append(f"{len(pickles)} pickles are not read ({pickles[0].name})")
    if is_dump and any((path / "sampler").glob("*")):
        source.report.lossy.append("the sampler's state (priorities, say) is not read")
    source.report.lossy += [f"{name}: {why}; left out" for name, why in tree.left_out.items()]
    yield source


def _table(path: Path, tree: Tree, told: Mapping[str, Any], is_dump: bool, options: Options) -> RingTable:
    batch = tree.batch
    if not 1 <= len(batch) <= 2:
        raise IncompatibleError(
            f"{path}: a batch of shape {list(batch)}, expected one or two axes", path=path
        )
    if 0 in batch or not tree.arrays:
        raise InputError(f"{path}: has no rows", path=path)
    arrays = tree.arrays
    axis = 0 if is_dump or len(batch) == 1 else _time_axis(path, options)
    if axis == 1:
        arrays = {name: array.swapaxes(0, 1) for name, array in arrays.items()}
        batch = batch[::-1]
    envs = batch[1] if len(batch) == 2 else None
    total = int(np.prod(batch, dtype=np.int64))
    length = told.get("len", total)
    if type(length) is not int or not 0 <= length <= total:
        raise CorruptError(f"{path}: {length!r} rows are said to be in {total:,} places", path=path)
    if length == 0:
        raise InputError(f"{path}: has no rows", path=path)
    writer = path / "writer" / "metadata.json"
    cursor = read_json(writer).get("cursor", 0) if is_dump and writer.is_file() else 0
    if type(cursor) is not int or cursor < 0:
        raise CorruptError(f"{writer}: cursor {cursor!r}", path=writer)
    is_full = length == total
    texts = {} if axis == 1 else tree.texts
    table = RingTable(
        path,
        arrays,
        texts,
        envs=envs,
        steps=length // (envs or 1),
        cursor=cursor % batch[0] if is_full else 0,
    )
    table.layout = "torchrl" if is_dump else "tensordict"
    table.others = dict(tree.others)
    table.files = sorted(tree.files)
    ours = path / METADATA
    table.metadata = {**(read_json(ours) if ours.is_file() else {}), "bfloat16": tree.bfloat16}
    table.remarks += [
        f"{name}: bfloat16; its bits are kept, as uint16 in observations and actions"
        for name in tree.bfloat16
    ]
    _find_episodes(table)
    return table


def _time_axis(path: Path, options: Options) -> int:
    if options.time_axis == "auto":
        raise UsageError(
            f"{path}: two batch axes, and nothing says which is time",
            hint="add --set time_axis=0, or 1 for what a collector yields",
            path=path,
        )
    return int(options.time_axis)


def _find_episodes(table: RingTable) -> None:
    """Flags and episode numbers of all rows; leaves out flags that ours say too."""

    def flag(name: str) -> Flags | None:
        field = table.fields.get(name)
        if field is None or int(np.prod(field.shape, dtype=np.int64)) != 1:
            return None
        return np.asarray(table.column(name) != 0)

    terminated, truncated, done = flag("next/terminated"), flag("next/truncated"), flag("next/done")
    told = table.metadata.pop("cut", [])
    numbers = [
        name
        for name in _NUMBERS
        if name in table.fields
        and int(np.prod(table.fields[name].shape, dtype=np.int64)) == 1
        and table.fields[name].dtype.kind in "iu"
    ]
    lasts = table.find_episodes(terminated, truncated, done, numbers)
    if isinstance(told, list):
        known = {number for number in told if type(number) is int and 0 <= number < len(lasts)}
        table.metadata["cut"] = sorted(known | set(table.metadata["cut"]))
    begins = np.zeros(table.num_rows, np.bool_)
    begins[np.concatenate([[0], lasts[:-1] + 1])] = True
    episodes = np.cumsum(begins) - 1
    steps = np.arange(table.num_rows) - np.flatnonzero(begins)[episodes]
    same: dict[str, list[Any]] = {"is_init": [begins], "episode": [episodes], "step": [steps]}
    same |= {name: [np.zeros(table.num_rows, np.bool_)] for name in _FLAGS}
    ours, told_truncated = table.made, table.flagged & ~table.made[TERMINATED]
    same |= {
        "next/terminated": [ours[TERMINATED]],
        "next/truncated": [ours[TRUNCATED], told_truncated],
        "next/done": [ours[TERMINATED] | ours[TRUNCATED], table.flagged],
    }
    for name, expected in same.items():
        found = flag_or_number(table, name)
        if found is not None and any(np.array_equal(found, each) for each in expected):
            del table.fields[name]


def flag_or_number(table: RingTable, name: str) -> Any:
    """The rows of a field with one number each, None for any other."""
    field = table.fields.get(name)
    if field is None or field.dtype.kind not in "biu" or int(np.prod(field.shape, dtype=np.int64)) != 1:
        return None
    return table.column(name)


def _mapping(table: RingTable, path: Path) -> dict[str, str]:
    """Our key for every array."""
    names = [name for name in table.fields if not name.startswith("rl:")]
    roots = {name for name in names if not name.startswith("next/")}
    below = {name.removeprefix("next/") for name in names if name.startswith("next/")}
    seen = {
        name
        for name in roots & below
        if name.split("/")[-1] not in _COUNTERS | set(_FLAGS) and name.split("/")[0] not in ("info", "source")
    }
    seen = seen or {name for name in roots if name.split("/")[0] in _KNOWN}
    if not seen and not is_unobserved(table.metadata):
        raise InputError(
            f"{path}: nothing is known as observation (found {', '.join(names[:12])})", path=path
        )
    mapping = {TERMINATED: "terminated", TRUNCATED: "truncated", EPISODE: "episode"}
    for name in names:
        top, _, rest = name.partition("/")
        if name in seen or (top == "next" and rest in seen):
            observed = _observed(name if name in seen else rest, seen)
            mapping[name] = observed if name in seen else f"next/{observed}"
        elif name == "next/reward" and int(np.prod(table.fields[name].shape, dtype=np.int64)) == 1:
            mapping[name] = "reward"
        elif name == _VALID:
            mapping[name] = "next_valid"
        elif top == "action" or name.endswith("/action"):
            mapping[name] = "/".join(storable(name) if top == "action" else ("action", *storable(name)))
        elif top == "observation" and rest and table.fields[name].dtype.kind == "O":
            mapping[name] = "/".join(storable(name))
        elif name in (*_FLAGS, "is_init", "episode", "step", "index") or top in ("next", "observation"):
            mapping[name] = "/".join(("source", *storable(name)))
        else:
            mapping[name] = "/".join(storable(name))
    return mapping


def _observed(name: str, seen: set[str]) -> str:
    if seen == {"observation"}:
        return "observation"
    parts = storable(name)
    return "/".join(parts if parts[0] == "observation" and len(parts) > 1 else ("observation", *parts))
