"""Stable-Baselines3 replay buffers (`save_replay_buffer`), which are pickles of whole objects.

Only with `--trust-pickle`; even then nothing in the pickle is run and neither Stable-Baselines3 nor its
version is needed: foreign objects become inert, and only their arrays are taken. The file is in memory as a
whole, as pickles are. Rows come environment by environment, the oldest first. With
`optimize_memory_usage` next observations are the following rows, and unknown where an episode ended before
another began.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets import safe_pickle
from rlcli.datasets.contract import NoOptions, Request, Seen
from rlcli.datasets.mapping import storable
from rlcli.datasets.plain import PlainSource
from rlcli.datasets.regular import open_regular
from rlcli.datasets.ring_table import EPISODE, TERMINATED, TRUNCATED, RingTable
from rlcli.errors import CorruptError, IncompatibleError, InputError, UsageError

_SIGN = b"stable_baselines3"
_LOOKED_AT = 4096
_VALID = "next_valid"
ALIGNMENT = "same row: observation, the action applied to it, the reward for that"


def detect(path: Path) -> Seen:
    """Whether `path` is a pickle that names Stable-Baselines3's buffers."""
    if not path.is_file():
        return Seen(False, "not a pickle")
    with open_regular(path) as file:
        begin = file.read(_LOOKED_AT)
    if begin[:1] != b"\x80" or _SIGN not in begin:
        return Seen(False, "not a pickle of Stable-Baselines3")
    return Seen(True, "Stable-Baselines3 replay buffer (pickle)")


@contextmanager
def open_source(path: Path, request: Request, options: NoOptions) -> Iterator[PlainSource]:
    """The buffer. Raises `UsageError` without `--trust-pickle`, `CorruptError` for damage."""
    if not request.trust_pickle:
        raise UsageError(
            f"{path}: a pickle, which can run any code in programs that load it",
            hint="add --trust-pickle if you know where it is from",
            path=path,
        )
    try:
        with open_regular(path) as stream:
            found = safe_pickle.loads(stream.read(), "things")
    except ValueError as err:
        raise CorruptError(f"{path}: {err}", path=path) from err
    if not isinstance(found, safe_pickle.Thing) or "observations" not in found.state:
        raise InputError(f"{path}: not a replay buffer of Stable-Baselines3", path=path)
    table = _table(path, found)
    mapping = {TERMINATED: "terminated", TRUNCATED: "truncated", EPISODE: "episode", "rewards": "reward"}
    for name in table.fields:
        top, _, rest = name.partition("/")
        role = {"observations": "observation", "next_observations": "next/observation"}.get(top)
        if role is not None:
            mapping[name] = "/".join((role, *storable(rest))) if rest else role
    mapping |= {"actions": "action", **({_VALID: "next_valid"} if _VALID in table.fields else {})}
    mapping |= request.mapping
    source = PlainSource(table, dataclasses.replace(request, mapping=mapping, confirmed=True))
    source.report.repaired = table.repaired
    source.record |= {"alignment": ALIGNMENT, "class": found.name}
    yield source


def _table(path: Path, found: safe_pickle.Thing) -> RingTable:
    state = found.state
    arrays: dict[str, NDArray[Any]] = {}
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        value = state.get(name)
        for key, item in value.items() if isinstance(value, dict) else (("", value),):
            array = safe_pickle.array_of(item)
            if array is not None and array.ndim >= 2:
                arrays[f"{name}/{key}" if key else name] = array.astype(
                    array.dtype.newbyteorder("="), copy=False
                )
    if missing := [name for name in ("actions", "rewards", "dones") if name not in arrays]:
        raise InputError(f"{path}: the buffer has no {', '.join(missing)}", path=path)
    capacity, envs = arrays["rewards"].shape[:2]
    if odd := [name for name, array in arrays.items() if array.shape[:2] != (capacity, envs)]:
        raise CorruptError(f"{path}: {odd[0]} has another length than the rewards", path=path)
    cursor, is_full = state.get("pos"), state.get("full")
    if type(cursor) is not int or not 0 <= cursor <= capacity or not isinstance(is_full, bool):
        raise CorruptError(f"{path}: position {cursor!r} of {capacity:,}", path=path)
    if not is_full and cursor == 0:
        raise InputError(f"{path}: has no rows", path=path)
    shares = not any(name.startswith("next_observations") for name in arrays)
    if shares and any(name.startswith("observations/") for name in arrays):
        raise IncompatibleError(f"{path}: a dict buffer without next observations", path=path)
    space = state.get("action_space")
    if (
        isinstance(space, safe_pickle.Thing)
        and space.name.endswith(".Discrete")
        and arrays["actions"].ndim == 3
    ):
        arrays["actions"] = arrays["actions"][:, :, 0].astype(np.int64)
    steps, first = (capacity, cursor % capacity) if is_full else (cursor, 0)
    if shares:  # the oldest observation was overwritten by what follows the newest row
        if is_full:
            steps, first = steps - 1, first + 1
        following = np.roll(arrays["observations"], -1, 0)
        arrays["next_observations"] = following
    dones, timeouts = arrays.pop("dones"), arrays.pop("timeouts", None)
    table = RingTable(path, arrays, {}, envs=envs, steps=steps, cursor=first % capacity)
    order = (first + np.arange(steps)) % capacity
    done = (dones[order] != 0).T.reshape(-1)
    truncated = np.zeros_like(done) if timeouts is None else (timeouts[order] != 0).T.reshape(-1)
    table.layout = "sb3"
    table.find_episodes(done & ~truncated, truncated, done, ())
    if shares:  # the reset took the place of what followed, but for the newest rows
        known = ~done
        known[steps - 1 :: steps] = True
        table.add(_VALID, known)
    return table
