"""The peers' process: reads JSON requests, sets arms up, times them, writes JSON replies.

Run as `python <this folder>`, so the folder itself is on the path and the case files are top-level modules.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = (
    "stable-baselines3", "torchrl", "tensordict", "cpprb", "torch", "gymnasium", "numpy",
    "tensorflow-datasets", "tensorflow-cpu", "tensorflow", "minari", "lerobot",
    "torchcodec", "h5py", "pyarrow",
)  # fmt: skip


def main() -> None:
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not mix with the replies
    arms: dict[str, dict[str, Any]] = {}
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), arms)
        except Exception as err:  # noqa: BLE001 - foreign libraries raise anything; the parent reports it
            reply = {"error": f"{type(err).__name__}: {err}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def answer(request: dict[str, Any], arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The reply to one request; `arms` are those of the item that is open."""
    if "hello" in request:
        return {"versions": installed()}
    if "open" in request:
        arms.clear()
        failed: dict[str, str] = {}
        absent: dict[str, str] = {}  # arm -> the package that is not installed here
        case, _, variant = request["open"].partition("/")
        folder = Path(request["folder"])
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, make in importlib.import_module(f"{case}_arms").ARMS.get(variant, {}).items():
            if name in request["without"]:
                continue
            try:
                arm = make(folder, request["size"])
                run(arm, 1)
            except ModuleNotFoundError as err:
                if "." in str(err.name):
                    failed[name] = str(err)
                else:
                    absent[name] = str(err.name)
            except Exception as err:  # noqa: BLE001 - a peer that breaks is left out, the others count
                failed[name] = f"{type(err).__name__}: {err}".splitlines()[0]
            else:
                arms[name] = arm
        return {
            "arms": [{"name": n, "units": arm.get("units", 1.0)} for n, arm in arms.items()],
            "failed": failed,
            "absent": absent,
        }
    return {"seconds": run(arms[request["measure"]], request["repeats"])}


def run(arm: dict[str, Any], repeats: int) -> float:
    """Seconds that `repeats` calls took; `prepare` is not timed."""
    call: Callable[[], object] = arm["call"]
    prepare: Callable[[], object] | None = arm.get("prepare")
    if prepare is None:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return time.perf_counter() - start
    total = 0.0
    for _ in range(repeats):
        prepare()
        start = time.perf_counter()
        call()
        total += time.perf_counter() - start
    return total


def installed() -> dict[str, str]:
    """Versions of the peers in this Python."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
