"""`rl buffer merge`: datasets become one, without copying what is sealed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.console import count_text
from rlcli.format.dataset import Dataset
from rlcli.format.location import Location
from rlcli.format.merge import merge as merge_into
from rlcli.pipeline.making import lineage, making


def merge(paths: Sequence[Location], out: Path, *, dedup: bool = False, link: bool = True) -> dict[str, Any]:
    """Join datasets of equal columns and specs into a new one at `out` and return the report.

    See `format.merge.merge`. Raises `UsageError` if `out` exists, `IncompatibleError` with every difference,
    `Interrupted` after a signal; then nothing is there.
    """
    with ExitStack() as stack:
        datasets = [stack.enter_context(Dataset.open(path)) for path in paths]
        total = sum(dataset.num_rows for dataset in datasets)
        work = stack.enter_context(making(out, total, "merge"))
        entry = lineage("merge", {"dedup": dedup, "link": link}, datasets)
        found = merge_into(
            datasets, work.temporary, lineage=entry, dedup=dedup, link=link, advance=work.advance
        )
        facts = work.finish()
    return {
        **facts,
        "sources": [str(path) for path in paths],
        "files": found.files,
        "file_bytes": found.file_bytes,
        "copied_rows": found.copied_rows,
        "cut_episodes": found.cut_episodes,
        "dropped_episodes": found.dropped_episodes,
        "dropped_rows": found.dropped_rows,
        "lost_rows": found.lost_rows,
    }


def remarks(report: dict[str, Any]) -> list[str]:
    """What a person should read about a merge, a line each."""
    lines = [
        f"{count_text(report['rows'], 'row')}, {count_text(report['episodes'], 'episode')} in "
        f"{count_text(report['streams'], 'stream')} of {count_text(len(report['sources']), 'dataset')}, "
        f"{report['seconds']:.2f} s"
    ]
    words = {"link": "hard-linked", "reflink": "sharing blocks", "copy": "copied"}
    shares = [
        f"{count_text(report['files'][way], 'file')} {word} ({console.bytes_text(report['file_bytes'][way])})"
        for way, word in words.items()
        if report["files"][way]
    ]
    lines += [", ".join(shares)] if shares else []
    counts = {
        "[row was|rows were] copied: of open segments, windows, URLs, packed files, or datasets that lost "
        "episodes": report["copied_rows"],
        "unfinished [episode is|episodes are] marked cut": report["cut_episodes"],
        "[episode was|episodes were] left out, equal to earlier ones": report["dropped_episodes"],
        "[row|rows] of episodes whose beginning had left the window [is|are] not there": report["lost_rows"],
    }
    return [*lines, *(console.counted(count, what) for what, count in counts.items() if count)]
