"""Writing D4RL HDF5 files: the one a dataset came from, bit for bit, or a new one from any dataset.

`rl_spec` and `rl_columns`, attributes of new files, hold the spaces and keys that D4RL files otherwise lose;
other readers ignore them.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets import hdf5
from rlcli.datasets.contract import Advance, NoOptions, Report
from rlcli.datasets.d4rl_layout import COLUMNS
from rlcli.datasets.hdf5_output import creating
from rlcli.datasets.plain_export import free_name, is_bfloat16, lost_cuts, lost_encoding, lost_seeds
from rlcli.errors import CorruptError, IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key

_DERIVED = {("is_init",), ("episode",), ("step",), ("next", "done")}
_STANDARD: dict[Key, str] = {
    ("next", "reward"): "rewards",
    ("next", "terminated"): "terminals",
    ("next", "truncated"): "timeouts",
}


def write_file(path: Path, values: Mapping[str, Any], *, compression: str | None = "gzip") -> None:
    """A D4RL file from arrays by key: `observations`, `infos/qpos`, `metadata/algorithm`, ….

    Arrays are chunked and compressed as in the published files; single values are stored as they are.
    Raises `FileExistsError` if `path` is there.
    """
    with creating(path) as output:
        for name, value in values.items():
            array = np.asarray(value)
            output.file.create_dataset(name, data=array, compression=compression if array.ndim else None)
            output.check()


def source_record(dataset: Dataset) -> dict[str, Any] | None:
    """What the conversion from a D4RL file recorded, None for a dataset that comes from anything else."""
    record = (dataset.extra or {}).get("source")
    return record if isinstance(record, dict) and "skeleton" in record else None


def export(dataset: Dataset, out: Path, options: NoOptions, advance: Advance) -> Report:
    """Write `dataset` to the new file `out`, in slices of at most 64 MiB.

    A dataset from D4RL becomes the original again: values, dtypes, shapes, chunks, metadata, absent keys.
    Any other gets `observations`, `actions`, `rewards`, `terminals`, `timeouts`, its other columns below
    `infos/`, and `next_observations` unless one of them is unknown. Every episode's end that did not
    terminate is a timeout there, since D4RL has no other sign of it.

    Raises `ResourceError` when the disk is full.
    """
    record = source_record(dataset)
    with creating(out) as output:
        file = output.file
        if record is not None:
            columns, report = _original(dataset, record, file)
        else:
            columns, report = _new(dataset, file)
        ends = episode_ends(dataset)
        step = hdf5.slice_rows(list(columns.values()))
        for start in range(0, dataset.num_rows, step):
            stop = min(start + step, dataset.num_rows)
            for name, column in columns.items():
                key = report.details["columns"][name]
                values = _values(dataset, key, start, stop, ends, original=record is not None)
                column.write(start, values)
                output.check()
                advance(values.nbytes)
    return report


def skeleton_of(record: Mapping[str, Any]) -> bytes:
    """The HDF5 image in a record. Raises `CorruptError` if it cannot be unpacked."""
    try:
        return zlib.decompress(base64.b64decode(record["skeleton"], validate=True))
    except (KeyError, TypeError, binascii.Error, zlib.error) as err:
        raise CorruptError(f"the record of the D4RL source is damaged: {err}") from err


def episode_ends(dataset: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`(all, cut)`: the last row of every episode, and of those that were cut."""
    episodes = dataset.episodes
    last = np.asarray(episodes.start) + np.asarray(episodes.length) - 1
    cut = last[np.asarray(episodes.cut, np.bool_)]
    return last.astype(np.int64), cut.astype(np.int64)


def _original(dataset: Dataset, record: Mapping[str, Any], file: Any) -> tuple[dict[str, hdf5.Rows], Report]:
    prefixes, keys = record["prefixes"], record["columns"]
    same = dataset.num_rows == record["num_rows"]
    if not same and len(prefixes) > 1:
        raise IncompatibleError(
            f"{dataset.path}: has {dataset.num_rows:,} rows; its source had {record['num_rows']:,} in "
            f"{len(prefixes)} parts, which cannot be cut again",
            path=dataset.path,
        )
    paths = [prefix + name for prefix in prefixes for name in keys]
    hdf5.revive(skeleton_of(record), file, paths, None if same else dataset.num_rows)
    columns = {name: hdf5.Rows([file[prefix + name] for prefix in prefixes]) for name in keys}
    told = {"original": True, "columns": {name: tuple(key) for name, key in keys.items()}}
    return columns, Report(details=told)


def _new(dataset: Dataset, file: Any) -> tuple[dict[str, hdf5.Rows], Report]:
    names: dict[str, Key] = {}
    lossy = []
    unknown = len(dataset.unknown_next)
    named = ["/".join(("infos", *c.key[1:])) for c in dataset.schema.columns if c.key[0] == "info"]
    for column in dataset.schema.columns:
        key = column.key
        if key in _DERIVED:
            continue
        if not column.is_sized:
            what = "text" if column.is_text else "of different sizes"
            lossy.append(f"{'/'.join(key)}: its values are {what}, which D4RL files do not hold")
            continue
        lossy += lost_encoding(column)
        if key[0] in ("observation", "action"):
            names["/".join((key[0] + "s", *key[1:]))] = key
        elif key[:2] == ("next", "observation"):
            if unknown:
                lossy.append(f"next_observations: unknown for {unknown:,} rows; the file cannot say which")
                known = len(episode_ends(dataset)[0]) - unknown
                if column.encoding == "derived" and known:
                    lossy.append(f"next_observations: {known:,} known ends are lost, as others are unknown")
            else:
                names["/".join(("next_observations", *key[2:]))] = key
        elif key in _STANDARD:
            names[_STANDARD[key]] = key
        else:
            name = "/".join(("infos", *(key[1:] if key[0] in ("info", "source") else key)))
            names[free_name(name, key, names if key[0] == "info" else [*names, *named])] = key
    columns = {}
    for name, key in names.items():
        column = dataset.schema.column(key)
        shape = () if name in _STANDARD.values() else column.shape
        file.create_dataset(name, (dataset.num_rows, *shape), column.numpy, chunks=True, compression="gzip")
        columns[name] = hdf5.Rows([file[name]])
        if is_bfloat16(dataset, key):
            lossy.append(f"{name}: bfloat16 is written as its bits, in uint16")
    file.attrs["rl_spec"] = json.dumps(dataset.spec)
    told = {name: list(key) for name, key in names.items() if not _says_its_key(name, key)}
    file.attrs[COLUMNS] = json.dumps(told)
    lossy += lost_seeds(dataset) + lost_cuts(dataset)
    return columns, Report(lossy=list(dict.fromkeys(lossy)), details={"original": False, "columns": names})


def _says_its_key(name: str, key: Key) -> bool:
    """Whether the name of an array in the file is enough to know the key again."""
    return not name.startswith("infos/") or (name == "/".join(("infos", *key[1:])) and key[0] == "info")


def _values(
    dataset: Dataset,
    key: Key,
    start: int,
    stop: int,
    ends: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    original: bool,
) -> NDArray[Any]:
    values = dataset.read(key, start, stop)
    if values.dtype.kind == "O":  # of a heap, all of one size
        values = np.stack(list(values))
    if key == ("next", "truncated"):
        every, cut = ends
        if original:  # a cut is ours, not the source's
            values[cut[(cut >= start) & (cut < stop)] - start] = False
        else:
            rows = every[(every >= start) & (every < stop)] - start
            values[rows] |= ~dataset.read(("next", "terminated"), start, stop)[rows]
    return values
