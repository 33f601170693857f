"""Which column each feature of a LeRobot dataset becomes, and the rows of that column."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlcli.datasets.contract import Request
from rlcli.datasets.lerobot_meta import INFO
from rlcli.datasets.lerobot_scan import FLAGS, Scan, picture_bytes
from rlcli.datasets.lerobot_tables import Tables
from rlcli.datasets.mapping import keys_for, room_for, storable
from rlcli.datasets.opened import nested_spec
from rlcli.datasets.rlds_hints import Hints
from rlcli.datasets.rlds_images import decode
from rlcli.errors import CorruptError, IncompatibleError
from rlcli.format.heap import check_size
from rlcli.format.keys import Key
from rlcli.format.schema import Column, Heap, Schema, heap_column, ted_schema
from rlcli.format.specs import Box, Spec

REWARD: Key = ("next", "reward")
TASK: Key = ("task",)
SUBTASK: Key = ("subtask",)
#: Columns of numbers whose texts are in a table of the metadata, and the keys of the texts.
WORDS: dict[str, Key] = {"task_index": TASK, "subtask_index": SUBTASK}
_OURS = {"next", "episode", "step", "is_init", "done", "terminated", "truncated", "source", "info"}
_NUMBERING = ("episode_index", "frame_index", "index")
_MAX_BYTES = 1 << 28

Form = Literal["numbers", "lists", "text", "encoded", "pixels", "words", "video"]


@dataclass(frozen=True)
class Stored:
    """A feature and the column that keeps it. `video` frames are in other files than the rows."""

    name: str
    column: Column
    form: Form

    def rows(
        self, values: Any, tables: Tables, where: str, root: Path, words: Mapping[str, Mapping[int, str]]
    ) -> Any:
        """The column's values for an Arrow column of the feature."""
        column = self.column
        if self.form == "text":
            return [_text(value) for value in values.to_pylist()]
        if self.form in ("encoded", "pixels"):
            return self._pictures([picture_bytes(v, root, where) for v in values.to_pylist()], where)
        if self.form == "words":
            known, what = words.get(self.name, {}), column.key[-1]
            indices = tables.integers(values, where)
            told = {n: known.get(n, f"{what} {n}") for n in np.unique(indices).tolist()}
            return [*told.values()] * len(indices) if len(told) == 1 else [told[n] for n in indices.tolist()]
        numbers = tables.values(values, where)
        if self.form == "lists":
            found = [np.ascontiguousarray(row, column.numpy) for row in numbers]
            if any(row.shape[1:] != column.shape[1:] for row in found):
                raise CorruptError(f"{where} has lists of other shapes than {list(column.shape[1:])}")
            return found
        array = np.asarray(numbers) if isinstance(numbers, np.ndarray) else None
        if array is None or array.size != len(values) * math.prod(column.shape):
            raise CorruptError(f"{where} has rows of another shape than {list(column.shape)}")
        with np.errstate(over="ignore", invalid="ignore"):
            return array.astype(column.numpy, copy=False).reshape(-1, *column.shape)

    def _pictures(self, pictures: list[bytes], where: str) -> Any:
        column = self.column
        if self.form == "pixels":
            pixels = np.zeros((len(pictures), *column.shape), column.numpy)
            for data, out in zip(pictures, pixels, strict=True):
                decode(where, data, out, "accurate")
            return pixels
        found: list[Any] = []
        for data in pictures:
            try:
                check_size(column, data)
                found.append(data)
            except ValueError as err:
                if column.heap is None or column.heap.codec != "png":
                    raise CorruptError(f"{where}: {err}") from err
                pixels = np.zeros(column.shape, column.numpy)
                decode(where, data, pixels, "accurate")  # another codec: PNG loses nothing
                found.append(pixels)
        return found


@dataclass(frozen=True)
class Columns:
    """The columns of a dataset, and sentences about what is lost or odd."""

    schema: Schema
    observation: Spec
    action: Spec
    stored: tuple[Stored, ...]
    lossy: tuple[str, ...]


