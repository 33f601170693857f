"""Every call of the file layer fails once, at some point of a small history: a clean error, no row lost.

The history creates, commits, seals, appends, shares and recovers. After a failure the calls work again, and
what was committed must be there, must verify, and must take more rows.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import model as m

from rlcli.errors import ResourceError
from rlcli.format import layer
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.gc import collect_garbage
from rlcli.format.recover import recover
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

CALLS = [name for name, value in vars(layer.Layer).items() if callable(value)]


class Counting(layer.Layer):
    """Writes down the calls; the disk need not turn."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in CALLS:
            return found

        def call(*args: Any) -> Any:
            self.calls.append(name)
            self.before(name, args)
            return None if name in ("sync", "datasync") else found(*args)

        return call

    def before(self, name: str, args: tuple[Any, ...]) -> None:
        """May raise instead of the call."""


class Failing(Counting):
    """The call number `at` fails with `error`; with `lasting` so do all later ones that take space."""

    def __init__(self, at: int, error: int, *, lasting: bool = False) -> None:
        super().__init__()
        self.at, self.error, self.lasting = at, error, lasting
        self.failed = ""

    def before(self, name: str, args: tuple[Any, ...]) -> None:
        count = len(self.calls) - 1
        if count == self.at or (
            self.lasting and count > self.at and name in ("pwrite", "fallocate", "mkdir")
        ):
            self.failed = self.failed or name
            if name == "close":
                os.close(args[0])
            raise OSError(self.error, os.strerror(self.error))


class History:
    """What is done, and the rows that were told to be committed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model: m.Model | None = None
        self.told = [0, 0]

    def run(self) -> None:
        self.model = m.create(self.path, segment_rows=8, chunk_rows=4, num_streams=2, durability="commit")
        self._fill(12)
        self.model.writer.writer.abort()
        writer = Writer.append(self.path, lineage={"op": "again"}, durability="commit", rewind=self.told)
        self._go_on(writer)
        self._fill(10)
        self.model.writer.close()
        self._go_on(Writer.join(self.path, lineage={"op": "joined"}, num_streams=2, durability="commit"))
        self._fill(9)
        self.model.writer.close()
        recover(self.path)
        collect_garbage(self.path)

    def _go_on(self, writer: Writer) -> None:
        assert self.model is not None
        self.model.writer = EpisodeWriter(writer, chunk_rows=4)

    def _fill(self, steps: int) -> None:
        assert self.model is not None
        for _ in range(steps):
            stream = int(self.model.rng.integers(2))
            self.model.add(stream, end="terminated" if len(self.model.streams[stream]) % 5 == 4 else "no")
            self.model.writer.flush()
            self.told = self.model.writer.writer.stream_rows

    def abort(self) -> None:
        if self.model is not None:
            self.model.writer.writer.abort()


def _attempt(path: Path, failing: layer.Layer) -> BaseException | None:
    """Runs the history; checks what an error must leave."""
    history = History(path)
    error = None
    try:
        with layer.use(failing):
            try:
                history.run()
            except (OSError, ResourceError) as err:
                error = err
            finally:
                history.abort()
    except OSError as err:
        error = err
    if not path.exists():
        assert history.told == [0, 0]
        return error
    assert verify(path) == []
    _check_rows(path, history)
    writer = Writer.append(path, lineage={"op": "after"}, durability="process")
    writer.close()
    _check_rows(path, history)
    assert verify(path, deep=True) == []
    assert collect_garbage(path, grace_seconds=-1).kept == []
    with Dataset.open(path) as dataset:
        names = {segment.name for segment in dataset.segments}
        assert set(os.listdir(path / "segments")) == names
    return error


def _check_rows(path: Path, history: History) -> None:
    assert history.model is not None or history.told == [0, 0]
    with Dataset.open(path) as dataset:
        rows = dataset.stream_rows
        assert all(found >= told for found, told in zip(rows, history.told, strict=True))
        start = 0
        for count, steps in zip(rows, history.model.streams if history.model else ([], []), strict=True):
            observation = dataset.read(("observation",), start, start + count)
            assert [row.tolist() for row in observation] == [s.observation.tolist() for s in steps[:count]]
            start += count


@pytest.fixture(scope="module")
def total(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The calls of a history without failures."""
    counting = Counting()
    assert _attempt(tmp_path_factory.mktemp("whole") / "ds", counting) is None
    assert set(counting.calls) >= {
        "open",
        "close",
        "pwrite",
        "fallocate",
        "punch",
        "sync",
        "datasync",
        "link",
    }
    return counting.calls


