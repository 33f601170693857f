"""The first look through Dopamine's logs: all they hold but the frames, and what is beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.datasets.atari_logs import GzArray, Log, Span, read_all, read_indices, spans_of
from rlcli.datasets.atari_rows import SMALL
from rlcli.datasets.opened import is_exact
from rlcli.datasets.stopping import heeding
from rlcli.errors import CorruptError, InputError
from rlcli.format.keys import DTYPES

_MAX_EXTRA = 64  # bytes of a row of what an agent stored beside; a whole log of it is in memory


def look_through(logs: list[Log]) -> dict[str, Any]:
    """What all logs hold but the frames, as JSON."""
    told: dict[str, Any] = {
        "counts": [], "capacities": [], "ends": [], "terminals": [], "invalid": [], "remarks": [],
        "actions": 1, "inexact": False, "lossy": [],
    }  # fmt: skip
    told["extras"] = _extras(logs, told["lossy"])
    for log in heeding(logs):
        frames = GzArray(log.files["observation"])
        frames.close()
        small = {name: read_all(log.files[name]) for name in SMALL}
        capacity = frames.shape[0] if frames.shape else 0
        for name, values in small.items():
            if values.shape != (capacity,) or capacity == 0 or values.dtype.kind not in "biuf":
                raise InputError(
                    f"{log.files[name]}: {values.dtype}{list(values.shape)}, expected one number for each of "
                    f"{capacity:,} frames",
                    path=log.files[name],
                )
        kind = {
            "frame": list(frames.shape[1:]), "dtype": str(frames.dtype),
            "action": str(small["action"].dtype), "reward": str(small["reward"].dtype),
        }  # fmt: skip
        if any(told.setdefault(name, value) != value for name, value in kind.items()):
            raise InputError(f"{frames.path}: {kind}, unlike the logs before", path=frames.path)
        count = _count(log, told["remarks"])
        terminals = np.flatnonzero(small["terminal"])
        told["counts"].append(count)
        told["capacities"].append(capacity)
        told["terminals"].append(terminals.tolist())
        told["ends"].append(sorted({*terminals.tolist(), *_episode_ends(log, capacity, told["remarks"])}))
        told["invalid"].append(_invalid(log))
        numbers = [each.number for each in logs[: len(told["counts"])]]
        span = spans_of(told["counts"], told["capacities"], numbers)[-1]
        actions, rewards = (_used(small[name], span) for name in ("action", "reward"))
        if actions.dtype.kind not in "iu" or actions.min(initial=0) < 0:
            raise CorruptError(f"{log.files['action']}: not whole numbers from 0", path=log.files["action"])
        told["actions"] = max(told["actions"], int(actions.max(initial=0)) + 1)
        told["inexact"] = told["inexact"] or not is_exact(rewards)
    return told


def _extras(logs: list[Log], lossy: list[str]) -> dict[str, list[Any]]:
    """`name -> [dtype, shape]` of what every log has beside Dopamine's own arrays, a row for each frame."""
    found: dict[str, list[Any]] = {}
    for name in sorted({name for log in logs for name in log.extras}):
        kinds: set[tuple[str, tuple[int, ...]]] = set()
        why = "" if all(name in log.extras for log in logs) else "it is not in all logs"
        for log in heeding(logs if not why else ()):
            array, frames = GzArray(log.extras[name]), GzArray(log.files["observation"])
            array.close()
            frames.close()
            if not array.shape or array.shape[0] != frames.shape[0] or not array.row_bytes:
                why = f"it is {array.dtype}{list(array.shape)}, not a row for each frame"
            elif str(array.dtype) not in DTYPES or array.row_bytes > _MAX_EXTRA:
                why = f"its rows are {array.dtype}{list(array.shape[1:])}"
            kinds.add((str(array.dtype), tuple(array.shape[1:])))
        if why or len(kinds) > 1:
            lossy.append(f"{name}: {why or 'its type differs between logs'}; left out")
        else:
            dtype, shape = kinds.pop()
            found[name] = [dtype, list(shape)]
    return found


def _used(values: NDArray[Any], span: Span) -> NDArray[Any]:
    """The values of a log's rows; others were in logs before, or never written."""
    return np.concatenate([values[:0], *(values[slice(*at)] for at in span.ranges(span.start, span.stop))])


def _count(log: Log, remarks: list[str]) -> int | None:
    if "add_count" not in log.files:
        remarks.append(f"log {log.number} has no add_count; it is taken to be full")
        return None
    value = read_all(log.files["add_count"])
    if value.size != 1 or value.dtype.kind not in "iu" or not 0 <= int(value) < 1 << 60:
        raise CorruptError(f"{log.files['add_count']}: not a number of rows", path=log.files["add_count"])
    return int(value)


def _invalid(log: Log) -> list[int]:
    values = read_all(log.files["invalid_range"]).reshape(-1)[:64] if "invalid_range" in log.files else ()
    return [int(value) for value in values]


def _episode_ends(log: Log, capacity: int, remarks: list[str]) -> list[int]:
    """Positions of ends that newer logs tell; they may be truncations."""
    if "episode_end_indices" not in log.files:
        return []
    try:
        return [at for at in read_indices(log.files["episode_end_indices"]) if 0 <= at < capacity]
    except ValueError as err:
        remarks.append(f"log {log.number}: episode_end_indices is not read ({err})")
        return []
