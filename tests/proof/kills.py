"""kill -9 over one to four writers at once, while a follower compares every row that appears.

Writers are short-lived forks. Each joins (or appends to) the dataset, takes over what killed ones left, and
is killed from outside at a random moment or kills itself at a random call of the file layer. The follower
never closes its dataset; it must see every committed row once, in order, and never fewer rows than before.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
import struct
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import known_rows
from known_rows import KnownWriter, Violation, require

from rlcli.errors import BusyError, RLError
from rlcli.format import layer
from rlcli.format.dataset import Dataset
from rlcli.format.gc import collect_garbage
from rlcli.format.recover import recover
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

MAX_STREAMS = 64
KILLS_PER_DATASET = 50
CALLS = [name for name, value in vars(layer.Layer).items() if callable(value)]
FAILED = 3
PAGE = 4096


class Dying(layer.Layer):
    """Kills the process before its call number `at`, or after half of a write."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in CALLS:
            return found
        self.left -= 1
        if self.left < 0:
            if name == "pwrite":
                return self._torn
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    @staticmethod
    def _torn(fd: int, data: Any, offset: int) -> int:
        """The system gives up a write between two pages at most."""
        whole = memoryview(data).cast("B")
        stop = (offset + len(whole)) // PAGE * PAGE
        if stop > offset:
            os.pwrite(fd, whole[: stop - offset], offset)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("dead")


