"""Steps of `rl buffer map` that change columns one by one: rename, select, exclude, cast, normalise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rlcli.errors import InputError, UsageError, nearest
from rlcli.format.dataset import Dataset
from rlcli.format.keys import DTYPES, Key
from rlcli.format.location import Location
from rlcli.format.schema import Column
from rlcli.format.specs import Bound, Box
from rlcli.format.values import as_numbers
from rlcli.pipeline.map_block import Array, Block, Layout
from rlcli.pipeline.moments import Moments

Blocks = Callable[[], Iterator[Block]]


class Step:
    """One step. `fit` may look at all rows first; `plan` changes the layout, then `apply` each block."""

    def fit(self, blocks: Blocks, layout: Layout) -> None:
        """Looks at what the steps before give, if it must."""

    def plan(self, layout: Layout) -> None:
        """Changes the layout. Raises `UsageError` if the step does not fit."""

    def apply(self, block: Block) -> None:
        """Changes a block's columns."""


@dataclass
class Rename(Step):
    """Columns get other names, `old=new`; next values follow what they are the next values of."""

    text: str
    names: dict[Key, Key] = field(default_factory=dict)

    def plan(self, layout: Layout) -> None:
        old, new = _pair(self.text, "--rename", "old=new")
        before, after = tuple(old.split("/")), tuple(new.strip("/").split("/"))
        chosen = layout.choose(old, "--rename")
        self.names = {key: (*after, *key[len(before) :]) for key in chosen}
        for key in layout.with_next(chosen):
            if key[:1] == ("next",) and key[1:] in self.names:
                self.names[key] = ("next", *self.names[key[1:]])
        layout.rename(self.names)

    def apply(self, block: Block) -> None:
        block.columns = {self.names.get(key, key): values for key, values in block.columns.items()}


@dataclass
class Select(Step):
    """Only these columns stay, or with `exclude` all others but their next values."""

    text: str
    exclude: bool = False

    def plan(self, layout: Layout) -> None:
        chosen = layout.choose(self.text, "--exclude" if self.exclude else "--select")
        if self.exclude:
            chosen = layout.with_next(chosen)
        keep = [key for key in layout.columns if (key in chosen) != self.exclude]
        if not keep:
            raise UsageError("--exclude: no column is left")
        layout.columns = {key: layout.columns[key] for key in keep}
        layout.leaves = {key: leaf for key, leaf in layout.leaves.items() if key in layout.columns}
        layout.settle()
        self._keep = keep

    def apply(self, block: Block) -> None:
        block.columns = {key: block.columns[key] for key in self._keep}


@dataclass
class Cast(Step):
    """A column gets another dtype, `key=dtype`. A value that would become another number is refused."""

    text: str

    def plan(self, layout: Layout) -> None:
        name, dtype = _pair(self.text, "--cast", "key=dtype")
        if dtype not in DTYPES:
            raise UsageError(f"--cast: there is no dtype {dtype!r}; {nearest(dtype, DTYPES)}")
        self._columns: dict[Key, Column] = {}
        for key in layout.with_next(layout.choose(name, "--cast")):
            column = layout.columns[key]
            _refuse_heap(column, "--cast")
            leaf = layout.leaves.get(key)
            if leaf is not None and not isinstance(leaf, Box) and dtype != leaf.dtype:
                kind = leaf.to_json()["type"].replace("_", "-")
                raise UsageError(f"--cast: {'/'.join(key)} is {kind}, which is always {leaf.dtype}")
            if isinstance(leaf, Box):
                layout.leaves[key] = replace(leaf, dtype=str(DTYPES[dtype]))
            self._columns[key] = column
            layout.columns[key] = replace(column, dtype=dtype)
        for key, column in layout.columns.items():  # stacks follow
            source = layout.columns.get(column.of or ())
            if column.encoding == "stack" and source is not None and source.key in self._columns:
                self._columns[key] = column
                layout.columns[key] = replace(column, dtype=dtype)
                if isinstance(leaf := layout.leaves.get(key), Box):
                    layout.leaves[key] = replace(leaf, dtype=str(DTYPES[dtype]))
        self._dtype = dtype

    def apply(self, block: Block) -> None:
        for key, column in self._columns.items():
            values = as_numbers(column, block.columns[key])
            block.columns[key] = cast(values, self._dtype, "/".join(key))


def cast(values: Array, dtype: str, name: str) -> Array:
    """`values` as the stored dtype. Floating targets round; others must hold every value exactly.

    Raises `InputError` naming the column for a value that does not fit.
    """
    target = np.dtype("float32") if dtype == "bfloat16" else DTYPES[dtype]
    with np.errstate(all="ignore"):
        found = np.real(values).astype(target) if target.kind != "c" and values.dtype.kind == "c" else None
        found = values.astype(target) if found is None else found
        if target.kind in "fc":
            wrong = np.isfinite(values) & ~np.isfinite(found)
        else:
            wrong = found.astype(np.result_type(values.dtype, target)) != values
            if target.kind in "iu" and values.dtype.kind == "f":
                bounds: np.iinfo[Any] = np.iinfo(str(target))
                wrong |= ~((values >= float(bounds.min)) & (values < float(bounds.max) + 1))
            if values.dtype.kind in "iu" and target.kind in "iu":
                wrong |= np.less(values, 0) != np.less(found, 0)
        if values.dtype.kind == "c" and target.kind != "c":
            wrong |= np.imag(values) != 0
    if wrong.any():
        raise InputError(f"--cast: {name} has the value {values[wrong][0]}, which {dtype} cannot hold")
    if dtype == "bfloat16":
        bits = found.view(np.uint32)
        even = (bits >> 16 & 1) + np.uint32(0x7FFF)
        quiet = np.isnan(found)
        return np.where(quiet, np.uint16(0x7FC0), ((bits + even) >> 16).astype(np.uint16))
    return found


