"""Every call on a file fails once, and at every fifth place all from then on, in every act.

`python faults.py` in the environment of `failing.environment`, which `run` sees to, prints a JSON object.
After each failure calls work again: what was promised must be there, exactly, and the next writer goes on.
"""

from __future__ import annotations

import argparse
import errno
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import acts
import typer.main
from acts import ACTS, Act, Stage
from failing import FAULTS, Calls, Fault, build, environment
from known_rows import Violation, require
from typer.utils import get_params_from_function

from rlcli.errors import ExitCode, ResourceError, RLError

FULL = (errno.ENOSPC, errno.EMFILE)
MOST = 40  # violations that are told
LASTING_STEP = 5  # what lasts is like a disk that is gone: fewer places say as much


def run(folder: Path, *, step: int, first: int = 0, names: Sequence[str] = ()) -> dict[str, Any]:
    """The proof in a process of its own, with every `step`-th call from the one numbered `first`."""
    library = build(folder)
    command = [sys.executable, __file__, str(folder), *names, "--step", str(step), "--first", str(first)]
    done = subprocess.run(command, env=environment(library), stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Proof:
    """Counts how the acts ended, per fault, and keeps what was violated."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = Calls()
        self.counts: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()  # which calls
        self.violations: list[str] = []

    def all_calls(self, act: Act, step: int, first: int) -> None:
        prepared = Stage(self.folder / "prepared")
        prepared.folder.mkdir()
        act.prepare(prepared)
        prepared.before = acts.contents(prepared.path) if act.reads else None
        stage = self._stage(prepared)
        with self.calls.counting(stage.folder):
            act.run(stage)
        found = [(fault, self.calls.count(fault)) for fault in FAULTS]
        acts.check(stage, act, is_full=False)
        for fault, calls in found:
            self.counts["calls"] += calls
            every = step * LASTING_STEP if fault.lasting else step
            for at in range(first % max(1, min(every, calls)), calls, every):
                self._attempt(self._stage(prepared), act, fault, at)
        shutil.rmtree(prepared.folder)

    def _stage(self, prepared: Stage) -> Stage:
        folder = self.folder / "stage"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(prepared.folder, folder)
        return Stage(folder, list(prepared.told), prepared.before)

    def _attempt(self, stage: Stage, act: Act, fault: Fault, at: int) -> None:
        ended = "went on"
        try:
            try:
                with self.calls.failing(stage.folder, fault, at):
                    act.run(stage)
            except RLError as err:
                require("\n" not in err.message, "wrong", err.message)
                codes = (ExitCode.RESOURCE, ExitCode.CORRUPT, ExitCode.INPUT)
                require(err.code in codes, "wrong", repr(err))
                require(fault.error not in FULL or isinstance(err, ResourceError), "wrong", repr(err))
                ended = type(err).__name__
            except OSError as err:
                require(err.errno == fault.error and fault.error not in FULL, "wrong", repr(err))
                require(err.filename is not None, "wrong", f"no path in {err!r}")
                ended = "OSError"
            if stage.code:
                ended = f"exit {stage.code}"
            require(fault.error or ended == "went on", "wrong", f"short calls: {ended} {stage.said}")
            acts.check(stage, act, is_full=fault.error in FULL)
        except (Violation, RLError, OSError, ValueError, AssertionError, TypeError) as err:
            text = f"{act}: {fault.name} at call {at} ({self.calls.failed}): {type(err).__name__}: {err}"
            self.violations.append(text)
            print(text, file=sys.stderr, flush=True)
            ended = "violation"
        self.counts["cases"] += 1
        self.counts[f"{fault.name}: {ended}"] += 1
        self.failed[self.calls.failed] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="acts with such a word; default: all")
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    os.environ.pop("LD_PRELOAD")  # of this process only
    # Half the time of a command would go into its flags, which are always the same.
    vars(typer.main)[get_params_from_function.__name__] = functools.cache(get_params_from_function)
    proof = Proof(Path(tempfile.mkdtemp(prefix="faults-", dir=options.folder)))
    for act in ACTS:
        if not options.names or any(name in act.name for name in options.names):
            try:
                proof.all_calls(act, options.step, options.first)
            except Violation as err:
                proof.violations.append(f"{act}: without a failure: {err}")
                shutil.rmtree(proof.folder / "prepared")
            print(f"{act}: {proof.counts['cases']} cases so far", file=sys.stderr, flush=True)
    shutil.rmtree(proof.folder)
    found = {**dict(sorted(proof.counts.items())), "failed calls": dict(sorted(proof.failed.items()))}
    print(json.dumps({**found, "violations": proof.violations[:MOST], "violated": len(proof.violations)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
