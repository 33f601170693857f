"""Processes that help with a conversion: who does what, what they tell, and how they end.

Errands are parts of the result, and shares of a long first look. This process and each helper take the next
one when they are free. What they say to one another is in `convert_worker.py`.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from rlcli import errors
from rlcli.datasets.contract import Advance, LayoutMismatch, Source
from rlcli.datasets.stacked import StackMismatch
from rlcli.errors import ResourceError, RLError
from rlcli.pipeline.convert_job import Job
from rlcli.pipeline.convert_tasks import Task, make_parts

E = TypeVar("E", bound="Task | Look")

_WORKER = "from rlcli.pipeline.convert_worker import main; main()"  # not -m, which compiles it every time


@dataclass(frozen=True)
class Look:
    """A share of the first look through a source; see `contract.Shared`."""

    share: int
    shares: int

    @property
    def name(self) -> str:
        return f"share {self.share} of {self.shares}"

    def to_json(self) -> list[int]:
        return [self.share, self.shares]


class Crew:
    """Processes that help this one with a source of that format; leaving the block ends them.

    Of `jobs` as many begin at once as have a core: what they import they import while the source is opened.
    """

    def __init__(self, format: str, jobs: int) -> None:
        self._format = format
        self._told: _Told = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._grow(min(jobs, len(os.sched_getaffinity(0))))

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()

    def _grow(self, jobs: int) -> None:
        """`jobs` processes, this one among them, if there are not as many yet."""
        missing = jobs - 1 - len(self._workers)
        self._workers += [_Worker(self._format, self._told) for _ in range(missing)]

    def look(self, job: Job, check: Callable[[], None]) -> Mapping[str, Any] | None:
        """The plan of a source whose first look is worth sharing; None if it is not, or there is nobody."""
        if not self._workers or (shares := job.shares()) < 2:
            return None
        looks = [Look(share, shares) for share in range(shares)]

        def here(errands: Iterator[Look], _: object) -> Iterator[tuple[Look, Any]]:
            return ((look, job.look(look.share, look.shares)) for look in errands)

        told = {"job": job.to_json(), "plan": None}
        return job.plan(self._all(told, looks, here, lambda count: None, check))

    def make(
        self,
        job: Job,
        tasks: Sequence[Task],
        source: Source,
        jobs: int,
        advance: Advance,
        check: Callable[[], None],
    ) -> None:
        """Makes all parts with `jobs` processes; this one reads the source as it is opened here."""
        self._grow(min(jobs, len(tasks)))

        def here(errands: Iterator[Task], heed: Callable[[], None]) -> Iterator[tuple[Task, None]]:
            return ((task, None) for task in make_parts(errands, source, advance, heed))

        self._all({"job": job.to_json(), "plan": dict(source.plan)}, tasks, here, advance, check)

    def _all(
        self,
        job: Mapping[str, Any],
        errands: Sequence[E],
        here: Callable[[Iterator[E], Callable[[], None]], Iterator[tuple[E, Any]]],
        advance: Advance,
        check: Callable[[], None],
    ) -> list[Any]:
        """What is told of each errand, in order. This process does with `here`, given a check, what it can.

        The first error stops all and is raised here.
        """
        waiting = deque(errands)
        told: dict[Task | Look, Any] = {}
        for worker in self._workers:
            worker.begin(job, waiting)

        def heed(seconds: float = 0.0) -> None:
            """What others have told meanwhile, waiting so long for a first word."""
            check()
            with suppress(queue.Empty):
                while True:
                    worker, message = self._told.get(seconds > 0, seconds)
                    seconds = 0.0
                    if message is None:
                        worker.check()
                    elif isinstance(message, int):
                        advance(message)
                    else:
                        told[message[0]] = message[1]

        for errand, seen in here(iter(lambda: _next(waiting), None), heed):
            told[errand] = seen
        while len(told) < len(errands):
            heed(0.1)
        return [told[errand] for errand in errands]


def _next(waiting: deque[E]) -> E | None:
    """The first of the errands, which is nobody else's from now on; None if there is none left."""
    try:
        return waiting.popleft()
    except IndexError:
        return None


class _Worker:
    """A process at work on one errand after the other; a thread of ours gives them and hears what is told.

    What it tells comes to the queue: bytes done, an errand with what was seen, or None at its end.
    """

    def __init__(self, format: str, told: _Told) -> None:
        self._told = told
        self._errands: deque[Task | Look] = deque()  # begun and not done, in order
        self._is_free = True  # of what it was told to begin it knows that nothing is left
        self._outcome: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _WORKER, format],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # none is used, and beginning them takes long
            text=True,
            encoding="utf-8",
            start_new_session=True,  # a terminal's Ctrl-C is for the parent, which stops its workers
        )
        self._begun: queue.SimpleQueue[tuple[Mapping[str, Any], deque[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def begin(self, job: Mapping[str, Any], waiting: deque[E]) -> None:
        """From now on it takes these errands, of that job."""
        self._begun.put((job, waiting))

    def _work(self) -> None:
        try:
            with suppress(BrokenPipeError):  # where it was killed, `check` says so
                while (begun := self._begun.get()) is not None and self._serve(*begun):
                    pass
        finally:
            self._told.put((self, None))

    def _serve(self, job: Mapping[str, Any], waiting: deque[Any]) -> bool:
        """Gives errands until none is left and all are done; whether the process is still there."""
        if not waiting:
            return True
        self._is_free = False
        self._say(job)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if "wants" in message:
                if (errand := _next(waiting)) is not None:
                    self._errands.append(errand)
                self._is_free = errand is None
                self._say(None if errand is None else errand.to_json())
            elif "done" in message:
                self._told.put((self, (self._errands.popleft(), message["done"])))
            elif "bytes" in message:
                self._told.put((self, message["bytes"]))
            else:
                self._outcome = message
            if self._is_free and not self._errands:
                return True
        return False

    def _say(self, message: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def check(self) -> None:
        """Raises what the process raised, `ResourceError` if something killed it amidst its errands."""
        if "error" in self._outcome:
            error = self._outcome["error"]
            kind = getattr(errors, error["kind"], RLError)
            raised: RLError = RLError.__new__(kind)
            RLError.__init__(raised, error["message"], hint=error["hint"], path=error["path"])
            raise raised
        if "system" in self._outcome:
            raise OSError(*self._outcome["system"])
        if "mismatch" in self._outcome:
            raise StackMismatch if self._outcome["mismatch"] == StackMismatch.__name__ else LayoutMismatch
        if self._errands or not self._is_free:
            self._close()  # it ends with its input, if it is not at its end
            name = f"made {self._errands[0].name}" if self._errands else "was to help"
            if (code := self._process.wait()) < 0:
                raise ResourceError(f"the process that {name} was killed by signal {-code}")
            raise RuntimeError(f"the process that {name} ended with code {code}")

    def kill(self) -> None:
        """Ends the process, which has nothing to tidy up, and waits for its end."""
        self._process.kill()
        self._process.wait()
        self._begun.put(None)
        self._thread.join()
        self._close()

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()


_Told = queue.SimpleQueue[tuple[_Worker, "int | tuple[Task | Look, Any] | None"]]
