"""Killing processes that write a dataset with SIGKILL, at random moments; for tests of recovery.

When a kill comes is left to chance and load; nothing that a test asserts may depend on it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable


class Fork:
    """A forked child that does `work`, which must not return by itself. Far quicker than an interpreter."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._error, there = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._error)
                signal.alarm(120)  # it must not outlive a test that is interrupted
                work()
                os.write(there, b"it returned")
            except BaseException:  # noqa: BLE001 - the parent raises it
                os.write(there, traceback.format_exc().encode())
            finally:
                os._exit(1)
        os.close(there)

    def kill(self) -> None:
        """Raises `AssertionError` with the child's traceback if it had ended by itself."""
        os.kill(self.pid, signal.SIGKILL)
        status = os.waitpid(self.pid, 0)[1]
        with os.fdopen(self._error, "rb") as file:
            told = file.read().decode()
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, told


def fork_and_kill(work: Callable[[], None], *, delay: tuple[float, float], rng: random.Random) -> None:
    """Does `work` in a child and kills it a random number of seconds after the fork."""
    child = Fork(work)
    time.sleep(rng.uniform(*delay))
    child.kill()
