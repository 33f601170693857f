"""A Minari dataset looked through once: what every episode holds, and what our columns cannot say.

Only headers, rewards and flags are read. Shapes and dtypes are those that are stored, in all episodes; the
spaces say what they mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.minari_files import Field, Storage
from rlcli.datasets.minari_spaces import Leaf, declared
from rlcli.datasets.stopping import heeding
from rlcli.errors import IncompatibleError, InputError

#: Attributes that Minari derives from the rewards of an episode, and how.
STATISTICS: dict[str, Callable[[NDArray[Any]], Any]] = {
    "rewards_sum": np.sum,
    "rewards_mean": np.mean,
    "rewards_std": np.std,
    "rewards_max": np.max,
    "rewards_min": np.min,
}
FLAGS = ("terminations", "truncations")
_MAX_SEED = (1 << 63) - 1
_DROPPED = "dropped"
_OF_PATHS = ("leaves", "infos")  # fields of a scan
_MAX_NOTED = 64  # ways in which episodes may differ before each is looked at in full


@dataclass
class Values:
    """What is stored at a path, in all episodes: `kind` is numbers, text or picture."""

    kind: str
    dtype: str
    shape: tuple[int, ...]
    stored: str  # the dtype on disk
    #: Of an info: a value per `step`, per observation (`both`), these but the last (`first`), `episode`.
    align: str = ""


class Episode(NamedTuple):
    """An episode that has steps: its number, its lengths, how it ended, the seed it was reset with."""

    number: int
    steps: int
    observations: int
    terminated: bool
    truncated: bool
    seed: int | None


@dataclass
class Scan:
    """What was found; pieces and plans go by `episodes`."""

    episodes: list[Episode] = field(default_factory=list)
    leaves: dict[str, Values] = field(default_factory=dict)
    infos: dict[str, Values] = field(default_factory=dict)
    attributes: dict[str, list[Any]] = field(default_factory=dict)  # of a column: dtype or "text", shape
    has_others: bool = False  # attributes that are no such column
    inexact: list[str] = field(default_factory=list)  # rewards, terminations, truncations
    repaired: int = 0
    without_steps: int = 0
    lossy: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    rewards: str = "float64"

    def to_json(self) -> dict[str, Any]:
        told = {name: {path: asdict(v) for path, v in getattr(self, name).items()} for name in _OF_PATHS}
        return {**self.__dict__, **told}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Scan:
        """The scan that `to_json` told."""
        told = {**value, "episodes": [Episode(*episode) for episode in value["episodes"]]}
        for name in _OF_PATHS:
            told[name] = {
                path: Values(**{**values, "shape": tuple(values["shape"])})
                for path, values in told[name].items()
            }
        return Scan(**told)


def scan(storage: Storage, leaves: Mapping[str, Leaf], cut: Collection[int] = ()) -> Scan:
    """Looks through all episodes, those of `cut` without an end.

    Raises `InputError` where lengths disagree, `IncompatibleError` where shapes differ between episodes.
    """
    found = Scan()
    attributes: dict[str, list[Any] | None] = {}
    aligned: dict[str, set[str]] = {}
    noted: dict[Any, int] = {}  # what episodes hold, apart from their steps, and how many observations more
    for position, episode in enumerate(heeding(storage.episodes)):
        where = storage.where(episode)
        fields = storage.fields(episode)
        alike = _but_steps(fields)
        if (more := noted.get(alike)) is not None:
            steps = fields["rewards"].rows or 0
            observations = steps + more
        else:
            steps, observations = _lengths(fields, leaves, where)
            if not steps:
                found.without_steps += 1
                continue
            _note_fields(found, aligned, leaves, fields, steps, where)
            if len(noted) < _MAX_NOTED:
                noted[alike] = observations - steps
        rewards = np.asarray(storage.read(episode, "rewards", 0, steps)).reshape(-1)
        flags = [np.asarray(storage.read(episode, name, 0, steps)).reshape(-1) != 0 for name in FLAGS]
        _note_flags(found, rewards, flags, has_end=episode not in cut)
        given = storage.attributes(episode)
        terminated, truncated = (bool(flag[-1]) for flag in flags)
        seed = seed_of(given)
        found.episodes.append(Episode(episode, steps, observations, terminated, truncated, seed))
        told = extra_attributes(given, episode, rewards)
        if given.get("total_steps", steps) != steps:
            say(found.remarks, f"{where} has {steps:,} steps, its attribute total_steps says otherwise")
        _note_attributes(attributes, told, first=len(found.episodes) == 1)
        if position == 0:
            found.rewards = str(rewards.dtype)
    _finish(found, attributes, aligned)
    return found


def _but_steps(fields: Mapping[str, Field]) -> Any:
    """What an episode holds, lengths relative to its steps: equal for episodes that tell nothing new.

    None for one without steps, of which nothing is noted.
    """
    steps = fields["rewards"].rows if "rewards" in fields else None
    if not steps:
        return None
    return tuple(
        [
            (path, kind, dtype, shape, None if rows is None else rows - steps)
            for path, (kind, dtype, shape, rows) in fields.items()
        ]
    )


def _note_fields(
    found: Scan,
    aligned: dict[str, set[str]],
    leaves: Mapping[str, Leaf],
    fields: Mapping[str, Field],
    steps: int,
    where: str,
) -> None:
    """Adds what one episode holds; a second one like it would change nothing."""
    for path, leaf in leaves.items():
        note(found.leaves, path, _leaf_values(leaf, fields[path], where), where, found)
    for path, item in fields.items():
        if path.startswith("infos/"):
            _note_info(found, aligned, path, item, steps, where)
        elif path not in leaves and path not in ("rewards", *FLAGS):
            say(found.lossy, f"{path} is not of the spaces; it is left out")


def extra_attributes(attributes: Mapping[str, Any], episode: int, rewards: NDArray[Any]) -> dict[str, Any]:
    """The attributes of an episode that do not follow from its place, its seed and its rewards."""
    kept = {}
    with np.errstate(all="ignore"):
        for name, value in attributes.items():
            if name == "total_steps" or (name == "id" and value == episode) or _follows(name, value, rewards):
                continue
            if name == "seed" and seed_of(attributes) is not None:
                continue
            kept[name] = value
    return kept


def seed_of(attributes: Mapping[str, Any]) -> int | None:
    """The seed of an episode, None if it has none that we can keep as one."""
    seed = attributes.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed <= _MAX_SEED:
        return None
    return int(seed)


def _follows(name: str, value: Any, rewards: NDArray[Any]) -> bool:
    compute = STATISTICS.get(name)
    if compute is None or not isinstance(value, float | np.floating):
        return False
    return bool(np.float64(compute(rewards)).tobytes() == np.float64(value).tobytes())


def _lengths(fields: Mapping[str, Field], leaves: Mapping[str, Leaf], where: str) -> tuple[int, int]:
    """How many steps and observations an episode has."""
    for path in ("rewards", *FLAGS, *leaves):
        if path not in fields:
            raise InputError(f"{where}: {path} is missing", path=where)
    rows = {path: fields[path].rows for path in ("rewards", *FLAGS, *leaves)}
    steps = rows["rewards"]
    observed = {path: n for path, n in rows.items() if path.split("/")[0] == "observations"}
    others = {path: n for path, n in rows.items() if path not in observed}
    if any(n != steps for n in others.values()) or len(set(observed.values())) > 1 or steps is None:
        told = ", ".join(f"{path} {n}" for path, n in rows.items())
        raise InputError(f"{where}: lengths disagree: {told}", path=where)
    number = next(iter(observed.values()), steps)
    if number not in (steps, steps + 1):
        raise InputError(
            f"{where}: {number} observations of {steps:,} steps, expected {steps + 1:,}", path=where
        )
    return steps, number


def _leaf_values(leaf: Leaf, item: Field, where: str) -> Values:
    name = "/".join(leaf.path) or leaf.kind
    if leaf.kind == "Text":
        if item.kind != "text":
            raise InputError(f"{where}: {name} holds no text, its space is Text", path=where)
        return Values("text", "", (), "")
    dtype, shape = declared(leaf)
    is_flat = leaf.is_picture and len(item.shape) == 1 and item.shape[0] != math.prod(shape)
    if leaf.kind == "Box" and (item.kind == "bytes" or (is_flat and item.dtype == "uint8")):
        return Values("picture", dtype, shape, "")
    if item.kind != "numbers":
        raise InputError(f"{where}: {name} holds no numbers, its space is {leaf.kind}", path=where)
    fitted = shape if math.prod(item.shape) == math.prod(shape) else item.shape
    is_whole = item.dtype == "bool" or np.dtype(item.dtype).kind in "iu"
    ours = dtype if leaf.kind != "Box" and is_whole else item.dtype
    return Values("numbers", ours, fitted, item.dtype)


def note(known: dict[str, Values], path: str, now: Values, where: str, found: Scan) -> None:
    """Adds what one episode holds at a path to what the others do."""
    before = known.setdefault(path, now)
    if (before.kind, before.shape) != (now.kind, now.shape):
        raise IncompatibleError(
            f"{where}: {path} holds {now.kind} of shape {list(now.shape)}, other episodes {before.kind} of "
            f"{list(before.shape)}, which one column cannot hold",
            path=where,
        )
    if before.stored != now.stored:
        before.dtype = str(np.result_type(before.dtype, now.dtype))
        before.stored = str(np.result_type(before.stored, now.stored))
        say(found.remarks, f"{path} is stored in several types; {before.dtype} holds them all")


def _note_info(
    found: Scan, aligned: dict[str, set[str]], path: str, item: Field, steps: int, where: str
) -> None:
    ways = aligned.setdefault(path, set())
    if _DROPPED in ways:
        return
    align = {None: "episode", steps: "step", steps + 1: "both"}.get(item.rows)
    if align is None or item.kind not in ("numbers", "text") or 0 in item.shape:
        what = (
            f"{item.rows} values of {steps:,} steps" if align is None else "values of a type we do not hold"
        )
        found.lossy.append(f"{path} is not kept: {what}")
        ways.add(_DROPPED)
        return
    now = Values(item.kind, item.dtype, item.shape, item.dtype)
    before = found.infos.get(path, now)
    if (before.kind, before.shape) != (now.kind, now.shape):
        found.lossy.append(f"{path} is not kept: its shape differs between episodes")
        ways.add(_DROPPED)
        return
    note(found.infos, path, now, where, found)
    ways.add(align)


def _note_flags(
    found: Scan, rewards: NDArray[Any], flags: Sequence[NDArray[np.bool_]], *, has_end: bool
) -> None:
    if "rewards" not in found.inexact:
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = rewards.astype(np.float32).astype(rewards.dtype)
        if not ((rounded == rewards) | (rewards != rewards)).all():
            found.inexact.append("rewards")
    for name, flag in zip(FLAGS, flags, strict=True):
        if flag[:-1].any():
            say(found.inexact, name)
    if has_end and not (flags[0][-1] or flags[1][-1]):
        found.repaired += 1
        say(found.inexact, "truncations")


def _note_attributes(known: dict[str, list[Any] | None], told: Mapping[str, Any], *, first: bool) -> None:
    """`known` has dtype and shape of the attributes that all episodes have alike, None for the others."""
    for name, value in told.items():
        now = _column_type(value)
        if (known.setdefault(name, now if first else None)) != now:
            known[name] = None
    for name in known.keys() - told.keys():
        known[name] = None


def _column_type(value: Any) -> list[Any] | None:
    if isinstance(value, str):
        return ["text", []]
    if not isinstance(value, bool | int | float | np.generic | np.ndarray):
        return None
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or 0 in array.shape:
        return None
    return [str(array.dtype), list(array.shape)]


def _finish(found: Scan, attributes: Mapping[str, list[Any] | None], aligned: Mapping[str, set[str]]) -> None:
    found.attributes = {name: told for name, told in attributes.items() if told is not None}
    found.has_others = any(told is None for told in attributes.values())
    for path, ways in aligned.items():
        if "episode" in ways and len(ways) > 1 and _DROPPED not in ways:
            found.lossy.append(f"{path} is not kept: one value in some episodes, one per step in others")
            ways.add(_DROPPED)
        if _DROPPED in ways:
            found.infos.pop(path, None)
            continue
        found.infos[path].align = "first" if len(ways) > 1 else next(iter(ways))
        if len(ways) > 1:
            found.lossy.append(last_lost(path))


def last_lost(path: str) -> str:
    """What is told of an info that only some episodes have after their last step too."""
    return f"{path}: its value after the last step is lost; not all episodes have one"


def say(sentences: list[str], sentence: str) -> None:
    if sentence not in sentences:
        sentences.append(sentence)
