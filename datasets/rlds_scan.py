"""The first look through the records of an RLDS dataset, without decoding a picture.

A record is an episode and says its length only when it is read, and what `features.json` leaves open (sizes,
encodings, whether strings are text, whether flags agree with where records end) decides the columns. What was
found travels to the workers of a conversion as its plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.example import Values, decode
from rlcli.datasets.features import Field
from rlcli.datasets.rlds_directory import Shard
from rlcli.datasets.rlds_images import Picture, look
from rlcli.datasets.rlds_values import Ragged, count, read
from rlcli.errors import CorruptError, IncompatibleError

FLAGS = ("is_first", "is_last", "is_terminal")
_MAX_VARIANTS = 16  # different sizes of one feature that are told apart; more is "varies"


@dataclass
class Scan:
    """What all records say together.

    `shards` has `(records, episodes with steps, steps, steps if padding is dropped)` of each shard. `shapes`
    and `pictures` are the different ones seen of features whose size `features.json` leaves open, `binary`
    the features whose strings are not all UTF-8, `seen` the features that any record has, `inexact` the
    flags that do not follow from where episodes begin and end, and `reward` if it is more than float32.
    `padded`: every last step is flagged and its action and reward are zero, though other actions are not.
    """

    shards: list[tuple[int, int, int, int]] = field(default_factory=list)
    shapes: dict[str, set[tuple[int, ...]]] = field(default_factory=dict)
    pictures: dict[str, set[Picture]] = field(default_factory=dict)
    binary: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    inexact: set[str] = field(default_factory=set)
    all_padded: bool = True
    any_action: bool = False

    @property
    def padded(self) -> bool:
        return self.all_padded and self.any_action

    def to_json(self) -> dict[str, Any]:
        return {
            "shards": [list(shard) for shard in self.shards],
            "shapes": {name: sorted(map(list, shapes)) for name, shapes in self.shapes.items()},
            "pictures": {name: sorted(map(list, found)) for name, found in self.pictures.items()},
            **{name: sorted(getattr(self, name)) for name in ("binary", "seen", "inexact")},
            "all_padded": self.all_padded,
            "any_action": self.any_action,
        }

    @staticmethod
    def from_json(plan: Mapping[str, Any]) -> Scan:
        """The inverse of `to_json`."""
        return Scan(
            [(a, b, c, d) for a, b, c, d in plan["shards"]],
            {name: {tuple(shape) for shape in shapes} for name, shapes in plan["shapes"].items()},
            {name: {Picture(*picture) for picture in found} for name, found in plan["pictures"].items()},
            set(plan["binary"]),
            set(plan["seen"]),
            set(plan["inexact"]),
            plan["all_padded"],
            plan["any_action"],
        )


Decode = Callable[[bytes], dict[str, Values]]  # a record as the features of an RLDS episode


def scan(shards: Sequence[Shard], fields: Sequence[Field], decode: Decode = decode) -> Scan:
    """Reads every record of `shards`. Raises `CorruptError` that names file, position and feature."""
    found = Scan()
    for shard in shards:
        records = episodes = steps = unpadded = 0
        for position, record in shard.read():
            records += 1
            with at(shard.path, position):
                example = decode(record)
                length = num_steps(example, fields)
                _note(found, example, fields, length)
                last = flag(example, "is_last", length)
            if length:
                episodes += 1
                steps += length
                unpadded += length - 1 if last is not None and last[-1] else length
        found.shards.append((records, episodes, steps, unpadded))
    return found


@contextmanager
def at(path: Path, position: int) -> Iterator[None]:
    """Errors about a record name its file and where it begins."""
    try:
        yield
    except CorruptError as err:
        raise CorruptError(f"{path}: record at {position:,}: {err.message}", path=path) from err
    except IncompatibleError as err:
        raise IncompatibleError(f"{path}: record at {position:,}: {err.message}", path=path) from err


def num_steps(example: Mapping[str, Values], fields: Iterable[Field]) -> int:
    """How many steps an episode has. Raises `CorruptError` unless all features that are there agree."""
    agreed, by = 0, ""
    for item in fields:
        if item.path[0] == "steps":
            number = count(item, example)
            if agreed and number not in (0, agreed):
                raise CorruptError(f"{by} has {agreed:,} steps, {item.name} has {number:,}")
            if number and not agreed:
                agreed, by = number, item.name
    return agreed


def flag(example: Mapping[str, Values], name: str, length: int) -> NDArray[np.bool_] | None:
    """The flag `steps/<name>` of each step, None where it is absent."""
    values = example.get(f"steps/{name}")
    if not isinstance(values, np.ndarray) or len(values) != length:
        return None
    return np.asarray(values != 0)


def _note(found: Scan, example: Mapping[str, Values], fields: Sequence[Field], length: int) -> None:
    for item in fields:
        number = count(item, example)
        if not number:
            continue
        found.seen.add(item.name)
        if item.is_deep:
            continue
        if item.kind == "image":
            known = found.pictures.setdefault(item.name, set())
            for data in _strings(item, example, number):
                if data and len(known) < _MAX_VARIANTS:
                    known.add(look(item.name, data))
        elif item.is_bytes and item.name not in found.binary:
            previous = None
            for data in _strings(item, example, number):
                if data != previous and not _is_text(data):
                    found.binary.add(item.name)
                    break
                previous = data
        elif None in item.shape and not item.is_bytes and len(item.lengths) < 2:
            shapes = found.shapes.setdefault(item.name, set())
            if len(shapes) < _MAX_VARIANTS:
                shapes.update(_shapes(read(item, example, 0, number)))
    if length:
        _note_flags(found, example, length)
        _note_padding(found, example, fields, length)


def _note_flags(found: Scan, example: Mapping[str, Values], length: int) -> None:
    first, last, terminal = (flag(example, name, length) for name in FLAGS)
    if first is not None and (not first[0] or first[1:].any()):
        found.inexact.add("is_first")
    if last is not None and (not last[-1] or last[:-1].any()):
        found.inexact.add("is_last")
    if terminal is not None and terminal[:-1].any():
        found.inexact.add("is_terminal")
    reward = example.get("steps/reward")
    if isinstance(reward, np.ndarray) and reward.dtype == np.int64:
        with np.errstate(over="ignore"):
            if (reward.astype(np.float32).astype(np.float64) != reward).any():
                found.inexact.add("reward")


def _note_padding(found: Scan, example: Mapping[str, Values], fields: Sequence[Field], length: int) -> None:
    last = flag(example, "is_last", length)
    found.all_padded &= last is not None and bool(last[-1])
    for item in fields:
        is_action = item.path[:2] == ("steps", "action")
        if (is_action or item.path == ("steps", "reward")) and not item.is_bytes and item.encoding == "none":
            values = example.get(item.name)
            if isinstance(values, np.ndarray) and len(values):
                found.all_padded &= not values[-(len(values) // length) :].any()
                found.any_action |= is_action and bool(values.any())


def _strings(item: Field, example: Mapping[str, Values], number: int) -> list[bytes]:
    """All byte strings of a feature, those of lists one after the other."""
    found: Any = read(item, example, 0, number)
    return [value for each in found for value in (each if isinstance(each, list) else [each])]


def _shapes(values: Any) -> set[tuple[int, ...]]:
    if isinstance(values, Ragged):
        return set()
    return {value.shape for value in values}


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
