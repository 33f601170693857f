"""`rl buffer append` and `rl buffer compact`: episodes go to the end of a dataset, or into few segments."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from rlcli import console
from rlcli.console import count_text
from rlcli.errors import Interrupted, UsageError
from rlcli.format import compatible
from rlcli.format.copying import all_episodes, copy_episodes, whole_segment_rows
from rlcli.format.dataset import Dataset
from rlcli.format.location import Location, is_folder
from rlcli.format.writer import Writer
from rlcli.pipeline.buffer_list import disk_bytes
from rlcli.pipeline.making import lineage, making


def append(path: Path, sources: Sequence[Location]) -> dict[str, Any]:
    """Add the episodes of `sources` to the end of the dataset at `path`, all of them or none.

    Stream k of a source goes on in stream k of the dataset, modulo their number. Episodes get new numbers.
    They are committed at once, so an interruption or a full disk leaves the rows as they were.

    Raises `IncompatibleError` with every difference, `BusyError` while another writer has the dataset,
    `UsageError` if a source is the dataset itself, `Interrupted` after a signal.
    """
    with ExitStack() as stack:
        target = stack.enter_context(Dataset.open(path))
        datasets = [stack.enter_context(Dataset.open(source)) for source in sources]
        for dataset in datasets:
            if dataset.uuid == target.uuid:
                raise UsageError(f"{dataset.path}: a dataset cannot be appended to itself", path=dataset.path)
            compatible.check(target, dataset, verb="appended")
        total = sum(dataset.num_rows for dataset in datasets)
        before = target.num_rows
        stop = stack.enter_context(console.interruptible())
        bar = stack.enter_context(console.progress(total, "append", "rows"))

        def advance(rows: int) -> None:
            bar.advance(rows)
            if stop.requested:
                raise Interrupted(stop.requested, f"{path}: stopped, nothing was appended")

        entry = lineage("append", {"rows_before": before, "rows_added": total}, datasets)
        with Writer.append(path, lineage=entry) as writer:
            writer.segment_rows = whole_segment_rows(writer.schema, total)
            streams, episodes, cut = len(writer.streams), 0, 0
            for dataset in datasets:
                table = all_episodes(dataset)
                episodes += len(table)
                cut += len(table) - dataset.num_episodes
                for stream in range(len(dataset.stream_rows)):
                    mine = np.flatnonzero(table.stream == stream)
                    copy_episodes(
                        dataset, table, mine, writer, stream % streams, renumber=True, commit=False,
                        advance=advance,
                    )  # fmt: skip
            rows = sum(stream.rows for stream in writer.streams)
    return {
        "dataset": str(path),
        "sources": [str(source) for source in sources],
        "rows": rows,
        "added_rows": total,
        "added_episodes": episodes,
        "cut_episodes": cut,
    }


def compact(path: Location, out: Path, *, one_stream: bool = False) -> dict[str, Any]:
    """Copy the dataset at `path` to a new one of few, large, full segments at `out`.

    Rows, episodes, flags, finals and seeds are the same; numbers too, unless `one_stream` joins streams in
    which they repeat. What a window no longer has from its first row, and space that was reserved or freed,
    is left behind. Raises `UsageError` if `out` exists, `Interrupted` after a signal.
    """
    with Dataset.open(path) as source, making(out, source.num_rows, "compact") as work:
        table = all_episodes(source)
        counts = [1] if one_stream else source.stream_rows
        repeat = one_stream and len(np.unique(table.number)) < len(table)
        extra = {name: value for name, value in source.extra.items() if name != "segment_rows"}
        with Writer.create(
            work.temporary, source.schema, spec=source.spec, num_streams=len(counts), extra=extra,
            lineage=lineage("compact", {"one_stream": one_stream}, [source]),
        ) as writer:  # fmt: skip
            retained = np.bincount(table.stream, table.length, minlength=1)
            longest = source.num_rows if one_stream else int(retained.max())
            writer.segment_rows = whole_segment_rows(source.schema, longest)
            for stream in range(len(source.stream_rows)):
                mine = np.flatnonzero(table.stream == stream)
                target = 0 if one_stream else stream
                copy_episodes(source, table, mine, writer, target, renumber=repeat, advance=work.advance)
        before = {
            "rows": source.num_rows,
            "segments": len(source.segments),
            "bytes": source.size_bytes,
            "disk_bytes": disk_bytes(path) if is_folder(path) else source.size_bytes,
        }
        disk = disk_bytes(work.temporary)
        return {**work.finish(), "disk_bytes": disk, "source": str(path), "before": before}


def append_remarks(report: dict[str, Any]) -> list[str]:
    """What a person should read about an append, a line each."""
    lines = [
        f"{count_text(report['added_rows'], 'row')}, {count_text(report['added_episodes'], 'episode')} "
        f"appended; now {count_text(report['rows'], 'row')}"
    ]
    return [*lines, *_cut(report["cut_episodes"])]


def compact_remarks(report: dict[str, Any]) -> list[str]:
    """What a person should read about a compaction, a line each."""
    before = report["before"]
    old, new = (console.bytes_text(facts["disk_bytes"]) for facts in (before, report))
    lines = [
        f"{count_text(before['segments'], 'segment')} became {report['segments']:,}, "
        f"{old} on disk became {new}",
        f"{count_text(report['rows'], 'row')}, {count_text(report['episodes'], 'episode')}, "
        f"{report['seconds']:.2f} s",
    ]
    lost = before["rows"] - report["rows"]
    if lost:
        lines.append(lost_rows(lost))
    return lines


def lost_rows(count: int) -> str:
    """What a person should read about the rows that a copy of a window leaves behind."""
    return console.counted(
        count, "[row|rows] of episodes whose beginning had left the window [is|are] not there"
    )


def _cut(count: int) -> list[str]:
    return [console.counted(count, "unfinished [episode is|episodes are] marked cut")] if count else []
