"""Killing a process that writes a dataset with SIGKILL, at random moments; for tests of recovery."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def kill_at_random(command: Sequence[str | Path], *, delay: tuple[float, float], rng: random.Random) -> bool:
    """Runs a command, kills it with SIGKILL after a random number of seconds; returns whether it was still
    alive.

    The clock starts when the command has written its first line to stdout, or has ended.
    """
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(rng.uniform(*delay))
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return alive


def fork_and_kill(work: Callable[[], None], *, delay: tuple[float, float], rng: random.Random) -> bool:
    """Runs `work` in a forked child and kills it after a random number of seconds; returns whether it was
    alive.

    Far quicker than a new interpreter. The clock starts at the fork. `work` should not return by itself.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(rng.uniform(*delay))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)
