"""`rl buffer verify --repair`: what of a damaged dataset is proven goes to a new one, by whole episodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli import console
from rlcli.errors import CorruptError
from rlcli.format.dataset import Dataset
from rlcli.format.verify import Problem
from rlcli.format.verify import verify as find_damage
from rlcli.pipeline.buffer_filter import copy_chosen
from rlcli.pipeline.making import lineage_of, making
from rlcli.pipeline.outputs import refuse_existing

Rows = NDArray[np.int64]


def repair(path: Path, out: Path) -> dict[str, Any]:
    """Copy every whole episode of which no byte is damaged to `out` and return the report.

    A damaged block of a column costs the episodes that have rows in it. Where another file of a segment is
    damaged, nothing is known of the rows, and the stream is cut before that segment. A sound dataset needs
    none: then nothing is written, and `dataset` is None.

    Raises `CorruptError` if the damage is in what describes the whole dataset, or no episode is left,
    `UsageError` if `out` exists, `Interrupted` after a signal.
    """
    refuse_existing(out)
    with console.progress(None, "comparing", "B") as bar:
        problems = find_damage(path, deep=True, progress=bar.advance)
    facts: dict[str, Any] = {"source": str(path), "problems": len(problems)}
    if not problems:
        return {**facts, "dataset": None}
    with Dataset.open(path) as damaged:
        rows = damaged.num_rows
        bounds = [problem.rows for problem in problems if problem.rows]
        bad = [(int(damaged.row_ids(np.array([start]))[0]), stop - start) for start, stop in bounds]
        at = _before_lost_segments(damaged, problems)
    with Dataset.open(path, at=at) as source:
        chosen = _untouched(source, bad)
        if not len(chosen):
            raise CorruptError(f"{path}: no whole episode is proven; nothing was written", path=path)
        parent = {"path": str(path), "uuid": source.uuid, "generation": source.generation, "rows": rows}
        entry = lineage_of("repair", {"problems": len(problems)}, [parent])
        with making(out, int(source.episodes.length[chosen].sum()), "repair") as work:
            copy_chosen(source, chosen, work.temporary, entry, work.advance)
            return {**work.finish(), **facts, "source_rows": rows}


def _before_lost_segments(damaged: Dataset, problems: Sequence[Problem]) -> dict[str, Any]:
    """The snapshot whose streams end before their first segment of which more than rows is damaged."""
    lost = {part for problem in problems if problem.rows is None for part in _segment(problem.file)}
    starts, stops = [0] * len(damaged.stream_rows), list(damaged.stream_rows)
    window = damaged.manifest.window
    for segment in reversed(damaged.segments):
        if segment.name in lost:
            stops[segment.stream] = segment.first
    if window is not None:
        firsts = {segment.stream: segment.first for segment in reversed(damaged.segments)}
        for stream, stop in enumerate(damaged.stream_rows):
            starts[stream] = max(firsts.get(stream, stop), stop - window)
            stops[stream] = max(stops[stream], starts[stream])
    return {"generation": damaged.generation, "starts": starts, "rows": stops, "ended": stops}


def _segment(file: str) -> list[str]:
    """The name in `journal/NAME.log`, `sums/NAME.json`, `segments/NAME/…`; none for what is of no segment."""
    return [part.partition(".log")[0].partition(".json")[0] for part in Path(file).parts[1:2]]


def _untouched(source: Dataset, bad: Sequence[tuple[int, int]]) -> Rows:
    """Which episodes have none of the damaged rows: runs given by the identity of their first row."""
    table = source.episodes
    first = source.row_ids(table.start)
    hit = np.zeros(len(table), np.bool_)
    for start, count in bad:
        hit |= (first < start + count) & (first + table.length > start)
    return np.flatnonzero(~hit)


def remark(report: dict[str, Any]) -> str:
    """What a person should read about a repair."""
    lost = report["source_rows"] - report["rows"]
    kept = console.counts_text(row=report["rows"], episode=report["episodes"])
    left = console.counted(lost, "[row is|rows are] left out")
    return f"{console.count_text(report['problems'], 'problem')}; {kept} proven; {left}"
