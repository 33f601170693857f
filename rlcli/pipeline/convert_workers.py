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


def in_processes(tasks: Sequence[Task], jobs: int, advance: Advance) -> None:
    """Makes all parts with `jobs` processes. The first error stops the others and is raised here."""
    waiting = list(reversed(tasks))
    told: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()
    working: list[_Worker] = []
    try:
        while waiting or working:
            while waiting and len(working) < jobs:
                working.append(_Worker(told))
                working[-1].give(waiting.pop())
            advance(0)  # may raise: a signal came
            try:
                worker, message = told.get(timeout=0.1)
            except queue.Empty:
                continue
            if message is None:
                working.remove(worker)
                worker.finish()
            elif "bytes" in message:
                advance(message["bytes"])
            elif "done" in message:
                worker.give(waiting.pop() if waiting else None)
            else:
                worker.outcome = message
    finally:
        for worker in working:
            worker.kill()


class _Worker:
    """A process at work on one task after the other; its messages arrive in a queue, None at its end."""

    def __init__(self, told: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        self.task: Task | None = None
        self.outcome: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rlcli.pipeline.convert_workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # a terminal's Ctrl-C is for the parent, which stops its workers
        )
        self._reader = threading.Thread(target=self._listen, args=(told,), daemon=True)
        self._reader.start()

    def give(self, task: Task | None) -> None:
        """The next task; None if there is no more."""
        self.task = task
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # killed already: `finish` says so
            if task is None:
                self._process.stdin.close()
            else:
                self._process.stdin.write(json.dumps(task.to_json()) + "\n")
                self._process.stdin.flush()

    def _listen(self, told: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told.put((self, json.loads(line)))
        told.put((self, None))

    def finish(self) -> None:
        """Raises what the process raised, `ResourceError` if something killed it."""
        self._close()
        code = self._process.wait()
        if "error" in self.outcome:
            error = self.outcome["error"]
            kind = getattr(errors, error["kind"], RLError)
            raised: RLError = RLError.__new__(kind)
            RLError.__init__(raised, error["message"], hint=error["hint"], path=error["path"])
            raise raised
        if "system" in self.outcome:
            raise OSError(*self.outcome["system"])
        if "mismatch" in self.outcome:
            raise StackMismatch if self.outcome["mismatch"] == StackMismatch.__name__ else LayoutMismatch
        if self.task is not None:
            name = self.task.path.name
            if code < 0:
                raise ResourceError(f"the process that made {name} was killed by signal {-code}")
            raise RuntimeError(f"the process that made {name} ended with code {code}")

    def kill(self) -> None:
        """Ends the process and waits for its end."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()


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