def _text(value: Any) -> str:
    """Text as it is, nothing as none, lists and structs (LeRobot's events of language, say) as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)


def plan_columns(
    features: Sequence[str],
    found: Scan,
    videos: Mapping[str, Column],
    words: Mapping[str, Mapping[int, str]],
    request: Request,
    hints: Hints,
) -> Columns:
    """The columns for `features`, of which `videos` are decoded ones. Raises `UsageError` for a mapping that
    cannot be, `IncompatibleError` for keys that clash.
    """
    given = keys_for(request.mapping, features, INFO, _OURS - {"info"})
    stored: list[Stored] = []
    lossy: list[str] = []
    names = [name for name in features if name in found.columns or name in videos]
    keys = {name: _key(name, names) for name in names} | {
        n: hints.columns[n][0] for n in names if n in hints.columns
    }
    for name in names:
        if name in given:
            if given[name] is None:
                lossy.append(f"{name} is left out, as asked")
                continue
            keys[name] = given[name] or ()
        else:
            keys[name] = room_for(given, name, keys[name])
        if name in videos:
            column = videos[name]
            stored.append(
                Stored(
                    name,
                    Column(keys[name], column.dtype, column.shape, column.encoding, heap=column.heap),
                    "video",
                )
            )
        elif name not in given and (name == "task_index" or (name in WORDS and words.get(name))):
            texts = words.get(name, {})
            stored.append(Stored(name, heap_column(WORDS[name], Heap("text")), "words"))
            if len(set(texts.values())) < len(texts) or not texts:
                stored.append(Stored(name, Column(("source", name), "int64", (1,)), "numbers"))
        elif name in _NUMBERING or name in FLAGS:
            if name in found.inexact or name in FLAGS[1:]:
                stored.append(_stored(name, ("source", *name.split(".")), found.columns[name], request))
        elif name == "next.reward":
            kind, dtype, shape = found.columns[name]
            if kind != "numbers" or math.prod(shape) != 1:
                raise IncompatibleError(f"{name}: rewards of shape {shape}, expected one number")
            stored.append(Stored(name, Column(REWARD, "float32", (1,)), "numbers"))
            if dtype not in ("float32", "float16", "bool", "int8", "uint8", "int16", "uint16"):
                stored.append(Stored(name, Column(("source", "reward"), dtype, (1,)), "numbers"))
        else:
            stored.append(_stored(name, keys[name], found.columns[name], request, hints))
    return _assembled(stored, lossy)


def _stored(name: str, key: Key, told: Sequence[Any], request: Request, hints: Hints | None = None) -> Stored:
    if told[0] == "text":
        return Stored(name, heap_column(key, Heap("text")), "text")
    if told[0] == "lists":
        heap = Heap("array", limit=_MAX_BYTES)
        return Stored(name, heap_column(key, heap, told[1], (-1, *told[2])), "lists")
    if told[0] == "numbers":
        shape = tuple(told[2])
        if hints is not None and name in hints.invented and shape == (1,):
            shape = ()  # a single number of ours, which LeRobot gives an axis
        return Stored(name, Column(key, told[1], shape), "numbers")
    _, codec, height, width, channels, bits = told
    dtype, shape = "uint16" if bits > 8 else "uint8", (height, width, channels)
    holds = (codec == "png" and channels in (1, 3, 4)) or (codec == "jpeg" and channels in (1, 3))
    if request.images == "decode" or not holds:
        return Stored(name, Column(key, dtype, shape), "pixels")
    limit = max(1 << 26, math.prod(shape) * np.dtype(dtype).itemsize)
    return Stored(name, heap_column(key, Heap("array", codec, limit), dtype, shape), "encoded")


def _key(name: str, names: Sequence[str]) -> Key:
    """The key of a feature: its name at the dots; below `info` where that would be ours, or not a leaf."""
    parts = storable(name.replace(".", "/"))
    if parts[0].lower() in _OURS and not (
        parts[0] == "next" and len(parts) > 1 and parts[1] != "observation"
    ):
        return ("info", *parts)
    if parts in WORDS.values():
        return ("info", *parts)
    above = {".".join(name.split(".")[:n]) for n in range(1, name.count(".") + 1)}
    return ("info", *parts) if above & set(names) else parts


def _assembled(stored: Sequence[Stored], lossy: Sequence[str]) -> Columns:
    specs: dict[str, dict[Key, Spec]] = {"observation": {}, "action": {}}
    heaps: dict[Key, Heap] = {}
    extra: list[Column] = []
    for item in stored:
        column, top = item.column, item.column.key[0]
        if column.key == REWARD:
            continue
        is_picture = column.heap is not None and column.heap.codec in ("png", "jpeg")
        if top not in specs or not (column.heap is None or is_picture):
            extra.append(column)
            continue
        is_image = item.form in ("video", "encoded", "pixels") and column.dtype == "uint8"
        specs[top][column.key] = Box(column.shape, column.dtype, *((0.0, 255.0) if is_image else ()))
        if column.heap is not None:
            heaps[column.key] = column.heap
    observation, action = (nested_spec(specs[top]) for top in ("observation", "action"))
    schema = ted_schema(observation, action, extra=extra, heaps=heaps)
    return Columns(schema, observation, action, tuple(stored), tuple(lossy))
