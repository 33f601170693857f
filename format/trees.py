"""Plain TensorDict memmap trees, written with JSON alone: `meta.json` of every node. SPEC.md section 3."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from rlcli.format.keys import Key

Leaf = tuple[Key, str, tuple[int, ...]]  # key, dtype, shape of one row


_ROWS = "\0"  # stands for their number; no key has it
_ENCODED_ROWS = json.dumps(_ROWS)


def meta_files(leaves: Iterable[Leaf], rows: int) -> dict[str, bytes]:
    """Relative path -> bytes of each `meta.json` of a tree with `rows` rows."""
    number = str(rows)
    return {name: text.replace(_ENCODED_ROWS, number).encode() for name, text in _templates(tuple(leaves))}


@lru_cache(maxsize=32)
def _templates(leaves: tuple[Leaf, ...]) -> list[tuple[str, str]]:
    nodes: dict[Key, dict[str, Any]] = {(): {}}
    for key, dtype, shape in leaves:
        for depth in range(1, len(key)):
            nodes.setdefault(key[:depth], {})
            nodes[key[: depth - 1]][key[depth - 1]] = {"type": "TensorDict"}
        nodes[key[:-1]][key[-1]] = {
            "device": "cpu",
            "shape": [_ROWS, *shape],
            "dtype": f"torch.{dtype}",
            "is_nested": False,
        }
    tail = {"shape": [_ROWS], "device": "cpu", "_type": "<class 'tensordict._td.TensorDict'>"}
    return [
        ("/".join((*node, "meta.json")), json.dumps({**entries, **tail})) for node, entries in nodes.items()
    ]
