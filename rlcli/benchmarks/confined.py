"""Sampling in a process that may use a tenth of the memory its dataset takes.

A control group bounds the process with the pages of the files it maps, which a resource limit does not.
Where none can be made, the process runs unbounded and `Confined.is_bounded` says so.

`python -m rlcli.benchmarks.confined DATASET` is that process: JSON lines in, JSON lines out.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcli.errors import InputError
from rlcli.format.memory import group_folders
from rlcli.pipeline.benchmark_limits import Role

RUN = 4096  # rows of one read in order


class Confined(AbstractContextManager["Confined"]):
    """The process, in a control group of `allowed` bytes below ours."""

    def __init__(self, dataset: Path, allowed: int) -> None:
        self._group = _group(allowed)
        command = [sys.executable, "-m", "rlcli.benchmarks.confined", str(dataset)]
        if self._group is not None:
            command.append(str(self._group))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    @property
    def is_bounded(self) -> bool:
        """Whether the system holds the process to its bytes."""
        return self._group is not None

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, **request: Any) -> Any:
        """The answer to one request. Raises `InputError` if the process has ended, for want of memory."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise InputError(f"the confined process ended with {self._process.wait()} while asked {request}")
        return json.loads(line)

    def __exit__(self, *error: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()
        if self._group is not None:
            self._group.rmdir()


@dataclass
class ConfinedArm:
    """A way of sampling, measured in the confined process."""

    confined: Confined
    kind: str
    random: bool  # what the dataset is told to expect
    name: str
    role: Role
    units: float
    cpu_seconds: float = math.nan

    def measure(self, repeats: int) -> float:
        return float(self.confined.ask(kind=self.kind, random=self.random, repeats=repeats))


def sampling(path: Path, kind: str, random: bool | None) -> tuple[Callable[[], object], int]:
    """A call that draws once, and the rows it draws; `random` None is what the sampler itself expects."""
    from rlcli.benchmarks.rows import BATCH_KEYS
    from rlcli.format.dataset import Dataset
    from rlcli.replay.batches import Batches
    from rlcli.replay.slices import Config, Slices
    from rlcli.replay.uniform import Uniform

    dataset = Dataset.open(path)
    start = 0

    def run() -> object:
        nonlocal start
        start = 0 if start + RUN > dataset.num_rows else start
        start += RUN
        return dataset.read_rows(start - RUN, start, keys=BATCH_KEYS)

    call: Callable[[], object]
    if kind == "uniform":
        batches = Batches(Uniform(dataset, BATCH_KEYS), 256)
        call, count = batches.__next__, 256
    elif kind == "slices":
        batches = Batches(Slices(dataset, BATCH_KEYS, config=Config(32)), 8)
        call, count = batches.__next__, 256
    else:
        call, count = run, RUN
    if random is not None:
        dataset.expect_random(random)
    return call, count


def digest(path: Path, seed: int) -> str:
    """A hash of a batch of that seed."""
    from rlcli.benchmarks.rows import BATCH_KEYS
    from rlcli.format.dataset import Dataset
    from rlcli.replay.uniform import Uniform

    with Dataset.open(path) as dataset:
        batch = Uniform(dataset, BATCH_KEYS, seed=seed).sample(64)
        return hashlib.sha256(batch["observation"].tobytes() + batch["action"].tobytes()).hexdigest()


def drop_pages(path: Path) -> None:
    """Writes the files below `path` to the disk and takes them out of the page cache."""
    for file in path.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _group(allowed: int) -> Path | None:
    for folder, limit in group_folders():
        group = folder / f"rl-bench-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(allowed))
        except OSError:
            group.rmdir()
            continue
        return group
    return None


def _serve(dataset: Path) -> None:
    calls: dict[tuple[str, bool], Callable[[], object]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any
        if "seed" in request:
            answer = digest(dataset, request["seed"])
        elif "kind" not in request:
            answer = _resident()
        else:
            key = (request["kind"], request["random"])
            if key not in calls:
                calls[key] = sampling(dataset, *key)[0]
            begin = time.perf_counter()
            for _ in range(request["repeats"]):
                calls[key]()
            answer = time.perf_counter() - begin
        print(json.dumps(answer), flush=True)


def _resident() -> int:
    """Bytes in memory now, with the pages of mapped files; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        (Path(sys.argv[2]) / "cgroup.procs").write_text(str(os.getpid()))
    _serve(Path(sys.argv[1]))
