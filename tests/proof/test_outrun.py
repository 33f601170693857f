"""Readers of windows whose writers are faster than they are: whatever leaves while they look, they read a
state that was there, or go on looking; what is really missing is told at once.

Writers act at the calls of readers, and readers at the calls of writers: at single ones, or at every one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import known_rows
from kills import CALLS
from known_rows import KnownWriter

from rlcli.errors import CorruptError
from rlcli.format import layer
from rlcli.format.dataset import Dataset
from rlcli.format.gc import collect_garbage
from rlcli.format.generations import path_of
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

WINDOW = 9
EVERY = pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])


class At(layer.Layer):
    """Before those calls that are `chosen`, by their name, path or descriptor, and number, somebody acts."""

    def __init__(self, chosen: Callable[[str, object, int], bool], act: Callable[[], object]) -> None:
        self.chosen, self.act = chosen, act
        self.calls = self.acted = 0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in CALLS:
            return found

        def called(*args: Any) -> Any:
            self.calls += 1
            if self.chosen(name, args[0], self.calls):
                self.acted += 1
                with layer.use(layer.Layer()):
                    self.act()
            return found(*args)

        return called


def _is_manifest(path: object) -> bool:
    return isinstance(path, Path) and "manifests" in path.parts


def _is_sums(name: str, path: object) -> bool:
    return name == "open" and isinstance(path, Path) and path.parent.name == "sums"


class _Live:
    """A window of two streams, each of a writer of its own; segments are full after five rows."""

    def __init__(self, path: Path, window: int | None = WINDOW) -> None:
        self.path = path
        first = Writer.create(
            path, known_rows.schema(heap=True), spec={}, lineage={"op": "test"}, segment_rows=5,
            window=window, share=True, durability="process",
        )  # fmt: skip
        self.writers = [KnownWriter(first), KnownWriter(Writer.join(path, lineage={"op": "join"}))]
        for writer in self.writers:
            self.write(writer, [7, 6, 4])

    @staticmethod
    def write(known: KnownWriter, commits: list[int]) -> None:
        for rows in commits:
            known.write(0, rows)
            known.commit()

    def overtake(self) -> None:
        """No segment stays that was there."""
        for writer in self.writers:
            self.write(writer, [8, 9])

    def kill_and_take_over(self) -> None:
        """A writer dies with an open segment; who takes over replaces it, and garbage is collected."""
        self.writers.pop().writer._lock.close()
        self.writers.append(KnownWriter(Writer.join(self.path, lineage={"op": "join"})))
        self.write(self.writers[-1], [3])
        collect_garbage(self.path, grace_seconds=-1)

    def right(self, dataset: Dataset) -> None:
        rows = dataset.stream_rows
        assert known_rows.check(dataset) == sum(min(n, WINDOW) for n in rows)

    def close(self) -> None:
        for known in self.writers:
            known.close()
        assert verify(self.path, deep=True) == []


@pytest.fixture
def live(memory_path: Path) -> _Live:
    return _Live(memory_path / "ds")


def _opened(live: _Live, follower: Dataset) -> None:
    with Dataset.open(live.path) as dataset:
        live.right(dataset)


def _followed(live: _Live, follower: Dataset) -> None:
    before = follower.stream_rows
    follower.refresh()
    assert all(now >= then for now, then in zip(follower.stream_rows, before, strict=False))
    live.right(follower)


def _verified(live: _Live) -> None:
    assert verify(live.path, deep=True) == []


@pytest.mark.parametrize("read", [_opened, _followed])
@pytest.mark.parametrize("act", [_Live.overtake, _Live.kill_and_take_over])
@EVERY
def test_writers_at_each_call_of_a_reader(
    every: int,
    act: Callable[[_Live], None],
    read: Callable[[_Live, Dataset], None],
    live: _Live,
) -> None:
    """Once in each look, first at its first call, then at a later one, and so on."""
    with Dataset.open(live.path) as follower:
        call = 1
        while True:
            live.write(live.writers[0], [6])  # a follower has something to see
            at = At(lambda name, path, number, call=call: number == call, lambda: act(live))  # type: ignore[misc]
            with layer.use(at):
                read(live, follower)
            if not at.acted:
                break
            call += every
    assert call > 25
    live.close()


@pytest.mark.parametrize("act", [_Live.overtake, _Live.kill_and_take_over])
@EVERY
def test_writers_at_each_file_that_is_verified(every: int, act: Callable[[_Live], None], live: _Live) -> None:
    """All but the manifests, of which there are more and more."""
    files = 1
    while True:
        left = [files]

        def is_next(name: str, path: object, number: int, left: list[int] = left) -> bool:
            is_file = name == "open" and not _is_manifest(path)
            left[0] -= is_file
            return is_file and left[0] == 0

        at = At(is_next, lambda: act(live))
        with layer.use(at):
            _verified(live)
        if not at.acted:
            break
        files += every
    assert files > 25
    live.close()


@pytest.mark.parametrize("read", [_opened, _followed])
def test_a_reader_that_is_outrun_goes_on(read: Callable[[_Live, Dataset], None], live: _Live) -> None:
    """However often what it is about to read has left."""
    with Dataset.open(live.path) as follower:
        live.overtake()
        at = At(
            lambda name, path, number: _is_sums(name, path) and at.acted < 60,
            lambda: live.write(live.writers[0], [15]),
        )
        with layer.use(at):
            read(live, follower)
    assert at.acted == 60
    live.close()


@pytest.mark.parametrize("read", [_opened, _followed])
@EVERY
def test_readers_at_each_call_of_writers(
    every: int, read: Callable[[_Live, Dataset], None], live: _Live
) -> None:
    """Between the links, appends and removals of those who publish, close, die and take over."""
    with Dataset.open(live.path) as follower:
        at = At(lambda name, path, number: number % every == 0, lambda: read(live, follower))
        with layer.use(at):
            live.overtake()
            live.kill_and_take_over()
            live.close()
        assert at.acted > 200 // every


@pytest.mark.parametrize("window", [None, 30])
@pytest.mark.parametrize("kind", ["sums", "journal", "segments"])
def test_what_is_missing_is_told_at_once_beside_a_writer(
    kind: str, window: int | None, memory_path: Path
) -> None:
    """Generations come all the time, but they have the damaged segment as it was."""
    live = _Live(memory_path / "ds", window)
    live.write(live.writers[0], [6])
    name = "w00-000000000005"
    lost = {"sums": f"sums/{name}.json", "journal": f"journal/{name}.log"}
    (live.path / lost.get(kind, f"segments/{name}/observation.memmap")).unlink()

    def publish() -> None:
        other = Writer.join(live.path, lineage={"op": "join"})
        other.close()

    at = At(lambda name, path, number: name == "open" and number % 3 == 0, publish)
    with layer.use(at), pytest.raises(CorruptError, match=name), Dataset.open(live.path) as dataset:
        dataset.read_rows()
    assert 0 < at.acted < 40


def test_a_folder_that_is_listed_while_generations_are_linked(live: _Live) -> None:
    """The later of two names that came meanwhile may be listed, and the earlier one not."""

    class Scanned(layer.Layer):
        def names(self, path: Path) -> list[str]:
            found = super().names(path)
            return [name for name in found if name != path_of(live.path, 5).name]

    assert path_of(live.path, 6).exists()
    with layer.use(Scanned()):
        _opened(live, Dataset.open(live.path))
    path_of(live.path, 5).unlink()
    with pytest.raises(CorruptError, match="missing"):
        Dataset.open(live.path)
