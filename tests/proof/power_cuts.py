"""Histories of writers that are cut by a loss of power at every call, and what must be left of them."""

from __future__ import annotations

import itertools
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import known_rows
import numpy as np
from known_rows import KnownWriter, Violation, require
from power import Disk, Recorder, put

from rlcli.errors import CorruptError, InputError, RLError
from rlcli.format import files, layer
from rlcli.format import writer as writer_module
from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

OTHER_BOOT = "f" * 32


@dataclass(frozen=True)
class Plan:
    """A kind of history. `sync_every` asks for a sync at every so many commits."""

    durability: Any
    sync_every: int = 0
    window: int | None = None
    heap: bool = False
    share: bool = False


PLANS = [
    Plan("commit"),
    Plan("commit", heap=True),
    Plan("commit", window=20, heap=True),
    Plan("commit", share=True),
    Plan("interval"),
    Plan("interval", heap=True, share=True),
    Plan("interval", window=20),
    Plan("process"),
    Plan("process", heap=True),
    Plan("process", sync_every=4, heap=True),
    Plan("process", sync_every=3, window=20),
]


class _Clock:
    """Stands in for `time` in the writer: a third of a second per look."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@dataclass(frozen=True)
class Told:
    """What a moment promises: `rows` per stream that must be there, `written` that may be."""

    rows: tuple[int, ...]
    written: tuple[int, ...]


def record(folder: Path, plan: Plan, seed: int) -> Recorder:
    """Runs a history and returns its calls, with a `Told` after everything that promises something."""
    rng, recorder, clock = random.Random(seed), Recorder(folder), _Clock()
    path = folder / "ds"
    safe, synced_at = (0, 0), 0.0

    def write(known: KnownWriter, commits: int) -> None:
        nonlocal safe, synced_at
        writer = known.writer
        for n in range(1, commits + 1):
            for stream in range(2):
                if rows := rng.randrange(6):
                    known.write(stream, rows)
            ask = bool(plan.sync_every) and n % plan.sync_every == 0
            clock.now += rng.choice([0.1, 0.3, 0.6])
            written = tuple(stream.rows for stream in writer.streams)
            recorder.tell(Told(safe, written))
            is_due = plan.durability == "interval" and clock.now - synced_at >= 1
            known.commit(sync=ask)
            if is_due or ask or plan.durability == "commit":
                safe, synced_at = written, clock.now
            recorder.tell(Told(safe, written))

    options = {"lineage": {"op": "test"}, "durability": plan.durability}
    with layer.use(recorder), patch.object(writer_module, "time", clock):
        known = KnownWriter(
            Writer.create(
                path, known_rows.schema(heap=plan.heap, pixels=True), spec={}, num_streams=2,
                segment_rows=24, window=plan.window, share=plan.share, **options,
            )
        )  # fmt: skip
        recorder.tell(Told(safe, safe) if plan.durability != "process" else None)
        write(known, 9)
        known.writer.abort()
        if plan.share:
            known = KnownWriter(Writer.join(path, num_streams=2, **options))
        else:
            known = KnownWriter(Writer.append(path, **options))
        synced_at = clock.now
        write(known, 9)
        rows = tuple(stream.rows for stream in known.writer.streams)
        known.close()
        if plan.durability != "process":
            safe = rows
        recorder.tell(Told(safe, rows))
    return recorder


@dataclass
class Cuts:
    """Counts of a run: cases, how each ended, rows compared, violations."""

    folder: Path
    rng: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def run(self, cases: int, plans: list[Plan] = PLANS) -> None:
        """So many cases, shared among `plans`."""
        shares = np.diff(np.linspace(0, cases, len(plans) + 1).astype(int)).tolist()
        for number, (plan, share) in enumerate(zip(plans, shares, strict=True)):
            folder = self.folder / f"history{number}"
            folder.mkdir()
            recorder = record(folder, plan, self.rng.getrandbits(32))
            shutil.rmtree(folder)
            self.counts["calls"] += len(recorder.calls)
            for at, disk in self._moments(recorder, share):
                state = self._draw(disk)
                place = self.folder / "case"
                place.mkdir()
                try:
                    with patch.object(files, "boot_id", lambda: OTHER_BOOT):
                        put(state, place)
                        self._check(place / "ds", plan, disk.told)
                except (Violation, OSError, ValueError, AssertionError, RLError) as err:
                    kind = err.kind if isinstance(err, Violation) else "wrong"
                    self.counts[kind] += 1
                    kept = self.folder / f"violation{len(self.violations)}"
                    place.rename(kept)
                    where = traceback.extract_tb(err.__traceback__)[-4:]
                    frames = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(where))
                    self.violations.append(
                        f"{kept}: {plan}, call {at}: {type(err).__name__}: {err} ({frames})"
                    )
                else:
                    shutil.rmtree(place)

    def _moments(self, recorder: Recorder, cases: int) -> Iterator[tuple[int, Disk]]:
        """Every prefix at least once if there are enough cases; the disk after it."""
        total = len(recorder.calls)
        wanted = Counter(range(1, total + 1)) if cases >= total else Counter()
        wanted.update(self.rng.choices(range(1, total + 1), k=max(0, cases - wanted.total())))
        disk = Disk(recorder.root)
        for at, call in enumerate(recorder.calls, 1):
            disk.do(call)
            for _ in range(wanted[at]):
                yield at, disk

    def _draw(self, disk: Disk) -> dict[str, bytes | None]:
        keep = self.rng.choice([0.0, 0.2, 0.5, 0.8, 0.95, 1.0])
        return disk.draw(self.rng, ordered=self.rng.random() < 0.5, keep=keep)

    def _check(self, path: Path, plan: Plan, told: Told | None) -> None:
        self.counts["cases"] += 1
        if not path.exists():
            require(not self._is_promised(plan, told), "hole", "the whole dataset is gone")
            self.counts["nothing there"] += 1
            return
        self._read(path, told)
        try:
            writer = KnownWriter(Writer.append(path, lineage={"op": "after"}, durability="process"))
        except (CorruptError, InputError) as err:
            require(not self._is_promised(plan, told), "hole", f"cannot be recovered: {err}")
            self.counts["detected"] += 1
            return
        rows = [stream.rows for stream in writer.writer.streams]
        promised_rows = told.rows if told else (0, 0)
        require(all(r >= t for r, t in zip(rows, promised_rows, strict=True)), "hole", f"{rows}, {told}")
        if told:
            require(all(r <= w for r, w in zip(rows, told.written, strict=True)), "wrong", f"{rows}, {told}")
        self.counts["recovered, nothing lost" if told and tuple(rows) == told.written else "recovered"] += 1
        for stream in range(2):
            known_write(writer, stream)
        writer.close()
        problems = verify(path, deep=True)
        if problems and not self._is_promised(plan, told):
            self.counts["detected"] += 1
            return
        require(not problems, "hole", problems)
        with Dataset.open(path) as dataset:
            require(dataset.stream_rows == [r + 3 for r in rows], "wrong", dataset.stream_rows)
            self.counts["rows"] += known_rows.check(dataset)

    @staticmethod
    def _is_promised(plan: Plan, told: Told | None) -> bool:
        """Something is safe, so that the dataset must be."""
        return told is not None and (plan.durability != "process" or any(told.rows))

    def _read(self, path: Path, told: Told | None) -> None:
        """A reader that comes before any writer refuses, or reads what is right."""
        try:
            with Dataset.open(path) as dataset:
                self.counts["rows"] += known_rows.check(dataset)
                rows = dataset.stream_rows
        except (CorruptError, InputError):
            self.counts["refused by a reader"] += 1
            return
        if told:
            pairs = itertools.zip_longest(rows, told.written, fillvalue=0)
            require(all(r <= w for r, w in pairs), "wrong", f"{rows} read, {told}")
        self.counts["read"] += 1


def known_write(writer: KnownWriter, stream: int) -> None:
    writer.write(stream, 3)
    writer.commit()
