"""`rl buffer recover` and `gc`: what caring for a dataset in its place did, told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.format import recover as recovery
from rlcli.format.gc import GRACE_SECONDS, collect_garbage


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
    }


def recover_remarks(report: dict[str, Any]) -> list[str]:
    """What a person should read about a recovery, a line each."""
    if not report["changed"] and not report["removed"]:
        return [f"nothing to recover; {report['rows']:,} rows"]
    counts = {
        "open segments were sealed": len(report["sealed"]),
        "segments were replaced by a shorter copy": len(report["shortened"]),
        "empty segments were dropped": len(report["dropped"]),
        "unlisted segments were removed": len(report["removed"]),
        "unfinished episodes are marked cut": report["cut_episodes"],
    }
    return [
        f"{report['rows']:,} rows are there",
        *(f"{count:,} {what}" for what, count in counts.items() if count),
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
