"""`rl buffer lineage`: what made a dataset, of what, and what made that, as far as can be seen from here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.errors import RLError
from rlcli.format.dataset import Dataset
from rlcli.format.location import Location

MAX_DEPTH = 32
SHORT_DIGEST = 12
_SHOWN = ("env", "policy", "steps", "episodes", "seed", "where", "format")  # facts worth a place on the line


def lineage(path: Location) -> tuple[dict[str, Any], str]:
    """Facts and a tree: the entries of the dataset, newest first, with their parents and those' entries.

    A parent that is still where it was is opened; `status` says what was found there: "same" (the digest that
    the entry names), "changed" (the dataset goes on: another digest), "other" (another dataset), "missing",
    "unreadable", "unknown" (nothing to compare with). Raises what opening the dataset raises.
    """
    with Dataset.open(path) as dataset:
        facts = {"path": path, **_facts(dataset), "lineage": _entries(dataset, {dataset.uuid}, 1)}
    width = shutil.get_terminal_size().columns
    lines = [_head(str(path), facts), *_tree(facts["lineage"], "", width)]
    return facts, "\n".join(lines)


def _facts(dataset: Dataset) -> dict[str, Any]:
    return {
        "uuid": dataset.uuid,
        "rows": dataset.num_rows,
        "episodes": dataset.num_episodes,
        "digest": dataset.digest if dataset.state == "sealed" else None,
    }


def _entries(dataset: Dataset, above: set[str], depth: int) -> list[dict[str, Any]]:
    found = []
    for entry in reversed(dataset.lineage):
        parents = entry.get("parents") or []
        resolved = [_parent(parent, dataset.path, above, depth) for parent in parents]
        found.append({**entry, "parents": resolved} if parents else dict(entry))
    return found


def _parent(parent: Any, child: Location, above: set[str], depth: int) -> dict[str, Any]:
    """The parent as it is recorded, what is there now, and its own entries."""
    if not isinstance(parent, dict):
        return {"recorded": parent, "status": "unknown"}
    recorded = dict(parent)
    place = parent.get("path") or parent.get("file")
    if not isinstance(place, str):
        return {**recorded, "status": "unknown"}
    if "://" in place:
        return {**recorded, "status": "unknown"}  # not worth waiting for a network
    places = [Path(place), *([child.parent / place] if isinstance(child, Path) else [])]
    path = next((p for p in places if p.exists()), None)
    if path is None:
        return {**recorded, "status": "missing"}
    if not (path / "dataset.json").is_file():
        size = parent.get("bytes")
        changed = path.is_file() and size is not None and path.stat().st_size != size
        return {**recorded, "status": "changed" if changed else "unknown"}
    try:
        with Dataset.open(path) as dataset:
            if parent.get("uuid") not in (None, dataset.uuid):
                return {**recorded, "status": "other"}
            facts = _facts(dataset)
            known = parent.get("digest") is not None and facts["digest"] is not None
            same = facts["digest"] == parent.get("digest")
            recorded["status"] = ("same" if same else "changed") if known else "unknown"
            if dataset.uuid not in above and depth < MAX_DEPTH:
                recorded["lineage"] = _entries(dataset, {*above, dataset.uuid}, depth + 1)
            return recorded
    except (RLError, OSError) as err:
        return {**recorded, "status": "unreadable", "error": str(err)}


def _head(name: str, facts: dict[str, Any]) -> str:
    digest = facts["digest"][:SHORT_DIGEST] if facts["digest"] else "open"
    rows, episodes = (
        console.count_text(facts["rows"], "row"),
        console.count_text(facts["episodes"], "episode"),
    )
    return f"{name}  {rows}, {episodes}, {digest}"


def _tree(entries: list[dict[str, Any]], indent: str, width: int) -> list[str]:
    """An entry per branch, its parents below it."""
    lines = []
    for number, entry in enumerate(entries):
        last = number == len(entries) - 1
        lines += _branch(indent, last, _entry_text(entry), width)
        below = indent + ("   " if last else "│  ")
        parents = entry.get("parents", [])
        for position, parent in enumerate(parents):
            end = position == len(parents) - 1
            lines += _branch(below, end, _parent_text(parent), width)
            lines += _tree(parent.get("lineage", []), below + ("   " if end else "│  "), width)
    return lines


def _branch(indent: str, last: bool, parts: tuple[str, str], width: int) -> list[str]:
    """`first  second` on a line, or on two if they do not fit."""
    first, second = parts
    sign, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
    line = f"{indent}{sign}{first}"
    if not second:
        return [line]
    if len(line) + 2 + len(second) <= width:
        return [f"{line}  {second}"]
    room = max(16, width - len(indent) - 5)
    return [line, f"{indent}{below}  {second if len(second) <= room else second[: room - 1] + '…'}"]


def _entry_text(entry: dict[str, Any]) -> tuple[str, str]:
    facts = [f"{name} {entry[name]}" for name in _SHOWN if isinstance(entry.get(name), str | int | float)]
    versions = entry.get("versions")
    rl = versions.get("rl") if isinstance(versions, dict) else None
    words = [str(entry.get("op", "made")), str(entry["time"]) if entry.get("time") else ""]
    if rl:
        words.append(f"rl {rl}")
    command = entry.get("command")
    return "  ".join(filter(None, words)), str(command) if command else ", ".join(facts)


def _parent_text(parent: dict[str, Any]) -> tuple[str, str]:
    places = (parent.get(name) for name in ("path", "file", "run", "recorded"))
    name = str(next(filter(None, places), "something"))
    digest = parent.get("digest") or parent.get("sha256")
    words = {
        "same": "",
        "changed": "changed since",
        "other": "another dataset is there now",
        "missing": "no longer there",
        "unreadable": "cannot be read",
        "unknown": "",
    }
    short = str(digest)[:SHORT_DIGEST] if digest else ""
    return "  ".join(filter(None, (name, short))), words[parent["status"]]
