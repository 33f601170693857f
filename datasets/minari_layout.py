"""Which column of a dataset goes where in a Minari file.

A dataset that came from Minari gets its paths, spaces and types back as far as its columns are still there.
Any other has its observations and actions by their keys, and all other columns below `infos`; so is text
beside observations that goes on for one value less than they do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlcli.datasets.contract import Report
from rlcli.datasets.mapping import storable
from rlcli.datasets.minari_columns import ATTRIBUTES, REWARD, TOPS
from rlcli.datasets.minari_scan import FLAGS
from rlcli.datasets.minari_spaces import Leaf, leaves_of, space_of, text_space, with_bounds
from rlcli.datasets.opened import nested_spec
from rlcli.datasets.plain_export import free_name, lost_encoding
from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.schema import Column
from rlcli.format.specs import Box, Composite, Spec, leaves, spec_from_json

_FOLLOWING = {REWARD, ("next", "done"), ("next", "terminated"), ("next", "truncated"), ("is_init",),
              ("episode",), ("step",), ATTRIBUTES}  # fmt: skip
_MAX_ATTRIBUTE = 60_000  # bytes; larger ones do not fit HDF5's headers
_KEPT = {("source", name) for name in ("rewards", *FLAGS)}


@dataclass(frozen=True)
class Array:
    """An array of an episode: `following`, if there is one, has its value after the last row.

    `form`: `values`, `text`, `jpeg` bytes, `episode` a single value. `dtype` is that of the file.
    """

    path: str
    column: Column
    following: Column | None
    form: str
    dtype: str


@dataclass
class Layout:
    """What is written: arrays, spaces (JSON), attributes (name, column), keys that paths do not tell."""

    arrays: list[Array] = field(default_factory=list)
    spaces: dict[str, dict[str, Any]] = field(default_factory=dict)
    attributes: dict[str, Column] = field(default_factory=dict)
    columns: dict[str, Key] = field(default_factory=dict)
    jpeg: bool = False


def lay_out(dataset: Dataset, report: Report) -> Layout:
    """The layout for a dataset; what has no place is added to `report`."""
    source = dataset.extra.get("source") if isinstance(dataset.extra, dict) else None
    record = source if isinstance(source, dict) and source.get("format") == "minari" else {}
    layout = Layout()
    used: set[Key] = set()
    places: dict[str, Leaf] = {}
    for top, name in TOPS.items():
        layout.spaces[name] = _space(dataset, name, record, report)
        for leaf in leaves_of(layout.spaces[name]):
            places["/".join((top, *leaf.path))] = leaf
    schema = dataset.schema
    tops = {path: (TOPS[path.split("/")[0]], *leaf.key) for path, leaf in places.items()}
    pictures = [path for path, leaf in places.items() if leaf.is_picture]
    jpeg = {path for path in pictures if (heap := schema.column(tops[path]).heap) and heap.codec == "jpeg"}
    layout.jpeg = bool(pictures) and jpeg == set(pictures)
    for path, key in tops.items():
        column = schema.column(key)
        if not (layout.jpeg and path in jpeg):
            report.lossy += lost_encoding(column)
        form = "jpeg" if layout.jpeg and path in jpeg else "text" if column.is_text else "values"
        following = schema.by_key.get(("next", *key)) if key[0] == "observation" else None
        dtype = record.get("stored", {}).get(path) or column.dtype
        layout.arrays.append(Array(path, column, following, form, dtype))
        used |= {key, ("next", *key)}
    _lay_out_others(layout, dataset, record, used, report)
    return layout


def _space(dataset: Dataset, top: str, record: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """The space of `top`: the original one if its columns are there as they were, else one for the spec."""
    schema = dataset.schema
    found = {c.key[1:]: c for c in schema.columns if c.key[0] == top and c.encoding in ("plain", "heap")}
    spec = _spec(dataset, top, found)
    specs = leaves(spec)
    told = record.get("spaces", {}).get(top)
    if told is not None:
        same = {leaf.key: leaf for leaf in leaves_of(told) if 0 not in leaf.space.get("shape", ())}
        if same.keys() == found.keys() and all(_fits(leaf, found[key]) for key, leaf in same.items()):
            try:
                return with_bounds(told, specs, ())
            except KeyError:
                pass
    has_final = top == "observation" and bool(np.asarray(dataset.episodes.has_final).any())
    texts = {
        key: None
        for key, column in found.items()
        if column.is_text and (not has_final or ("next", *column.key) in schema.by_key)
    }
    found = {key: column for key, column in found.items() if key in texts or not column.is_text}
    for key in found.keys() - specs.keys() - texts.keys():
        report.lossy.append(f"{'/'.join((top, *key))} has no place in a space of Minari")
    return text_space() if () in texts else space_of(spec, texts)


def _spec(dataset: Dataset, top: str, found: Mapping[Key, Column]) -> Spec:
    """The dataset's spec where it describes the columns, else boxes of their shapes."""
    try:
        spec = spec_from_json(dataset.spec[top])
    except (KeyError, IncompatibleError):
        spec = Composite({})
    told = {key: (leaf.dtype, leaf.shape) for key, leaf in leaves(spec).items()}
    boxes = {
        key: column
        for key, column in found.items()
        if column.heap is None or (column.heap.value == "array" and -1 not in column.shape)
    }
    if told == {key: (column.dtype, column.shape) for key, column in boxes.items()}:
        return spec
    return nested_spec({key: Box(column.shape, column.dtype) for key, column in boxes.items()}, 0)


