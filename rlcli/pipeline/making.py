"""What the verbs that make a dataset of datasets share: progress, lineage, interruption, publication."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.format.dataset import Dataset
from rlcli.pipeline import provenance
from rlcli.pipeline.outputs import publish, refuse_existing, unfinished


class Making:
    """A dataset that grows at `temporary` and is to appear at `out`."""

    def __init__(self, out: Path, temporary: Path, stop: console.Stop, bar: console.Progress) -> None:
        self.out = out
        self.temporary = temporary
        self._stop = stop
        self._bar = bar
        self._started = time.monotonic()

    def advance(self, rows: int) -> None:
        """That many more rows are done. Raises `Interrupted` after a signal."""
        self._bar.advance(rows)
        self._stop.raise_if_requested(f"{self.out}: stopped, nothing was written")

    def finish(self) -> dict[str, Any]:
        """Gives the output its name and tells what it is."""
        facts = self.facts()
        publish(self.temporary, self.out)
        return facts

    def facts(self) -> dict[str, Any]:
        """What the finished output is: path, digest, counts, bytes, seconds."""
        with Dataset.open(self.temporary) as dataset:
            facts = {
                "dataset": str(self.out),
                "digest": dataset.digest,
                "rows": dataset.num_rows,
                "episodes": dataset.num_episodes,
                "streams": len(dataset.stream_rows),
                "segments": len(dataset.segments),
                "bytes": dataset.size_bytes,
            }
        self.advance(0)
        return {**facts, "seconds": round(time.monotonic() - self._started, 3)}


@contextmanager
def making(out: Path, total: int | None, what: str, unit: str = "rows") -> Iterator[Making]:
    """A new dataset at `out`, or nothing: what is unfinished at the end of the block is removed.

    `total` and `what` are for the progress bar. Raises `UsageError` if `out` exists.
    """
    refuse_existing(out)
    with (
        console.interruptible() as stop,
        unfinished(out) as temporary,
        console.progress(total, what, unit) as bar,
    ):
        yield Making(out, temporary, stop, bar)


def lineage(op: str, options: Mapping[str, Any], parents: Sequence[Dataset]) -> dict[str, Any]:
    """The lineage entry of a dataset that is made of others."""
    return lineage_of(op, options, [parent(dataset) for dataset in parents])


def lineage_of(op: str, options: Mapping[str, Any], parents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same where what `parent` says of each is known already, or some of it cannot be."""
    return {
        "op": op,
        "command": provenance.command_line(),
        "options": dict(options),
        "versions": provenance.versions(),
        "time": provenance.now(),
        "parents": [dict(known) for known in parents],
    }


def parent(dataset: Dataset) -> dict[str, Any]:
    """What identifies an input in a lineage entry."""
    return {
        "path": str(dataset.path),
        "digest": dataset.digest,
        "uuid": dataset.uuid,
        "generation": dataset.generation,
        "rows": dataset.num_rows,
    }
