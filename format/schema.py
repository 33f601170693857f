"""What a row is: its columns, in order. SPEC.md sections 3, 4, 6 and 14."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from rlcli.errors import IncompatibleError
from rlcli.format import strictjson
from rlcli.format.keys import DTYPES, MAX_DEPTH, Key, check_dtype, check_key, check_keys, path_of
from rlcli.format.specs import Spec, leaves

MAX_ROW_BYTES = 1 << 40
MAX_VALUE_BYTES = 1 << 31
MAX_FRAMES = 1024
MAX_AXES = 32
FRAME = "frame"  # of observations that are stacks: ("frame", *rest) is what ("observation", *rest) stacks
_IMAGES = ("png", "jpeg")
_CODECS = ("none", "zstd", "lz4", *_IMAGES)
_VALUES = ("bytes", "text", "array")


@dataclass(frozen=True)
class Heap:
    """How the values of a heap column are stored. No decoded value has more than `limit` bytes."""

    value: Literal["bytes", "text", "array"]
    codec: Literal["none", "zstd", "lz4", "png", "jpeg"] = "none"
    limit: int = 1 << 26


@dataclass(frozen=True)
class Column:
    """One value per row.

    `plain` values are stored, and so are those of `heap` columns, which have any length (`heap` says how; an
    axis 0 of −1 is any number). A `derived` column is the next row's value of `of`; a `stack` the last
    `frames` values of `of` in the episode, oldest first, on a new axis in front.
    """

    key: Key
    dtype: str
    shape: tuple[int, ...] = ()
    encoding: Literal["plain", "derived", "stack", "heap"] = "plain"
    of: Key | None = None
    frames: int = 0
    heap: Heap | None = None

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        return DTYPES[self.dtype]

    @property
    def is_sized(self) -> bool:
        """Whether every value is an array of `shape`; bytes, text and arrays of any length are not."""
        return self.heap is None or (self.heap.value == "array" and -1 not in self.shape)

    @property
    def is_text(self) -> bool:
        """Whether every value is text."""
        return self.heap is not None and self.heap.value == "text"

    @cached_property
    def file(self) -> str:
        """The relative path of its file in each tree."""
        return path_of(self.key)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of a value in memory; of a heap column, of its handle."""
        return 16 if self.heap is not None else math.prod(self.shape) * self.numpy.itemsize

    @property
    def handles(self) -> tuple[Key, Key]:
        """The keys of the columns that say where a heap value begins and how many bytes it has."""
        return (*self.key, "off"), (*self.key, "len")

    def to_json(self) -> dict[str, Any]:
        if self.encoding in ("derived", "stack"):
            assert self.of is not None
            how = {"op": "shift"} if self.encoding == "derived" else {"op": "stack"}
            number = {"by": 1} if self.encoding == "derived" else {"frames": self.frames}
            return {"key": list(self.key), "encoding": "derived", **how, "of": list(self.of), **number}
        entry: dict[str, Any] = {"key": list(self.key), "encoding": self.encoding}
        if self.heap is not None:
            entry |= {"value": self.heap.value, "codec": self.heap.codec, "limit": self.heap.limit}
        if self.heap is None or self.heap.value == "array":
            entry |= {"dtype": self.dtype, "shape": list(self.shape)}
        return entry


def heap_column(key: Key, heap: Heap, dtype: str = "uint8", shape: tuple[int, ...] = ()) -> Column:
    """A heap column; `dtype` and `shape` are those of array values."""
    return Column(key, dtype, shape, "heap", heap=heap)


def stack_column(key: Key, of: Column, frames: int) -> Column:
    """The stack of the last `frames` values of `of`."""
    return Column(key, of.dtype, (frames, *of.shape), "stack", of.key, frames)


def shift_column(key: Key, of: Column) -> Column:
    """The next row's value of `of`."""
    return Column(key, of.dtype, of.shape, "derived", of.key, heap=of.heap)


