"""Parts of a conversion: what each is made of, how a source is read for them, and how they are made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from rlcli.datasets.ahead import grouped_ahead
from rlcli.datasets.contract import Advance, Ahead, Joining, Part, Report, Source
from rlcli.pipeline.convert_rows import Selection, selected, write, writer_at


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


class Read(NamedTuple):
    """The parts of a task, and what is found while they are read."""

    task: Task
    report: Report
    parts: Iterator[Part]


@contextmanager
def reading(tasks: Iterable[Task], source: Source, advance: Advance) -> Iterator[Iterator[Read]]:
    """Each task with its parts, which are to be used up before the next one is asked for.

    Where the source allows it a thread reads ahead, beyond the end of a task too: a task is taken as soon as
    the one before is read. `advance` is told of parts that were used, in the thread that uses them.
    """
    items = _items(tasks, source)
    if isinstance(source, Ahead) and source.ahead_bytes:
        items = grouped_ahead(items, attrgetter("num_bytes"), source.ahead_bytes)
    with closing(items):
        yield (
            Read(task, next(found).report, _parts(found, advance))
            for task, found in groupby(items, attrgetter("task"))
        )


@contextmanager
def reading_whole(
    source: Source, selection: Selection, advance: Advance
) -> Iterator[tuple[Report, Iterator[Part]]]:
    """The parts of all pieces, and what is found while they are read."""
    task = Task(0, len(source.pieces), selection, Path())
    with reading([task], source, advance) as read:
        _, report, parts = next(read)
        yield report, parts


class _Item(NamedTuple):
    """A part of a task, None before its first and after its last one; and bytes that are told of with it."""

    task: Task
    report: Report
    part: Part | None
    num_bytes: int


def _items(tasks: Iterable[Task], source: Source) -> Generator[_Item]:
    for task in tasks:
        report = Report()
        done: list[int] = []
        yield _Item(task, report, None, 0)
        pieces = source.pieces[task.start : task.stop]
        if isinstance(source, Joining) and task.selection.episodes is None:  # else some need not be read
            pieces = source.joined(pieces)
        for part in selected(source, pieces, task.selection, report, done.append):
            yield _Item(task, report, part, sum(done))
            done.clear()
        yield _Item(task, report, None, sum(done))


def _parts(items: Iterator[_Item], advance: Advance) -> Iterator[Part]:
    for item in items:
        if item.part is not None:
            yield item.part
        advance(item.num_bytes)


def make_parts(
    tasks: Iterable[Task], source: Source, advance: Advance, check: Callable[[], None]
) -> Iterator[Task]:
    """Makes one part after the other, and tells each that is complete."""
    with reading(tasks, source, advance) as read:
        for task, report, parts in read:
            make_part(task, source, report, parts, check)
            yield task


def make_part(
    task: Task, source: Source, report: Report, parts: Iterator[Part], check: Callable[[], None]
) -> None:
    """Makes the part; the report appears last, so that a part with a report is complete."""
    temporary = task.path.with_name(f".{task.path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    writer = writer_at(temporary, source, source.pieces[task.start : task.stop])
    write(writer, parts, report, check)
    os.rename(temporary, task.path)
    told = task.path.with_name(f"{task.path.name}.json")
    unfinished = told.with_name(f".{told.name}")
    unfinished.write_text(json.dumps(report.to_json()))
    os.rename(unfinished, told)