CASES = [
    (errno.EIO, False, 37, 0),
    (errno.EIO, False, 37, 18),
    (errno.ENOSPC, True, 53, 5),
    (errno.EMFILE, False, 71, 3),
]


@pytest.mark.parametrize(("error", "lasting", "step", "start"), CASES)
def test_an_error_at_any_call_is_clean_and_loses_nothing(
    tmp_path: Path, total: list[str], error: int, lasting: bool, step: int, start: int
) -> None:
    failures = 0
    for at in range(start, len(total), step):
        failing = Failing(at, error, lasting=lasting)
        raised = _attempt(tmp_path / f"{at}" / "ds", failing)
        failures += raised is not None
        if raised is not None and error != errno.EIO and isinstance(raised, ResourceError):
            assert os.strerror(error) in str(raised)
    assert failures > len(total) // step // 2


@pytest.mark.parametrize(
    "name", ["link", "rename", "mkdir", "unlink", "truncate", "punch", "flock", "fallocate"]
)
def test_the_rare_calls_fail_too(tmp_path: Path, total: list[str], name: str) -> None:
    places = [at for at, call in enumerate(total) if call == name]
    for at in places[:: max(1, len(places) // 8)]:
        _attempt(tmp_path / f"{at}" / "ds", Failing(at, errno.EIO))


def _committed(path: Path, failing: Callable[[], layer.Layer]) -> None:
    model = m.create(path, durability="commit")
    m.fill(model, 5)
    model.writer.flush()
    m.fill(model, 5)
    with layer.use(failing()), pytest.raises(OSError, match="Input/output"):
        model.writer.flush()
    with pytest.raises(ValueError, match="failed"):
        model.writer.flush()
    with pytest.raises(ValueError, match="failed"):
        model.writer.writer.commit(sync=True)
    model.writer.writer.close()
    m.check(Dataset.open(path), model, [5])


def test_a_failed_sync_is_final(tmp_path: Path) -> None:
    """A second try might succeed without the bytes having reached the disk."""

    class Unsynced(layer.Layer):
        def datasync(self, fd: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

    _committed(tmp_path / "ds", Unsynced)


class Short(layer.Layer):
    """Reads and writes do half of what they are asked for, and at least one byte."""

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return super().pread(fd, -(-size // 2), offset)

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        whole = memoryview(data).cast("B")
        return super().pwrite(fd, whole[: -(-len(whole) // 2)], offset)


def test_short_reads_and_writes_are_gone_on_with(tmp_path: Path) -> None:
    with layer.use(Short()):
        history = History(tmp_path / "ds")
        history.run()
        with Dataset.open(tmp_path / "ds") as dataset:
            assert (
                dataset.stream_rows == [len(steps) for steps in history.model.streams]
                if history.model
                else []
            )
        assert verify(tmp_path / "ds", deep=True) == []
    assert verify(tmp_path / "ds", deep=True) == []


def test_an_error_while_creating_leaves_nothing(tmp_path: Path) -> None:
    counting = Counting()
    with layer.use(counting):
        m.create(tmp_path / "whole").writer.writer.abort()
    for at in range(0, len(counting.calls), 3):
        place = tmp_path / f"{at}"
        place.mkdir()
        try:
            with layer.use(Failing(at, errno.ENOSPC)):
                m.create(place / "ds").writer.writer.abort()
        except (OSError, ResourceError):
            pass
        if os.listdir(place):
            assert os.listdir(place) == ["ds"]
            assert verify(place / "ds") == []