@dataclass
class Normalise(Step):
    """Columns become (value − mean) / std per element, as a float; a constant element becomes 0.

    The statistics are those of all rows (of the column itself, not of next values), or those that the dataset
    `stats_from` was normalised with. They are kept in the result's `extra`.
    """

    text: str
    stats_from: Location | None = None
    undo: bool = False

    def fit(self, blocks: Blocks, layout: Layout) -> None:
        keys = [key for key in layout.choose(self.text, self._flag) if key[:1] != ("next",)]
        for key in keys:
            _refuse_heap(layout.columns[key], self._flag)
        if self.undo:
            recorded = layout.extra.get("normalise", {})
            self._stats = {key: _recorded(recorded, key, layout, "this dataset") for key in keys}
            return
        if self.stats_from is not None:
            with Dataset.open(self.stats_from) as dataset:
                recorded = dataset.extra.get("normalise", {})
            self._stats = {key: _recorded(recorded, key, layout, str(self.stats_from)) for key in keys}
            return
        moments = {key: Moments(math.prod(layout.columns[key].shape)) for key in keys}
        for block in blocks():
            for key, found in moments.items():
                values = as_numbers(layout.columns[key], block.columns[key])
                found.add(values.reshape(len(values), -1))
        for key, found in moments.items():
            if not found.count.all():
                raise InputError(f"--normalise: {'/'.join(key)} has an element without any finite value")
        self._stats = {key: (found.mean, found.std) for key, found in moments.items()}

    @property
    def _flag(self) -> str:
        return "--denormalise" if self.undo else "--normalise"

    def plan(self, layout: Layout) -> None:
        recorded = dict(layout.extra.get("normalise", {}))
        self._columns: dict[Key, tuple[Column, Array, Array]] = {}
        for key, (mean, std) in self._stats.items():
            name = "/".join(key)
            if self.undo:
                recorded.pop(name)
            elif name in recorded:
                raise UsageError(f"--normalise: {name} is normalised already; --denormalise it first")
            else:
                recorded[name] = {"mean": mean.tolist(), "std": std.tolist()}
            for follower in layout.with_next([key]):
                column = layout.columns[follower]
                shape = column.shape
                self._columns[follower] = (
                    column,
                    mean.reshape(shape),
                    np.where(std > 0, std, 1.0).reshape(shape),
                )
                dtype = column.dtype if "float" in column.dtype else "float32"
                layout.columns[follower] = replace(column, dtype=dtype)
            leaf = layout.leaves.get(key)
            low, high = (leaf.low, leaf.high) if isinstance(leaf, Box) else (None, None)
            column = layout.columns[key]
            if leaf is not None:
                layout.leaves[key] = Box(
                    column.shape, str(column.numpy), self._bound(key, low), self._bound(key, high)
                )
        layout.extra = {**layout.extra, "normalise": recorded}
        if not recorded:
            layout.extra.pop("normalise")
        layout.fits_env = False

    def _bound(self, key: Key, bound: Bound) -> Bound:
        if bound is None:
            return None
        _, mean, std = self._columns[key]
        wide = np.broadcast_to(np.asarray(bound, np.float64).reshape(-1), (max(1, mean.size),)).reshape(
            mean.shape
        )
        return tuple(np.asarray(self._compute(wide, mean, std)).reshape(-1).tolist())

    def _compute(self, values: Array, mean: Array, std: Array) -> Array:
        return values * std + mean if self.undo else (values - mean) / std

    def apply(self, block: Block) -> None:
        for key, (column, mean, std) in self._columns.items():
            values = as_numbers(column, block.columns[key]).astype(np.float64)
            dtype = column.dtype if "float" in column.dtype else "float32"
            block.columns[key] = cast(self._compute(values, mean, std), dtype, "/".join(key))


def _recorded(recorded: dict[str, Any], key: Key, layout: Layout, where: str) -> tuple[Array, Array]:
    name = "/".join(key)
    if name not in recorded:
        raise UsageError(f"{where} has no recorded statistics of {name!r}; {nearest(name, recorded)}")
    mean, std = (np.asarray(recorded[name][part], np.float64) for part in ("mean", "std"))
    if mean.size != math.prod(layout.columns[key].shape):
        raise UsageError(f"{where} has statistics of {mean.size} elements of {name!r}, another shape")
    return mean, std


def _pair(text: str, flag: str, form: str) -> tuple[str, str]:
    left, separator, right = text.partition("=")
    if not separator or not left.strip() or not right.strip():
        raise UsageError(f"{flag}: {text!r} is not of the form {form}")
    return left.strip(), right.strip()


def _refuse_heap(column: Column, flag: str) -> None:
    if column.heap is not None:
        raise UsageError(f"{flag}: {'/'.join(column.key)} holds {column.heap.value}, not numbers")
