"""Observation and action specs of a plain table: what our own export left in it, else what the data show."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlcli.datasets.mapping import Roles
from rlcli.datasets.opened import described, nested_spec
from rlcli.datasets.plain_scan import Scan
from rlcli.datasets.plain_table import Table
from rlcli.format.specs import Box, Discrete, Spec


def specs_of(table: Table, roles: Roles, scan: Scan) -> tuple[Spec, Spec, dict[str, Any]]:
    """`(observation, action, told)`; `told` has the `env` and `reference_scores` of our own export.

    A single whole number of at least 0 is a discrete action. Text is in no spec.
    """
    observation = _spec_of(table, roles, scan, "observation")
    action = _spec_of(table, roles, scan, "action")
    told = table.metadata.get("spec")
    told = told if isinstance(told, dict) else {}
    specs = described(told.get("observation"), observation), described(told.get("action"), action)
    if specs[0] is None or specs[1] is None:
        return observation, action, {}
    kept = {name: told[name] for name in ("env", "reference_scores") if isinstance(told.get(name), dict)}
    return specs[0], specs[1], kept


def _spec_of(table: Table, roles: Roles, scan: Scan, top: str) -> Spec:
    found = roles.below(top)
    numbers = [(name, key) for name, key in found.items() if table.fields[name].dtype.kind != "O"]
    named = sorted(numbers, key=lambda pair: pair[1])
    return nested_spec({key: _leaf(table, scan, name, top) for name, key in named})


def _leaf(table: Table, scan: Scan, name: str, top: str) -> Spec:
    found = table.fields[name]
    low, high = scan.action_range.get(name, (-1, -1))
    is_one = int(np.prod(found.shape, dtype=np.int64)) == 1
    if top == "action" and is_one and str(found.dtype) == "int64" and found.shape == () and low >= 0:
        return Discrete(high + 1)
    return Box(found.shape, str(found.dtype))
