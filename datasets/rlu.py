"""RL Unplugged's raw shards (Gulcehre et al., 2020): TFRecord files of episodes without a `features.json`.

Four layouts, told apart by the names in the first record, as TFDS' builders `rlu_control_suite`, `rlu_rwrl`,
`rlu_locomotion`, `rlu_atari` and `rlu_dmlab` read them:

* `dm_env` (control suite, locomotion): a row is a dm_env time step, whose reward and discount came with its
  observation. They are moved to the row of the action that earned them; the last step is only the final
  observation, and the first reward and discount (NaN or 0), which belong to no action, disappear.
* `rwrl` (real world RL, whose names have colons): the same, and the action of a row led to its observation
  too (google-deepmind/deepmind-research, `rl_unplugged/rwrl.py`): it is moved as the reward is.
* `atari`: the rewards are those of the row's action. Of an episode that ends in a terminal state the last
  step is only an observation.
* `dmlab`: the rewards are those of the row's action, no state is terminal; pictures have blue first.

An episode is terminated if its last discount is 0. Widths of vectors follow from the number of steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlcli.config import opt
from rlcli.datasets import tfrecord
from rlcli.datasets.contract import Request, Seen
from rlcli.datasets.example import Values, decode
from rlcli.datasets.features import Field, tree_of
from rlcli.datasets.rlds import Options as RLDSOptions
from rlcli.datasets.rlds import RLDSSource
from rlcli.datasets.rlds_directory import Directory, Shard
from rlcli.datasets.rlds_runs import at
from rlcli.errors import CorruptError, InputError

Layout = Literal["dm_env", "rwrl", "atari", "dmlab"]

_SHARD = re.compile(r"(?P<prefix>.+)-(?P<index>\d{5})-of-(?P<total>\d{5})")
_CAMERA = (64, 64, 3)  # of locomotion; raw pixels of all steps in one string


@dataclass(frozen=True)
class Options:
    """What `--set` may say when reading raw RL Unplugged."""

    allow_missing_shards: bool = opt(False, "Read the shards that are there and count the others.")
    dct: Literal["accurate", "fast"] = opt("accurate", "How JPEG is decoded; see RLDS.")


def detect(path: Path) -> Seen:
    """Whether `path` is a shard of RL Unplugged or a folder of them.

    Raises `CorruptError` where a first shard that begins as TFRecords do is damaged.
    """
    files = _files(path)
    if not files:
        return Seen(False, "no files named …-00000-of-00100 there")
    if tfrecord.sniff(files[0]) is None:
        return Seen(False, f"{files[0].name} is not a TFRecord file")
    record = next(tfrecord.read_records(files[0]), None)
    if record is None:
        return Seen(False, f"{files[0].name} has no records")
    try:
        layout = _layout(decode(record[1]))
    except CorruptError as err:
        return Seen(False, err.message)
    if layout is None:
        return Seen(False, "its records are no episodes of RL Unplugged")
    return Seen(True, f"RL Unplugged ({layout}), {len(files)} {'shard' if len(files) == 1 else 'shards'}")


@contextmanager
def open_source(path: Path, request: Request, options: Options) -> Iterator[RLDSSource]:
    """The shards at `path`, as RLDS.

    Raises `InputError` for missing shards and for records of no known layout, `CorruptError` for damage.
    """
    files = _files(path)
    if not files:
        raise InputError(f"{path}: no files named …-00000-of-00100 there", path=path)
    position, example = _first(files[0])
    layout = _layout(example)
    if layout is None:
        names = ", ".join(sorted(example)[:8])
        raise InputError(f"{files[0]}: no layout of RL Unplugged has the features {names}", path=path)
    with at(files[0], position):
        fields = _fields(_TRANSLATIONS[layout](example))
    folder = path if path.is_dir() else path.parent
    lost = [] if path.is_file() else _missing(files)
    shards = [Shard(file, "train", "tfrecord") for file in files]
    directory = Directory(folder, folder.name, "", {}, {"train": shards}, {"train": lost})

    def translated(record: bytes) -> dict[str, Values]:
        return _TRANSLATIONS[layout](decode(record))

    last_step: Literal["keep", "drop"] = "keep" if layout == "dmlab" else "drop"
    rlds_options = RLDSOptions("train", last_step, options.allow_missing_shards, options.dct)
    source = RLDSSource(directory, tree_of(fields), fields, request, rlds_options, translated)
    source.record["layout"] = layout
    if layout == "dm_env":
        source.record["alignment"] = (
            "dm_env: reward and discount of a row are those of the row before, moved back"
        )
    if layout == "rwrl":
        source.record["alignment"] = (
            "arrival: action, reward and discount of a row are those of the row before, moved back"
        )
    if layout == "dmlab":
        source.report.remarks.append("pictures are stored blue first and are kept so")
    yield source


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if _SHARD.fullmatch(path.name) else []
    found = [file for file in sorted(path.iterdir()) if _SHARD.fullmatch(file.name) and file.is_file()]
    return [] if (path / "features.json").exists() else found


def _missing(files: list[Path]) -> list[str]:
    """The names that the numbers in the others' names say are missing."""
    there = {(match["prefix"], int(match["total"])): match for match in map(_match, files)}
    names = {file.name for file in files}
    return [
        name
        for prefix, total in there
        for index in range(total)
        if (name := f"{prefix}-{index:05d}-of-{total:05d}") not in names
    ]


def _match(file: Path) -> re.Match[str]:
    match = _SHARD.fullmatch(file.name)
    assert match is not None
    return match