def _fits(leaf: Leaf, column: Column) -> bool:
    if leaf.kind == "Text":
        return column.is_text
    return column.heap is None or column.heap.value == "array"


def _has_place(column: Column) -> bool:
    """Whether h5py can write its values as an array."""
    if column.heap is not None and not column.is_text:
        return column.heap.value == "array" and -1 not in column.shape
    return column.dtype not in ("bfloat16", "complex64")


def _lay_out_others(
    layout: Layout, dataset: Dataset, record: Mapping[str, Any], used: set[Key], report: Report
) -> None:
    """Columns beside observations and actions: attributes of the episode, or arrays below `infos`."""
    schema = dataset.schema
    names = {tuple(key): name for name, key in record.get("attributes", {}).items()}
    paths = {tuple(keys[0]): path for path, keys in record.get("columns", {}).items() if keys}
    infos = record.get("infos", {})
    for column in schema.columns:
        key = column.key
        if key in used or key in _FOLLOWING or key in _KEPT or key[:2] == ("next", "observation"):
            continue
        is_space = key[0] in ("observation", "action") and not column.is_text
        if is_space or column.encoding in ("derived", "stack"):
            continue
        if key[0] == "next" and key[1:] in schema.by_key and key[1:] not in _FOLLOWING:
            continue  # the other half of a pair
        if not _has_place(column):
            report.lossy.append(f"{'/'.join(key)} has no place in a Minari file")
            continue
        report.lossy += lost_encoding(column)
        path = paths.get(key, "")
        align, dtype = infos.get(path, ("", column.dtype))
        is_small = column.is_text or math.prod(column.shape) * column.numpy.itemsize <= _MAX_ATTRIBUTE
        if key[:2] == ("info", "episode") and align != "episode" and is_small:
            layout.attributes[names.get(key, "/".join(key[2:]))] = column
            continue
        if not path.startswith("infos/"):
            path = "/".join(("infos", *(key[1:] if key[0] == "info" else key)))
            path = free_name(path, key, [array.path for array in layout.arrays])
        form = "episode" if align == "episode" else "text" if column.is_text else "values"
        following = schema.by_key.get(("next", *key)) if form != "episode" else None
        if ("info", *storable(path.removeprefix("infos/"))) != key and form != "episode":
            layout.columns[path] = key
        layout.arrays.append(Array(path, column, following, form, dtype))
