"""Every call on files fails once, in a history that creates, seals, evicts, merges, dies and recovers.

After each failure the system works again: what was promised must be there and the next writer must go on.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import known_rows
from known_rows import KnownWriter, Violation, require

from rlcli.errors import ExitCode, RLError
from rlcli.format import layer
from rlcli.format.dataset import Dataset
from rlcli.format.merge import merge
from rlcli.format.recover import recover
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

CALLS = [name for name in vars(layer.Layer) if not name.startswith("_")]
FULL = (errno.ENOSPC, errno.EMFILE)


class Failing(layer.Layer):
    """The call number `at` fails with `error`; with None reads and writes from there on are short."""

    def __init__(self, at: int, error: int | None) -> None:
        self.at, self.error = at, error
        self.count = 0
        self.failed = ""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in CALLS:
            return found

        def call(*args: Any) -> Any:
            self.count += 1
            if self.error is None and self.count > self.at:
                return self._short(name, found, args)
            if self.count == self.at + 1 and self.error is not None:
                self.failed = name
                if name == "close":
                    os.close(args[0])
                raise OSError(self.error, os.strerror(self.error))
            return found(*args)

        return call

    @staticmethod
    def _short(name: str, found: Any, args: tuple[Any, ...]) -> Any:
        if name == "pwrite":
            whole = memoryview(args[1]).cast("B")
            return found(args[0], whole[: -(-len(whole) // 2)], args[2])
        if name == "pread":
            return found(args[0], -(-args[1] // 2), args[2])
        return found(*args)


class History:
    """What is done, and the rows per stream that were told to be committed."""

    def __init__(self, folder: Path, window: int | None) -> None:
        self.path, self.out, self.window = folder / "ds", folder / "merged", window
        self.told = [0, 0]
        self.writer: KnownWriter | None = None

    def run(self) -> None:
        self.writer = KnownWriter(
            Writer.create(
                self.path, known_rows.schema(heap=True), spec={}, lineage={"op": "test"}, num_streams=2,
                segment_rows=8, window=self.window, durability="commit",
            )
        )  # fmt: skip
        self._write(4)
        self.writer.writer.abort()
        self.writer = KnownWriter(Writer.append(self.path, lineage={"op": "again"}, durability="commit"))
        self._write(3)
        self.writer.close()
        self.writer = KnownWriter(Writer.join(self.path, lineage={"op": "join"}, num_streams=2))
        self._write(2)
        self.writer.writer.abort()
        recover(self.path)
        with Dataset.open(self.path) as dataset:
            known_rows.check(dataset)
            merge([dataset], self.out, lineage={"op": "merge"})

    def _write(self, commits: int) -> None:
        assert self.writer is not None
        for _ in range(commits):
            for stream in range(2):
                self.writer.write(stream, 4)
            self.writer.commit()
            self.told = [stream.committed for stream in self.writer.writer.streams]


def attempt(folder: Path, failing: Failing, window: int | None) -> str:
    """Runs the history over a failure and checks what is left; returns how it ended."""
    history, ended = History(folder, window), "no error"
    try:
        with layer.use(failing):
            try:
                history.run()
            finally:
                if history.writer is not None:
                    history.writer.writer.abort()
    except RLError as err:
        require(err.code in (ExitCode.RESOURCE, ExitCode.CORRUPT, ExitCode.INPUT), "wrong", repr(err))
        require("\n" not in err.message, "wrong", err.message)
        ended = type(err).__name__
    except OSError as err:
        require(err.errno == failing.error, "wrong", repr(err))
        ended = "OSError"
    if failing.error is None:
        require(ended == "no error", "wrong", f"short calls: {ended}")
    _check_after(history)
    return ended


def _check_after(history: History) -> None:
    path = history.path
    require(not history.out.exists() or verify(history.out, deep=True) == [], "wrong", "a merge is half made")
    if not path.exists():
        require(history.told == [0, 0], "hole", "the dataset is gone")
        return
    for again in range(2):
        with Dataset.open(path) as dataset:
            rows = dataset.stream_rows
            require(
                all(n >= t for n, t in zip(rows, history.told, strict=True)), "hole", (rows, history.told)
            )
            known_rows.check(dataset)
        if not again:
            known = KnownWriter(Writer.append(path, lineage={"op": "after"}, durability="process"))
            known.write(0, 3)
            known.close()
            history.told = [rows[0] + 3, rows[1]]
    require(verify(path, deep=True) == [], "wrong", "verify")


def all_calls(folder: Path, errors: list[int | None], step: int) -> tuple[Counter[str], list[str]]:
    """Every `step`-th call fails with each error, for a log and a window; how it ended, and violations."""
    counts: Counter[str] = Counter()
    violations = []
    for window in (None, 10):
        whole = Failing(1 << 60, errno.EIO)
        attempt(_fresh(folder), whole, window)
        counts["calls"] += whole.count
        for error in errors:
            for at in range(error or 0, whole.count, step) if error is not None else (0,):
                counts["cases"] += 1
                failing = Failing(at, error)
                try:
                    counts[attempt(_fresh(folder), failing, window)] += 1
                except (Violation, RLError, OSError, ValueError, AssertionError) as err:
                    text = f"window {window}, error {error}, call {at} ({failing.failed})"
                    violations.append(f"{text}: {type(err).__name__}: {err}")
    return counts, violations


def _fresh(folder: Path) -> Path:
    place = folder / "case"
    if place.exists():
        shutil.rmtree(place)
    place.mkdir()
    return place
