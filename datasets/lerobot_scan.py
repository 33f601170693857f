"""A LeRobot dataset looked through once: where episodes are, by their rows, and what lists and pictures hold.

`episode_index` in the rows says which rows are an episode; the metadata are compared with that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.lerobot_meta import Meta
from rlcli.datasets.lerobot_tables import Tables
from rlcli.datasets.regular import by_numbers
from rlcli.datasets.rlds_images import look
from rlcli.datasets.stopping import heeding
from rlcli.errors import CorruptError, InputError

_NUMBERS = ("frame_index", "index", "next.done")
_BATCH_ROWS = 1 << 16
FLAGS = ("next.done", "next.terminated", "next.truncated")


@dataclass
class Scan:
    """What was found. `episodes` are `[episode_index, file, first row, stop]`; `columns` name -> what it is:
    `numbers` (dtype, shape), `lists` (dtype, shape behind an open first axis), `text`, or `picture` (codec,
    height, width, channels, bits).
    """

    files: list[str] = field(default_factory=list)
    episodes: list[list[int]] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    inexact: list[str] = field(default_factory=list)
    done_at_ends: list[bool] = field(default_factory=list)
    lossy: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def scan(meta: Meta, tables: Tables) -> Scan:
    """Looks through all data files. Raises `InputError` for a dataset without rows, `CorruptError`."""
    found = Scan()
    paths = sorted((meta.root / "data").rglob("*.parquet"), key=lambda file: by_numbers(str(file)))
    if not paths:
        raise InputError(f"{meta.root}: no Parquet file in its folder data", path=meta.root)
    index = 0
    for path in paths:
        with tables.open(path) as opened:
            names = opened.schema_arrow.names
            rows = opened.metadata.num_rows
            if not rows:
                continue
            if not found.columns:
                _look_at_columns(found, meta, tables, opened, path)
            _widen(found, tables, opened.schema_arrow)
            if "episode_index" not in names:
                raise InputError(f"{path}: no column episode_index", path=path)
            _note_episodes(found, _numbers(tables, opened, path), path, index)
        found.files.append(str(path.relative_to(meta.root)))
        index += rows
    if not found.episodes:
        raise InputError(f"{meta.root}: has no rows", path=meta.root)
    _compare(found, meta)
    return found


def _numbers(tables: Tables, opened: Any, path: Path) -> Iterator[dict[str, NDArray[Any]]]:
    """What says where episodes are, some rows at a time."""
    wanted = [name for name in ("episode_index", "timestamp", *_NUMBERS) if name in opened.schema_arrow.names]
    for columns in heeding(tables.batches(opened, path, wanted, _BATCH_ROWS)):
        numbers = {n: tables.numbers(column, path) for n, column in columns.items() if n != "timestamp"}
        numbers["episode_index"] = tables.integers(columns["episode_index"], path)
        yield numbers


def _note_episodes(found: Scan, batches: Iterable[dict[str, NDArray[Any]]], path: Path, index: int) -> None:
    """Notes the episodes of a file whose first row is row `index` of all."""
    known = {entry[0] for entry in found.episodes}
    first_done = len(found.done_at_ends)
    rows = 0
    for numbers in batches:
        episode = numbers["episode_index"]
        starts = np.flatnonzero(np.diff(episode, prepend=episode[0] - 1))
        stops = np.append(starts[1:], len(episode))
        firsts = starts + rows
        goes_on = rows > 0 and found.episodes[-1][0] == episode[0]  # of the rows before
        if goes_on:
            number, _, firsts[0], _ = found.episodes.pop()
            known.remove(number)
        for number, first, stop in zip(
            episode[starts].tolist(), firsts.tolist(), (stops + rows).tolist(), strict=True
        ):
            if number in known:
                raise InputError(f"{path}: episode {number} has rows in two places", path=path)
            known.add(number)
            found.episodes.append([number, len(found.files), first, stop])
        here = np.arange(rows, rows + len(episode))
        expected = {"frame_index": here - np.repeat(firsts, stops - starts), "index": index + here}
        for name, values in expected.items():
            if name in numbers and (numbers[name] != values).any():
                _say(found.inexact, name)
        if "next.done" in numbers:
            done = numbers["next.done"] != 0
            early = [found.done_at_ends.pop()] if goes_on else []
            found.done_at_ends += done[stops - 1].tolist()
            done[stops - 1] = False
            if done.any() or any(early):
                _say(found.inexact, "next.done")
        rows += len(episode)
    if not all(found.done_at_ends[first_done:]):
        _say(found.inexact, "next.done")


def _look_at_columns(found: Scan, meta: Meta, tables: Tables, opened: Any, path: Path) -> None:
    """What the columns of the first file hold; its first row tells the sizes of lists and pictures."""
    kinds = tables.arrow.types
    with tables.damage(path):
        first = next(opened.iter_batches(batch_size=1, use_threads=False), None)
    if first is None:
        return
    for name in opened.schema_arrow.names:
        column, feature = first.column(name), meta.features.get(name)
        if feature is None:
            found.lossy.append(f"{name} is no feature of info.json; it is left out")
        elif tables.is_text(column.type):
            found.columns[name] = ["text"]
        elif feature["dtype"] == "image" and (kinds.is_struct(column.type) or _is_binary(kinds, column.type)):
            picture = look(f"{path}: {name}", picture_bytes(column[0].as_py(), meta.root, f"{path}: {name}"))
            found.columns[name] = ["picture", *picture]
        elif (dtype := tables.dtype(column.type)) is None and kinds.is_nested(column.type):
            found.columns[name] = ["text"]
            found.remarks.append(f"{name} is kept as JSON: values of type {column.type}")
        elif dtype is None:
            found.lossy.append(f"{name} is not kept: values of type {column.type}")
        else:
            values = tables.values(column, f"{path}: {name}")
            shape = list(np.shape(values[0]))
            declared = feature["shape"]
            if len(shape) == len(declared) + 1 and not kinds.is_fixed_size_list(column.type):
                found.columns[name] = ["lists", dtype, shape[1:]]
                continue
            if shape != declared and (shape or declared != [1]):
                found.remarks.append(f"{name} has shape {shape}, info.json says {declared}")
            found.columns[name] = ["numbers", dtype, shape or declared]
    absent = meta.features.keys() - found.columns.keys() - set(meta.cameras) - set(opened.schema_arrow.names)
    found.remarks += [f"{name} is a feature of info.json without a column" for name in sorted(absent)]


def _is_binary(kinds: Any, kind: Any) -> bool:
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind))


def _widen(found: Scan, tables: Tables, schema: Any) -> None:
    """Takes the types of another file's columns into account: one dtype has to hold the numbers of all."""
    for name, told in found.columns.items():
        if told[0] in ("numbers", "lists") and name in schema.names:
            dtype = tables.dtype(schema.field(name).type)
            if dtype not in (None, told[1]):
                told[1] = str(np.result_type(dtype, told[1]))


