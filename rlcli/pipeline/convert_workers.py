"""Parts of a conversion: how one is made, here or by a process of its own.

A worker is `python -m rlcli.pipeline.convert_workers`: it reads tasks from standard input, JSON on a line
each, and writes one JSON object per line to standard output: bytes done, and for each task `done`, `mismatch`
or an error. It opens the source once, and ends with its input or with an error.
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
from typing import Any

from rlcli import errors
from rlcli.datasets.contract import Advance, LayoutMismatch, Report, Source
from rlcli.datasets.stacked import StackMismatch
from rlcli.errors import ResourceError, RLError
from rlcli.format.writer import Writer
from rlcli.pipeline.convert_job import Job
from rlcli.pipeline.convert_rows import Selection, segment_rows, selected, write

_TELL_BYTES = 4 << 20  # a worker tells its progress this often


@dataclass(frozen=True)
class Task:
    """Pieces `start … stop - 1` of a source become the dataset `path`, and its report `path`.json."""

    job: Job
    plan: Mapping[str, Any]
    start: int
    stop: int
    selection: Selection
    path: Path

    def to_json(self) -> dict[str, Any]:
        return {
            "job": self.job.to_json(),
            "plan": dict(self.plan),
            "pieces": [self.start, self.stop],
            "selection": self.selection.to_json(),
            "path": str(self.path),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Task:
        """The task that `to_json` told."""
        selection = Selection.from_json(value["selection"])
        start, stop = value["pieces"]
        path = Path(value["path"])
        return Task(Job.from_json(value["job"]), value["plan"], start, stop, selection, path)


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
    """Processes that help this one to make parts; leaving the block ends them."""

    def __init__(self) -> None:
        self._told: _Told = queue.SimpleQueue()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()

    def grow(self, count: int) -> None:
        """`count` processes, if there are not as many yet. They import what they need from now on."""
        self._workers += [_Worker(self._told) for _ in range(count - len(self._workers))]

    def make(
        self, tasks: Sequence[Task], source: Source, advance: Advance, check: Callable[[], None]
    ) -> None:
        """Makes all parts, this process and the others each as many as it can, of the opened source here.

        The first error stops all and is raised here.
        """
        waiting = deque(tasks)
        working = set(self._workers)
        for worker in working:
            worker.begin(waiting)

        def heed(seconds: float = 0.0) -> None:
            """What others have told meanwhile, waiting so long for a first word."""
            with suppress(queue.Empty):
                while True:
                    worker, count = self._told.get(seconds > 0, seconds)
                    seconds = 0.0
                    if count is None:
                        working.discard(worker)
                        worker.check()
                    else:
                        advance(count)

        def advance_all(count: int) -> None:
            heed()
            advance(count)

        while (task := _next(waiting)) is not None:
            make_part(task, source, advance_all, check)
        while working:
            advance(0)  # may raise: a signal came
            heed(0.1)


def _next(waiting: deque[Task]) -> Task | None:
    """The first of the tasks, which is nobody else's from now on; None if there is none left."""
    try:
        return waiting.popleft()
    except IndexError:
        return None


class _Worker:
    """A process at work on one task after the other; a thread of ours gives them and hears what is told."""

    def __init__(self, told: _Told) -> None:
        self._told = told
        self._task: Task | None = None
        self._outcome: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rlcli.pipeline.convert_workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # a terminal's Ctrl-C is for the parent, which stops its workers
        )
        self._thread: threading.Thread | None = None

    def begin(self, waiting: deque[Task]) -> None:
        """From now on it takes tasks; bytes done arrive in the queue, None when it does nothing any more."""
        self._thread = threading.Thread(target=self._work, args=(waiting,), daemon=True)
        self._thread.start()

    def _work(self, waiting: deque[Task]) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            with suppress(BrokenPipeError), stdin:  # where it was killed, `check` says so
                while (task := _next(waiting)) is not None:
                    self._task = task
                    stdin.write(json.dumps(task.to_json()) + "\n")
                    stdin.flush()
                    if not any(self._is_done(json.loads(line)) for line in stdout):
                        return
                    self._task = None
        finally:
            self._told.put((self, None))

    def _is_done(self, message: dict[str, Any]) -> bool:
        """Keeps what the process says of its task; whether that was the last word."""
        if "bytes" in message:
            self._told.put((self, message["bytes"]))
        elif "done" not in message:
            self._outcome = message
        return "done" in message

    def check(self) -> None:
        """Raises what the process raised, `ResourceError` if something killed it in the midst of a task."""
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
        if self._task is not None:
            name, code = self._task.path.name, self._process.wait()
            if code < 0:
                raise ResourceError(f"the process that made {name} was killed by signal {-code}")
            raise RuntimeError(f"the process that made {name} ended with code {code}")

    def kill(self) -> None:
        """Ends the process, which has nothing to tidy up, and waits for its end."""
        self._process.kill()
        self._process.wait()
        if self._thread is not None:
            self._thread.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()


_Told = queue.SimpleQueue[tuple[_Worker, int | None]]


def main() -> None:
    """The worker process."""
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
        with ExitStack() as stack:
            source: Source | None = None
            for line in sys.stdin:
                task = Task.from_json(json.loads(line))
                if source is None:
                    source = stack.enter_context(task.job.opened(task.plan))
                make_part(task, source, advance, lambda: None)
                tell({"bytes": pending})
                pending = 0
                tell({"done": True})
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
