"""Comparing a D4RL file with a dataset, row by row, without any code of the conversion.

The file is read with plain h5py slices and each key is held against the column of ours that says the same.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rlcli.datasets import hdf5
from rlcli.datasets.contract import Advance, Comparison
from rlcli.datasets.d4rl_export import episode_ends, skeleton_of, source_record
from rlcli.datasets.slicing import slice_rows
from rlcli.format.dataset import Dataset
from rlcli.format.keys import DTYPES, Key


def compare(path: Path, dataset: Dataset, advance: Advance) -> Comparison:
    """All rows and all keys.

    Problems are sentences, one per key that differs. Sums are float64 sums of the standard keys.
    """
    problems: list[str] = []
    sums: dict[str, list[float]] = {}
    record = source_record(dataset)
    ends = episode_ends(dataset)[1 if record is not None else 0]
    with hdf5.reading(path) as file, hdf5.damage(path):
        for name, parts, key in _pairs(file, dataset):
            if key is None:
                problems.append(f"{name}: the dataset has no such column")
                continue
            rows = sum(part.shape[0] for part in parts)
            if rows != dataset.num_rows:
                problems.append(f"{name}: {rows:,} rows, the dataset has {dataset.num_rows:,}")
                continue
            totals = [0.0, 0.0]
            wrong, first, first_row = 0, "", 0
            for part in parts:
                step = slice_rows(part.dtype.itemsize * int(np.prod(part.shape[1:])))
                for low in range(0, part.shape[0], step):
                    theirs = part[low : low + step]
                    start = first_row + low
                    ours = _ours(dataset, key, start, theirs, ends, record is not None)
                    bad = (_bytes(theirs) != _bytes(ours)).any(axis=1)
                    if bad.any() and not wrong:
                        row = int(np.flatnonzero(bad)[0])
                        first = (
                            f"row {start + row}: {_show(theirs[row])} in the file, {_show(ours[row])} in ours"
                        )
                    wrong += int(bad.sum())
                    if name.split("/")[0] in _SUMMED:
                        totals[0] += float(theirs.sum(dtype=np.float64))
                        totals[1] += float(ours.sum(dtype=np.float64))
                    advance(theirs.nbytes)
                first_row += part.shape[0]
            if wrong:
                problems.append(f"{name}: {wrong:,} of {rows:,} rows differ, first {first}")
            if name.split("/")[0] in _SUMMED:
                sums[name] = totals
        if record is not None:
            problems += _compare_others(file, record)
    problems += _compare_own(dataset)
    return Comparison(dataset.num_rows, problems, sums)


_SUMMED = ("observations", "actions", "rewards", "terminals", "timeouts")


def _pairs(file: h5py.File, dataset: Dataset) -> Iterator[tuple[str, list[h5py.Dataset], Key | None]]:
    """Each per-row key of the file, its datasets in order, and the column that should equal it."""
    record = source_record(dataset)
    known = {column.key for column in dataset.schema.columns}
    for name in _row_names(file):
        top, *rest = name.split("/")
        key: Key | None
        if record is not None:
            told = record["columns"].get(name)
            key = None if told is None else tuple(told)
        elif top in ("observations", "actions"):
            key = (top[:-1], *rest)
        elif top == "next_observations":
            key = ("next", "observation", *rest)
        elif top == "infos":
            options = (
                [tuple(rest[1:])] if rest[0] == "rl" else [("info", *rest), ("source", *rest), tuple(rest)]
            )
            key = next((option for option in options if option in known), None)
        else:
            key = {"rewards": ("next", "reward"), "terminals": ("next", "terminated")}.get(
                name, ("next", "truncated")
            )
        yield name, _parts(file, name), key if key in known else None


def _prefixes(file: Any) -> list[str]:
    if "observations" in file or "virtual" not in file:
        return [""]
    return [f"virtual/{chunk}/" for chunk in sorted(file["virtual"], key=int)]


def _parts(file: Any, name: str) -> list[h5py.Dataset]:
    return [file[prefix + name] for prefix in _prefixes(file)]


def _row_names(file: Any) -> list[str]:
    base = file[_prefixes(file)[0] or "/"]
    rows = next(item.shape[0] for name, item in hdf5.walk(base) if name.startswith("rewards"))
    return [
        name
        for name, item in hdf5.walk(base)
        if item.shape and item.shape[0] == rows and not name.startswith("metadata/")
        if str(item.dtype.newbyteorder("=")) in DTYPES and item.size
    ]


def _ours(
    dataset: Dataset,
    key: Key,
    start: int,
    theirs: NDArray[Any],
    ends: NDArray[np.int64],
    from_d4rl: bool,
) -> NDArray[Any]:
    """Our rows in the file's dtype and shape, with timeouts where the file must have them."""
    stop = start + len(theirs)
    ours = dataset.read(key, start, stop)
    if key == ("next", "truncated"):
        rows = ends[(ends >= start) & (ends < stop)] - start
        if from_d4rl:
            ours[rows] = False
        else:
            ours[rows] |= ~dataset.read(("next", "terminated"), start, stop)[rows]
    return ours.astype(theirs.dtype).reshape(theirs.shape)


def _compare_own(dataset: Dataset) -> Iterator[str]:
    """A second column of an original (`("source", …)`) must agree with the standard one beside it."""
    known = {column.key for column in dataset.schema.columns}
    rewards: Key = ("source", "rewards")
    if source_record(dataset) is None or rewards not in known:
        return
    step = 1 << 20
    for start in range(0, dataset.num_rows, step):
        stop = min(start + step, dataset.num_rows)
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = dataset.read(rewards, start, stop).astype(np.float32)
        if _bytes(rounded).tobytes() != _bytes(dataset.read(("next", "reward"), start, stop)).tobytes():
            yield "rewards: the float32 column is not the rounded original"
            return


def _compare_others(file: h5py.File, record: dict[str, Any]) -> Iterator[str]:
    """Everything that is not rows equals what the record keeps of it."""
    rows = {prefix + name for prefix in record["prefixes"] for name in record["columns"]}
    with h5py.File(io.BytesIO(skeleton_of(record)), "r") as image:
        kept = dict(hdf5.walk(image))
        for name, item in hdf5.walk(file):
            if name not in kept:
                yield f"{name}: not kept"
            elif name not in rows and _value(item) != _value(kept[name]):
                yield f"{name}: not kept as it is"


def _value(item: h5py.Dataset) -> tuple[Any, ...]:
    """A whole dataset as something to compare: dtype, shape and bytes, or objects where it has such."""
    value = np.asarray(item[()])
    return item.dtype, item.shape, _comparable(value.tolist()) if value.dtype.hasobject else value.tobytes()


def _comparable(value: Any) -> Any:
    """Objects of HDF5 with their arrays, which ragged values are, as bytes."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    return [_comparable(item) for item in value] if isinstance(value, list | tuple) else value


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """`[n, row bytes]`."""
    contiguous = np.ascontiguousarray(values)
    return contiguous.view(np.uint8).reshape(len(values), -1)


def _show(row: NDArray[Any]) -> str:
    values = np.asarray(row).reshape(-1)
    return f"{values[:3].tolist()}{' …' if len(values) > 3 else ''}"
