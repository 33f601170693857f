"""TensorDict's memory-mapped folders, read with numpy and JSON: sizes are checked before a file is mapped.

A folder has `meta.json`, which names its arrays, and a `.memmap` file per array. Folders nest; tensordict
names them in `meta.json` since 0.5. A lazy stack is a folder of folders `0`, `1`, …, its elements; they are
stacked in memory. Nothing is unpickled, no link is followed, no name leaves the folder.
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
_MAX_STACK_BYTES = 1 << 30  # of a lazy stack, which is in memory


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
    if "stack_dim" in meta:
        tree = _stacked(folder, meta, 0)
    else:
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
    elif "stack_dim" in meta:
        _add_stack(tree, _stacked(folder, meta, depth + 1), path)
    else:
        _read(tree, folder, meta, f"{path}/", depth + 1)


def _add_stack(tree: Tree, stack: Tree, path: str) -> None:
    """Takes in what a lazy stack below `path` holds."""
    if stack.batch[: len(tree.batch)] != tree.batch:
        tree.left_out[path] = f"a lazy stack of shape {list(stack.batch)}"
        return
    for ours, theirs in ((tree.arrays, stack.arrays), (tree.others, stack.others)):
        ours |= {f"{path}/{name}": value for name, value in theirs.items()}
    same = stack.batch == tree.batch
    tree.texts |= {f"{path}/{name}": value for name, value in stack.texts.items() if same}
    tree.left_out |= {f"{path}/{name}": "text of another shape" for name in stack.texts if not same}
    tree.left_out |= {f"{path}/{name}": why for name, why in stack.left_out.items()}
    tree.bfloat16 += [f"{path}/{name}" for name in stack.bfloat16]
    tree.files += stack.files


def _stacked(folder: Path, meta: dict[str, Any], depth: int) -> Tree:
    """A lazy stack as one tree. What its elements do not all have in one shape is left out."""
    if depth > _MAX_DEPTH:
        raise IncompatibleError(f"{folder}: folders are nested more than {_MAX_DEPTH} deep", path=folder)
    names = sorted((child.name for child in folder.iterdir() if child.name.isdecimal()), key=int)
    axis = meta["stack_dim"]
    if names != [str(number) for number in range(len(names))] or not names:
        raise CorruptError(f"{folder}: not every element of the stack is there", path=folder)
    elements, total = [], 0
    for name in names:
        element = _element(folder / name, depth + 1)
        total += sum(array.nbytes for array in element.arrays.values())
        if total > _MAX_STACK_BYTES:
            raise IncompatibleError(
                f"{folder}: a lazy stack of more than {_MAX_STACK_BYTES >> 20:,} MiB",
                hint="load it with tensordict and save it with contiguous()",
                path=folder,
            )
        elements.append(element)
    batch = elements[0].batch
    if any(element.batch != batch for element in elements):
        raise CorruptError(f"{folder}: the elements of the stack differ in shape", path=folder)
    if type(axis) is not int or not 0 <= axis <= len(batch):
        raise CorruptError(f"{folder / 'meta.json'}: stack_dim {str(axis)[:20]}", path=folder)
    tree = Tree((*batch[:axis], len(names), *batch[axis:]), files=[folder / "meta.json"])
    for element in elements:
        tree.files += element.files
        tree.left_out |= element.left_out
    for path, first in elements[0].arrays.items():
        found = [element.arrays.get(path) for element in elements]
        same = [array for array in found if array is not None and _kind(array) == _kind(first)]
        if len(same) == len(names):
            tree.arrays[path] = np.stack(same, axis)
        else:
            tree.left_out[path] = "its elements in the stack differ in shape"
    tree.bfloat16 = [path for path in elements[0].bfloat16 if path in tree.arrays]
    _stack_texts(tree, elements, axis)
    every = {path for element in elements for path in (*element.arrays, *element.texts, *element.others)}
    known = {*tree.arrays, *tree.texts, *tree.others, *tree.left_out}
    tree.left_out |= dict.fromkeys(sorted(every - known), "not every element of the stack has it")
    return tree


def _kind(array: NDArray[Any]) -> tuple[Any, tuple[int, ...]]:
    return array.dtype, array.shape


def _stack_texts(tree: Tree, elements: list[Tree], axis: int) -> None:
    """Texts of elements are one per element of the stack's batch; other values are those that all share."""
    count = int(np.prod(elements[0].batch, dtype=np.int64))
    for path, value in elements[0].others.items():
        found = [element.others.get(path) for element in elements]
        if all(item == value for item in found):
            tree.others[path] = value
        elif axis == 0 and all(isinstance(item, str) for item in found):
            tree.texts[path] = [str(item) for item in found for _ in range(count)]
    for path in elements[0].texts:
        lists = [element.texts.get(path) for element in elements]
        if axis == 0 and all(item is not None for item in lists):
            tree.texts[path] = [text for item in lists for text in item or ()]


def _element(folder: Path, depth: int) -> Tree:
    """An element of a lazy stack, in memory."""
    if folder.is_symlink():
        raise CorruptError(f"{folder}: a link, which is not followed", path=folder)
    meta = read_json(folder / "meta.json")
    if "stack_dim" in meta:
        return _stacked(folder, meta, depth)
    tree = Tree(_shape(meta.get("shape"), folder / "meta.json"))
    _read(tree, folder, meta, "", depth)
    tree.arrays = {path: np.array(array) for path, array in tree.arrays.items()}
    return tree


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
