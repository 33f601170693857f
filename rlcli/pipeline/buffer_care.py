"""`rl buffer recover`, `gc`, `upgrade`, `pack` and `unpack`: what was done to a dataset, told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.errors import Interrupted
from rlcli.format import pack as packing
from rlcli.format import recover as recovery
from rlcli.format import upgrade as versions
from rlcli.format.dataset import Dataset
from rlcli.format.gc import GRACE_SECONDS, collect_garbage
from rlcli.pipeline import provenance
from rlcli.pipeline.making import making
from rlcli.pipeline.outputs import publish, refuse_existing, unfinished


def recover(path: Path) -> dict[str, Any]:
    """Close what a killed writer left open and return the report; see `format.recover.recover`."""
    report = recovery.recover(path)
    return {
        "dataset": str(path),
        "generation": report.generation,
        "rows": report.rows,
        "changed": not report.is_clean,
        "sealed": report.sealed,
        "shortened": report.shortened,
        "dropped": report.dropped,
        "removed": report.removed,
        "cut_episodes": report.cut_episodes,
        "missing": report.missing,
    }


def recover_remarks(report: dict[str, Any]) -> list[str]:
    """What a person should read about a recovery, a line each."""
    if not report["changed"] and not report["removed"]:
        return [f"nothing to recover; {console.count_text(report['rows'], 'row')}"]
    counts = {
        "open [segment was|segments were] sealed": len(report["sealed"]),
        "[segment was|segments were] replaced by a shorter copy": len(report["shortened"]),
        "empty [segment was|segments were] dropped": len(report["dropped"]),
        "unlisted [segment was|segments were] removed": len(report["removed"]),
        "unfinished [episode is|episodes are] marked cut": report["cut_episodes"],
        "[generation is|generations are] missing, and what only it listed is garbage now": len(
            report["missing"]
        ),
    }
    return [
        console.counted(report["rows"], "[row is|rows are] there"),
        *(console.counted(count, what) for what, count in counts.items() if count),
    ]


def gc(path: Path, *, dry_run: bool = False, grace_seconds: float = GRACE_SECONDS) -> dict[str, Any]:
    """Remove what no manifest names and no writer has, and return the report; see `format.gc`."""
    report = collect_garbage(path, dry_run=dry_run, grace_seconds=grace_seconds)
    return {
        "dataset": str(path),
        "dry_run": dry_run,
        "removed": report.removed,
        "kept": report.kept,
        "freed_bytes": report.freed_bytes,
    }


def gc_remarks(report: dict[str, Any]) -> list[str]:
    """What a person should read about a collection, a line each."""
    what = "would be removed" if report["dry_run"] else "removed"
    lines = [f"{what}: {path}" for path in report["removed"]]
    lines += [f"kept, young or somebody's: {path}" for path in report["kept"]]
    if not report["removed"]:
        return [*lines, "nothing to remove"]
    freed = console.bytes_text(report["freed_bytes"])
    return [*lines, f"{freed} {'would be freed' if report['dry_run'] else 'freed'}"]


def change_version(path: Path, to: str | None, *, up: bool) -> dict[str, Any]:
    """Bring a dataset to another version of the format and return the report; see `format.upgrade`."""
    if up:
        moved = versions.upgrade(path, to)
    else:
        assert to is not None
        moved = versions.downgrade(path, to)
    before, after = (".".join(map(str, version)) for version in (moved.before, moved.after))
    return {"dataset": str(path), "before": before, "after": after, "generation": moved.generation}


def pack(path: Path, out: Path) -> dict[str, Any]:
    """Write the sealed dataset at `path` to one new file at `out` and return the report; see `format.pack`.

    Raises `UsageError` if `out` exists, `Interrupted` after a signal; then nothing is there.
    """
    refuse_existing(out)
    with Dataset.open(path) as dataset:
        facts = {"digest": dataset.digest, "rows": dataset.num_rows, "episodes": dataset.num_episodes}
        total = dataset.size_bytes
    with (
        console.interruptible() as stop,
        unfinished(out) as temporary,
        console.progress(total, "pack", "B") as bar,
    ):

        def advance(count: int) -> None:
            bar.advance(count)
            if stop.requested:
                raise Interrupted(stop.requested, f"{out}: stopped, nothing was written")

        entries = packing.pack(path, temporary, advance=advance)
        sha256 = provenance.sha256_file(temporary)
        size = temporary.stat().st_size
        publish(temporary, out)
    return {
        "file": str(out),
        "source": str(path),
        "files": len(entries),
        "bytes": size,
        "sha256": sha256,
        **facts,
    }


def unpack(path: Path, out: Path) -> dict[str, Any]:
    """Make the dataset in the file at `path` again at `out`, prove it, and return the report.

    Raises `CorruptError` for anything but a packed dataset, of which then nothing is written.
    """
    refuse_existing(out)
    total = path.stat().st_size if path.is_file() else None
    with making(out, total, "unpack", "B") as work:
        packing.unpack(path, work.temporary, advance=work.advance)
        return {**work.finish(), "source": str(path)}
