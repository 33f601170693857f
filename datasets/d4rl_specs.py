"""Observation and action specs of a D4RL file, which itself holds none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from rlcli.datasets.d4rl_envs import Environment
from rlcli.datasets.d4rl_layout import Layout
from rlcli.datasets.d4rl_scan import Scan
from rlcli.datasets.opened import described
from rlcli.format.specs import Box, Composite, Discrete, Spec

_MAX_CHOICE = (1 << 63) - 2  # of a discrete space, whose size is an int64, too


def specs_of(
    file: h5py.File, layout: Layout, scan: Scan, env: Environment | None
) -> tuple[Spec, Spec, dict[str, Any]]:
    """`(observation, action, told)`: from the `rl_spec` attribute of files that rl wrote, else from the data.

    Whole numbers are discrete actions. D4RL's environments take actions in [-1, 1]: these bounds are stated
    if the environment is known and all actions lie within. `told` has `env` and `reference_scores` from the
    attribute, empty where `env` is known otherwise.
    """
    observation = _spec_of(layout, scan, "observations", None)
    action = _spec_of(layout, scan, "actions", env)
    try:
        told = json.loads(str(file.attrs["rl_spec"]))
        specs = described(told["observation"], observation), described(told["action"], action)
    except (KeyError, TypeError, ValueError):
        return observation, action, {}
    if specs[0] is None or specs[1] is None:
        return observation, action, {}
    kept = {name: told[name] for name in ("env", "reference_scores") if isinstance(told.get(name), dict)}
    return specs[0], specs[1], kept if env is None else {}


def nested(values: Mapping[str, Any]) -> Any:
    """`{"top/a": x, "top/b/c": y}` as `{"a": x, "b": {"c": y}}`; `{"top": x}` as x."""
    root: dict[str, Any] = {}
    for path, value in values.items():
        *parents, last = path.split("/")[1:] or [""]
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return root.get("", root)


def _spec_of(layout: Layout, scan: Scan, top: str, env: Environment | None) -> Spec:
    def leaf(name: str) -> Spec:
        column = layout.columns[name]
        low, high = scan.action_range
        is_choice = top == "actions" and column.dtype.kind in "iu" and np.prod(column.shape) == 1
        if is_choice and 0 <= low <= high <= _MAX_CHOICE:
            return Discrete(int(high) + 1)
        if env is not None and env.library == "d4rl" and column.dtype.kind == "f" and -low <= 1 >= high:
            return Box(column.shape, str(column.dtype), -1.0, 1.0)
        return Box(column.shape, str(column.dtype))

    def build(node: Any) -> Spec:
        return Composite({k: build(v) for k, v in node.items()}) if isinstance(node, dict) else leaf(node)

    return build(nested({name: name for name in layout.names(top)}))