class Told:
    """What writers say they have committed, per stream, in memory that outlives them."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * MAX_STREAMS)

    def say(self, writer: Writer) -> None:
        for stream in writer.streams:
            struct.pack_into("<Q", self._memory, 8 * stream.number, stream.committed)

    def rows(self) -> tuple[int, ...]:
        return struct.unpack(f"<{MAX_STREAMS}Q", self._memory[:])


@dataclass(frozen=True)
class Plan:
    """What one dataset of the soak is like."""

    writers: int
    share: bool
    window: int | None
    heap: bool
    segment_rows: int
    durability: Any

    @classmethod
    def draw(cls, rng: random.Random) -> Plan:
        writers = rng.choice([1, 1, 2, 2, 3, 4])
        return cls(
            writers,
            share=writers > 1 or rng.random() < 0.5,
            window=rng.choice([None, None, 60, 200]),
            heap=rng.random() < 0.3,
            segment_rows=rng.choice([16, 33, 64, 128]),
            durability=rng.choice(["process", "process", "process", "interval", "commit"]),
        )


@dataclass
class Kills:
    """One run: `counts` has kills, rows compared, generations, segments, polls and what was violated."""

    folder: Path
    rng: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def run(self, kills: int) -> None:
        while self.counts["kills"] < kills:
            path = self.folder / f"{self.counts['datasets']:06d}"
            self.counts["datasets"] += 1
            one = _OneDataset(self, path, Plan.draw(self.rng))
            try:
                one.run(min(KILLS_PER_DATASET, kills - self.counts["kills"]))
            except (Violation, RLError, OSError) as err:
                kind = err.kind if isinstance(err, Violation) else "wrong"
                self.counts[kind] += 1
                frames = traceback.extract_tb(err.__traceback__)[-6:]
                where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
                self.violations.append(f"{path}: {one.plan}: {type(err).__name__}: {err} ({where})")
            else:
                shutil.rmtree(path)
            finally:
                one.end()


class _OneDataset:
    def __init__(self, run: Kills, path: Path, plan: Plan) -> None:
        self.all, self.path, self.plan, self.rng = run, path, plan, run.rng
        self.told = Told()
        self.living: dict[int, float] = {}  # process: when to kill it
        self.checked: list[int] = []  # rows per stream
        self.segments: set[str] = set()

    def run(self, kills: int) -> None:
        Writer.create(
            self.path, known_rows.schema(heap=self.plan.heap), spec={}, lineage={"op": "soak"},
            durability="process", segment_rows=self.plan.segment_rows, window=self.plan.window,
        ).close()  # fmt: skip
        counts, target = self.all.counts, self.all.counts["kills"] + kills
        with Dataset.open(self.path) as self.dataset:
            earlier = self.dataset.snapshot
            while counts["kills"] < target or self.living:
                while len(self.living) < self.plan.writers and counts["kills"] < target:
                    self._start()
                self._look()
                dead = self._reap()
                if dead and self.rng.random() < 0.2:
                    self._open_anew(earlier)
                    earlier = self.dataset.snapshot
                if dead and self.rng.random() < 0.1:
                    collect_garbage(self.path, grace_seconds=-1)
            self._look()
        report = recover(self.path)
        with Dataset.open(self.path) as sealed:
            require(sealed.state == "sealed", "wrong", f"recovered, but open: {report}")
            require(sealed.stream_rows == self.dataset.stream_rows, "regression", "rows lost by recovery")
            counts["rows"] += known_rows.check(sealed)
            counts["generations"] += sealed.generation
        self._note_segments(sealed)
        counts["segments"] += len(self.segments)
        problems = verify(self.path, deep=True)
        require(not problems, "wrong", problems)

    def end(self) -> None:
        for pid in self.living:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _start(self) -> None:
        seed = self.rng.getrandbits(60)
        delay = self.rng.choice([0.02, 0.05, 0.1]) * self.rng.random()
        pid = os.fork()
        if pid == 0:
            code = FAILED
            try:
                code = self._write(random.Random(seed))
            except BaseException:  # noqa: BLE001 - the parent reports it
                self.path.with_suffix(f".{os.getpid()}.error").write_text(traceback.format_exc())
            finally:
                os._exit(code)
        self.living[pid] = time.monotonic() + delay

    def _write(self, rng: random.Random) -> int:
        signal.alarm(60)  # it must not outlive a run that is interrupted
        if rng.random() < 0.4:
            with layer.use(Dying(int(10 ** rng.uniform(0, 2.7)))):
                return self._write_rows(rng)
        return self._write_rows(rng)

    def _write_rows(self, rng: random.Random) -> int:
        options = {"lineage": {"op": "more"}, "durability": self.plan.durability}
        while True:
            try:
                if self.plan.share:
                    writer = Writer.join(self.path, num_streams=rng.choice([1, 1, 2]), **options)
                else:
                    writer = Writer.append(self.path, **options)
                break
            except BusyError:  # garbage is being collected
                time.sleep(0.001)
        known = KnownWriter(writer)
        for _ in range(rng.randrange(1, 150)):
            for stream in range(len(writer.streams)):
                if rows := rng.randrange(8):
                    known.write(stream, rows)
            known.commit(sync=rng.random() < 0.02)
            self.told.say(writer)
        if rng.random() < 0.3:
            known.close()
            self.told.say(writer)
            return 0
        signal.pause()
        return 0

    def _reap(self) -> int:
        """Kills whose time has come; returns how many have ended."""
        now, ended = time.monotonic(), 0
        for pid, deadline in list(self.living.items()):
            if now >= deadline:
                os.kill(pid, signal.SIGKILL)
            found, status = os.waitpid(pid, 0 if now >= deadline else os.WNOHANG)
            if found:
                del self.living[pid]
                ended += 1
                killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
                self.all.counts["kills" if killed else "closed"] += 1
                if not killed and os.waitstatus_to_exitcode(status) != 0:
                    error = self.path.with_suffix(f".{pid}.error")
                    text = error.read_text() if error.exists() else f"status {status}"
                    require(False, "wrong", f"a writer failed: {text}")
        return ended

    def _look(self) -> None:
        """One poll of the follower: nothing fewer than before or than was told, and all that is new right."""
        told = self.told.rows()
        before = list(self.dataset.stream_rows)
        news = self.dataset.refresh()
        rows = self.dataset.stream_rows
        self.all.counts["polls"] += 1
        require(len(rows) >= len(before), "regression", "fewer streams")
        require(all(n >= b for n, b in zip(rows, before, strict=False)), "regression", f"{before} to {rows}")
        require(all(n >= t for n, t in zip(rows, told, strict=False)), "hole", f"{told} told, {rows} seen")
        require(not any(told[len(rows) :]), "hole", f"{told} told, {rows} seen")
        require(len(news.new_rows) == len(rows), "wrong", news)
        self.checked += [0] * (len(rows) - len(self.checked))
        for stream, stop in enumerate(rows):
            # The newest row seen before has its successor only now.
            low = max(self.checked[stream] - 1, 0)
            self.all.counts["rows"] += known_rows.check_rows(self.dataset, stream, low, stop)
            self.checked[stream] = stop
        self._note_segments(self.dataset)

    def _note_segments(self, dataset: Dataset) -> None:
        self.segments.update(segment.name for segment in dataset.segments)

    def _open_anew(self, earlier: dict[str, Any]) -> None:
        """A stranger sees at least what the follower does; an earlier snapshot opens as it was."""
        with Dataset.open(self.path) as other:
            known = self.dataset.stream_rows
            require(all(n >= k for n, k in zip(other.stream_rows, known, strict=False)), "regression", known)
            self.all.counts["rows"] += known_rows.check(other)
        if self.plan.window is None:
            with Dataset.open(self.path, at=earlier) as then:
                require(then.stream_rows == earlier["rows"], "regression", (then.stream_rows, earlier))
                self.all.counts["rows"] += known_rows.check(then)
                self.all.counts["snapshots"] += 1
