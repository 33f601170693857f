"""The first look through a plain table: where its episodes end, and what our standard columns can hold."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.mapping import Roles
from rlcli.datasets.plain_export import open_of
from rlcli.datasets.plain_table import Field, Table
from rlcli.datasets.stopping import heeding
from rlcli.errors import InputError

Flags = NDArray[np.bool_]
_LOOK_BYTES = 2 << 20  # that are looked at at once: they stay near the processor


@dataclass
class Scan:
    """What flags, episode numbers, rewards and actions of a whole table say.

    `last_rows[e]` is the last row of episode e; `terminated`, `truncated` `[E]` its flags; `cut` has the
    unfinished episodes. `inexact` names columns that ours cannot give back bit for bit; `repaired`
    counts ends without a flag, `empty` episodes without rows; `rule` names what ends episodes.
    """

    last_rows: NDArray[np.int64]
    terminated: Flags
    truncated: Flags
    cut: set[int]
    rule: list[str]
    repaired: int = 0
    inexact: set[str] = field(default_factory=set)
    action_range: dict[str, tuple[int, int]] = field(default_factory=dict)
    empty: int = 0

    def to_json(self) -> dict[str, Any]:
        """All of it; `from_json` is the inverse."""
        return {
            "last_rows": _packed(self.last_rows),
            "terminated": _packed(self.terminated),
            "truncated": _packed(self.truncated),
            "cut": sorted(self.cut),
            "rule": self.rule,
            "repaired": self.repaired,
            "inexact": sorted(self.inexact),
            "action_range": {name: list(ends) for name, ends in self.action_range.items()},
        }

    @staticmethod
    def from_json(told: Mapping[str, Any]) -> Scan:
        """The scan that `to_json` told."""
        return Scan(
            _unpacked(told["last_rows"], np.int64),
            _unpacked(told["terminated"], np.bool_),
            _unpacked(told["truncated"], np.bool_),
            set(told["cut"]),
            list(told["rule"]),
            told["repaired"],
            set(told["inexact"]),
            {name: (low, high) for name, (low, high) in told["action_range"].items()},
        )

    def within(self, start: int, stop: int) -> slice:
        """The episodes that end in the rows `start … stop - 1`."""
        low, high = np.searchsorted(self.last_rows, [start, stop])
        return slice(int(low), int(high))

    def is_cut(self, episodes: slice) -> list[bool]:
        """Of each of these episodes, whether the source stops before its end."""
        return [number in self.cut for number in range(episodes.start, episodes.stop)]


def look_through(table: Table, roles: Roles, num_rows: int, slice_rows: int) -> Scan:
    """Reads the flags, the episode numbers, the rewards and whole-number actions, in slices."""
    single = roles.single
    flags = {role: single[role] for role in ("terminated", "truncated", "done") if role in single}
    numbers, first = single.get("episode"), single.get("first")
    whole = [name for name in roles.below("action") if table.fields[name].dtype.kind in "iu"]
    reward = single.get("reward")
    if reward is not None and _is_ours(table.fields[reward]):
        reward = None  # is as ours
    optional = (name for name in (numbers, first, reward) if name is not None)
    names = list(dict.fromkeys([*flags.values(), *whole, *optional]))
    found: dict[str, list[Flags]] = {role: [] for role in flags}
    changes: list[NDArray[np.int64]] = []  # the rows behind which the episode's number is another
    begun: list[NDArray[np.int64]] = []  # the rows that are flagged as the first of an episode
    before: Any = None
    number = 0  # of the episode that the rows so far ended in
    inexact: set[str] = set()
    ranges: dict[str, tuple[int, int]] = {}
    step = _rows_at_once(table, names, slice_rows)
    for start in heeding(range(0, num_rows, step) if names else ()):
        arrays = table.read(names, start, min(start + step, num_rows))
        for role, name in flags.items():
            found[role].append(_one_per_row(arrays[name], name, table) != 0)
        if first is not None:
            begun.append(start + np.flatnonzero(_one_per_row(arrays[first], first, table)))
        if numbers is not None:
            values = _one_per_row(arrays[numbers], numbers, table)
            firsts = np.flatnonzero(values[1:] != values[:-1]) + 1  # a row that is no number is one
            if before is None or values[0] != before:
                firsts = np.insert(firsts, 0, 0)
            different = values[firsts]
            if (different != different).any():
                raise InputError(f"{table.path}: {numbers} is not a number in some rows", path=table.path)
            counted = np.arange(len(firsts)) + (0 if before is None else number + 1)
            if (different != counted).any():
                inexact.add(numbers)
            changes.append(start + (firsts[1:] if before is None else firsts) - 1)
            number, before = number + len(changes[-1]), values[-1].copy()
        for name in whole:
            low, high = int(arrays[name].min()), int(arrays[name].max())
            known = ranges.get(name, (low, high))
            ranges[name] = min(low, known[0]), max(high, known[1])
        if reward is not None:
            values = _one_per_row(arrays[reward], reward, table)
            with np.errstate(over="ignore", invalid="ignore"):
                if not _gives_back(values.astype(np.float32), values):
                    inexact.add(reward)
    told = {role: np.concatenate(parts) for role, parts in found.items()}
    if "done" in told:
        done = told.pop("done")
        inexact.add(single["done"])
        if "terminated" in told:
            rest = done & ~told["terminated"]
            told["truncated"] = told["truncated"] | rest if "truncated" in told else rest
        else:
            told["terminated"] = done & ~told["truncated"] if "truncated" in told else done
    no_flag = np.zeros(num_rows, np.bool_)
    terminals, timeouts = told.get("terminated", no_flag), told.get("truncated", no_flag)
    ends = changes or [rows[rows > 0] - 1 for rows in begun]
    last_rows, rule, unfinished, empty = _ends(table, roles, num_rows, ends, terminals | timeouts)
    if first is not None and not np.array_equal(np.concatenate(begun), [0, *(last_rows[:-1] + 1)]):
        inexact.add(first)
    told_cut = table.metadata.get("cut")
    cut = {n for n in told_cut if isinstance(n, int)} if isinstance(told_cut, list) else set()
    cut |= {len(last_rows) - 1} if unfinished else set()
    terminated = terminals[last_rows]
    truncated = timeouts[last_rows] | ~terminated
    flagged = terminals | timeouts
    if numbers is not None and table.by_file:
        inexact.add(numbers)  # which may begin anew in every file
    if flags:
        inexact |= _inexact_flags(roles, told, last_rows, terminated, truncated)
    truncated[open_of(table.metadata, len(last_rows))] = False
    repaired = int((~flagged[last_rows]).sum()) if flags else 0
    return Scan(last_rows, terminated, truncated, cut, rule, repaired, inexact, ranges, empty)


def _rows_at_once(table: Table, names: Sequence[str], slice_rows: int) -> int:
    """More rows than of a slice of all columns, of which `names` are a small part."""
    rows = _LOOK_BYTES // max(1, sum(table.fields[name].row_bytes for name in names))
    return max(slice_rows, rows - rows % table.chunk_rows)


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 1)).decode("ascii")


def _unpacked(text: str, dtype: Any) -> NDArray[Any]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype)


def _ends(
    table: Table, roles: Roles, num_rows: int, changes: list[NDArray[np.int64]], flagged: Flags
) -> tuple[NDArray[np.int64], list[str], bool, int]:
    """The last row of every episode, what told so, whether the last one is unfinished, how many are empty."""
    single = roles.single
    files = np.asarray(table.file_ends, np.int64)
    last = np.array([num_rows - 1], np.int64) if not len(files) else np.unique(files[files > 0]) - 1
    if "episode_ends" in single:
        name = single["episode_ends"]
        if len(files):
            raise InputError(
                f"{table.path}: each file has its own {name}",
                hint="convert the files one by one; rl buffer merge joins what comes of them",
                path=table.path,
            )
        ends = _one_per_row(table.read([name], 0, table.fields[name].rows)[name], name, table)
        if ends.dtype.kind not in "iu" or not len(ends):
            raise InputError(f"{table.path}: {name} holds no whole numbers", path=table.path)
        ends = ends.astype(np.int64)
        if ends[0] < 0 or (np.diff(ends) < 0).any() or not 0 < ends[-1] <= num_rows:
            raise InputError(
                f"{table.path}: {name} does not rise from 0 to at most the {num_rows:,} rows", path=table.path
            )
        filled = np.unique(ends[ends > 0])
        return np.union1d(filled - 1, last), [name], bool(ends[-1] < num_rows), len(ends) - len(filled)
    if (by := single.get("episode", single.get("first"))) is not None:
        return np.union1d(np.concatenate(changes), last), [by], False, 0
    used = [single[role] for role in ("terminated", "truncated", "done") if role in single]
    if len(files):
        return np.union1d(np.flatnonzero(flagged), last), [*used, "the ends of files"], False, 0
    if not used:
        return last, ["the end of the rows"], True, 0
    return np.union1d(np.flatnonzero(flagged), last), used, not bool(flagged[-1]), 0


def _inexact_flags(
    roles: Roles,
    told: dict[str, Flags],
    last_rows: NDArray[np.int64],
    terminated: Flags,
    truncated: Flags,
) -> set[str]:
    """Flags that are also set inside an episode, or that ours set where the source's are not."""
    names = set()
    for role, ends in (("terminated", terminated), ("truncated", truncated)):
        if role in told and role in roles.single:
            ours = np.zeros(len(told[role]), np.bool_)
            ours[last_rows] = ends
            if (ours != told[role]).any():
                names.add(roles.single[role])
    return names


def _one_per_row(values: NDArray[Any], name: str, table: Table) -> NDArray[Any]:
    if values.size != len(values) or values.dtype.kind not in "biuf":
        described = f"{values.dtype}{list(values.shape[1:])}"
        raise InputError(
            f"{table.path}: {name} has {described} per row, expected one number", path=table.path
        )
    return values.reshape(-1)


def _gives_back(standard: NDArray[Any], original: NDArray[Any]) -> bool:
    """Whether `standard`, cast to the dtype of `original`, has the same bits."""
    return standard.astype(original.dtype).tobytes() == np.ascontiguousarray(original).tobytes()


def _is_ours(field: Field) -> bool:
    """Whether rewards are of the dtype that ours have, one per row."""
    return field.dtype == np.float32 and math.prod(field.shape) == 1
