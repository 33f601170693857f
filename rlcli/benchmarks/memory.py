"""`rl bench memory`: sampling a dataset ten times larger than the memory there is for it.

Reads at random, in slices and in order, told to the system as such or not: what `Dataset.expect_random` is
for. Limit: the same draws of a copy that is in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rlcli.benchmarks import Setting
from rlcli.benchmarks.confined import Confined, ConfinedArm, digest, drop_pages, sampling
from rlcli.benchmarks.rows import write_dataset
from rlcli.pipeline.benchmark import Item, LocalArm

TITLE = "batches from a dataset ten times larger than memory"
LEAST = 48 << 20  # bytes that the interpreter itself needs, and a little
SHARED = 64 << 20  # bytes of libraries that others have in memory too, so that they are not this process's
DRAWS = {"uniform": 40, "slices": 400, "order": 400}


def items(setting: Setting) -> Iterator[Item]:
    """`memory/uniform`, `memory/slices`, `memory/order`."""
    num_rows = setting.pick(small=20_000, full=5_000_000)
    for kind in ("uniform", "slices", "order"):
        path, copy = setting.folder / "dataset", setting.folder / "copy"
        write_dataset(path, num_rows)
        shutil.copytree(path, copy)
        drop_pages(path)  # what is read again counts as the confined process's
        size = sum(file.stat().st_size for file in path.rglob("*"))
        allowed = max(size // 10, LEAST)
        draw, rows = sampling(copy, kind, None)
        with Confined(path, allowed) as confined:
            at_random = ConfinedArm(confined, kind, True, "as random reads", "reference", rows)
            usual = ConfinedArm(confined, kind, False, "with readahead", "reference", rows)
            ours, other = (usual, at_random) if kind == "order" else (at_random, usual)
            ours.name, ours.role = f"rl, {ours.name}", "ours"
            warm = LocalArm("all in memory", "limit", draw, rows)
            item = Item(f"memory/{kind}", "rows/s", [ours, other, warm])
            item.processes += (confined.pid,)

            item.check = partial(_check, copy, confined, ours, allowed, size)
            yield item


def _check(copy: Path, confined: Confined, ours: ConfinedArm, allowed: int, size: int) -> str:
    """Batches are those of the copy, and what is resident stays below what is allowed."""
    assert confined.ask(seed=3) == digest(copy, 3)
    ours.measure(DRAWS[ours.kind])
    resident = confined.ask()
    said = f"{size >> 20} MiB of data, {resident >> 20} MiB resident after {DRAWS[ours.kind]} draws"
    if not confined.is_bounded:
        return f"equal batches; {said}; no control group could be made, so NOTHING bounds the process"
    assert resident <= allowed + SHARED, f"{resident} bytes are resident"
    return f"equal batches; {said}, shared libraries included; {allowed >> 20} MiB allowed besides those"
