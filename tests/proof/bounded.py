"""Sampling a dataset ten times as large as the memory that the process may have, in a control group where the
system lets us make one: pages of mapped files must make room, and nothing else may grow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sparse

SEGMENT_BYTES = sparse.ALLOC * sparse.ROW_BYTES
BATCH = 16

_SAMPLER = """
import json, sys
import numpy as np
from rlcli.format.dataset import Dataset
group, path, batches, size, check = sys.argv[1:6]
if group:
    open(group, "w").write("0")
def anonymous():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
dataset = Dataset.open(path, check=check)
rng, most, wrong, out = np.random.default_rng(0), [], 0, None
for _ in range(int(batches)):
    rows = rng.integers(0, dataset.num_rows, int(size))
    out = dataset.gather(rows, [("pixels",)], out=out)
    wrong += int(out["pixels"].any())
    most.append(anonymous())
print(json.dumps({"rows": len(most) * int(size), "bytes": dataset.size_bytes, "wrong": wrong,
                  "private": max(most), "growth": max(most) - most[0]}))
"""


def sample(folder: Path, *, limit: int, batches: int, check: str = "none") -> dict[str, Any]:
    """Samples so many batches of rows of ten times `limit` bytes in a process of its own.

    Returns how many `rows` were drawn and how many of their batches were `wrong`; the most memory of the
    process that is no mapped file, `private`, and its `growth` since the first batch, in bytes; the `limit`
    that held, or None where no control group could be made, and the `peak` of what was charged to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ds"
    sparse.create(path, -(-10 * limit // SEGMENT_BYTES))
    with _group(limit) as group:
        tasks = str(group / "cgroup.procs") if group else ""
        command = [sys.executable, "-c", _SAMPLER, tasks, str(path), str(batches), str(BATCH), check]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        peak = _peak(group) if group else None
    return {**json.loads(done.stdout), "limit": limit if group else None, "peak": peak}


@contextmanager
def _group(limit: int) -> Iterator[Path | None]:
    """A control group inside our own that may have `limit` bytes; None where there can be none."""
    group = None
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, inside = line.split(":", 2)
        if number == "0":
            place, file = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            place, file = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        ours = place / inside.lstrip("/")
        made = (ours if ours.is_dir() else place) / f"rl-proof-{uuid.uuid4().hex}"
        try:
            made.mkdir()
        except OSError:
            continue
        try:
            (made / file).write_text(str(limit))
            group = made
            break
        except OSError:  # no memory controller there
            made.rmdir()
    try:
        yield group
    finally:
        if group is not None:
            os.rmdir(group)


def _peak(group: Path) -> int | None:
    for name in ("memory.max_usage_in_bytes", "memory.peak"):
        if (group / name).exists():
            return int((group / name).read_text())
    return None
