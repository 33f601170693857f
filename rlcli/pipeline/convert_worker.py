"""A process that helps with a conversion: `convert_workers.Crew` starts it, and says what there is to do.

It reads JSON from standard input, an object per line: a job, with the plan of its source if parts are to be
made, else for a first look. Whenever it is free it tells that it `wants` an errand, and gets a task, the
number of a share and of all shares, or null if there is none left for that job. On standard output it tells
bytes done, for each errand in turn that it is `done` and what was seen, or at its end a mismatch or an error.
It ends with its input or with an error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from rlcli.datasets import registry
from rlcli.datasets.contract import LayoutMismatch
from rlcli.errors import ResourceError, RLError
from rlcli.pipeline.convert_job import Job
from rlcli.pipeline.convert_memory import share_one_heap
from rlcli.pipeline.convert_tasks import Task, make_parts

_TELL_BYTES = 4 << 20  # progress is told this often


def main() -> None:
    """The process; its argument is the format."""
    share_one_heap()
    told = _Told()
    try:
        registry.load(sys.argv[1])
        for line in iter(sys.stdin.readline, ""):
            _serve(json.loads(line), told)
    except LayoutMismatch as mismatch:
        told.say({"mismatch": type(mismatch).__name__})
    except MemoryError:
        told.say({"error": _error(ResourceError("out of memory"))})
    except RLError as err:
        told.say({"error": _error(err)})
    except OSError as err:
        told.say({"system": [err.errno, err.strerror, err.filename]})


class _Told:
    """What the other process hears, from any thread."""

    def __init__(self) -> None:
        self._out = sys.stdout
        sys.stdout = sys.stderr  # what libraries print is no message
        self._lock = threading.Lock()
        self._num_bytes = 0

    def say(self, message: dict[str, Any]) -> None:
        """Tells it. Raises `SystemExit` if the other process was killed: nobody asks for the rest."""
        with self._lock:
            try:
                self._out.write(json.dumps(message) + "\n")
                self._out.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())  # for what is still buffered
                raise SystemExit(1) from None

    def advance(self, count: int, *, enough: int = _TELL_BYTES) -> None:
        """So many bytes more; `enough` are told."""
        self._num_bytes += count
        if self._num_bytes >= enough:
            self.say({"bytes": self._num_bytes})
            self._num_bytes = 0

    def errands(self) -> Iterator[Any]:
        """All that are given; each is asked for when somebody is free to begin with it."""
        while True:
            self.say({"wants": True})
            if (errand := json.loads(sys.stdin.readline() or "null")) is None:
                return
            yield errand


def _serve(asked: dict[str, Any], told: _Told) -> None:
    """All errands of one job."""
    job = Job.from_json(asked["job"])
    if asked["plan"] is None:
        for share, shares in told.errands():
            told.say({"done": job.look(share, shares)})
        return
    with job.opened(asked["plan"]) as source:
        tasks = map(Task.from_json, told.errands())
        for _ in make_parts(tasks, source, told.advance, lambda: None):
            told.advance(0, enough=0)
            told.say({"done": None})


def _error(err: RLError) -> dict[str, Any]:
    return {"kind": type(err).__name__, "message": err.message, "hint": err.hint, "path": err.path}
