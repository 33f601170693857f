"""Writing what `ReplayBuffer.loads` reads: a storage of memory maps in TorchRL's episode data format.

Unknown next observations are zero there, as TorchRL has them, with `("next", "observation_valid")` beside.
Files are appended to, never mapped for writing. `rl.json` holds the spaces and the unfinished episodes.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.config import opt
from rlcli.datasets.contract import Advance, Report
from rlcli.datasets.d4rl_export import episode_ends
from rlcli.datasets.plain_export import METADATA, lost_encoding, told_episodes
from rlcli.datasets.slicing import slice_rows, slices
from rlcli.errors import InputError
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key

_TYPE = "<class 'tensordict._td.TensorDict'>"
_TEXTS = "<class 'tensordict.tensorclass.NonTensorStack'>"
_MAX_TEXT = 64 << 20  # characters of a column
_TEXT_ROWS = 1 << 20
_VALID: Key = ("next", "observation_valid")
_TRUNCATED: Key = ("next", "truncated")
_ROOT: tuple[Key, ...] = (("done",), ("terminated",), ("truncated",))
_OWN: dict[Key, Key] = {("source", "reward"): ("next", "reward")}


@dataclass(frozen=True)
class ExportOptions:
    """Writing TorchRL dumps."""

    plain: bool = opt(False, "Only the TensorDict, without the buffer around it.")
    batch_size: int = opt(256, "What `sample()` of the loaded buffer draws.")


@dataclass(frozen=True)
class _Leaf:
    """An array of the output: where its values come from, None for what is computed."""

    key: Key | None
    dtype: str
    shape: tuple[int, ...]


def export(dataset: Dataset, out: Path, options: ExportOptions, advance: Advance) -> Report:
    """Write `dataset` to the new folder `out` in slices."""
    if dataset.num_rows == 0:
        raise InputError(f"{dataset.path}: has no rows", path=dataset.path)
    report = Report()
    leaves = _leaves(dataset, report)
    texts = {path: leaves.pop(path).key or () for path in list(leaves) if leaves[path].dtype == "text"}
    storage = out if options.plain else out / "storage"
    storage.mkdir(parents=True)
    ends = episode_ends(dataset)[0]
    unknown = np.asarray(dataset.unknown_next, np.int64)
    with ExitStack() as stack:
        streams = {}
        for path in leaves:
            file = storage.joinpath(*path[:-1], f"{path[-1]}.memmap")
            file.parent.mkdir(parents=True, exist_ok=True)
            streams[path] = stack.enter_context(open(file, "xb"))
        for start, stop in slices(0, dataset.num_rows, slice_rows(dataset.schema.row_bytes)):
            for path, leaf in leaves.items():
                values = _values(dataset, path, leaf, start, stop, ends, unknown)
                streams[path].write(np.ascontiguousarray(values).data)
            advance((stop - start) * dataset.schema.row_bytes)
    _write_meta(storage, {**leaves, **{path: _Leaf(key, "text", ()) for path, key in texts.items()}}, dataset)
    if not options.plain:
        size = dataset.num_rows
        _write(out / "buffer_metadata.json", {"batch_size": options.batch_size})
        _write(storage / "storage_metadata.json", {"metadata": {}, "is_pytree": False, "len": size})
        (out / "writer").mkdir()
        _write(out / "writer" / "metadata.json", {"cursor": 0, "write_count": size})
        (out / "sampler").mkdir()
    keys = {"/".join(path): leaf.key for path, leaf in leaves.items()} | {
        "/".join(p): k for p, k in texts.items()
    }
    ours = {
        "rl": 1,
        "spec": dataset.spec,
        **told_episodes(dataset, ends),
        "columns": {name: list(key) for name, key in keys.items() if key and "/".join(key) == name},
    }
    _write(out / METADATA, ours)
    report.details["columns"] = {"/".join(path): "/".join(leaf.key or ()) for path, leaf in leaves.items()}
    return report


def _leaves(dataset: Dataset, report: Report) -> dict[Key, _Leaf]:
    record = (dataset.extra or {}).get("source") or {}
    names = {}
    if record.get("format") == "torchrl":
        names = {tuple(key): tuple(name.split("/")) for name, key in record.get("columns", {}).items()}
    leaves: dict[Key, _Leaf] = {}
    none_known = len(dataset.unknown_next) == len(episode_ends(dataset)[0])
    for column in dataset.schema.columns:
        key = column.key
        if column.encoding == "stack":
            continue
        if column.encoding == "derived" and none_known:
            continue
        if column.is_text and _is_small(dataset, key):
            leaves[names.get(key, key)] = _Leaf(key, "text", ())
            continue
        if column.heap is not None and (column.heap.value != "array" or any(n < 0 for n in column.shape)):
            report.lossy.append(f"{'/'.join(key)}: values of any length have no place in a tensor")
            continue
        report.lossy += lost_encoding(column)
        path = names.get(key)
        if path is None and key[:2] == ("next", "observation") and key[1:] in names:
            path = ("next", *names[key[1:]])
        leaves[path or _OWN.get(key, key)] = _Leaf(key, column.dtype, column.shape)
    for key in _ROOT:
        leaves.setdefault(key, _Leaf(None, "bool", (1,)))
    if len(dataset.unknown_next) and not none_known:
        leaves[_VALID] = _Leaf(None, "bool", (1,))
    return leaves


def _values(
    dataset: Dataset,
    path: Key,
    leaf: _Leaf,
    start: int,
    stop: int,
    ends: NDArray[np.int64],
    unknown: NDArray[np.int64],
) -> NDArray[Any]:
    if leaf.key is None:
        flags = np.full((stop - start, 1), path == _VALID)
        if path == _VALID:
            low, high = np.searchsorted(unknown, [start, stop])
            flags[unknown[low:high] - start] = False
        return flags
    values = np.asarray(dataset.read(leaf.key, start, stop))
    if leaf.key in (_TRUNCATED, ("next", "done")):
        low, high = np.searchsorted(ends, [start, stop])
        rows = ends[low:high] - start
        terminated = dataset.read(("next", "terminated"), start, stop)
        values[rows] |= ~terminated[rows]
    return values


def _is_small(dataset: Dataset, key: Key) -> bool:
    """Whether the text of every row fits the one JSON file that TensorDict keeps it in."""
    total = 0
    for start in range(0, dataset.num_rows, _TEXT_ROWS):
        index, table = dataset.text(key, np.arange(start, min(start + _TEXT_ROWS, dataset.num_rows)))
        total += int(np.array([len(text) for text in table], np.int64)[index].sum())
        if total > _MAX_TEXT:
            return False
    return True


def _write_text(folder: Path, dataset: Dataset, key: Key) -> None:
    index, table = dataset.text(key, np.arange(dataset.num_rows))
    told = {"_type": _TEXTS, "stack_dim": 0, "device": None, "data": [table[at] for at in index.tolist()]}
    folder.mkdir(parents=True)
    _write(folder / "meta.json", told)


def _write_meta(folder: Path, leaves: dict[Key, _Leaf], dataset: Dataset) -> None:
    size = dataset.num_rows
    nested: dict[str, dict[Key, _Leaf]] = {}
    meta: dict[str, Any] = {}
    for path, leaf in leaves.items():
        if len(path) > 1:
            nested.setdefault(path[0], {})[path[1:]] = leaf
            meta.setdefault(path[0], {"type": "TensorDict"})
        elif leaf.dtype == "text":
            meta[path[0]] = {"type": "NonTensorStack"}
            _write_text(folder / path[0], dataset, leaf.key or ())
        else:
            meta[path[0]] = {
                "device": "cpu",
                "shape": [size, *leaf.shape],
                "dtype": f"torch.{leaf.dtype}",
                "is_nested": False,
            }
    folder.mkdir(exist_ok=True)
    _write(folder / "meta.json", {**meta, "shape": [size], "device": "cpu", "_type": _TYPE})
    for name, children in nested.items():
        _write_meta(folder / name, children, dataset)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
