"""Runs cases and assembles the report: machine, versions, items."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.benchmarks import Setting, Size, load
from rlcli.benchmarks.peer import Peers
from rlcli.errors import UsageError, nearest
from rlcli.pipeline import benchmark, machine, provenance


def run_cases(
    cases: Sequence[str],
    *,
    rounds: int = 15,
    seconds: float = 0.2,
    size: Size = "full",
    threads: int = 1,
    peer_python: Sequence[str] = (),
) -> dict[str, Any]:
    """The report of `cases` (`update`, or one item, `update/dqn`), JSON-able.

    `peer_python` are the Pythons to measure peers with: an arm runs in the first that can import its package,
    and this Python is asked last. `none` among them leaves peers out.

    Data go to a temporary folder that is removed. Raises `UsageError` for an item that a case does not have.
    """
    report: dict[str, Any] = {
        "created": provenance.now(),
        "command": provenance.command_line(),
        "machine": machine.describe(),
        "versions": provenance.versions(),
        "git": provenance.git_state(Path(__file__).parent),
        "threads": threads,
        "items": [],
    }
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rl-bench-")))
        peers = None
        if "none" not in peer_python:
            pythons = dict.fromkeys([*peer_python, sys.executable])
            peers = stack.enter_context(Peers(list(pythons), threads))
            report["peers"] = peers.found
        for name in cases:
            case, _, chosen = name.partition("/")
            seen = []
            for item in load(case).items(Setting(size, folder, threads, peers, chosen)):
                seen.append(item.name)
                if chosen in ("", item.name.partition("/")[2]):
                    console.log(f"{item.name}: {console.count_text(len(item.arms), 'arm')}")
                    item.processes += () if peers is None else peers.pids
                    report["items"].append(benchmark.run_item(item, rounds=rounds, seconds=seconds))
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(exist_ok=True)
            if chosen and name not in seen:
                raise UsageError(f"there is no item {name!r}; {nearest(name, seen)}")
    return report