def picture_bytes(value: Any, root: Path, where: str) -> bytes:
    """The bytes of a picture in a row; of those that are files, only files of the dataset are read."""
    data = value if isinstance(value, bytes) else (value or {}).get("bytes")
    if data is not None:
        return bytes(data)
    name = (value or {}).get("path")
    if not name:
        raise CorruptError(f"{where}: a row without a picture")
    path = (root / name).resolve()
    if root.resolve() not in path.parents:
        raise CorruptError(f"{where}: the picture {name!r} lies outside the dataset")
    if not path.is_file():
        raise InputError(f"{where}: the picture {path} is missing", path=path)
    found: bytes = path.read_bytes()
    return found


def _compare(found: Scan, meta: Meta) -> None:
    """Adds what the metadata say otherwise than the rows."""
    numbers = [entry[0] for entry in found.episodes]
    if numbers != list(range(len(numbers))):
        found.inexact.append("episode_index")
    rows = sum(stop - start for _, _, start, stop in found.episodes)
    for name, there in (("total_episodes", len(numbers)), ("total_frames", rows)):
        told = meta.info.get(name)
        if isinstance(told, int) and told != there:
            found.remarks.append(
                f"info.json says {told:,} {name.removeprefix('total_')}, {there:,} are there"
            )
    lengths = {number: stop - start for number, _, start, stop in found.episodes}
    wrong = [n for n, told in meta.lengths.items() if n in lengths and lengths[n] != told]
    if wrong:
        first = wrong[0]
        found.remarks.append(
            f"{len(wrong):,} episodes have another length than their metadata say, first {first}: "
            f"{lengths[first]:,} rows, {meta.lengths[first]:,} told"
        )
    if lost := sorted(meta.lengths.keys() - lengths.keys()):
        found.remarks.append(f"{len(lost):,} episodes of the metadata have no rows, first {lost[0]}")


def _say(sentences: list[str], sentence: str) -> None:
    if sentence not in sentences:
        sentences.append(sentence)
