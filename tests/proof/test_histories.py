"""Any history of writing, crashing and recovering is what a list in memory says it is, for every reader."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

sys.path.insert(0, str(Path(__file__).parent))
import known_rows
from conftest import MEMORY
from kills import Dying
from known_rows import KnownWriter

from rlcli.format import layer
from rlcli.format.dataset import Dataset
from rlcli.format.gc import collect_garbage
from rlcli.format.merge import merge
from rlcli.format.recover import recover
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

STREAMS = 2
rows_ = st.integers(1, 9)
stream_ = st.integers(0, STREAMS - 1)


class Histories(RuleBasedStateMachine):
    """`committed` and `written` are rows per stream, `cuts` the rows after which an episode was cut."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="rl-proof-", dir=MEMORY if MEMORY.is_dir() else None))
        self.path = self.folder / "ds"
        self.writer: KnownWriter | None = None
        self.committed, self.written = [0] * STREAMS, [0] * STREAMS
        self.cuts: set[tuple[int, int]] = set()
        self.snapshots: list[tuple[dict[str, Any], list[np.ndarray[Any, Any]]]] = []

    @initialize(
        window=st.sampled_from([None, None, 14]), heap=st.booleans(), segment_rows=st.sampled_from([5, 16]),
        share=st.booleans(), durability=st.sampled_from(["process", "commit"]),
    )  # fmt: skip
    def create(self, window: int | None, heap: bool, segment_rows: int, share: bool, durability: Any) -> None:
        self.window, self.share, self.durability = window, share, durability
        self.writer = KnownWriter(
            Writer.create(
                self.path, known_rows.schema(heap=heap), spec={}, lineage={"op": "test"},
                num_streams=STREAMS, segment_rows=segment_rows, window=window, share=share,
                durability=durability,
            )
        )  # fmt: skip
        self.follower = Dataset.open(self.path)

    def teardown(self) -> None:
        if self.writer is not None:
            self.writer.writer.abort()
        if hasattr(self, "follower"):
            self.follower.close()
        shutil.rmtree(self.folder)

    def _append(self) -> KnownWriter:
        if self.share:
            return KnownWriter(
                Writer.join(
                    self.path, lineage={"op": "more"}, num_streams=STREAMS, durability=self.durability
                )
            )
        return KnownWriter(Writer.append(self.path, lineage={"op": "more"}, durability=self.durability))

    def _ended(self) -> None:
        """The session is over: what is not committed is gone, what is unfinished was or will be cut."""
        self.written = list(self.committed)
        for stream, rows in enumerate(self.committed):
            if rows and not known_rows.ends(known_rows.identities(stream, rows - 1, rows))[0]:
                self.cuts.add((stream, rows - 1))

    @precondition(lambda self: self.writer is None)
    @rule()
    def append(self) -> None:
        self.writer = self._append()

    @precondition(lambda self: self.writer is not None)
    @rule(stream=stream_, rows=rows_)
    def write(self, stream: int, rows: int) -> None:
        assert self.writer is not None
        self.writer.write(stream, rows)
        self.written[stream] += rows

    @precondition(lambda self: self.writer is not None)
    @rule(sync=st.booleans())
    def commit(self, sync: bool) -> None:
        assert self.writer is not None
        self.writer.commit(sync=sync)
        self.committed = list(self.written)

    @precondition(lambda self: self.writer is not None)
    @rule()
    def close(self) -> None:
        assert self.writer is not None
        self.writer.close()
        self.writer = None
        self.committed = list(self.written)
        self._ended()

    @precondition(lambda self: self.writer is not None)
    @rule()
    def let_go(self) -> None:
        assert self.writer is not None
        self.writer.writer.abort()
        self.writer = None
        self._ended()

    @precondition(lambda self: self.writer is None)
    @rule(at=st.integers(0, 400), seed=st.integers(0, 1 << 16))
    def another_process_is_killed(self, at: int, seed: int) -> None:
        """Before its call number `at`: what it was told is there, perhaps more, but nothing unwritten."""
        told = mmap.mmap(-1, 16 * STREAMS)
        pid = os.fork()
        if pid == 0:
            try:
                self._be_killed(told, at, random.Random(seed))
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), "the other process failed"
        values = struct.unpack(f"<{2 * STREAMS}Q", told[:])
        with Dataset.open(self.path) as dataset:
            found = dataset.stream_rows
        for stream in range(STREAMS):
            least, most = values[2 * stream : 2 * stream + 2]
            assert max(least, self.committed[stream]) <= found[stream] <= max(most, self.committed[stream])
        self.committed = found
        self._ended()

    def _be_killed(self, told: mmap.mmap, at: int, rng: random.Random) -> None:
        with layer.use(Dying(at)):
            known = self._append()
            for _ in range(12):
                for stream in range(STREAMS):
                    known.write(stream, rng.randrange(1, 7))
                    rows = known.writer.streams[stream].rows
                    struct.pack_into("<Q", told, 16 * stream + 8, rows)
                known.commit()
                for stream in range(STREAMS):
                    struct.pack_into("<Q", told, 16 * stream, known.writer.streams[stream].committed)
        os.kill(os.getpid(), signal.SIGKILL)

    @precondition(lambda self: self.writer is None)
    @rule()
    def recover(self) -> None:
        recover(self.path)
        with Dataset.open(self.path) as dataset:
            assert dataset.state == "sealed"

    @rule()
    def collect_garbage(self) -> None:
        collect_garbage(self.path, grace_seconds=-1)

    @rule()
    def keep_a_snapshot(self) -> None:
        with Dataset.open(self.path) as dataset:
            self.snapshots.append((dataset.snapshot, self._identities(dataset)))

    @rule()
    def open_snapshots_again(self) -> None:
        for snapshot, expected in self.snapshots if self.window is None else ():
            with Dataset.open(self.path, at=snapshot) as dataset:
                assert all(
                    np.array_equal(a, b) for a, b in zip(self._identities(dataset), expected, strict=True)
                )
                assert dataset.stream_rows == snapshot["rows"]
                known_rows.check(dataset)

    @precondition(lambda self: sum(self.committed))
    @rule()
    def merge_with_itself(self) -> None:
        out = self.folder / "merged"
        with Dataset.open(self.path) as dataset:
            merge([dataset, dataset], out, lineage={"op": "merge"}, durable=False)
            expected = self._identities(dataset)
        with Dataset.open(out) as merged:
            expected = [ids for ids in expected if len(ids)]  # streams without rows are left out
            if self.window is None:
                found = self._identities(merged)
                assert all(np.array_equal(a, b) for a, b in zip(found, 2 * expected, strict=True))
            else:  # episodes that began before the window are left out
                assert np.isin(merged.read(known_rows.ID), np.concatenate(expected)).all()
        assert verify(out, deep=True) == []
        shutil.rmtree(out)

    @staticmethod
    def _identities(dataset: Dataset) -> list[np.ndarray[Any, Any]]:
        counts = [b - a for a, b in zip(dataset.snapshot["starts"], dataset.snapshot["rows"], strict=True)]
        parts: list[np.ndarray[Any, Any]] = np.split(dataset.read(known_rows.ID), np.cumsum(counts)[:-1])
        return parts

    @invariant()
    def readers_agree(self) -> None:
        if not hasattr(self, "follower"):
            return
        self.follower.refresh()
        with Dataset.open(self.path) as fresh:
            for dataset in (self.follower, fresh):
                assert dataset.stream_rows == self.committed
                lowest = [0 if self.window is None else max(0, rows - self.window) for rows in self.committed]
                assert dataset.snapshot["starts"] == lowest
                known_rows.check(dataset)
                self._check_episodes(dataset, lowest)

    def _check_episodes(self, dataset: Dataset, lowest: list[int]) -> None:
        """Those with all their rows there, from the rows that end one by themselves and the cuts."""
        table, begin = dataset.episodes, 0
        for stream, rows in enumerate(self.committed):
            ends = set(np.flatnonzero(known_rows.ends(known_rows.identities(stream, 0, rows))).tolist())
            cuts = {row for s, row in self.cuts if s == stream}
            expected, start = [], 0
            for row in sorted(ends | cuts):
                is_last_cut = row == rows - 1 and row not in ends
                if start >= lowest[stream] and not is_last_cut:
                    expected.append((start, row + 1 - start, row not in ends))
                start = row + 1
            own = table.stream == stream
            starts = table.start[own] - begin + lowest[stream]
            found = list(
                zip(starts.tolist(), table.length[own].tolist(), table.cut[own].tolist(), strict=True)
            )
            if found and found[-1][0] + found[-1][1] == rows and found[-1][2]:
                assert (stream, rows - 1) in self.cuts
                found.pop()  # whether it has been cut already depends on who has been there since
            assert found == expected
            begin += rows - lowest[stream]


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
