"""Which column each feature of an RLDS dataset becomes, and the rows of that column.

Keys follow the features' paths: `steps/observation/…` and `steps/action/…` keep their nesting,
`steps/reward` is `("next", "reward")`, other features of a step keep their names, and those of an episode are
`("info", "episode", …)` in each of its rows. What is not numbers of one shape goes to a heap: text, pictures
that stay encoded, ragged values. A list of strings in a step or an episode is one text there, as JSON; one
of other byte strings or of pictures that stay encoded is the bytes of a `BytesList` (`example.py`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.example import Values, encode_strings
from rlcli.datasets.features import MAX_ELEMENT_BYTES, Field, show_shape
from rlcli.datasets.mapping import clash, keys_for, storable
from rlcli.datasets.opened import nested_spec
from rlcli.datasets.rlds_hints import Hints
from rlcli.datasets.rlds_images import Dct, decode
from rlcli.datasets.rlds_runs import FLAGS
from rlcli.datasets.rlds_scan import Scan
from rlcli.datasets.rlds_values import Ragged, count, read
from rlcli.errors import CorruptError, IncompatibleError, UsageError
from rlcli.format.heap import missing
from rlcli.format.keys import Key
from rlcli.format.schema import Column, Heap, Schema, heap_column, ted_schema
from rlcli.format.specs import Box, Discrete, Spec

REWARD: Key = ("next", "reward")
_MAX_BYTES = 1 << 28  # one value of a heap whose size nobody tells
_LARGE_BYTES = 4096  # one value that all rows of an episode share; larger ones are stored once, in a heap
_SMALL = ("bool", "uint8", "int8")
#: First parts of keys that are ours; a feature of such a name goes below `info`.
_OURS = {"next", "episode", "step", "is_init", "done", "terminated", "truncated", "source", "info"}


@dataclass(frozen=True)
class Stored:
    """A feature and the column that keeps it.

    `form`: `values` as they are, `text`, `encoded` pictures as they came, `pixels` decoded ones; where they
    are lists, `texts`, `strings`, and `clips` of decoded pictures.
    """

    field: Field
    column: Column
    form: Literal["values", "text", "encoded", "pixels", "texts", "strings", "clips"] = "values"

    @property
    def per_episode(self) -> bool:
        return not self.field.lengths or self.field.path[0] != "steps"

    def takes_small(self, name: str) -> bool:
        """Whether the values under that name of an Example may be uint8 where they fit."""
        return name == self.field.name and self.form == "values" and self.field.dtype in _SMALL

    def rows(self, example: Mapping[str, Values], start: int, stop: int, dct: Dct) -> Any:
        """The column's values of the steps `start … stop - 1`; absent ones are zeros or empty."""
        size = stop - start
        number = count(self.field, example)
        if self.per_episode:
            low, high = 0, 1
            if number != 1 and not self.field.lengths:
                return self._absent(size)
            high = number if self.field.lengths else 1
        elif not number:
            return self._absent(size)
        else:
            low, high = start, stop
        values: Any = read(self.field, example, low, high)
        if self.per_episode and self.field.lengths:
            values = [values if self.field.is_bytes else np.asarray(values)]
        rows = self._converted(values, dct)
        if not self.per_episode:
            return rows
        return list(rows) * size if isinstance(rows, list) else np.repeat(rows, size, axis=0)

    def _absent(self, size: int) -> Any:
        if self.column.heap is not None:
            return [missing(self.column)] * size
        return np.zeros((size, *self.column.shape), self.column.numpy)

    def _converted(self, values: Any, dct: Dct) -> Any:
        column, name = self.column, self.field.name
        if self.form == "text":
            return [str(value, "utf-8") for value in values]
        if self.form == "encoded":
            return [value or missing(column) for value in values]
        if self.form == "texts":
            return [_json([str(value, "utf-8") for value in each]) for each in values]
        if self.form == "strings":
            return [encode_strings(each) for each in values]
        if self.form == "pixels":
            pictures = _pictures(name, values, column.shape, column.numpy, dct)
            return pictures if column.heap is None else list(pictures)
        if self.form == "clips":
            every = [data for each in values for data in each]
            pictures = _pictures(name, every, column.shape[1:], column.numpy, dct)
            if column.heap is None:
                return pictures.reshape(len(values), *column.shape)
            return np.split(pictures, np.cumsum([len(each) for each in values])[:-1])
        if isinstance(values, Ragged):
            return np.split(values.flat, np.cumsum(values.lengths)[:-1])
        if column.heap is not None:
            return list(values)
        array = np.stack(values) if isinstance(values, list) else values
        with np.errstate(over="ignore", invalid="ignore"):
            return array.astype(column.numpy, copy=False).reshape(-1, *column.shape)


