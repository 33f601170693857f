"""V-D4RL: pixels of DM Control, one episode per npz file (64 px) or episodes in a row in HDF5 (84 px).

Alignment is by arrival, as Dreamer's and DrQ-v2's replay have it: row t holds the observation, and the
action and reward that led to it. So T + 1 rows are T transitions, here `(observation[t], action[t + 1],
reward[t + 1], observation[t + 1])`, and the action and reward of an episode's first row mean nothing. Other
replay of Dreamer and of DrQ-v2 in the same layout is read too, of URLB and ExORL say. Older files have no
`is_terminal`: a discount of 0 says the same. Some flags are one longer than the rest (humanoid); only their
last value matters.
"""

from __future__ import annotations

import itertools
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli.config import opt
from rlcli.datasets import hdf5
from rlcli.datasets.contract import Advance, End, Part, Piece, Report, Request, Seen
from rlcli.datasets.hdf5_plain import Hdf5Table
from rlcli.datasets.mapping import storable
from rlcli.datasets.npz import NpzTable
from rlcli.datasets.opened import Opened, is_exact, renamed, spec_of
from rlcli.datasets.plain_table import Table
from rlcli.datasets.slicing import slices
from rlcli.datasets.stopping import heeding
from rlcli.errors import CorruptError, InputError, RLError
from rlcli.format.keys import DTYPES, Key
from rlcli.format.schema import Column, Heap, heap_column, ted_schema
from rlcli.format.specs import spec_from_json

ALIGNMENT = "arrival: action and reward of a row led to its observation; shifted here by one row"
_IMAGES = ("image", "observation")
_FLAGS = ("is_first", "is_last", "is_terminal", "step_type")
_SUFFIXES = (".npz", ".hdf5", ".h5")
_REPLAY = re.compile(r"\d{8}T\d{6}_\d+_(\d+)")  # DrQ-v2's names: when, which episode, how many steps
_LOOKED_AT = 10_000  # entries of a folder
_REWARD: Key = ("next", "reward")
_FILE: Key = ("info", "episode", "file")


@dataclass(frozen=True)
class Options:
    """Reading V-D4RL."""

    axes: Literal["source", "hwc"] = opt(
        "source", "Axes of pictures: as they are, or height, width, channels."
    )


def detect(path: Path) -> Seen:
    """Whether `path` is such a file, or a folder with such files."""
    first = next(_some_files(path), None)
    if first is None:
        return Seen(False, "no npz or HDF5 files there")
    try:
        with _table(first) as table:
            names = set(table.fields)
            is_replay = _is_replay(first, table)
    except (RLError, zipfile.BadZipFile, ValueError) as err:
        if path.is_file() and isinstance(err, CorruptError) and first.suffix == ".npz":
            return Seen(False, "a damaged archive")
        return Seen(False, "no npz or HDF5 files there")
    is_it = {"action", "reward", "discount"} <= names and any(name in names for name in _IMAGES)
    is_it = is_it and ("step_type" in names or "image" in names or is_replay)
    if not is_it:
        return Seen(False, "no observations and actions aligned by arrival")
    what = "replay of DrQ-v2" if is_replay else "V-D4RL"
    return Seen(True, f"{what}, {'folder' if path.is_dir() else first.suffix[1:] + ' file'}")


@contextmanager
def open_source(path: Path, request: Request, options: Options) -> Iterator[VD4RLSource]:
    """All files of a folder, or one; their headers and flags are read once unless `request.plan` tells.

    Raises `InputError` for missing keys, lengths that disagree, or pictures of different shapes.
    """
    files = list(_files(path))
    if not files:
        raise InputError(f"{path}: no npz or HDF5 files there", path=path)
    yield VD4RLSource(path, files, request, options)


@dataclass(frozen=True)
class _Episode:
    """Rows `start … stop - 1` of a file, one more than transitions."""

    file: int
    start: int
    stop: int


