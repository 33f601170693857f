"""Which feature of a LeRobot dataset holds which column of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rlcli.datasets.contract import Report
from rlcli.datasets.lerobot_columns import REWARD, SUBTASK, TASK
from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.schema import Column

_FOLLOWING = {("is_init",), ("episode",), ("step",), ("next", "done"), ("next", "terminated"),
              ("next", "truncated"), REWARD, TASK, ("timestamp",)}  # fmt: skip
#: Features that every dataset has, with the dtype and the shape that lerobot expects of them.
DEFAULTS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64",
            "task_index": "int64"}  # fmt: skip
_FLAGS = ("next.done", "next.terminated", "next.truncated")
_PICTURE_SIDE = 8  # smaller uint8 arrays of three axes are no pictures
_MAX_AXES = 5

Form = Literal["numbers", "text", "words", "image", "video", "flag", "default"]


@dataclass(frozen=True)
class Feature:
    """A feature; `column` fills it, None for what is computed. `words` are numbers of texts in a table."""

    name: str
    form: Form
    dtype: str
    shape: tuple[int, ...]
    column: Column | None = None

    def described(self, told: Mapping[str, Any], info: Mapping[str, Any] | None) -> dict[str, Any]:
        """The entry of `info.json`; names of axes are those of `told`, the original entry."""
        dtype = {"text": "string", "image": "image", "video": "video"}.get(self.form, self.dtype)
        names = told.get("names") if told.get("shape") == list(self.shape) else None
        if self.form in ("image", "video"):
            names = ["height", "width", "channels"]
        entry: dict[str, Any] = {"dtype": dtype, "shape": list(self.shape), "names": names}
        return entry if info is None else {**entry, "info": dict(info)}


@dataclass
class Layout:
    """The features in order, and what importing needs to give the same columns: keys, and single numbers."""

    features: list[Feature] = field(default_factory=list)
    columns: dict[str, Key] = field(default_factory=dict)
    scalars: list[str] = field(default_factory=list)
    told: Mapping[str, Any] = field(default_factory=dict)  # the original info.json


def lay_out(dataset: Dataset, cameras: Literal["image", "video"], report: Report) -> Layout:
    """The features for a dataset; what has no place is added to `report`. Raises `IncompatibleError`."""
    source = dataset.extra.get("source") if isinstance(dataset.extra, dict) else None
    record = source if isinstance(source, dict) and source.get("format") == "lerobot" else {}
    layout = Layout(told=record.get("info", {}))
    names = {tuple(key): name for name, key in record.get("columns", {}).items()}
    known = layout.told.get("features", {})
    exact = dataset.schema.by_key.get(("source", "reward"))
    if exact is None or exact.heap is not None or math.prod(exact.shape) != 1:
        exact = dataset.schema.column(REWARD)
    for column in dataset.schema.columns:
        key = column.key
        if key in _FOLLOWING or column.encoding in ("derived", "stack"):
            continue
        if key[:2] == ("next", "observation"):
            report.lossy.append(f"{'/'.join(key)} is not written: LeRobot has no next observations")
            continue
        if key == exact.key:
            continue  # it is next.reward
        if key[0] == "source" and record:
            if key != ("source", "next", "done"):
                report.lossy.append(f"{'/'.join(key)} is not written; rows are numbered anew")
            continue
        name = "subtask_index" if key == SUBTASK else names.get(key) or ".".join(key)
        if name in DEFAULTS or name in _FLAGS or "/" in name:
            raise IncompatibleError(f"{'/'.join(key)} would be LeRobot's own feature {name}")
        feature = _feature(name, column, cameras)
        if feature is None:
            report.lossy.append(f"{'/'.join(key)} has no place in LeRobot")
            continue
        layout.features.append(feature)
        layout.columns[name] = key
        if feature.form == "numbers" and not column.shape:
            layout.scalars.append(name)
    if not record or "next.reward" in known:
        layout.features.append(Feature("next.reward", "numbers", exact.dtype, (1,), exact))
    for name in _FLAGS:
        if not record or name in known:
            layout.features.append(Feature(name, "flag", "bool", (1,)))
    for name, dtype in DEFAULTS.items():
        column_or_none = dataset.schema.by_key.get(("timestamp",)) if name == "timestamp" else None
        layout.features.append(Feature(name, "default", dtype, (1,), column_or_none))
    order = {name: place for place, name in enumerate(known)}
    layout.features.sort(key=lambda item: order.get(item.name, len(order)))
    return layout


def _feature(name: str, column: Column, cameras: Literal["image", "video"]) -> Feature | None:
    """The feature for a column, None if LeRobot has no place for it."""
    heap, shape = column.heap, column.shape
    if column.is_text:
        if column.key == SUBTASK:
            return Feature(name, "words", "int64", (1,), column)
        return Feature(name, "text", "string", (1,), column)
    if heap is not None and (heap.value == "bytes" or -1 in shape):
        return None
    is_picture = len(shape) == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) >= _PICTURE_SIDE
    if is_picture and (column.dtype == "uint8" or (column.dtype == "uint16" and shape[2] == 1)):
        is_even = not (shape[0] % 2 or shape[1] % 2)  # encoders want it
        is_video = cameras == "video" and shape[2] == 3 and column.dtype == "uint8" and is_even
        return Feature(name, "video" if is_video else "image", column.dtype, shape, column)
    if column.dtype in ("bfloat16", "complex64") or len(shape) > _MAX_AXES:
        return None
    return Feature(name, "numbers", str(np.dtype(column.numpy)), shape or (1,), column)