def _pictures(
    name: str, values: Sequence[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], dct: Dct
) -> NDArray[Any]:
    """Decoded pictures of one shape, `[n, *shape]`; zeros where there is no byte."""
    pictures = np.zeros((len(values), *shape), dtype)

    def fill(data: bytes, picture: NDArray[Any]) -> None:
        if data:
            decode(name, data, picture, dct)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # decoders release the GIL
        list(pool.map(fill, values, pictures))
    return pictures


def _json(values: list[str]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class Plan:
    """The columns of a dataset: `stored` from features, and sentences about what is lost or odd."""

    schema: Schema
    observation: Spec
    action: Spec
    stored: tuple[Stored, ...]
    lossy: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def keys(self) -> dict[str, list[list[str]]]:
        """Feature -> its keys, for the record."""
        found: dict[str, list[list[str]]] = {}
        for item in self.stored:
            found.setdefault(item.field.name, []).append(list(item.column.key))
        return found


def plan_columns(
    fields: Sequence[Field],
    found: Scan,
    *,
    images: Literal["keep", "decode"],
    mapping: Mapping[str, tuple[Key, ...]],
    hints: Hints,
    with_split: bool = False,
) -> Plan:
    """The columns for `fields`, of which `found` tells what `features.json` does not.

    `mapping` has the keys of features that do not take their own, none for those left out. Raises
    `IncompatibleError` for pictures of different sizes that shall be decoded, and for keys that clash.
    """
    stored: list[Stored] = []
    lossy: list[str] = []
    remarks: list[str] = []
    given = {**hints.columns, **mapping}
    for item in fields:
        name = item.path[-1] if item.path[0] == "steps" and len(item.path) == 2 else ""
        if item.name in hints.invented or (
            name in FLAGS and name not in found.inexact and item.name not in given
        ):
            continue
        if item.name not in found.seen:
            remarks.append(f"{item.name} is in no record and becomes no column")
            continue
        keys = given[item.name] if item.name in given else _own_keys(item, found, given)
        if not keys:
            lossy.append(f"{item.name} is left out")
        taken = [SPLIT] * with_split + [other.column.key for other in stored]
        if item.name not in given:
            keys = [_free_key(item, key, taken) for key in keys]
        for key in keys:
            try:
                stored.append(_shared(_stored(item, key, found, images, remarks)))
            except _NotKept as err:
                lossy.append(f"{item.name} is not kept: {err}")
    return _assembled(stored, lossy, remarks, hints, with_split)


def mapped_keys(
    fields: Sequence[Field], given: Mapping[str, str], where: object
) -> dict[str, tuple[Key, ...]]:
    """Feature -> key for what the user said; names go with or without `steps/`, `-` leaves one out.

    Raises `UsageError` for a feature that is not there, and for keys that only we may write.
    """
    names = {item.name: item.name for item in fields}
    names |= {name.removeprefix("steps/"): name for name in names if name.startswith("steps/")}
    told = {name: "/".join(REWARD) if to == "reward" else to for name, to in given.items()}
    keys = keys_for(told, names, where, _OURS - {"info", "source", "next"})
    for name, key in keys.items():
        if key is not None and key[0] == "next" and key != REWARD:
            raise UsageError(f"{where}: {name} cannot become {given[name]!r}; that follows from the records")
    return {names[name]: () if key is None else (key,) for name, key in keys.items()}


class _NotKept(Exception):
    """Why a feature has no column."""


def _own_keys(item: Field, found: Scan, mapping: Mapping[str, tuple[Key, ...]]) -> list[Key]:
    """The keys a feature takes by its path; below `info` where the user gave them to another."""
    path = item.path
    if path[0] != "steps" or not item.lengths:
        path = path[1:] if path[0] == "episode_metadata" and len(path) > 1 else path
        return [("info", "episode", *storable("/".join(path)))]
    path = path[1:] or path
    if path == ("reward",):
        keys: list[Key] = [REWARD, ("source", "reward")] if "reward" in found.inexact else [REWARD]
    elif path[0] in FLAGS:
        keys = [("source", *path)]
    else:
        key = storable("/".join(path))
        keys = [("info", *key) if key[0].lower() in _OURS or key[0] == "reward" else key]
    taken = [key for told in mapping.values() for key in told]
    return [("info", *key) if any(clash(key, other) for other in taken) else key for key in keys]


def _free_key(item: Field, key: Key, taken: Sequence[Key]) -> Key:
    """`key`, or one by the whole path of the feature where that or one around or below it is taken."""
    return ("info", "feature", *storable(item.name)) if any(clash(key, other) for other in taken) else key


def _shared(item: Stored) -> Stored:
    """The same where a value is large and all rows of an episode have it: in a heap, which keeps it once."""
    column = item.column
    size = math.prod(column.shape) * column.numpy.itemsize
    if column.heap is not None or not item.per_episode or size <= _LARGE_BYTES:
        return item
    heap = Heap("array", limit=max(_MAX_BYTES, size))
    return replace(item, column=heap_column(column.key, heap, column.dtype, column.shape))


def _stored(
    item: Field, key: Key, found: Scan, images: Literal["keep", "decode"], remarks: list[str]
) -> Stored:
    if item.is_deep:
        raise _NotKept("sequences within sequences")
    if 0 in item.shape or 0 in item.lengths:
        raise _NotKept(f"its values of shape {show_shape(item.shape)} are empty")
    if item.is_bytes:
        if item.is_list:
            return _list(item, key, found, images)
        if item.kind == "image":
            return _picture(item, key, found, images, remarks)
        if item.name in found.binary:
            return Stored(item, heap_column(key, Heap("bytes", limit=_MAX_BYTES)), "encoded")
        return Stored(item, heap_column(key, Heap("text")), "text")
    if key == REWARD:
        if item.shape or item.lengths[1:]:
            raise _NotKept("a reward of more than one number")
        return Stored(item, Column(key, "float32", (1,)))
    inner = item.lengths[1:] if item.path[0] == "steps" else item.lengths
    if None in inner:
        if None in item.shape:
            raise _NotKept("sequences of values whose shape varies")
        shape = (-1, *(n or 0 for n in item.shape))
        return Stored(item, heap_column(key, Heap("array", limit=_MAX_BYTES), item.dtype, shape))
    if None not in item.shape:
        fixed = (*(n or 0 for n in inner), *(n or 0 for n in item.shape))
        return Stored(item, Column(key, item.dtype, fixed))
    if item.encoding == "none" and item.lengths:
        raise _NotKept(f"its shape {show_shape(item.shape)} is not in the records")
    shapes = found.shapes.get(item.name, {})
    if len(shapes) == 1 and 0 not in (shape := next(iter(shapes))):
        return Stored(item, Column(key, item.dtype, shape))
    if len({shape[1:] for shape in shapes}) == 1 and 0 not in (rest := next(iter(shapes))[1:]):
        return Stored(item, heap_column(key, Heap("array", limit=_MAX_BYTES), item.dtype, (-1, *rest)))
    raise _NotKept("more than the first axis of its shape varies")


def _list(item: Field, key: Key, found: Scan, images: Literal["keep", "decode"]) -> Stored:
    """Several byte strings in a row."""
    if item.kind == "image" and images == "decode":
        seen = found.pictures.get(item.name, {})
        sizes = {(picture.height, picture.width) for picture in seen}
        if len(sizes) != 1:
            raise _NotKept(f"its pictures have {len(sizes) or 'no'} sizes; --images keep stores them")
        channels = item.shape[2] or max(picture.channels for picture in seen)
        length = item.lengths[-1]
        shape = (-1 if length is None else length, *sizes.pop(), channels)
        if abs(math.prod(shape)) > MAX_ELEMENT_BYTES:
            raise IncompatibleError(f"{item.name}: pictures of {shape[1]}x{shape[2]} are too large")
        if length is None:
            return Stored(item, heap_column(key, Heap("array", limit=_MAX_BYTES), item.dtype, shape), "clips")
        return Stored(item, Column(key, item.dtype, shape), "clips")
    if item.kind != "image" and item.name not in found.binary:
        return Stored(item, heap_column(key, Heap("text", limit=_MAX_BYTES)), "texts")
    return Stored(item, heap_column(key, Heap("bytes", limit=_MAX_BYTES)), "strings")


def _picture(
    item: Field, key: Key, found: Scan, images: Literal["keep", "decode"], remarks: list[str]
) -> Stored:
    seen = found.pictures.get(item.name, {})
    sizes = {(picture.height, picture.width) for picture in seen}
    if not seen:
        raise _NotKept("none of its pictures has a byte")
    if len(sizes) > 1:
        if images == "decode":
            raise IncompatibleError(
                f"{item.name}: its pictures have {len(sizes)} sizes or more, which one column cannot hold",
                hint="--images keep stores them as they are",
            )
        remarks.append(f"{item.name}: pictures of different sizes are kept as bytes")
        return Stored(item, heap_column(key, Heap("bytes", limit=_MAX_BYTES)), "encoded")
    (height, width) = sizes.pop()
    for told, there in zip(item.shape, (height, width), strict=False):
        if told not in (None, there):
            raise CorruptError(
                f"{item.name}: pictures of {height}x{width}, features.json says {show_shape(item.shape)}"
            )
    channels = item.shape[2] or max(picture.channels for picture in seen)
    shape = (height, width, channels)
    if math.prod(shape) > MAX_ELEMENT_BYTES:
        raise IncompatibleError(f"{item.name}: pictures of {height}x{width} are too large")
    plain = Stored(item, Column(key, item.dtype, shape), "pixels")
    if images == "decode":
        return plain
    if item.dtype == "float32" or channels == 2:
        remarks.append(f"{item.name}: no codec of heaps holds such pictures; they are decoded")
        return plain
    bits = 16 if item.dtype == "uint16" else 8
    for codec in ("jpeg", "png"):
        if {(p.codec, p.channels, p.bits) for p in seen} == {(codec, channels, bits)}:
            heap = Heap("array", codec, limit=_limit(shape, item.dtype))
            return Stored(item, heap_column(key, heap, item.dtype, shape), "encoded")
    remarks.append(f"{item.name}: pictures in several encodings become PNG, no pixel changed")
    heap = Heap("array", "png", limit=_limit(shape, item.dtype))
    return Stored(item, heap_column(key, heap, item.dtype, shape), "pixels")


def _limit(shape: tuple[int, int, int], dtype: str) -> int:
    return max(1 << 26, shape[0] * shape[1] * shape[2] * np.dtype(dtype).itemsize)


def _assembled(
    stored: list[Stored], lossy: list[str], remarks: list[str], hints: Hints, with_split: bool
) -> Plan:
    specs: dict[str, dict[Key, Spec]] = {"observation": {}, "action": {}}
    heaps: dict[Key, Heap] = {}
    extra: list[Column] = []
    following: Literal["derived", "plain"] = "derived"
    for item in stored:
        column, top = item.column, item.column.key[0]
        is_image = column.heap is not None and column.heap.codec in ("jpeg", "png")
        if (
            top in specs
            and not item.per_episode
            and (column.heap is None or (is_image and top == "observation"))
        ):
            specs[top][column.key] = _spec(item)
            if column.heap is not None:
                heaps[column.key] = column.heap
        elif column.key[:2] == ("next", "observation"):
            following = "plain"  # only our own export has such features
        elif column.key != REWARD:
            extra.append(column)
    observation, action = (hints.spec_of(top, nested_spec(specs[top])) for top in ("observation", "action"))
    if with_split:
        extra.append(heap_column(SPLIT, Heap("text")))
    schema = ted_schema(observation, action, extra=extra, heaps=heaps, next_observation=following)
    for what, there in (("reward", any(item.column.key == REWARD for item in stored)),
                        ("observation", bool(specs["observation"])),
                        ("action", bool(specs["action"]))):  # fmt: skip
        if not there:
            zero = "; next/reward is 0 in every row" if what == "reward" else ""
            remarks.append(f"the source has no {what} that is one column{zero}")
    return Plan(schema, observation, action, tuple(stored), tuple(lossy), tuple(remarks))


SPLIT: Key = ("info", "episode", "split")


def _spec(item: Stored) -> Spec:
    column = item.column
    if item.field.kind == "label" and item.field.num_classes and not column.shape:
        return Discrete(item.field.num_classes)
    if item.field.kind == "image" and column.dtype == "uint8":
        return Box(column.shape, column.dtype, 0.0, 255.0)
    return Box(column.shape, column.dtype)
