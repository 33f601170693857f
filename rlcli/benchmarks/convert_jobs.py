"""`convert/jobs` and `convert/jobs-groups`: what `--jobs 2` gains over one process on one core.

Cores are pinned. One process on two cores shows what is left to gain there: it reads, hashes and writes side
by side. The limit is two processes, warm, each with a conversion of its own on a core of its own: what these
two cores can do when nothing is shared but the memory. Datasets stay in memory here, so that no disk bounds.

`python -m rlcli.benchmarks.convert_jobs CORE` is such a process: JSON lines in, JSON lines out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rlcli.benchmarks.convert_process import Conversion
from rlcli.errors import InputError
from rlcli.pipeline.benchmark import Arm, Goal, Item, LocalArm
from rlcli.pipeline.benchmark_limits import Role
from rlcli.pipeline.convert import convert
from rlcli.pipeline.convert_memory import share_one_heap

GAIN = 1.6  # of two that two cores could give


def item(
    one: Conversion, name: str, num_bytes: int, episode_bytes: int, full: bool, stack: ExitStack
) -> Item:
    """Arms that convert the same source, `num_bytes` of rows, by one process and by two."""
    units, cores = num_bytes / 1e6, sorted(os.sched_getaffinity(0))[:2]
    arms: list[Arm] = []
    memory = []
    for jobs, share in ((2, 2), (1, 1), (1, 2)):
        conversion = replace(one, options={**one.options, "jobs": jobs})
        role: Role = "ours" if jobs == 2 else "reference"
        told = f"rl --jobs {jobs}, {'one core' if share == 1 else 'two cores'}"
        pinned = partial(_on_cores, cores[:share])
        arms.append(LocalArm(told, role, conversion.call, units, conversion.prepare, pinned))
        if full and share == jobs:
            with pinned():
                memory.append(conversion.memory(episode_bytes, f"--jobs {jobs}, the largest process"))
    apart = stack.enter_context(Apart(one, cores))
    arms.append(LocalArm("two of one process, a core each", "limit", apart.call, 2 * units, apart.prepare))

    def check() -> str:
        digests = set()
        for jobs in (1, 2):
            one.prepare()
            digests.add(convert(one.source, one.path, yes=True, **{**one.options, "jobs": jobs})["digest"])
        assert len(digests) == 1
        return "one process and two make datasets of one digest"

    made = Item(f"convert/{name}", "MB/s", arms, (Goal("rl --jobs 1, one core", GAIN),), check)
    made.memory = tuple(memory)
    made.processes += apart.pids
    return made


@contextmanager
def _on_cores(cores: Sequence[int]) -> Iterator[None]:
    """This thread, and what it starts, on those cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Apart(AbstractContextManager["Apart"]):
    """Processes, one for each core, that convert the same at the same time, each to a place of its own."""

    def __init__(self, one: Conversion, cores: Sequence[int]) -> None:
        self._conversions = [replace(one, path=one.path.with_name(f"apart-{core}")) for core in cores]
        command = [sys.executable, "-m", "rlcli.benchmarks.convert_jobs"]
        pipe = subprocess.PIPE
        self._processes = [
            subprocess.Popen([*command, str(core)], stdin=pipe, stdout=pipe, text=True) for core in cores
        ]

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes."""
        return tuple(process.pid for process in self._processes)

    def prepare(self) -> None:
        for conversion in self._conversions:
            conversion.prepare()

    def call(self) -> None:
        """All of them once. Raises `InputError` if a process has ended."""
        for process, one in zip(self._processes, self._conversions, strict=True):
            assert process.stdin is not None
            task = {"source": str(one.source), "path": str(one.path), "options": dict(one.options)}
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
        for process in self._processes:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise InputError(f"a process that converts ended with {process.wait()}")

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
            process.wait()


def _serve(core: int) -> None:
    share_one_heap()
    os.sched_setaffinity(0, [core])
    for line in sys.stdin:
        task: dict[str, Any] = json.loads(line)
        Conversion(Path(task["source"]), Path(task["path"]), task["options"]).call()
        print("{}", flush=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
