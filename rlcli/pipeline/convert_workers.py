"""Parts of a conversion, and shares of a long first look: how each is made, here or by a process of its own.

A worker is `python -m rlcli.pipeline.convert_workers FORMAT`: it reads errands from standard input, JSON on a
line each, and writes one JSON object per line to standard output: bytes done, and for each errand `done`,
`mismatch` or an error. Before the first part it is told the source, which it opens once for all of them. It
ends with its input or with an error.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rlcli import errors
from rlcli.datasets import registry
from rlcli.datasets.contract import Advance, LayoutMismatch, Report, Source
from rlcli.datasets.stacked import StackMismatch
from rlcli.errors import ResourceError, RLError
from rlcli.format.writer import Writer
from rlcli.pipeline.convert_job import Job
from rlcli.pipeline.convert_memory import share_one_heap
from rlcli.pipeline.convert_rows import Selection, segment_rows, selected, write

E = TypeVar("E", bound="Task | Look")

_TELL_BYTES = 4 << 20  # a worker tells its progress this often


@dataclass(frozen=True)
class Task:
    """Pieces `start … stop - 1` of a source become the dataset `path`, and its report `path`.json."""

    start: int
    stop: int
    selection: Selection
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def to_json(self) -> dict[str, Any]:
        return {
            "pieces": [self.start, self.stop],
            "selection": self.selection.to_json(),
            "path": str(self.path),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Task:
        """The task that `to_json` told."""
        start, stop = value["pieces"]
        return Task(start, stop, Selection.from_json(value["selection"]), Path(value["path"]))


@dataclass(frozen=True)
class Look:
    """A share of the first look through a source; see `contract.Shared`."""

    job: Job
    share: int
    shares: int

    @property
    def name(self) -> str:
        return f"share {self.share} of {self.shares}"

    def to_json(self) -> dict[str, Any]:
        return {"job": self.job.to_json(), "share": self.share, "shares": self.shares}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Look:
        """The look that `to_json` told."""
        return Look(Job.from_json(value["job"]), value["share"], value["shares"])

    def take(self) -> Any:
        """What there is to see, JSON."""
        return self.job.look(self.share, self.shares)


def make_part(task: Task, source: Source, advance: Advance, check: Callable[[], None]) -> None:
    """Makes the part; the report appears last, so that a part with a report is complete."""
    pieces = source.pieces[task.start : task.stop]
    report = Report()
    temporary = task.path.with_name(f".{task.path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    rows = segment_rows(pieces, source.schema)
    writer = Writer.create(
        temporary,
        source.schema,
        spec=source.spec,
        lineage={"op": "convert"},
        durability="process",
        segment_rows=rows,
    )
    write(writer, selected(source, pieces, task.selection, report, advance), report, check)
    os.rename(temporary, task.path)
    told = task.path.with_name(f"{task.path.name}.json")
    unfinished = told.with_name(f".{told.name}")
    unfinished.write_text(json.dumps(report.to_json()))
    os.rename(unfinished, told)


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
        looks = [Look(job, share, shares) for share in range(shares)]
        return job.plan(self._all(looks, lambda look, _: look.take(), lambda count: None, check))

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
        if self._workers:
            told = json.dumps({"source": {"job": job.to_json(), "plan": dict(source.plan)}})
            for worker in self._workers:
                worker.source = told
        self._all(tasks, lambda task, check: make_part(task, source, advance, check), advance, check)

    def _all(
        self,
        errands: Sequence[E],
        here: Callable[[E, Callable[[], None]], Any],
        advance: Advance,
        check: Callable[[], None],
    ) -> list[Any]:
        """What is told of each errand, in order. This process does with `here`, given a check, what it can.

        The first error stops all and is raised here.
        """
        waiting = deque(enumerate(errands))
        told: dict[int, Any] = {}
        working = set(self._workers)
        for worker in working:
            worker.begin(waiting)

        def heed(seconds: float = 0.0) -> None:
            """What others have told meanwhile, waiting so long for a first word."""
            check()
            with suppress(queue.Empty):
                while True:
                    worker, message = self._told.get(seconds > 0, seconds)
                    seconds = 0.0
                    if message is None:
                        working.discard(worker)
                        worker.check()
                    elif "bytes" in message:
                        advance(message["bytes"])
                    else:
                        told[message["number"]] = message["done"]

        while (errand := _next(waiting)) is not None:
            told[errand[0]] = here(errand[1], heed)
        while working:
            heed(0.1)
        return [told[number] for number in range(len(errands))]


def _next(waiting: deque[tuple[int, E]]) -> tuple[int, E] | None:
    """The first of the errands, which is nobody else's from now on; None if there is none left."""
    try:
        return waiting.popleft()
    except IndexError:
        return None


