"""The cases of `rl bench`: one file each, with its arms, its physical limit and the proof that they agree.

A case file has `TITLE` and `items(setting) -> Iterator[Item]`; an item's data live as long as its turn.
Peers run in processes of their own (`rlcli.benchmarks.peer`), so the base environment needs none of them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rlcli.benchmarks.peer import Peers

CASES: dict[str, str] = {
    "open": "rlcli.benchmarks.open",
    "append": "rlcli.benchmarks.append",
    "sample": "rlcli.benchmarks.sample",
    "prioritized": "rlcli.benchmarks.prioritized",
    "slices": "rlcli.benchmarks.slices",
    "memory": "rlcli.benchmarks.memory",
    "returns": "rlcli.benchmarks.returns",
    "nstep": "rlcli.benchmarks.nstep",
    "convert": "rlcli.benchmarks.convert",
    "collect": "rlcli.benchmarks.collect",
    "update": "rlcli.benchmarks.update",
}

Size = Literal["small", "full"]


@dataclass(frozen=True)
class Setting:
    """What a case needs to know: `size` full or small, an empty `folder`, the peers' processes.

    `wanted` is the name of the one item that is wanted, empty for all; a case may leave the others out.
    """

    size: Size
    folder: Path
    threads: int = 1
    peer: Peers | None = None
    wanted: str = ""

    def pick(self, *, small: int, full: int) -> int:
        """`small` or `full`, as the size says."""
        return small if self.size == "small" else full


def load(name: str) -> ModuleType:
    """The module of a case. Raises `KeyError` for an unknown name."""
    return importlib.import_module(CASES[name])
