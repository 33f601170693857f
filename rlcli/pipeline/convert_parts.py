"""Conversion in parts: `--jobs` processes work on pieces of a source, `--resume` goes on from finished ones.

Consecutive pieces make a group: a source of less than 512 MiB is one, a larger one is cut into groups of
256 MiB, or a 64th of it, that become smaller towards the end, so that processes end at about the same time;
as far as its pieces allow. Each group is a dataset of its own in the hidden folder `.NAME.convert` beside the
output; the result is their merge, which links files, in the order of the source. Groups depend on the source
alone, so any number of processes gives the same dataset.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.datasets.contract import Piece, Report, Source
from rlcli.errors import BusyError, Interrupted, ResourceError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.merge import merge
from rlcli.pipeline import convert_files
from rlcli.pipeline.convert_disk import sync_dataset
from rlcli.pipeline.convert_job import Job, description, lineage_of
from rlcli.pipeline.convert_rows import Selection
from rlcli.pipeline.convert_tasks import Task
from rlcli.pipeline.convert_workers import Crew

_GROUP_BYTES = 256 << 20
_MOST = 64  # groups, but for those that are small
_SMALLEST = 5  # of them are as much as the largest
_PLAN = "plan.json"  # in the folder: what its parts are made of and how


@dataclass(frozen=True)
class Group:
    """Pieces `start … stop - 1`, and which of their episodes are wanted."""

    start: int
    stop: int
    num_bytes: int
    selection: Selection


def groups_of(pieces: Sequence[Piece], selection: Selection) -> list[Group]:
    """The groups of a source in order; one for all pieces where rows have to be counted while reading."""
    total = sum(piece.num_bytes for piece in pieces)
    counts = [piece.episodes for piece in pieces]
    known = [count for count in counts if count is not None]
    if selection.limit is not None or (selection.episodes is not None and len(known) < len(counts)):
        return [Group(0, len(pieces), total, selection)]
    largest, smallest, left = _sizes(total)
    first, end = selection.episodes or (0, None)
    groups: list[Group] = []
    start, before, number = 0, 0, 0  # of the open group: its first piece, bytes and episodes before it
    so_far, reached = 0, 0  # bytes and episodes before the next piece
    for at, piece in enumerate(pieces):
        so_far += piece.num_bytes
        reached += piece.episodes or 0
        wanted = min(max((total - before) // left, smallest), largest)
        if at < len(pieces) - 1 and (so_far - before < wanted or 0 < total - so_far < smallest // 2):
            continue
        chosen = selection
        if selection.episodes is not None:
            low = max(first - number, 0)
            high = None if end is None or end >= reached else end - number
            chosen = Selection((low, high), None, selection.drop_invalid_last)
        if selection.episodes is None or (first < reached and (end is None or end > number)):
            groups.append(Group(start, at + 1, so_far - before, chosen))
        start, before, number = at + 1, so_far, reached
    return groups


def _sizes(total: int) -> tuple[int, int, int]:
    """The bytes of the largest group and the smallest, and what share of the rest one is between these."""
    if total < 2 * _GROUP_BYTES:
        return total, total, 1
    largest = max(_GROUP_BYTES, total // _MOST)
    return largest, max(1, largest // _SMALLEST), min(max(total // (4 * _GROUP_BYTES), 4), 16)


def convert(
    job: Job,
    source: Source,
    groups: Sequence[Group],
    out: Path,
    temporary: Path,
    crew: Crew,
    hashes: convert_files.Hashes,
    *,
    jobs: int,
    resume: bool,
    stop: console.Stop,
) -> tuple[Report, list[dict[str, Any]], convert_files.Fingerprint]:
    """Make the dataset `temporary` of all groups; the report, the lineage's parents, and the files read.

    Finished parts stay beside `out` with `resume`, after a signal, and when the disk is full. Raises
    `UsageError` if parts of another conversion lie there, `BusyError` while one is at work, and what
    reading and writing raise.
    """
    files = hashes.tell(source.files)
    folder = _folder_of(out)
    stopped = f"{job.path}: conversion stopped"

    def check() -> None:
        stop.raise_if_requested(stopped)

    with _folder(folder, job, groups, files, resume) as finished:
        try:
            reports = _make_all(job, source, groups, folder, finished, crew, jobs, check)
            report = Report()
            for part in reports:
                report.add(part)
            parents = hashes.parents(files)
            with ExitStack() as stack:
                parts = [folder / _name(n) for n, part in enumerate(reports) if part.rows]
                datasets = [stack.enter_context(Dataset.open(part)) for part in parts]
                if datasets:
                    extra = description(job, source, parents)
                    merge(datasets, temporary, lineage=lineage_of(job, parents), extra=extra, durable=False)
                    sync_dataset(temporary)
        except (Interrupted, ResourceError) as err:
            if any(folder.glob("part-*.json")):
                resume = True  # hours of work are not thrown away
                err.hint = f"finished parts are in {folder}; --resume goes on from them"
            raise
        finally:
            _clean(folder, keep=resume)
    return report, parents, files


def begun(job: Job, out: Path) -> Job:
    """The job as the parts beside `out` are made, if there are any: what did not hold stays stored."""
    plan = _folder_of(out) / _PLAN
    if not plan.exists():
        return job
    request = json.loads(plan.read_text())["job"]["request"]
    return job.reading(derive=request["derive"], unstack=request.get("unstack", False))


def discard(out: Path) -> None:
    """Removes the parts of a finished conversion."""
    shutil.rmtree(_folder_of(out), ignore_errors=True)


def _folder_of(out: Path) -> Path:
    return out.absolute().with_name(f".{out.name}.convert")


def _make_all(
    job: Job,
    source: Source,
    groups: Sequence[Group],
    folder: Path,
    finished: dict[int, Report],
    crew: Crew,
    jobs: int,
    check: Callable[[], None],
) -> list[Report]:
    """The reports of all groups, in order, after their parts were made."""
    tasks = [
        Task(group.start, group.stop, group.selection, folder / _name(n))
        for n, group in enumerate(groups)
        if n not in finished
    ]
    with console.progress(sum(group.num_bytes for group in groups), "convert", "B") as bar:

        def advance(count: int) -> None:
            check()
            bar.advance(count)

        advance(sum(groups[n].num_bytes for n in finished))
        crew.make(job, tasks, source, jobs, advance, check)
    return [
        Report.from_json(json.loads((folder / f"{_name(n)}.json").read_text())) for n in range(len(groups))
    ]


def _name(number: int) -> str:
    return f"part-{number:05d}"


@contextmanager
def _folder(
    folder: Path, job: Job, groups: Sequence[Group], files: convert_files.Fingerprint, resume: bool
) -> Iterator[dict[int, Report]]:
    """The folder of parts, locked; the reports of finished ones."""
    told = {
        "job": job.to_json(),
        "groups": [[group.start, group.stop, group.selection.to_json()] for group in groups],
        "files": [list(state) for state in files.state],
    }
    plan = folder / _PLAN
    if not resume and folder.exists():
        raise UsageError(
            f"{folder} has parts of a conversion that was stopped",
            hint="--resume goes on from them; remove the folder to start anew",
            path=folder,
        )
    folder.mkdir(exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{folder}: another conversion is at work there", path=folder) from None
        if plan.exists():
            if json.loads(plan.read_text()) != told:
                raise UsageError(
                    f"{folder} has parts of another source, or of a conversion with other options",
                    hint="remove the folder to start anew",
                    path=folder,
                )
        else:
            plan.write_text(json.dumps(told))
        yield _finished(folder, len(groups))
    finally:
        os.close(lock)


def _finished(folder: Path, count: int) -> dict[int, Report]:
    found = {}
    for number in range(count):
        report = folder / f"{_name(number)}.json"
        if report.exists():
            found[number] = Report.from_json(json.loads(report.read_text()))
    return found


def _clean(folder: Path, *, keep: bool) -> None:
    """Removes what is not finished, or everything."""
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.glob(".*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("part-*"):
        if path.is_dir() and not path.with_name(f"{path.name}.json").exists():
            shutil.rmtree(path, ignore_errors=True)
