"""How a source is read for parts of a conversion: what is taken when, by whom, and what is told of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.datasets.contract import Advance, Part, Piece, Report
from rlcli.errors import CorruptError
from rlcli.format.schema import Column, Schema
from rlcli.pipeline.convert_rows import Selection, segment_rows
from rlcli.pipeline.convert_tasks import Task, reading, reading_whole

KEY = ("observation",)
PIECES, PARTS, SIZE = 6, 4, 10  # of each piece so many parts of 10 bytes


class Source:
    """Part p of piece n has the value 10 n + p; `threads` are those that made one."""

    schema = Schema((Column(KEY, "int64", (1,)),))

    def __init__(self, ahead_bytes: int) -> None:
        self.ahead_bytes = ahead_bytes
        self.pieces = [Piece(str(number), PARTS * SIZE, PARTS) for number in range(PIECES)]
        self.threads: set[int] = set()
        self.damaged = -1

    def parts(self, piece: Piece, report: Report, advance: Advance) -> Iterator[Part]:
        for part in range(PARTS):
            value = 10 * int(piece.name) + part
            if value == self.damaged:
                raise CorruptError(f"{value} is damaged")
            self.threads.add(threading.get_ident())
            report.count("parts")
            advance(SIZE)
            yield Part({KEY: np.full((1, 1), value)}, None)


def tasks(taken: list[int], each: int = 2) -> Iterator[Task]:
    """Tasks of so many pieces; `taken` has the first of those that were asked for."""
    for start in range(0, PIECES, each):
        taken.append(start)
        yield Task(start, start + each, Selection(), Path(str(start)))


def values(parts: Iterator[Part]) -> list[int]:
    return [int(part.columns[KEY][0, 0]) for part in parts]


@pytest.mark.parametrize("ahead_bytes", [0, 1, 25, 10_000])
def test_each_task_has_its_own_parts_and_report_and_progress(ahead_bytes):
    source: Any = Source(ahead_bytes)
    told: list[tuple[int, int]] = []
    here = threading.get_ident()

    def advance(count: int) -> None:
        told.append((count, threading.get_ident()))

    with reading(tasks([]), source, advance) as read:
        for task, report, parts in read:
            assert values(parts) == [10 * n + p for n in (task.start, task.start + 1) for p in range(PARTS)]
            assert report.details == {"parts": 2 * PARTS}
            assert sum(count for count, _ in told) == task.stop * PARTS * SIZE
    assert {thread for _, thread in told} == {here}
    assert source.threads == {here} if not ahead_bytes else here not in source.threads


def test_the_next_task_is_begun_while_the_last_parts_of_one_are_in_use():
    """Of eight parts the last is read with the first of the next task, as they are less than 25 bytes."""
    assert [_taken_with(ahead_bytes)[:2] for ahead_bytes in (25, 0)] == [[0, 2], [0]]


def _taken_with(ahead_bytes: int) -> list[int]:
    """The tasks that were taken when the last part of the first is in use."""
    taken: list[int] = []
    source: Any = Source(ahead_bytes)
    with reading(tasks(taken), source, lambda count: None) as read:
        parts = next(read).parts
        assert [values(iter([next(parts)]))[0] for _ in range(8)] == [0, 1, 2, 3, 10, 11, 12, 13]
        return list(taken)


@pytest.mark.parametrize("ahead_bytes", [0, 25])
def test_an_error_is_raised_after_what_was_read_before_it_and_no_thread_stays(ahead_bytes):
    source: Any = Source(ahead_bytes)
    source.damaged = 41
    before = threading.active_count()
    seen: list[int] = []
    with pytest.raises(CorruptError, match="41 is damaged"):
        _read_until(seen, source, 99)
    assert seen == [10 * n + p for n in range(PIECES) for p in range(PARTS)][: len(seen)]
    assert 17 - len(seen) <= ahead_bytes / SIZE  # those that were to be used together with it
    assert threading.active_count() == before


def test_stopping_amidst_a_task_ends_the_thread():
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        _read_until([], Source(25), 1)
    assert threading.active_count() == before


def _read_until(seen: list[int], source: Any, last: int) -> None:
    """Reads all tasks, and is stopped at that value."""
    with reading(tasks([]), source, lambda count: None) as read:
        for _, _, parts in read:
            for part in parts:
                seen += values(iter([part]))
                if seen[-1] == last:
                    raise KeyboardInterrupt


def test_all_pieces_are_read_as_one_task():
    source: Any = Source(25)
    with reading_whole(source, Selection(limit=5), lambda count: None) as (_, parts):
        assert values(parts) == [0, 1, 2, 3, 10]


@pytest.mark.parametrize(("shape", "rows"), [((100, 100, 3), 700), ((3,), 4096)])
def test_wide_rows_leave_no_large_hole_in_their_segment(shape, rows):
    """700 rows of 30 kB, 21 MB, are not kept in a file of 123; narrow rows end on pages."""
    schema = Schema((Column(KEY, "uint8", shape),))
    assert segment_rows([Piece("", 0, 300), Piece("", 0, 400)], schema) == rows