@dataclass(frozen=True)
class Schema:
    """Columns in stored order. Raises `IncompatibleError` if they break the grammar."""

    columns: tuple[Column, ...]
    by_key: Mapping[Key, Column] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        for column in self.columns:
            _check_column(column)
        check_keys(column.key for column in self.columns)
        by_key = {column.key: column for column in self.columns}
        object.__setattr__(self, "by_key", by_key)
        if not self.plain:
            raise IncompatibleError("a schema needs a stored column")
        for column in self.columns:
            if column.encoding == "derived":
                source = by_key.get(column.of or ())
                if source is None or source.encoding not in ("plain", "heap"):
                    raise IncompatibleError(
                        f"column {column.key} derives from {column.of}, which is not stored"
                    )
                if column != shift_column(column.key, source):
                    raise IncompatibleError(f"column {column.key} differs in dtype or shape from {column.of}")
            elif column.encoding == "stack":
                source = by_key.get(column.of or ())
                if source is None or source.encoding not in ("plain", "derived") or source.heap is not None:
                    raise IncompatibleError(
                        f"column {column.key} stacks {column.of}, which is neither plain nor a shift of one"
                    )
                if column != stack_column(column.key, source, column.frames):
                    raise IncompatibleError(f"column {column.key} differs in dtype or shape from {column.of}")
        handles = {c.key: c for c in (*self.plain, *self.derived)}
        object.__setattr__(self, "by_key", {**handles, **by_key})

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # of many columns it takes long
        return hash(self.columns)

    @cached_property
    def encoded(self) -> strictjson.Encoded:
        """As it stands in manifests."""
        return strictjson.Encoded.member(self.to_json())

    @cached_property
    def given(self) -> tuple[Column, ...]:
        """What a writer is given in every row: the plain and the heap columns."""
        return tuple(column for column in self.columns if column.encoding in ("plain", "heap"))

    @cached_property
    def heaps(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.encoding == "heap")

    def stack_of(self, key: Key, frames: int) -> Column:
        """A column that stacks the one at `key`, in no schema yet. Raises `IncompatibleError` if none can."""
        column = self.column(key)
        source = self.column(column.of or key) if column.encoding == "derived" else column
        if source.encoding != "plain":
            raise IncompatibleError(f"{'/'.join(key)} is a {source.encoding} column, which is not stacked")
        return stack_column(key, column, frames)

    @cached_property
    def stacks(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.encoding == "stack")

    @cached_property
    def shifts(self) -> tuple[Column, ...]:
        """The columns that are the next row's value of another; a heap's counts once."""
        return tuple(column for column in self.columns if column.encoding == "derived")

    @cached_property
    def plain(self) -> tuple[Column, ...]:
        """The columns that are files of a segment: the plain ones, and each heap column's two handles."""
        found: list[Column] = []
        for column in self.given:
            found += [column] if column.heap is None else [Column(key, "int64") for key in column.handles]
        return tuple(found)

    @cached_property
    def leaves(self) -> tuple[tuple[Key, str, tuple[int, ...]], ...]:
        """Key, dtype and shape of `plain`."""
        return tuple((column.key, column.dtype, column.shape) for column in self.plain)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The paths of `plain` inside their tree."""
        return tuple(column.file for column in self.plain)

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """The folders of `files` below the root of their tree."""
        return tuple(dict.fromkeys("/".join(c.key[:-1]) for c in self.plain if len(c.key) > 1))

    @cached_property
    def derived(self) -> tuple[Column, ...]:
        """The columns that are files of finals: the shifts, and of each shifted heap its two handles."""
        found: list[Column] = []
        for column in self.shifts:
            if column.heap is None:
                found.append(column)
            else:
                source = self.by_key[column.of or ()]
                pairs = zip(column.handles, source.handles, strict=True)
                found += [Column(key, "int64", (), "derived", of) for key, of in pairs]
        return tuple(found)

    @cached_property
    def features(self) -> tuple[str, ...]:
        """What a reader must understand: the manifest's `incompat` names that follow from the columns."""
        derived = ("derived",) if self.shifts or self.stacks else ()
        return (*derived, "heap") if self.heaps else derived

    @cached_property
    def row_bytes(self) -> int:
        """Stored bytes per row, heap values not counted."""
        return sum(column.row_bytes for column in self.plain)

    def column(self, key: Iterable[str]) -> Column:
        """The column `key`. Raises `IncompatibleError` if there is none."""
        wanted = tuple(key)
        try:
            return self.by_key[wanted]
        except KeyError:
            known = ", ".join("/".join(column.key) for column in self.columns)
            raise IncompatibleError(f"no column {'/'.join(wanted)!r}; there are {known}") from None

    def to_json(self) -> dict[str, Any]:
        return {
            "columns": [column.to_json() for column in self.columns],
            "batch_names": ["time"],
            "layout": "ted",
        }

    @staticmethod
    def from_json(value: Any) -> Schema:
        """The schema `to_json` wrote. Raises `IncompatibleError` for what 1.0 does not know."""
        try:
            known: dict[Key, Column] = {}
            entries = [(check_key(entry["key"]), entry) for entry in value["columns"]]
            for kind in ("stored", "shift", "stack"):  # each may refer to the ones before
                for key, entry in entries:
                    derived = entry["encoding"] == "derived"
                    if (entry["op"] if derived else "stored") == kind:
                        known[key] = _column_from_json(key, entry, known)
            for key, entry in entries:
                if key not in known:
                    raise IncompatibleError(f"column {key}: unknown encoding {entry!r}")
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise IncompatibleError(f"the schema is malformed: {err!r}") from err
        return Schema(tuple(known[key] for key, _ in entries))


