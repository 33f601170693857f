"""The first look through the records of an RLDS dataset, without decoding a picture.

A record is an episode and says its length only when it is read, and what `features.json` leaves open (sizes,
encodings, whether strings are text, whether flags agree with where records end) decides the columns. What was
found travels to the workers of a conversion as its plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.example import Values
from rlcli.datasets.features import Field
from rlcli.datasets.rlds_directory import Shard
from rlcli.datasets.rlds_images import Picture, look
from rlcli.datasets.rlds_runs import FLAGS, Decode, Run, at, runs
from rlcli.datasets.rlds_values import Ragged, read
from rlcli.datasets.stopping import heeding
from rlcli.errors import CorruptError, IncompatibleError

V = TypeVar("V", tuple[int, ...], Picture)

_MAX_VARIANTS = 16  # different sizes of one feature that are told apart; more is "varies"
_SPAN_BYTES = 1 << 20  # of a file that is told apart, or a 64th of it
_SPANS = 64


class Span(NamedTuple):
    """Records of a shard from the one at `start` on: how many, episodes with steps, their steps, and steps if
    padding is dropped.
    """

    start: int
    records: int
    episodes: int
    steps: int
    unpadded: int

    def and_(self, following: Span) -> Span:
        """Both, one behind the other."""
        return Span(self.start, *(a + b for a, b in zip(self[1:], following[1:], strict=True)))


@dataclass
class Scan:
    """What all records say together.

    `shards` has the spans of each shard that can be read alone. `shapes` and `pictures` are the different
    ones seen, in that order, of features whose size `features.json` leaves open, `binary` the features whose
    strings are not all UTF-8, `seen` the features that any record has, `inexact` the flags that do not follow
    from where episodes begin and end, and `reward` if it is more than float32. `padded`: every last step is
    flagged and its action and reward are zero, though other actions are not.
    """

    shards: list[list[Span]] = field(default_factory=list)
    shapes: dict[str, dict[tuple[int, ...], None]] = field(default_factory=dict)
    pictures: dict[str, dict[Picture, None]] = field(default_factory=dict)
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
            "shards": [[list(span) for span in shard] for shard in self.shards],
            "shapes": {name: list(map(list, shapes)) for name, shapes in self.shapes.items()},
            "pictures": {name: list(map(list, found)) for name, found in self.pictures.items()},
            **{name: sorted(getattr(self, name)) for name in ("binary", "seen", "inexact")},
            "all_padded": self.all_padded,
            "any_action": self.any_action,
        }

    @staticmethod
    def from_json(plan: Mapping[str, Any]) -> Scan:
        """The inverse of `to_json`."""
        return Scan(
            [[Span(*span) for span in shard] for shard in plan["shards"]],
            {name: dict.fromkeys(map(tuple, shapes)) for name, shapes in plan["shapes"].items()},
            {
                name: {Picture(*picture): None for picture in found}
                for name, found in plan["pictures"].items()
            },
            set(plan["binary"]),
            set(plan["seen"]),
            set(plan["inexact"]),
            plan["all_padded"],
            plan["any_action"],
        )


def scan(shards: Sequence[Shard], fields: Sequence[Field], decode: Decode | None = None) -> Scan:
    """Reads every record of `shards`. Raises `CorruptError` that names file, position and feature.

    `decode` is for records that are no Examples of these features as they are; see `runs`.
    """
    found = Scan()
    for shard in shards:
        spans = [Span(0, 0, 0, 0, 0)]
        enough, has_parts = max(_SPAN_BYTES, shard.path.stat().st_size // _SPANS), shard.has_parts
        for run in heeding(runs(shard, fields, _wanted(fields), decode)):
            _note_run(found, run, fields)
            position = int(run.positions[0])
            if has_parts and position - spans[-1].start >= enough:
                spans.append(Span(position, 0, 0, 0, 0))
            spans[-1] = _added(spans[-1], run)
        found.shards.append(spans)
    return found


def _added(span: Span, run: Run) -> Span:
    last = run.flag("is_last")
    padding = 0 if last is None else int(np.count_nonzero(_at_ends(run, last)))
    return Span(
        span.start,
        span.records + len(run),
        span.episodes + int(np.count_nonzero(run.lengths)),
        span.steps + run.num_steps,
        span.unpadded + run.num_steps - padding,
    )


def joined(scans: Sequence[Scan]) -> Scan:
    """What one look through all would have found."""
    found = replace(scans[0])
    for other in scans[1:]:
        found.shards += other.shards
        for name, shapes in other.shapes.items():
            found.shapes[name] = _first({**found.shapes.get(name, {}), **shapes})
        for name, pictures in other.pictures.items():
            found.pictures[name] = _first({**found.pictures.get(name, {}), **pictures})
        found.binary |= other.binary
        found.seen |= other.seen
        found.inexact |= other.inexact
        found.all_padded &= other.all_padded
        found.any_action |= other.any_action
    return found


def _first(variants: dict[V, None]) -> dict[V, None]:
    return dict.fromkeys(list(variants)[:_MAX_VARIANTS])


def _wanted(fields: Sequence[Field]) -> dict[str, bool]:
    """The features whose values say something; whether small integers may be uint8."""
    wanted = {f"steps/{name}": True for name in (*FLAGS, "reward")}
    for item in fields:
        if not item.is_deep and (item.is_bytes or None in item.shape):
            wanted |= dict.fromkeys(item.names, False)
        elif item.path[:2] == ("steps", "action"):
            wanted[item.name] = True
    return wanted


def _note_run(found: Scan, run: Run, fields: Sequence[Field]) -> None:
    """What a run says. Of a picture that is damaged its record is told."""
    try:
        _note(found, run, fields)
    except (CorruptError, IncompatibleError):
        for one in run.alone():  # once more: what was noted is noted
            with at(one.path, one.positions[0]):
                _note(found, one, fields)
        raise


def _note(found: Scan, run: Run, fields: Sequence[Field]) -> None:
    for item in fields:
        numbers = run.numbers[item.name]
        if not numbers.any():
            continue
        found.seen.add(item.name)
        if item.is_deep or not (item.is_bytes or None in item.shape):
            continue
        if item.lengths and item.path[0] == "steps":
            _note_values(found, item, run.example, int(numbers.sum()))
            continue
        for index, number in enumerate(numbers.tolist()):
            if number:
                _note_values(found, item, run.record(index), number)
    if run.num_steps:
        _note_flags(found, run)
        _note_padding(found, run, fields)


def _note_values(found: Scan, item: Field, example: Mapping[str, Values], number: int) -> None:
    if item.kind == "image":
        known = found.pictures.setdefault(item.name, {})
        for data in _strings(item, example, number):
            if len(data) and len(known) < _MAX_VARIANTS:
                known[look(item.name, data)] = None
    elif item.is_bytes:
        previous = None
        for data in _strings(item, example, number) if item.name not in found.binary else ():
            if data is not previous and not _is_text(data):
                found.binary.add(item.name)
                break
            previous = data
    elif len(item.lengths) < 2:
        shapes = found.shapes.setdefault(item.name, {})
        if len(shapes) < _MAX_VARIANTS:
            shapes.update(_shapes(read(item, example, 0, number)))


def _at_ends(run: Run, values: NDArray[Any]) -> NDArray[Any]:
    """The values of the last steps, `[records, …]`; none of records without steps."""
    return values[run.ends[run.lengths > 0] - 1]


def _note_flags(found: Scan, run: Run) -> None:
    first, last, terminal = (run.flag(name) for name in FLAGS)
    if first is not None:
        starts = first[run.ends - run.lengths]
        if not starts.all() or np.count_nonzero(first) > len(run):
            found.inexact.add("is_first")
    if last is not None and (not _at_ends(run, last).all() or np.count_nonzero(last) > len(run)):
        found.inexact.add("is_last")
    if terminal is not None and np.count_nonzero(terminal) > np.count_nonzero(_at_ends(run, terminal)):
        found.inexact.add("is_terminal")
    reward = run.example.get("steps/reward")
    if isinstance(reward, np.ndarray) and reward.dtype == np.int64:
        with np.errstate(over="ignore"):
            if (reward.astype(np.float32).astype(np.float64) != reward).any():
                found.inexact.add("reward")


def _note_padding(found: Scan, run: Run, fields: Sequence[Field]) -> None:
    last = run.flag("is_last")
    found.all_padded &= last is not None and bool(_at_ends(run, last).all())
    for item in fields:
        is_action = item.path[:2] == ("steps", "action")
        if (is_action or item.path == ("steps", "reward")) and not item.is_bytes and item.encoding == "none":
            values = run.example.get(item.name)
            if isinstance(values, np.ndarray) and len(values):
                if found.all_padded:
                    width = len(values) // run.num_steps
                    steps = values[: width * run.num_steps].reshape(run.num_steps, width)
                    found.all_padded = not _at_ends(run, steps).any()
                found.any_action = found.any_action or (is_action and bool(values.any()))


def _strings(item: Field, example: Mapping[str, Values], number: int) -> list[bytes]:
    """All byte strings of a feature, those of lists one after the other."""
    found: Any = read(item, example, 0, number)
    return [value for each in found for value in (each if isinstance(each, list) else [each])]


def _shapes(values: Any) -> dict[tuple[int, ...], None]:
    return {} if isinstance(values, Ragged) else {value.shape: None for value in values}


def _is_text(data: bytes) -> bool:
    try:
        str(data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True
