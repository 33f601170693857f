"""The entry `rl` of `info.json`, which our LeRobot export leaves so that importing gives the same again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlcli.datasets.rlds_hints import Hints
from rlcli.errors import IncompatibleError
from rlcli.format.keys import check_key

HINTS = "rl"


def cut_of(info: Mapping[str, Any]) -> set[int]:
    """The episodes whose end was not seen, which LeRobot itself cannot say."""
    told = info.get(HINTS)
    cut = told.get("cut") if isinstance(told, dict) else None
    return {number for number in cut if isinstance(number, int)} if isinstance(cut, list) else set()


def hints_of(info: Mapping[str, Any]) -> Hints:
    """The hints, empty ones where there are none or they are malformed; `invented` are single numbers."""
    try:
        told = info[HINTS]
        columns = {str(name): (check_key(key),) for name, key in told["columns"].items()}
        return Hints(dict(told["spec"]), columns, frozenset(map(str, told["scalars"])))
    except (KeyError, TypeError, ValueError, AttributeError, IncompatibleError):
        return Hints()
