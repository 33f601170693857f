"""Writing RLDS: a folder of TFRecord shards that TensorFlow Datasets opens with `builder_from_directory`.

A dataset that came from RLDS gets its features back: the same names, types and encodings, and the pictures
that stayed encoded. Any other gets `observation`, `action`, `reward`, `discount` of 1, the flags, and its
other columns by their keys. Where all final observations are known, an episode ends with a step that holds
it and zeros, as RLDS says; otherwise with its last row. `rl.json`, which other readers ignore, says which,
and keeps the spec and the keys.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlcli.config import opt
from rlcli.datasets.contract import Advance, Report
from rlcli.datasets.example import encode
from rlcli.datasets.features import Field, fields_of, tree_of
from rlcli.datasets.plain_export import lost_cuts, lost_seeds, lost_truncations
from rlcli.datasets.rlds_columns import REWARD, SPLIT
from rlcli.datasets.rlds_encode import Lists, encoded, is_rounded
from rlcli.datasets.rlds_hints import FILE, Hints
from rlcli.datasets.rlds_runs import FLAGS
from rlcli.datasets.tfrecord import RecordWriter
from rlcli.errors import IncompatibleError, ResourceError
from rlcli.format.dataset import Dataset
from rlcli.format.heap import missing
from rlcli.format.keys import Key
from rlcli.format.schema import Column

_FOLLOWING = {("next", "done"), ("next", "terminated"), ("next", "truncated"), ("is_init",), ("episode",),
              ("step",), SPLIT}  # fmt: skip
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_PICTURE_SIDE = 8  # smaller uint8 arrays of three axes are no pictures


@dataclass(frozen=True)
class ExportOptions:
    """What `--set` may say when writing RLDS."""

    name: str = opt("", "The dataset's name; as it came, or rl_dataset.")
    version: str = opt("", "Its version; as it came, or 1.0.0.")
    split: str = opt("train", "The split of episodes that do not say theirs.")
    shard_mb: int = opt(256, "A new shard begins after so many MB.", ge=1)
    compression: Literal["none", "gzip"] = opt("none", "Of whole shards; TFDS reads none only.")


def export(dataset: Dataset, out: Path, options: ExportOptions, advance: Advance) -> Report:
    """Write `dataset` to the new folder `out`, one episode in memory at a time.

    Raises `IncompatibleError` for columns that RLDS cannot name, `ResourceError` when the disk is full.
    """
    report = Report()
    layout = _layout(dataset, report)
    report.lossy += lost_seeds(dataset) + lost_cuts(dataset) + lost_truncations(dataset)
    name = options.name or layout.name
    version = options.version or layout.version
    out.mkdir()
    with ExitStack() as stack:
        splits: dict[str, _Split] = {}
        for index in range(dataset.num_episodes):
            example, split, size = _episode(dataset, layout, index, report)
            split = split or options.split
            if split not in splits:
                splits[split] = stack.enter_context(_Split(out, name, split, options))
            splits[split].write(encode(example))
            advance(size)
    _write_json(out / "features.json", layout.tree)
    invented = frozenset(["steps/discount"] if layout.discount else [])
    hints = Hints(dataset.spec, layout.columns, invented, layout.with_final)
    _write_json(out / FILE, hints.to_json())
    for feature, names in layout.labels.items():
        (out / f"{feature.replace('/', '-')}.labels.txt").write_text(
            "\n".join(names) + "\n", encoding="utf-8"
        )
    info = {
        "name": name,
        "version": version,
        "fileFormat": "tfrecord",
        "splits": [split.entry() for split in splits.values()],
    }
    _write_json(out / "dataset_info.json", info)
    report.rows, report.episodes = dataset.num_rows, dataset.num_episodes
    report.details |= {"name": name, "version": version, "splits": list(splits)}
    return report


@dataclass(frozen=True)
class _Layout:
    """Which feature holds which column, and what stands around them."""

    name: str
    version: str
    tree: Any
    fields: Mapping[Field, Key]  # features that columns fill
    flags: tuple[Field, ...]  # is_first, is_last, is_terminal that follow from the episodes
    discount: bool  # a discount of 1 is written
    with_final: bool
    labels: Mapping[str, list[str]]
    columns: Mapping[str, tuple[Key, ...]]  # features and the keys they come back as


def _layout(dataset: Dataset, report: Report) -> _Layout:
    record = (dataset.extra or {}).get("source")
    if isinstance(record, dict) and record.get("format") == "rlds" and "features" in record:
        return _original(dataset, record, report)
    return _new(dataset, report)


def _original(dataset: Dataset, record: Mapping[str, Any], report: Report) -> _Layout:
    """The features that the dataset came with, as far as their columns are still there."""
    everything = fields_of(record["features"])
    known = {column.key for column in dataset.schema.columns}
    columns = {name: tuple(map(tuple, keys)) for name, keys in record["columns"].items()}
    keys = {name: told[-1] for name, told in columns.items() if told and told[-1] in known}
    fields: dict[Field, Key] = {}
    flags = []
    for field in everything:
        flag = field.path[-1] if field.path[0] == "steps" and len(field.path) == 2 else ""
        if field.name in keys:
            fields[_as_stored(field, dataset.schema.column(keys[field.name]))] = keys[field.name]
        elif flag in FLAGS:
            flags.append(field)
        else:
            report.lossy.append(f"{field.name} is not written: the dataset does not have it")
    stored = (*fields, *flags)
    same = {field.name: field for field in everything} == {field.name: field for field in stored}
    return _Layout(
        str(record.get("name") or "rl_dataset"),
        str(record.get("version") or "1.0.0"),
        record["features"] if same else tree_of(stored),
        fields,
        tuple(flags),
        discount=False,
        with_final=record.get("last_step") == "drop",
        labels=record.get("labels", {}),
        columns=columns,
    )


def _as_stored(field: Field, column: Column) -> Field:
    """A picture that was decoded is written as PNG, which loses nothing."""
    heap = column.heap
    if field.kind == "image" and (heap is None or (heap.value == "array" and heap.codec != "jpeg")):
        return replace(field, encoding="png" if field.encoding not in ("", "png") else field.encoding)
    return field


def _new(dataset: Dataset, report: Report) -> _Layout:
    fields: dict[Field, Key] = {}
    for column in dataset.schema.columns:
        key = column.key
        if key in _FOLLOWING or column.encoding in ("derived", "stack"):
            continue
        if column.heap is not None and column.heap.value == "bytes":
            report.lossy.append(f"{'/'.join(key)}: readers of RLDS take bytes for text; left out")
            continue
        if key[:2] == ("next", "observation"):
            report.remarks.append(
                f"{'/'.join(key)} is a feature of its own; no reader takes it as the next one"
            )
        if key[:2] == ("info", "episode") and len(key) > 2:
            fields[_field(("episode_metadata", *key[2:]), column, ())] = key
        else:
            path = ("reward",) if key == REWARD else key
            fields[_field(("steps", *path), column, (None,))] = key
    flags = tuple(Field(("steps", name), "tensor", "bool", lengths=(None,)) for name in FLAGS)
    discount = ("discount",) not in fields.values()
    extra = (Field(("steps", "discount"), "tensor", "float32", lengths=(None,)),) if discount else ()
    with_final = bool(dataset.schema.shifts) and bool(np.asarray(dataset.episodes.has_final).all())
    known = int(np.asarray(dataset.episodes.has_final).sum())
    if known and not with_final:
        report.lossy.append(f"{known:,} final observations are not written, since others are unknown")
    for column in dataset.schema.shifts:
        if known and column.is_text:
            report.lossy.append(f"{'/'.join(column.key)}: after a last step only numbers are known, not text")
    tree = tree_of((*fields, *flags, *extra))
    columns = {field.name: (key,) for field, key in fields.items()}
    return _Layout("rl_dataset", "1.0.0", tree, fields, flags, discount, with_final, {}, columns)


def _field(path: tuple[str, ...], column: Column, lengths: tuple[int | None, ...]) -> Field:
    """The feature that holds a column of ours exactly."""
    heap, shape = column.heap, column.shape
    if column.is_text:
        return Field(path, "text", "string", (), "none", lengths)
    if heap is not None and heap.codec in ("jpeg", "png"):
        return Field(
            path, "image", column.dtype, shape if len(shape) == 3 else (*shape, 1), heap.codec, lengths
        )
    if path == ("steps", "reward"):
        shape = ()
    if -1 in shape:
        if column.dtype == "float64" or column.numpy.kind == "c":
            return Field(path, "tensor", column.dtype, (None, *shape[1:]), "bytes", lengths)
        return Field(path, "tensor", column.dtype, shape[1:], "none", (*lengths, None))
    is_picture = len(shape) == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) >= _PICTURE_SIDE
    if column.dtype == "uint8" and is_picture:
        return Field(path, "image", "uint8", shape, "png", lengths)
    exact = column.dtype not in ("float64", "complex64") and (
        column.dtype != "uint8" or column.row_bytes < 64
    )
    return Field(path, "tensor", column.dtype, shape, "none" if exact else "bytes", lengths)


def _episode(dataset: Dataset, layout: _Layout, index: int, report: Report) -> tuple[Lists, str | None, int]:
    """The Example of one episode, its split and how many bytes of rows it has."""
    episodes = dataset.episodes
    start, length = int(episodes.start[index]), int(episodes.length[index])
    stop = start + length
    with_final = layout.with_final and bool(episodes.has_final[index])
    terminated = bool(episodes.terminated[index])
    steps = length + with_final
    lists: Lists = {}
    for field, key in layout.fields.items():
        column = dataset.schema.column(key)
        if not field.lengths or field.path[0] != "steps":
            values = _read(dataset, column, start, start + 1)
        else:
            values = _read(dataset, column, start, stop)
            if with_final:
                values = _with_last(values, _last(dataset, column, stop - 1))
        if is_rounded(field, values) and not any(field.name in said for said in report.lossy):
            report.lossy.append(f"{field.name}: float64 values are rounded to float32, as that feature says")
        lists |= encoded(_inner(field), values)
    first, last = np.arange(steps) == 0, np.arange(steps) == steps - 1
    for flag in layout.flags:
        lists[flag.name] = {"is_first": first, "is_last": last, "is_terminal": last & terminated}[
            flag.path[-1]
        ]
    if layout.discount:
        lists["steps/discount"] = np.where(last & terminated, 0, 1).astype(np.float32)
    split = dataset.read(SPLIT, start, start + 1)[0] if SPLIT in dataset.schema.by_key else None
    return lists, split, length * dataset.schema.row_bytes


def _inner(field: Field) -> Field:
    """Features of an episode are written as one element; numbers in a sequence are its own axis."""
    is_whole = field.path[0] != "steps" and not field.is_bytes and field.encoding == "none"
    return replace(field, lengths=()) if is_whole else field


def _read(dataset: Dataset, column: Column, start: int, stop: int) -> Any:
    """Rows of a column; pictures of a heap as they are stored."""
    if column.heap is not None and column.heap.codec in ("jpeg", "png"):
        return dataset.encoded(column.key, np.arange(start, stop))
    values = dataset.read(column.key, start, stop)
    return values if column.heap is None else list(values)


def _last(dataset: Dataset, column: Column, row: int) -> Any:
    """The value of a column in the step that only holds the final observation."""
    for following in dataset.schema.shifts:
        if following.of == column.key:
            return _read(dataset, following, row, row + 1)[0]
    return missing(column) if column.heap is not None else np.zeros(column.shape, column.numpy)


def _with_last(values: Any, last: Any) -> Any:
    if isinstance(values, np.ndarray):
        return np.concatenate([values, np.asarray(last, values.dtype)[None]])
    return [*values, last]


class _Split:
    """The shards of one split. Their names say how many there are, so they are given at the end."""

    def __init__(self, folder: Path, name: str, split: str, options: ExportOptions) -> None:
        if "/" in name + split or not name or not split:
            raise IncompatibleError(f"{name!r} and {split!r} cannot name files")
        self.folder, self.name, self.split, self.options = folder, name, split, options
        self.lengths: list[int] = []
        self.num_bytes = 0
        self._writer: RecordWriter | None = None

    def write(self, record: bytes) -> None:
        """Append an episode."""
        if self._writer is not None and self._writer.num_bytes >= self.options.shard_mb << 20:
            self._finish()
        if self._writer is None:
            self._writer = RecordWriter(self._unnamed(len(self.lengths)), self.options.compression)
        self._writer.write(record)
        self.num_bytes += len(record)

    def entry(self) -> dict[str, Any]:
        """What `dataset_info.json` says about the split."""
        return {
            "name": self.split,
            "shardLengths": [str(length) for length in self.lengths],
            "numBytes": str(self.num_bytes),
            "filepathTemplate": _TEMPLATE,
        }

    def __enter__(self) -> _Split:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()
            total = len(self.lengths)
            for index in range(total):
                name = f"{self.name}-{self.split}.tfrecord-{index:05d}-of-{total:05d}"
                os.rename(self._unnamed(index), self.folder / name)

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self.lengths.append(self._writer.num_records)
            self._writer = None

    def _unnamed(self, index: int) -> Path:
        return self.folder / f".{self.split}-{index}"


def _write_json(path: Path, value: Any) -> None:
    try:
        path.write_text(json.dumps(value, indent=4) + "\n", encoding="utf-8")
    except OSError as err:
        raise ResourceError(f"{path}: cannot be written: {err.strerror}", path=path) from err
