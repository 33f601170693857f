"""Which column each array of a Minari dataset becomes, and the rows of that column."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.contract import Request
from rlcli.datasets.mapping import keys_for, storable
from rlcli.datasets.minari_files import METADATA, Storage
from rlcli.datasets.minari_scan import FLAGS, Scan, Values
from rlcli.datasets.minari_spaces import Leaf
from rlcli.datasets.opened import nested_spec
from rlcli.datasets.rlds_hints import Hints
from rlcli.datasets.rlds_images import decode
from rlcli.errors import CorruptError, IncompatibleError, UsageError
from rlcli.format.heap import check_size, missing
from rlcli.format.keys import Key
from rlcli.format.schema import Column, Heap, Schema, heap_column, shift_column, ted_schema
from rlcli.format.specs import Spec

REWARD: Key = ("next", "reward")
ATTRIBUTES: Key = ("info", "episode", "attributes")  # JSON of what has no column of its own
TOPS = {"observations": "observation", "actions": "action"}
_OURS = {"next", "episode", "step", "is_init", "done", "terminated", "truncated", "source"}


@dataclass(frozen=True)
class Stored:
    """An array and the column that keeps it.

    `shift` is 1 where a row takes the value after it. `form`: `values`, `text`, `encoded` pictures as they
    came, `pixels` decoded ones, `episode` one value for all rows.
    """

    path: str
    column: Column
    form: Literal["values", "text", "encoded", "pixels", "episode"] = "values"
    shift: int = 0

    def rows(self, storage: Storage, episode: int, start: int, stop: int) -> Any:
        """The column's values of the steps `start … stop - 1`. Raises `CorruptError` for damage."""
        size = stop - start
        if self.form == "episode":
            values = storage.read(episode, self.path, 0, 1)
            if isinstance(values, list):
                return values * size
            return np.repeat(self._cast(values, storage, episode), size, axis=0)
        values = storage.read(episode, self.path, start + self.shift, stop + self.shift)
        where = f"{storage.where(episode)}: {self.path}"
        if self.form in ("encoded", "pixels"):
            pictures = [v if isinstance(v, bytes) else v.tobytes() for v in values]
            return self._pictures(pictures, where)
        if isinstance(values, list):
            return values
        return self._cast(values, storage, episode)

    def absent(self, size: int) -> Any:
        """What stands for the values of an episode that has none."""
        if self.column.heap is not None:
            return [missing(self.column)] * size
        return np.zeros((size, *self.column.shape), self.column.numpy)

    def _pictures(self, pictures: list[bytes], where: str) -> Any:
        column = self.column
        if self.form == "pixels":
            pixels = np.zeros((len(pictures), *column.shape), column.numpy)
            for data, out in zip(pictures, pixels, strict=True):
                decode(where, data, out if out.ndim == 3 else out[..., None], "accurate")
            return pixels
        for data in pictures:
            try:
                check_size(column, data)
            except ValueError as err:
                raise CorruptError(f"{where}: {err}") from err
        return pictures

    def _cast(self, values: NDArray[Any], storage: Storage, episode: int) -> NDArray[Any]:
        column = self.column
        if self.path in FLAGS:
            values = values != 0
        with np.errstate(over="ignore", invalid="ignore"):
            cast = values.astype(column.numpy, copy=False)
            if column.numpy.kind in "iu" and values.dtype != cast.dtype and (cast != values).any():
                where = storage.where(episode)
                raise IncompatibleError(f"{where}: {self.path} has a value that {column.dtype} cannot hold")
        return cast.reshape(len(values), *column.shape)


@dataclass(frozen=True)
class Columns:
    """The columns of a dataset and where they come from; `attributes` have a column each, by name."""

    schema: Schema
    observation: Spec
    action: Spec
    stored: tuple[Stored, ...]
    attributes: Mapping[str, Column]
    lossy: tuple[str, ...]

    @property
    def keys(self) -> dict[str, list[list[str]]]:
        """Path -> its keys, for the record."""
        found: dict[str, list[list[str]]] = {}
        for item in self.stored:
            found.setdefault(item.path, []).append(list(item.column.key))
        return found