class VD4RLSource(Opened):
    """Opened files; a piece is an episode. See `contract.Source`."""

    def __init__(self, path: Path, files: list[Path], request: Request, options: Options) -> None:
        self.path, self.options = path, options
        plan = dict(request.plan) if request.plan else _look_through(path, files)
        self.image: str = plan["image"]
        self.episodes = [_Episode(*each) for each in plan["episodes"]]
        if not self.episodes:
            raise InputError(f"{path}: has no transition", path=path)
        fields = {name: (dtype, tuple(shape)) for name, (dtype, shape) in plan["fields"].items()}
        keys: dict[str, Key] = {
            self.image: ("observation",),
            "action": ("action",),
            "discount": ("discount",),
        }
        for name in fields:
            if name not in keys and name not in (*_FLAGS, "reward"):
                keys[name] = ("info", *storable(name))
        self.keys = {n: k for n, k in renamed(keys, request.mapping, path).items() if k is not None}
        if plan["inexact"]:
            self.keys["reward"] = ("source", "reward")
        self.moves = options.axes == "hwc" and _is_chw(fields[self.image][1])
        columns = [
            Column(key, fields[name][0], self._shape(name, fields[name][1]))
            for name, key in self.keys.items()
        ]
        extra = [c for c in columns if c.key[0] not in ("observation", "action")]
        if path.is_dir():
            extra.append(heap_column(_FILE, Heap("text")))
        spec = spec_of(columns, None, request.env_id)
        schema = ted_schema(spec_from_json(spec["observation"]), spec_from_json(spec["action"]), extra=extra)
        size = schema.row_bytes
        super().__init__(
            schema=schema,
            spec=spec,
            record={
                "alignment": ALIGNMENT,
                "columns": {name: list(key) for name, key in self.keys.items()},
                "original": plan["fields"],
                "axes": "HWC" if self.moves or not _is_chw(fields[self.image][1]) else "CHW",
            },
            report=Report(remarks=list(plan["remarks"]), details={"alignment": ALIGNMENT, **plan["counts"]}),
            files=files,
            pieces=[
                Piece(str(number), (each.stop - each.start - 1) * size, each.stop - each.start - 1, 1)
                for number, each in enumerate(self.episodes)
            ],
            plan=plan,
        )

    def _shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[1:], shape[0]) if name == self.image and self.moves else shape

    def parts(self, piece: Piece, report: Report, advance: Advance) -> Iterator[Part]:
        """The transitions of one episode in slices."""
        each = self.episodes[int(piece.name)]
        with _table(self.files[each.file]) as table:
            final = _terminal(table, each)
            name = self.files[each.file].relative_to(self.path).as_posix() if self.path.is_dir() else ""
            for start, stop in slices(each.start, each.stop - 1, self.slice_rows()):
                columns: dict[Key, Any] = {}
                for source, key in self.keys.items():
                    by = int(source in ("action", "discount", "reward"))
                    values = table.read([source], start + by, stop + by)[source]
                    dtype = self.schema.by_key[key].numpy
                    columns[key] = self._axes(source, values).astype(dtype, copy=False)
                rewards = table.read(["reward"], start + 1, stop + 1)["reward"]
                with np.errstate(over="ignore", invalid="ignore"):
                    columns[_REWARD] = rewards.astype(np.float32).reshape(-1, 1)
                if self.path.is_dir():
                    columns[_FILE] = [name] * (stop - start)
                end = None
                if stop == each.stop - 1:
                    last = self._axes(self.image, table.read([self.image], stop, stop + 1)[self.image])[0]
                    end = End(final, not final, final=last)
                yield Part(columns, end)
                advance((stop - start) * self.schema.row_bytes)

    def _axes(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        moved = np.moveaxis(values, 1, -1) if name == self.image and self.moves else values
        return np.ascontiguousarray(moved)


def _look_through(path: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Fields, and where every episode is, as JSON."""
    told: dict[str, Any] = {"fields": {}, "episodes": [], "inexact": False, "remarks": [], "counts": {}}
    alone, dummies, longer = 0, 0, 0
    for number, file in enumerate(heeding(files)):
        with _table(file) as table:
            image = _check(table, file, told, path)
            size = table.fields[image].rows
            longer += any(f in table.fields and table.fields[f].rows == size + 1 for f in _FLAGS)
            starts = _starts(table, size)
            rewards = table.read(["reward"], 0, size)["reward"]
            told["inexact"] = told["inexact"] or not is_exact(rewards)
            for start, stop in zip(starts, [*starts[1:], size], strict=True):
                if stop - start < 2:
                    alone += 1
                    continue
                dummies += bool(rewards.reshape(-1)[start] != 0)
                told["episodes"].append([number, start, stop])
    if longer:
        told["remarks"].append(f"{longer:,} files have flags one longer than the rest; the last one counts")
    if dummies:
        told["remarks"].append(f"{dummies:,} episodes have a reward before any action; it is left out")
    if alone:
        told["counts"]["episodes_of_an_observation_alone"] = alone
    told["counts"]["first_rows"] = len(told["episodes"])
    return told


def _check(table: Table, file: Path, told: dict[str, Any], path: Path) -> str:
    """The name of the pictures. Raises `InputError` unless the file is like those before."""
    names = table.fields
    image = next((name for name in _IMAGES if name in names), None)
    if missing := [name for name in ("action", "reward", "discount") if name not in names]:
        raise InputError(f"{file}: has no {', '.join(missing)}", path=file)
    if image is None:
        raise InputError(f"{file}: has no {' or '.join(_IMAGES)}", path=file)
    size = names[image].rows
    lengths = {
        n: f.rows for n, f in names.items() if f.rows != size and not (n in _FLAGS and f.rows == size + 1)
    }
    if lengths or size == 0:
        described = ", ".join(f"{name} {rows:,}" for name, rows in lengths.items())
        raise InputError(f"{file}: {image} has {size:,} rows, {described or 'which is none'}", path=file)
    fields = {n: [str(f.dtype), list(f.shape)] for n, f in names.items() if n not in _FLAGS}
    for name, (dtype, shape) in fields.items():
        if dtype not in DTYPES:
            raise InputError(f"{file}: {name} has values of type {dtype}", path=file)
        known = told["fields"].setdefault(name, [dtype, shape])
        if known[1] != shape:
            raise InputError(
                f"{file}: {name} is {dtype}{shape}, before {known[0]}{known[1]}; give one of the folders",
                path=file,
            )
        if name in ("reward", "discount") or known[0] == dtype:
            known[0] = str(np.promote_types(known[0], dtype))
        else:
            raise InputError(f"{file}: {name} is {dtype}, in files before {known[0]}", path=file)
    if odd := sorted(fields.keys() ^ told["fields"].keys()):
        raise InputError(f"{file}: only some files have {', '.join(odd)}; give one of the folders", path=file)
    if told.setdefault("image", image) != image:
        raise InputError(f"{path}: files of two kinds; give one of the folders", path=path)
    return image


def _starts(table: Table, size: int) -> list[int]:
    """Where episodes begin: the file, first steps."""
    flags = np.zeros(size, np.bool_)
    if "step_type" in table.fields:
        flags = table.read(["step_type"], 0, size)["step_type"].reshape(-1)[:size] == 0
    elif "is_first" in table.fields:
        flags = table.read(["is_first"], 0, size)["is_first"].reshape(-1)[:size] != 0
    flags[0] = True
    return np.flatnonzero(flags).tolist()


def _terminal(table: Table, each: _Episode) -> bool:
    """Whether the environment ended there: `is_terminal` where it is known, else a discount of 0."""
    if "is_terminal" in table.fields:
        rows = table.fields["is_terminal"].rows
        is_last = each.stop == table.fields["action"].rows
        at = rows - 1 if is_last else each.stop - 1
        return bool(table.read(["is_terminal"], at, at + 1)["is_terminal"].any())
    return bool((table.read(["discount"], each.stop - 1, each.stop)["discount"] == 0).all())


def _is_chw(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] % 3 == 0 and shape[0] < shape[1] and shape[2] not in (1, 3)


def _files(path: Path) -> Iterator[Path]:
    """The files of a folder in name order; numbers in names are compared as in the published sets."""
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
    elif path.suffix in _SUFFIXES:
        yield path


def _is_replay(path: Path, table: Table) -> bool:
    """Whether a file is an episode of DrQ-v2's replay, as ExORL's are, by its name and its rows."""
    told, found = _REPLAY.fullmatch(path.stem), table.fields.get("observation")
    return told is not None and found is not None and found.rows == int(told[1]) + 1


def _some_files(path: Path) -> Iterator[Path]:
    """Like `_files` in any order, and without looking through huge folders."""
    if not path.is_dir():
        yield from _files(path)
        return
    for file in itertools.islice(path.rglob("*"), _LOOKED_AT):
        if file.suffix in _SUFFIXES and file.is_file():
            yield file


@contextmanager
def _table(path: Path) -> Iterator[Table]:
    if path.suffix == ".npz":
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as err:
            raise CorruptError(f"{path}: damaged archive: {err}", path=path) from err
        with archive:
            table = NpzTable(path, archive)
            try:
                if table.unreadable:
                    name, reason = next(iter(table.unreadable.items()))
                    raise InputError(f"{path}: {name} {reason}", path=path)
                yield table
            finally:
                table.close()
    else:
        with hdf5.reading(path) as file:
            with hdf5.damage(path):
                opened = Hdf5Table(path, file)
            yield opened
