"""Specs as a person reads them: environments, observations and actions in a line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlcli.format.specs import Box, Leaf, leaves, spec_from_json

SHOWN_BOUNDS = 3


def env_text(env: Mapping[str, Any] | None) -> str | None:
    """The environment of a spec as one would name it: `CartPole-v1, at most 500 steps`."""
    if env is None:
        return None
    library = "" if env.get("library") in (None, "gymnasium", "python") else f"{env['library']}:"
    limit = f", at most {env['max_episode_steps']:,} steps" if env.get("max_episode_steps") else ""
    arguments = "".join(f" {name}={value}" for name, value in (env.get("kwargs") or {}).items())
    return f"{library}{env.get('id')}{arguments}{limit}"


def spec_text(spec: Any) -> str | None:
    """An observation or action spec, as its JSON, in a line: `Box 4 float32 in [-1, 1]`."""
    if spec is None:
        return None
    found = leaves(spec_from_json(spec))
    return "; ".join(f"{'/'.join(key)} {_leaf_text(leaf)}".strip() for key, leaf in found.items())


def _leaf_text(leaf: Leaf) -> str:
    if not isinstance(leaf, Box):
        return repr(leaf).replace(", start=0", "").replace(f", dtype='{leaf.dtype}'", "")
    shape = "×".join(map(str, leaf.shape)) or "scalar"
    if leaf.low is None and leaf.high is None:
        return f"Box {shape} {leaf.dtype}"
    pairs = zip(*(bound.reshape(-1).tolist() for bound in leaf.bounds()), strict=True)
    bounds = list(dict.fromkeys(f"[{low:.4g}, {high:.4g}]" for low, high in pairs))
    more = " …" if len(bounds) > SHOWN_BOUNDS else ""
    return f"Box {shape} {leaf.dtype} in {' or '.join(bounds[:SHOWN_BOUNDS])}{more}"