def plan_columns(leaves: Mapping[str, Leaf], found: Scan, request: Request, hints: Hints) -> Columns:
    """The columns for what was found. Raises `UsageError` for a mapping that cannot be, `IncompatibleError`
    for keys that clash.
    """
    given = keys_for(request.mapping, [*leaves, *found.infos], METADATA, _OURS)
    lossy = [f"{path} is left out, as asked" for path, key in given.items() if key is None]
    stored: list[Stored] = []
    specs: dict[str, dict[Key, Spec]] = {"observation": {}, "action": {}}
    heaps: dict[Key, Heap] = {}
    extra: list[Column] = []
    for path, leaf in leaves.items():
        values, top = found.leaves[path], TOPS[path.split("/")[0]]
        if path in given:
            if given[path] is not None:
                raise UsageError(f"{path} is of the {top}s and cannot be moved; '-' leaves it out")
            continue
        if 0 in values.shape:
            lossy.append(f"{path} is not kept: its shape {list(values.shape)} is empty")
            continue
        item = _leaf(path, (top, *leaf.key), values, request)
        stored.append(item)
        if item.form == "text":
            extra.append(item.column)
            if top == "observation":
                extra.append(shift_column(("next", *item.column.key), item.column))
            continue
        if item.column.heap is not None:
            heaps[item.column.key] = item.column.heap
        specs[top][item.column.key] = leaf.spec(item.column.dtype, item.column.shape)
    for path, values in sorted(found.infos.items()):
        if given.get(path, ()) is not None:
            stored += _info(path, values, given.get(path), hints)
    for name in sorted(found.inexact):
        dtype = found.rewards if name == "rewards" else "bool"
        stored.append(Stored(name, Column(("source", name), dtype)))
    attributes = {
        name: heap_column(("info", "episode", *storable(name)), Heap("text"))
        if dtype == "text"
        else Column(("info", "episode", *storable(name)), dtype, tuple(shape))
        for name, (dtype, shape) in sorted(found.attributes.items())
    }
    extra += [item.column for item in stored if item.path.startswith("infos/") or item.path in found.inexact]
    extra += attributes.values()
    if found.has_others:
        extra.append(heap_column(ATTRIBUTES, Heap("text")))
    observation, action = (nested_spec(specs[top]) for top in ("observation", "action"))
    schema = ted_schema(observation, action, extra=extra, heaps=heaps)
    return Columns(schema, observation, action, tuple(stored), attributes, tuple(lossy))


def attributes_text(attributes: Mapping[str, Any]) -> str:
    """Attributes as JSON; numbers and arrays of NumPy with their dtype, unless JSON's come back as the same.

    So a seed beyond int64 is the same text, whether it comes from HDF5 or from the JSON of Arrow files.
    """
    if not attributes:
        return ""
    return json.dumps(
        {name: _told(value) for name, value in attributes.items()}, sort_keys=True, ensure_ascii=False
    )


def attributes_of(text: str) -> dict[str, Any]:
    """The inverse of `attributes_text`."""
    told = json.loads(text) if text else {}
    return {
        name: np.array(value["values"], value["dtype"])[()]
        if isinstance(value, dict) and value.keys() == {"dtype", "values"}
        else value
        for name, value in told.items()
    }


def is_plain(value: Any, dtype: np.dtype[Any] | None = None) -> bool:
    """Whether JSON's number, or list of such, is one array for NumPy too (of `dtype`, if given), exactly."""
    if not isinstance(value, bool | int | float | list) or value == []:
        return False
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return False
    if str(array.dtype) not in ("bool", "int64", "uint64", "float64") or dtype not in (None, array.dtype):
        return False
    return bool(np.isfinite(array).all()) and json.dumps(array.tolist()) == json.dumps(value)


def _told(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        if is_plain(value.tolist(), value.dtype):
            return value.tolist()
        # what JSON has no numbers for is text, which NumPy reads
        has_json = value.dtype.kind != "c" and value.dtype != np.longdouble
        return {"dtype": str(value.dtype), "values": (value if has_json else value.astype(str)).tolist()}
    return value


def _leaf(path: str, key: Key, values: Values, request: Request) -> Stored:
    if values.kind == "text":
        return Stored(path, heap_column(key, Heap("text")), "text")
    if values.kind != "picture":
        return Stored(path, Column(key, values.dtype, values.shape))
    storable_jpeg = len(values.shape) == 2 or values.shape[2] in (1, 3)
    if request.images == "decode" or not storable_jpeg:
        return Stored(path, Column(key, values.dtype, values.shape), "pixels")
    heap = Heap("array", "jpeg", limit=max(1 << 26, math.prod(values.shape)))
    return Stored(path, heap_column(key, heap, values.dtype, values.shape), "encoded")


def _info(path: str, values: Values, given: Key | None, hints: Hints) -> list[Stored]:
    name = storable(path.removeprefix("infos/"))
    name = ("x_episode_", *name[1:]) if name[0].lower() == "episode" else name
    key: Key = ("info", *name)
    if given is not None:
        key = given
    elif path in hints.columns:
        key = hints.columns[path][0]

    def column(key: Key) -> Column:
        return (
            heap_column(key, Heap("text"))
            if values.kind == "text"
            else Column(key, values.dtype, values.shape)
        )

    form: Literal["text", "values"] = "text" if values.kind == "text" else "values"
    if values.align == "episode":
        return [Stored(path, column(("info", "episode", *name)), "episode")]
    if values.align == "both":
        return [Stored(path, column(key), form), Stored(path, column(("next", *key)), form, shift=1)]
    return [Stored(path, column(key), form)]
