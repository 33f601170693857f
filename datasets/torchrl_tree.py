"""TensorDict's memory-mapped folders, read with numpy and JSON: sizes are checked before a file is mapped.

A folder has `meta.json`, which names its arrays, and a `.memmap` file per array. Folders nest; tensordict
names them in `meta.json` since 0.5. Nothing is unpickled, no link is followed, no name leaves the folder.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.json_files import read_object
from rlcli.errors import CorruptError, IncompatibleError, InputError
from rlcli.format.keys import DTYPES

_MAX_META = 256 << 20
_MAX_DEPTH = 16
_MAX_LEAVES = 10_000


@dataclass
class Tree:
    """The arrays of a folder by their path, `a/b`; `batch` is the shape that all begin with.

    `texts` are lists of strings with one per element of the batch, `others` single values; `left_out` says
    what is not read and why, `bfloat16` which arrays are the bits of such numbers.
    """

    batch: tuple[int, ...]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    bfloat16: list[str] = field(default_factory=list)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file, which is no link. Raises `InputError` for one, and what `read_object` raises."""
    if not path.is_file() or path.is_symlink():
        raise InputError(f"{path}: no such file", path=path)
    return read_object(path, _MAX_META)


def read_tree(folder: Path) -> Tree:
    """Maps all arrays of a folder, read-only. Raises `CorruptError` where a file has another size."""
    meta = read_json(folder / "meta.json")
    tree = Tree(_shape(meta.get("shape"), folder / "meta.json"))
    _read(tree, folder, meta, "", 0)
    for found in (tree.arrays, tree.texts, tree.others, tree.left_out):
        _unwrap(found)
    return tree


def _unwrap(found: dict[str, Any]) -> None:
    """Takes rows out of the `_data` in which buffers of torchrl before 0.5 put them, beside `index`."""
    inner = {path: found.pop(path) for path in list(found) if path.startswith("_data/")}
    found |= {path.removeprefix("_data/"): value for path, value in inner.items()}


def _read(tree: Tree, folder: Path, meta: dict[str, Any], prefix: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise IncompatibleError(f"{folder}: folders are nested more than {_MAX_DEPTH} deep", path=folder)
    tree.files.append(folder / "meta.json")
    for name, entry in meta.items():
        path = f"{prefix}{name}"
        if not isinstance(entry, dict) or name.startswith("_"):
            continue
        if name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise CorruptError(f"{folder / 'meta.json'}: a name that leaves it: {name[:60]!r}", path=folder)
        if "type" in entry:
            _read_nested(tree, folder / name, entry["type"], path, depth)
        else:
            _read_leaf(tree, folder, name, entry, path)
    for child in sorted(folder.iterdir()):
        if child.name not in meta and (child / "meta.json").is_file():
            kind = str(read_json(child / "meta.json").get("_type"))
            _read_nested(
                tree, child, "NonTensorData" if "NonTensor" in kind else kind, f"{prefix}{child.name}", depth
            )
    if len(tree.arrays) > _MAX_LEAVES:
        raise IncompatibleError(f"{folder}: more than {_MAX_LEAVES:,} arrays", path=folder)


def _read_nested(tree: Tree, folder: Path, kind: Any, path: str, depth: int) -> None:
    if folder.is_symlink():
        raise CorruptError(f"{folder}: a link, which is not followed", path=folder)
    meta = read_json(folder / "meta.json")
    if kind in ("NonTensorStack", "NonTensorData"):
        tree.files.append(folder / "meta.json")
        data = meta.get("data")
        flat = _flat(data) if isinstance(data, list) else None
        count = int(np.prod(tree.batch, dtype=np.int64))
        if flat is not None and len(flat) == count and all(isinstance(item, str) for item in flat):
            tree.texts[path] = flat
        elif isinstance(data, str | bool | int | float):
            tree.others[path] = data
        else:
            tree.left_out[path] = "neither numbers nor text"
    elif "LazyStacked" in str(kind) or "stack_dim" in meta:
        tree.left_out[path] = "a lazy stack, whose elements may differ in shape"
    else:
        _read(tree, folder, meta, f"{path}/", depth + 1)


def _read_leaf(tree: Tree, folder: Path, name: str, entry: dict[str, Any], path: str) -> None:
    file = folder / f"{name}.memmap"
    dtype = str(entry.get("dtype", "")).removeprefix("torch.")
    if entry.get("is_nested"):
        tree.left_out[path] = "a nested tensor"
        return
    if dtype not in DTYPES:
        tree.left_out[path] = f"values of dtype {dtype[:40]}"
        return
    shape = _shape(entry.get("shape"), folder / "meta.json")
    count = 1
    for size in shape:
        count *= size
    if shape[: len(tree.batch)] != tree.batch:
        raise CorruptError(
            f"{file}: shape {list(shape)} does not begin with the batch's {list(tree.batch)}", path=file
        )
    try:
        found = file.lstat()
    except FileNotFoundError as err:
        raise CorruptError(f"{file}: is named in meta.json and missing", path=file) from err
    needed = count * DTYPES[dtype].itemsize
    if not stat.S_ISREG(found.st_mode):
        raise CorruptError(f"{file}: not a regular file", path=file)
    if found.st_size != needed:
        raise CorruptError(f"{file}: {found.st_size:,} bytes, its shape {shape} needs {needed:,}", path=file)
    if dtype == "bfloat16":
        tree.bfloat16.append(path)
        tree.others[f"{path} (dtype)"] = "bfloat16"
    tree.files.append(file)
    tree.arrays[path] = (
        np.memmap(file, DTYPES[dtype], "r", shape=shape) if count else np.empty(shape, DTYPES[dtype])
    )


def _shape(value: Any, path: Path) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 32 or any(type(n) is not int or n < 0 for n in value):
        raise CorruptError(f"{path}: shape {str(value)[:60]}", path=path)
    return tuple(value)


def _flat(data: list[Any], depth: int = 0) -> list[Any]:
    if depth < 4 and data and all(isinstance(item, list) for item in data):
        return [leaf for item in data for leaf in _flat(item, depth + 1)]
    return data