class _Worker:
    """A process at work on one errand after the other; a thread of ours gives them and hears what is told."""

    def __init__(self, format: str, told: _Told) -> None:
        self._told = told
        self.source = ""  # what it has to be told of the source before it makes parts
        self._errand: Task | Look | None = None
        self._outcome: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rlcli.pipeline.convert_workers", format],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # a terminal's Ctrl-C is for the parent, which stops its workers
        )
        self._thread: threading.Thread | None = None

    def begin(self, waiting: deque[tuple[int, E]]) -> None:
        """From now on it takes errands; what it tells comes to the queue, None when it takes no more."""
        self._thread = threading.Thread(target=self._work, args=(waiting,), daemon=True)
        self._thread.start()

    def _work(self, waiting: deque[tuple[int, Task | Look]]) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            with suppress(BrokenPipeError):  # where it was killed, `check` says so
                while (errand := _next(waiting)) is not None:
                    number, self._errand = errand
                    kind = "look" if isinstance(self._errand, Look) else "part"
                    source, self.source = self.source, ""
                    stdin.write(f"{source}\n" if source else "")
                    stdin.write(json.dumps({kind: self._errand.to_json()}) + "\n")
                    stdin.flush()
                    if not any(self._is_done(number, json.loads(line)) for line in stdout):
                        return
                    self._errand = None
        finally:
            self._told.put((self, None))

    def _is_done(self, number: int, message: dict[str, Any]) -> bool:
        """Keeps or hands on what the process says of its errand; whether that was the last word."""
        if "bytes" in message or "done" in message:
            self._told.put((self, {"number": number, **message}))
        else:
            self._outcome = message
        return "done" in message

    def check(self) -> None:
        """Raises what the process raised, `ResourceError` if something killed it amidst an errand."""
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
        if self._errand is not None:
            self._close()  # it ends with its input, if it is not at its end
            name, code = self._errand.name, self._process.wait()
            if code < 0:
                raise ResourceError(f"the process that made {name} was killed by signal {-code}")
            raise RuntimeError(f"the process that made {name} ended with code {code}")

    def kill(self) -> None:
        """Ends the process, which has nothing to tidy up, and waits for its end."""
        self._process.kill()
        self._process.wait()
        if self._thread is not None:
            self._thread.join()
        self._close()

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()


_Told = queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]]


def main() -> None:
    """The worker process."""
    share_one_heap()
    out = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no message
    pending = 0

    def tell(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    def advance(count: int) -> None:
        nonlocal pending
        pending += count
        if pending >= _TELL_BYTES:
            tell({"bytes": pending})
            pending = 0

    try:
        registry.load(sys.argv[1])
        with ExitStack() as stack:
            source: Source | None = None
            for line in sys.stdin:
                asked = json.loads(line)
                if "look" in asked:
                    tell({"done": Look.from_json(asked["look"]).take()})
                    continue
                if "source" in asked:
                    job = Job.from_json(asked["source"]["job"])
                    source = stack.enter_context(job.opened(asked["source"]["plan"]))
                    continue
                assert source is not None
                make_part(Task.from_json(asked["part"]), source, advance, lambda: None)
                tell({"bytes": pending})
                pending = 0
                tell({"done": None})
    except LayoutMismatch as mismatch:
        tell({"mismatch": type(mismatch).__name__})
    except MemoryError:
        tell({"error": _error(ResourceError("out of memory"))})
    except RLError as err:
        tell({"error": _error(err)})
    except OSError as err:
        tell({"system": [err.errno, err.strerror, err.filename]})


def _error(err: RLError) -> dict[str, Any]:
    return {"kind": type(err).__name__, "message": err.message, "hint": err.hint, "path": err.path}


if __name__ == "__main__":
    main()
