"""The long proofs: `python tests/proof/soak.py NAME …`, or `make soak` for all. Each prints a JSON object.

* kills --kills 10000: kill -9 over several writers, a follower compares every row
* power --cuts 6000: cuts of power at every call, with torn and lost writes
* faults --step 1: every call of the C library fails, in acts of the API and of the command line
* fuzz --cases 20000: datasets changed at will (and `coverage_guided.py`, led by coverage)
* bounded: a dataset of ten times the memory that the sampling process may have
* window --rows 12000000: a window sampled while it is overwritten
* properties: the property tests of the repository with cases they have not seen
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import bounded as memory
import mutations
import window_race
from faults import run as every_call
from kills import Kills
from known_rows import Violation
from power_cuts import Cuts

Report = dict[str, Any]


def kills(folder: Path, seed: int, options: argparse.Namespace) -> Report:
    run = Kills(folder, random.Random(seed))
    run.run(options.kills)
    found = {name: run.counts[name] for name in ("wrong", "hole", "regression")}
    return {**dict(sorted(run.counts.items())), **found, "violations": run.violations}


def power(folder: Path, seed: int, options: argparse.Namespace) -> Report:
    run = Cuts(folder, random.Random(seed))
    run.run(options.cuts)
    return {**dict(sorted(run.counts.items())), "violations": run.violations}


def window(folder: Path, seed: int, options: argparse.Namespace) -> Report:
    found: Report = {"violations": []}
    for check in ("touch", "none"):
        try:
            found[check] = window_race.sample(folder, options.rows // 2, check)
        except Violation as err:
            found["violations"].append(str(err))
    return found


def bounded(folder: Path, seed: int, options: argparse.Namespace) -> Report:
    with tempfile.TemporaryDirectory() as disk:  # files in memory could not make room
        found: Report = {}
        for check in ("none", "touch"):
            found[check] = memory.sample(Path(disk) / check, limit=200 << 20, batches=500, check=check)
    wrong = [name for name, one in found.items() if one["wrong"] or one["growth"] > 4 << 20]
    return {**found, "violations": wrong}


def faults(folder: Path, seed: int, options: argparse.Namespace) -> Report:
    return every_call(folder, step=options.step, first=seed)


def fuzz(folder: Path, seed: int, options: argparse.Namespace) -> Report:
    rng = random.Random(seed)
    target, violations = mutations.fuzz(
        folder, lambda: rng.randbytes(24), lambda target: target.counts["cases"] >= options.cases
    )
    return {**dict(sorted(target.counts.items())), "violations": violations}


def properties(folder: Path, seed: int, options: argparse.Namespace) -> Report:
    command = ["-m", "pytest", "-m", "hypothesis", f"--basetemp={folder / 'tests'}", "-p", "no:cacheprovider"]
    command += ["--hypothesis-profile=explore", f"--hypothesis-seed={seed}", str(Path(__file__).parents[1])]
    found = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    *_, summary = found.stdout.strip().splitlines() or [found.stderr]
    if found.returncode:
        (folder / "pytest.txt").write_text(found.stdout + found.stderr)
    return {"summary": summary, "violations": [str(folder / "pytest.txt")] if found.returncode else []}


PROOFS: dict[str, Callable[[Path, int, argparse.Namespace], Report]] = {
    "kills": kills,
    "power": power,
    "faults": faults,
    "fuzz": fuzz,
    "bounded": bounded,
    "window": window,
    "properties": properties,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("proofs", nargs="*", default=[], help="default: all")
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFF)
    parser.add_argument("--kills", type=int, default=10_000)
    parser.add_argument("--cuts", type=int, default=6_000)
    parser.add_argument("--rows", type=int, default=12_000_000)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--cases", type=int, default=20_000)
    options = parser.parse_args()
    if unknown := set(options.proofs) - PROOFS.keys():
        parser.error(f"no proof {sorted(unknown)}; there are {', '.join(PROOFS)}")
    shared = Path("/dev/shm")
    failed = False
    for name in options.proofs or PROOFS:
        folder = Path(tempfile.mkdtemp(prefix="soak-", dir=shared if shared.is_dir() else None))
        begun = time.monotonic()
        report = PROOFS[name](folder, options.seed, options)
        seconds = round(time.monotonic() - begun, 1)
        if not report["violations"]:  # else it is kept to be looked at
            shutil.rmtree(folder)
        failed |= bool(report["violations"])
        print(json.dumps({"proof": name, "seed": options.seed, "seconds": seconds, **report}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
