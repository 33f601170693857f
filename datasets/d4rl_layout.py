"""Which datasets of a D4RL file are columns, what they are called in ours, and what is not rows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlcli.datasets import hdf5
from rlcli.datasets.hdf5_safety import check_storage
from rlcli.datasets.plain_export import told_keys
from rlcli.errors import IncompatibleError, InputError
from rlcli.format.keys import DTYPES, Key, check_key

COLUMNS = "rl_columns"  # the attribute of new files with the keys that their names do not say
REQUIRED = ("observations", "actions", "rewards", "terminals")
_SAME_LENGTH = (*REQUIRED, "timeouts", "next_observations")
STANDARD: dict[str, Key] = {
    "observations": ("observation",),
    "actions": ("action",),
    "next_observations": ("next", "observation"),
    "rewards": ("next", "reward"),
    "terminals": ("next", "terminated"),
    "timeouts": ("next", "truncated"),
}


class NotD4RL(InputError):
    """A file without the keys that every D4RL file has."""


@dataclass
class Layout:
    """The columns of a file by their path below a prefix (`observations`, `infos/qpos`, …).

    `prefixes` is `[""]`, or `["virtual/0/", "virtual/1/", …]` for a chunked CARLA file, whose rows follow
    each other. `keys` gives every column's key in our dataset. `index` names the demonstration index.
    `others` tells what else is in the file: its values where small, otherwise dtype and shape.
    """

    prefixes: list[str]
    columns: dict[str, hdf5.Rows]
    num_rows: int
    keys: dict[str, Key] = field(default_factory=dict)
    index: str | None = None
    others: dict[str, Any] = field(default_factory=dict)

    def names(self, standard: str) -> list[str]:
        """The columns of `observations` and the like: itself, or its leaves where it is a group."""
        return [name for name in self.columns if name == standard or name.startswith(standard + "/")]

    def row_paths(self) -> list[str]:
        """Full paths of all datasets whose values are rows."""
        return [prefix + name for prefix in self.prefixes for name in self.columns]


def find_layout(file: h5py.File) -> Layout:
    """The layout of an opened file.

    Raises, without the path, `NotD4RL` if keys are missing and `InputError` if columns disagree.
    """
    found = dict(hdf5.walk(file))
    for dataset in found.values():
        check_storage(Path(file.filename), dataset)
    prefixes = _prefixes(found)
    missing = [name for name in REQUIRED if not _below(found, prefixes[0] + name)]
    if missing:
        top = sorted(file)
        listed = ", ".join(top[:12]) + (", …" if len(top) > 12 else "")
        raise NotD4RL(f"no {', '.join(missing)} (found {listed or 'nothing'})")
    foreign = [path for path in found if _is_foreign(path, found, prefixes)]
    if foreign:
        raise NotD4RL(f"it has {', '.join(foreign[:3])}, as D4RL's files have not")
    lengths = [_length(found, prefix) for prefix in prefixes]
    for prefix in prefixes[1:]:
        for path in [path for name in _SAME_LENGTH for path in _below(found, prefix + name)]:
            if (name := path.removeprefix(prefix)) not in {p.removeprefix(prefixes[0]) for p in found}:
                raise InputError(f"{name} is in some of the file's chunks only")
    columns = {}
    for path in found:
        name = path.removeprefix(prefixes[0])
        if path.startswith(prefixes[0]) and not name.startswith("metadata/"):
            parts = [found.get(prefix + name) for prefix in prefixes]
            if _is_column(name, parts, lengths):
                columns[name] = hdf5.Rows([part for part in parts if part is not None])
    layout = Layout(prefixes, columns, sum(lengths))
    if layout.num_rows == 0:
        raise InputError("observations has no rows")
    _check_flags(layout)
    _name_columns(layout, told_keys(told_columns(file), list(columns)))
    if "infos" in columns and columns["infos"].dtype.kind in "iu" and np.prod(columns["infos"].shape) == 1:
        layout.index = "infos"
    rows = set(layout.row_paths())
    layout.others = {path: _shown(dataset) for path, dataset in found.items() if path not in rows}
    return layout


def _is_foreign(path: str, found: dict[str, h5py.Dataset], prefixes: list[str]) -> bool:
    """Whether a dataset is what others add to D4RL's keys: text in each row, or d3rlpy's ends of episodes.

    Such files are read as plain HDF5, which knows what these are.
    """
    name = path.removeprefix(prefixes[0])
    if name == "episode_terminals":
        return True
    dataset, flags = found[path], found.get(f"{prefixes[0]}terminals")
    is_text = dataset.dtype.kind == "S" or h5py.check_string_dtype(dataset.dtype) is not None
    rows = None if flags is None else flags.shape[:1]
    return is_text and not name.startswith("metadata/") and dataset.shape == rows


def _prefixes(found: dict[str, h5py.Dataset]) -> list[str]:
    chunks = {match[1] for path in found if (match := re.match(r"virtual/(\d+)/", path))}
    if chunks and not _below(found, "observations"):
        return [f"virtual/{chunk}/" for chunk in sorted(chunks, key=int)]
    return [""]


def _below(found: dict[str, h5py.Dataset], name: str) -> list[str]:
    return [path for path in found if path == name or path.startswith(name + "/")]


def _length(found: dict[str, h5py.Dataset], prefix: str) -> int:
    """The rows below one prefix. Raises `InputError` if the columns that must agree do not."""
    lengths = {}
    for name in _SAME_LENGTH:
        for path in _below(found, prefix + name):
            shape = found[path].shape
            if not shape:
                raise InputError(f"{path} is a single value, expected one per row")
            lengths[path] = int(shape[0])
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{path} {length:,}" for path, length in lengths.items())
        raise InputError(f"lengths disagree: {told}")
    return next(iter(lengths.values()))


def _is_column(name: str, parts: list[h5py.Dataset | None], lengths: list[int]) -> bool:
    """Whether a dataset has one value per row and our format can hold it."""
    first = parts[0]
    required = name.split("/")[0] in _SAME_LENGTH
    if required and None in parts:
        raise InputError(f"{name} is in some of the file's chunks only")
    for part, length in zip(parts, lengths, strict=True):
        if part is None or first is None or not part.shape or part.shape[0] != length:
            return False
        if part.shape[1:] != first.shape[1:] or part.dtype != first.dtype:
            if required:
                raise InputError(f"{part.name} is {_described(part)}, {first.name} is {_described(first)}")
            return False
        storable = part.dtype.kind in "biufc" and str(part.dtype.newbyteorder("=")) in DTYPES
        if not storable or not np.prod(part.shape[1:], dtype=np.int64):
            if required:
                raise InputError(f"{part.name} is {_described(part)}, expected numbers")
            return False
    return True


def _check_flags(layout: Layout) -> None:
    for name in ("rewards", "terminals", "timeouts"):
        column = layout.columns.get(name)
        if column is not None and np.prod(column.shape, dtype=np.int64) != 1:
            raise InputError(f"{name} has {column.shape} values per row, expected one")
    spaces = [
        {
            name.removeprefix(top): (layout.columns[name].shape, layout.columns[name].dtype)
            for name in layout.names(top)
        }
        for top in ("observations", "next_observations")
    ]
    if spaces[1] and spaces[0] != spaces[1]:
        raise InputError("next_observations differs from observations in shape or dtype")


def told_columns(file: h5py.File) -> dict[str, Any]:
    """The keys that our own export left in the file for names that do not say them."""
    try:
        return {"columns": json.loads(str(file.attrs[COLUMNS]))}
    except (KeyError, ValueError, OSError):
        return {}


def _name_columns(layout: Layout, told: Mapping[str, Key]) -> None:
    """One key for each column, also where names differ in the case of letters only, as ours may not."""
    taken: dict[Key, tuple[str, bool]] = {}
    for name in layout.columns:
        top, *rest = name.split("/")
        if top in STANDARD:
            key = (*STANDARD[top], *rest)
        elif top == "infos":
            key = ("info", *(_storable(part) for part in rest or ["index"]))
        else:
            key = ("source", *(_storable(part) for part in name.split("/")))
        layout.keys[name] = _free(told.get(name, key), taken)


def _free(key: Key, taken: dict[Key, tuple[str, bool]]) -> Key:
    """`key`, numbered where parts of it are others but for case; `taken` has parts, and which end a key."""
    free: Key = ()
    for depth, part in enumerate(key, 1):
        name, number, is_whole = part, 2, depth == len(key)
        while (known := taken.get(lower := tuple(p.lower() for p in (*free, name)))) is not None:
            if known == (name, False) and not is_whole:
                break
            name, number = f"{part}.{number}", number + 1
        taken[lower] = name, is_whole
        free = (*free, name)
    return free


def _storable(part: str) -> str:
    """The part itself, or the nearest that our grammar of keys allows."""
    try:
        return check_key((part,))[0]
    except IncompatibleError:
        cleaned = re.sub(r"[^A-Za-z0-9_+=@.-]", "_", part).strip(".-")[:50]
        return f"x_{cleaned}_"


def _described(dataset: h5py.Dataset) -> str:
    return f"{dataset.dtype}{list(dataset.shape or ())}"


def _shown(dataset: h5py.Dataset) -> Any:
    """A small value as JSON, a larger one as its dtype and shape."""
    if dataset.shape is None or (dataset.size or 0) > 16 or dataset.dtype.kind not in "biufSO":
        return _described(dataset)
    value = np.asarray(dataset[()]).tolist()

    def plain(item: Any) -> Any:
        if isinstance(item, list):
            return [plain(each) for each in item]
        if isinstance(item, bytes):
            return item.decode("utf-8", "replace")
        exact = isinstance(item, bool | str) or (isinstance(item, int) and abs(item) < 1 << 53)
        return item if exact or (isinstance(item, float) and np.isfinite(item)) else str(item)

    return plain(value)
