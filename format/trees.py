"""Plain TensorDict memmap trees, written with JSON alone: `meta.json` of every node. SPEC.md section 3."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlcli.format import files
from rlcli.format.keys import Key

Leaf = tuple[Key, str, tuple[int, ...]]  # key, dtype, shape of one row


def meta_files(leaves: Iterable[Leaf], rows: int) -> dict[str, bytes]:
    """Relative path -> bytes of each `meta.json` of a tree with `rows` rows."""
    nodes: dict[Key, dict[str, Any]] = {(): {}}
    for key, dtype, shape in leaves:
        for depth in range(1, len(key)):
            nodes.setdefault(key[:depth], {})
            nodes[key[: depth - 1]][key[depth - 1]] = {"type": "TensorDict"}
        nodes[key[:-1]][key[-1]] = {
            "device": "cpu",
            "shape": [rows, *shape],
            "dtype": f"torch.{dtype}",
            "is_nested": False,
        }
    tail = {"shape": [rows], "device": "cpu", "_type": "<class 'tensordict._td.TensorDict'>"}
    return {
        "/".join((*node, "meta.json")): json.dumps({**entries, **tail}).encode()
        for node, entries in nodes.items()
    }


def write_meta(root: Path, leaves: Iterable[Leaf], rows: int) -> None:
    """Writes every `meta.json` of a new tree under `root`, whose folders are there."""
    for relative, data in meta_files(leaves, rows).items():
        files.write_new(root / relative, data, durable=False)
