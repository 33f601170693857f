"""From one version of the format to another, as a new generation that can be undone. SPEC.md section 12.

Version 1.0 is the only one, so the table is empty; what it will hold is tested with made-up steps. Writers
keep the version that they find: only these two functions change it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcli.errors import IncompatibleError, UsageError
from rlcli.format import dataset_json, generations, manifest, recover
from rlcli.format.locks import WriterLock

Version = tuple[int, int]
Change = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Step:
    """How a manifest of version `low` becomes one of `high`, and back.

    Both take and return the manifest's JSON and leave segments alone. `down` raises `IncompatibleError`
    where the older version cannot say what the dataset holds.
    """

    low: Version
    high: Version
    up: Change
    down: Change


STEPS: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Moved:
    """The version of the dataset at `path` before and after, and its newest generation."""

    path: Path
    before: Version
    after: Version
    generation: int


def upgrade(path: str | Path, to: str | None = None, *, steps: Sequence[Step] = STEPS) -> Moved:
    """Brings a dataset to version `to`, like `"1.0"`; by default the newest that is known.

    Nothing is written if it has that version. Raises `IncompatibleError` for a version that is not known,
    `UsageError` for an older one, or if a killed writer's rows have to be recovered first.
    """
    return _move(Path(path), to, steps, up=True)


def downgrade(path: str | Path, to: str, *, steps: Sequence[Step] = STEPS) -> Moved:
    """Brings a dataset back to an older version, for older releases.

    Raises as `upgrade`, and `IncompatibleError` if it uses what that version does not have.
    """
    return _move(Path(path), to, steps, up=False)


def known_versions(steps: Sequence[Step] = STEPS) -> list[Version]:
    """What `upgrade` and `downgrade` can reach, ascending."""
    first = (manifest.FORMAT[0], manifest.FORMAT[1])
    return sorted({first, *(step.low for step in steps), *(step.high for step in steps)})


def _move(root: Path, to: str | None, steps: Sequence[Step], *, up: bool) -> Moved:
    identity = dataset_json.load(root)
    known = known_versions(steps)
    target = known[-1] if to is None else _parse(to, known)
    lock = WriterLock.exclusive(root)
    try:
        newest = generations.load_newest(root, identity["uuid"])
        before = newest.format
        if before not in known:
            raise IncompatibleError(f"{root}: version {_text(before)} is not known; {_choices(known)}")
        if before == target:
            return Moved(root, before, target, newest.generation)
        if (before < target) != up:
            other = "upgrade" if before < target else "downgrade"
            raise UsageError(f"{root}: has version {_text(before)}; `{other}` brings it to {_text(target)}")
        if any(recover.is_left_open(newest, number) for number in range(len(newest.streams))):
            raise UsageError(f"{root}: its writer was killed", hint=f"rl buffer recover {root}", path=root)
        following = newest.next(
            lineage=[*newest.lineage, {"op": "upgrade" if up else "downgrade", "from": _text(before),
                                       "to": _text(target)}]
        )  # fmt: skip
        value = following.to_json()
        for change in _path(before, target, steps):
            value = change(value)
        value["format"] = list(target)
        generations.put(root, following.generation, value, durable=True)
        return Moved(root, before, target, following.generation)
    finally:
        lock.close()


def _path(before: Version, target: Version, steps: Sequence[Step]) -> list[Change]:
    """The changes that lead from one version to the other, one after the other."""
    ascending = {step.low: step for step in steps}
    found: list[Step] = []
    at, end = min(before, target), max(before, target)
    while at != end:
        if at not in ascending:
            raise IncompatibleError(f"no step leads from version {_text(at)} to {_text(end)}")
        found.append(ascending[at])
        at = found[-1].high
    return [step.up for step in found] if before < target else [step.down for step in reversed(found)]


def _parse(text: str, known: list[Version]) -> Version:
    parts = text.split(".")
    version = (
        (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(p.isdecimal() for p in parts) else None
    )
    if version not in known:
        raise IncompatibleError(f"format version {text!r} is not known; {_choices(known)}")
    return version


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def _choices(known: list[Version]) -> str:
    return f"known: {', '.join(map(_text, known))}"