def _column_from_json(key: Key, entry: Any, known: Mapping[Key, Column]) -> Column:
    encoding = entry["encoding"]
    if encoding == "derived":
        of = known.get(tuple(entry["of"]))
        if of is None:
            raise IncompatibleError(f"column {key} derives from {entry['of']}, which is not stored")
        if entry["op"] == "stack":
            if type(entry["frames"]) is not int:
                raise IncompatibleError(f"column {key}: {entry['frames']!r} frames")
            return stack_column(key, of, entry["frames"])
        if entry["by"] != 1:
            raise IncompatibleError(f"column {key}: unknown encoding {entry!r}")
        return shift_column(key, of)
    if encoding not in ("plain", "heap"):
        raise IncompatibleError(f"column {key}: unknown encoding {entry!r}")
    heap = Heap(entry["value"], entry["codec"], entry["limit"]) if encoding == "heap" else None
    if heap is not None and heap.value != "array":
        return heap_column(key, heap)
    shape = tuple(entry["shape"])
    if any(type(n) is not int for n in shape):
        raise IncompatibleError(f"shape {shape!r} is not a list of integers")
    return Column(key, check_dtype(entry["dtype"]), shape, encoding, heap=heap)


def _check_column(column: Column) -> None:
    check_key(column.key)
    check_dtype(column.dtype)
    if column.encoding == "stack" and not 1 <= column.frames <= MAX_FRAMES:
        raise IncompatibleError(
            f"column {column.key} stacks {column.frames} frames, expected 1 to {MAX_FRAMES}"
        )
    shape = column.shape[1:] if column.heap is not None and column.shape[:1] == (-1,) else column.shape
    if len(shape) > MAX_AXES or any(not isinstance(n, int) or n < 1 for n in shape):
        raise IncompatibleError(
            f"column {column.key} has shape {column.shape}: at most {MAX_AXES} axes, each of 1 or more"
        )
    if not 0 < math.prod(shape) * column.numpy.itemsize <= MAX_ROW_BYTES:
        raise IncompatibleError(f"column {column.key} has {column.row_bytes} bytes per row")
    if (column.encoding == "heap") > (column.heap is not None):
        raise IncompatibleError(f"column {column.key} does not say how its heap is stored")
    if column.heap is not None:
        _check_heap(column, column.heap, math.prod(shape) * column.numpy.itemsize)


def _check_heap(column: Column, heap: Heap, value_bytes: int) -> None:
    if heap.value not in _VALUES or heap.codec not in _CODECS:
        raise IncompatibleError(
            f"column {column.key}: values {heap.value!r} in codec {heap.codec!r}; known are "
            f"{', '.join(_VALUES)} and {', '.join(_CODECS)}"
        )
    if len(column.key) >= MAX_DEPTH:
        raise IncompatibleError(f"heap key {column.key} has {len(column.key)} parts, at most {MAX_DEPTH - 1}")
    if type(heap.limit) is not int or not value_bytes <= heap.limit <= MAX_VALUE_BYTES:
        raise IncompatibleError(
            f"column {column.key}: a limit of {heap.limit!r} bytes, "
            f"expected {value_bytes} to {MAX_VALUE_BYTES}"
        )
    if heap.codec in _IMAGES:
        depths = ("uint8", "uint16") if heap.codec == "png" else ("uint8",)
        channels = column.shape[2] if len(column.shape) == 3 else 1
        few = (1, 3, 4) if heap.codec == "png" else (1, 3)
        fits = len(column.shape) in (2, 3) and column.shape[0] > 0 and channels in few
        if column.dtype == "uint16" and channels != 1:
            fits = False
        if heap.value != "array" or column.dtype not in depths or not fits:
            raise IncompatibleError(
                f"column {column.key}: {heap.codec} holds arrays of {' or '.join(depths)} [height, width] or "
                f"[height, width, {' or '.join(map(str, few))}], "
                f"not {heap.value} {column.dtype}{column.shape}"
            )


def ted_schema(
    observation: Spec,
    action: Spec,
    *,
    extra: Sequence[Column] = (),
    next_observation: Literal["derived", "plain"] = "derived",
    heaps: Mapping[Key, Heap] | None = None,
) -> Schema:
    """The standard columns of a time step (TorchRL's TED layout), then `extra`.

    `next_observation="derived"` stores each observation once: the next one is the next row's, and finals
    are kept apart. `"plain"` stores it in every row. `heaps` names the observations that go to a heap (images
    as PNG, say), by the key of their column.
    """
    columns = []
    heaps = heaps or {}
    for prefix, spec in (("observation", observation), ("action", action)):
        for key, leaf in leaves(spec, (prefix,)).items():
            encoding: Literal["heap", "plain"] = "heap" if key in heaps else "plain"
            columns.append(Column(key, leaf.dtype, leaf.shape, encoding, heap=heaps.get(key)))
    if unknown := heaps.keys() - {column.key for column in columns}:
        raise ValueError(f"no observations or actions {sorted(unknown)}")
    for column in columns[: len(leaves(observation, ("observation",)))]:
        following = ("next", *column.key)
        if next_observation == "derived":
            columns.append(shift_column(following, column))
        else:
            columns.append(Column(following, column.dtype, column.shape, column.encoding, heap=column.heap))
    columns += [
        Column(("next", "reward"), "float32", (1,)),
        Column(("next", "terminated"), "bool", (1,)),
        Column(("next", "truncated"), "bool", (1,)),
        Column(("next", "done"), "bool", (1,)),
        Column(("is_init",), "bool", (1,)),
        Column(("episode",), "int64"),
        Column(("step",), "int64"),
    ]
    return Schema((*columns, *extra))