def _first(file: Path) -> tuple[int, dict[str, Values]]:
    for position, record in tfrecord.read_records(file):
        with at(file, position):
            return position, decode(record)
    raise InputError(f"{file}: has no records", path=file)


def _layout(example: Mapping[str, Values]) -> Layout | None:
    if {"reward", "discount", "action"} <= example.keys():
        if any(name.startswith("observation:") for name in example):
            return "rwrl"
        return "dm_env" if "step_type" in example else None
    if {"observations", "actions", "unclipped_rewards", "discounts"} <= example.keys():
        return "atari"
    if {"observations_pixels", "actions", "rewards", "discounts"} <= example.keys():
        return "dmlab"
    return None


def _fields(example: Mapping[str, Values]) -> tuple[Field, ...]:
    """The features of a translated record; what is a step's has as many values per step as fit."""
    length = _size(example, "steps/discount")
    found = []
    for name, values in example.items():
        path = tuple(name.split("/"))
        if values is None or name in ("steps/is_first", "steps/is_last", "steps/is_terminal"):
            continue
        if path[0] != "steps":
            found.append(Field(path, "tensor", _dtype(values)))
            continue
        if len(values) % length:
            raise CorruptError(f"{name}: {len(values):,} values for {length:,} steps")
        width = len(values) // length
        if isinstance(values, list):
            is_raw = all(len(value) == np.prod(_CAMERA) for value in values)
            shape = _CAMERA if is_raw else (None, None, None)
            kind: Literal["tensor", "image"] = "tensor" if is_raw else "image"
            found.append(Field(path, kind, "uint8", shape, "bytes" if is_raw else "", (None,)))
        else:
            is_vector = (
                path[1] == "observation" or (path[1] == "action" and values.dtype.kind == "f") or width > 1
            )
            found.append(
                Field(path, "tensor", _dtype(values), (width,) if is_vector else (), "none", (None,))
            )
    return tuple(found)


def _dm_env(example: Mapping[str, Values]) -> dict[str, Values]:
    length = _size(example, "discount")
    steps: dict[str, Values] = {}
    for name, values in example.items():
        path = re.split("[/:]", name)
        if path[0] in ("observation", "action"):
            if isinstance(values, list) and len(values) == 1 and length > 1:
                blob, size = values[0], len(values[0]) // length
                values = [blob[index * size : (index + 1) * size] for index in range(length)]
                if size * length != len(blob):
                    raise CorruptError(f"{name}: {len(blob):,} bytes for {length:,} steps")
            steps["/".join(["steps", *path])] = values
        elif name in ("reward", "discount"):
            if not isinstance(values, np.ndarray) or len(values) != length:
                raise CorruptError(f"{name}: not one number for each of {length:,} steps")
            steps[f"steps/{name}"] = np.append(values[1:], 0).astype(np.float32)
        elif name != "step_type":
            steps[name] = values
    discount = steps["steps/discount"]
    terminated = length > 1 and discount is not None and discount[length - 2] == 0
    return {**steps, **_flags(length, terminated=bool(terminated))}


def _rwrl(example: Mapping[str, Values]) -> dict[str, Values]:
    length, found = _size(example, "discount"), _dm_env(example)
    values = found["steps/action"]
    if not isinstance(values, np.ndarray) or len(values) % length:
        raise CorruptError(f"action: not as many numbers for each of {length:,} steps")
    width = len(values) // length
    return {**found, "steps/action": np.append(values[width:], np.zeros(width, values.dtype))}


def _atari(example: Mapping[str, Values]) -> dict[str, Values]:
    length = _size(example, "actions")
    renamed = {
        "observations": "steps/observation", "actions": "steps/action", "unclipped_rewards": "steps/reward",
        "clipped_rewards": "steps/clipped_reward", "discounts": "steps/discount",
    }  # fmt: skip
    steps = {renamed.get(name, name): values for name, values in example.items()}
    discount = example["discounts"]
    terminated = isinstance(discount, np.ndarray) and len(discount) > 0 and bool(discount[-1] == 0)
    if terminated and isinstance(discount, np.ndarray):
        steps["steps/discount"] = np.append(discount[1:], 0).astype(np.float32)
    return {**steps, **_flags(length, terminated=terminated, flagged=terminated)}


def _dmlab(example: Mapping[str, Values]) -> dict[str, Values]:
    renamed = {
        "observations_pixels": "steps/observation/pixels",
        "observations_reward": "steps/observation/last_reward",
        "observations_action": "steps/observation/last_action", "actions": "steps/action",
        "rewards": "steps/reward", "discounts": "steps/discount",
        "discounted_rewards": "steps/discounted_reward",
    }  # fmt: skip
    steps = {renamed.get(name, name): values for name, values in example.items()}
    return {**steps, **_flags(_size(example, "actions"), terminated=False)}


_TRANSLATIONS = {"dm_env": _dm_env, "rwrl": _rwrl, "atari": _atari, "dmlab": _dmlab}


def _flags(length: int, *, terminated: bool, flagged: bool = True) -> dict[str, Values]:
    first, last = np.zeros(length, np.int64), np.zeros(length, np.int64)
    first[:1], last[-1:] = 1, 1
    return {
        "steps/is_first": first,
        "steps/is_last": last * flagged,
        "steps/is_terminal": last * terminated,
    }


def _size(example: Mapping[str, Values], name: str) -> int:
    values = example.get(name)
    if values is None or not len(values):
        raise CorruptError(f"{name}: absent or empty, so that the episode has no length")
    return len(values)


def _dtype(values: Any) -> str:
    return "string" if isinstance(values, list) else str(values.dtype)
