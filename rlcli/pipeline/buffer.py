"""`rl buffer info`: what a dataset is, told without reading its rows."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlcli import console
from rlcli.format import files
from rlcli.format.dataset import Dataset
from rlcli.format.location import Location, is_folder
from rlcli.format.manifest import Manifest
from rlcli.format.schema import Column
from rlcli.pipeline.buffer_list import disk_bytes
from rlcli.pipeline.buffer_stats import episode_quantiles
from rlcli.pipeline.spec_text import env_text, spec_text

SHOWN_LINEAGE = 5


def info(path: Location) -> tuple[str, dict[str, Any], str]:
    """`("dataset", facts, text)`: environment, specs, columns, counts, returns, size, state, lineage.

    No row is read; only the digest of sealed datasets is known without that, for an open one it is None.
    Raises `InputError` if there is no dataset, `CorruptError` naming the file where it is damaged.
    """
    with Dataset.open(path) as dataset:
        identity, newest = dataset.identity, dataset.manifest
        table = dataset.episodes
        sealed = sum(segment.sealed for segment in dataset.segments)
        facts: dict[str, Any] = {
            "path": path,
            "uuid": dataset.uuid,
            "format": ".".join(map(str, identity["format"])),
            "created": identity["created"],
            "created_by": identity["writer"],
            "state": dataset.state,
            "writer": _writer(path, newest),
            "generation": dataset.generation,
            "features": list(newest.incompat),
            "window": newest.window,
            "digest": dataset.digest if dataset.state == "sealed" else None,
            "spec": dataset.spec,
            "rows": dataset.num_rows,
            "stream_rows": dataset.stream_rows,
            "unknown_next_rows": len(dataset.unknown_next),
            "episodes": {
                "count": len(table),
                "terminated": int(table.terminated.sum()),
                "truncated": int((table.truncated & ~table.terminated).sum()),
                "cut": int(table.cut.sum()),
                "begun_before_window": begun_before(dataset),
                "unfinished_rows": unfinished_rows(dataset),
            },
            **episode_quantiles(table),
            "normalised_return": None,
            "bytes": dataset.size_bytes,
            "disk_bytes": disk_bytes(path) if is_folder(path) else None,
            "row_bytes": dataset.schema.row_bytes,
            "segments": {"sealed": sealed, "open": len(dataset.segments) - sealed},
            "columns": [_column_facts(column) for column in dataset.schema.columns],
            "lineage": dataset.lineage,
        }
    scores = facts["spec"].get("reference_scores")
    if scores and facts["return"]:
        span = scores["max"] - scores["min"]
        facts["normalised_return"] = 100 * (facts["return"]["mean"] - scores["min"]) / span
    return "dataset", facts, _info_text(facts)


def begun_before(dataset: Dataset) -> int:
    """Ended episodes of which the first rows have left a window."""
    return len(dataset.episodes_all()) - len(dataset.episodes)


def unfinished_rows(dataset: Dataset) -> int:
    """Rows behind the last end of an episode in their streams."""
    snapshot = dataset.snapshot
    return sum(np.subtract(snapshot["rows"], snapshot["ended"]).tolist())


def _column_facts(column: Column) -> dict[str, Any]:
    """`row_bytes` are those of a row's place in the columns; values of a heap have more elsewhere."""
    heap = column.heap
    facts: dict[str, Any] = {
        "key": "/".join(column.key),
        "dtype": column.dtype if heap is None or heap.value == "array" else heap.value,
        "shape": list(column.shape),
        "encoding": column.encoding,
        "row_bytes": column.row_bytes if column.encoding in ("plain", "heap") else 0,
    }
    return facts | ({} if heap is None else {"codec": heap.codec})


def _shape_text(column: dict[str, Any]) -> str:
    if column["dtype"] in ("text", "bytes"):
        return "any"
    return "×".join("any" if n < 0 else str(n) for n in column["shape"]) or "scalar"


def _encoding_text(column: dict[str, Any]) -> str:
    return str(column["encoding"]) + (f" {column['codec']}" if column.get("codec", "none") != "none" else "")


def _writer(path: Location, newest: Manifest) -> dict[str, Any] | None:
    """The owner in the manifest, and whether it lives as far as can be seen from here."""
    owner = next((stream["owner"] for stream in newest.streams if stream.get("owner")), None)
    if owner is None:
        return None
    facts = {name: owner.get(name) for name in ("host", "pid", "durability")}
    here = owner.get("host") == socket.gethostname() and owner.get("boot") == files.boot_id()
    if not (here and isinstance(path, Path)):
        return {**facts, "status": "elsewhere"}
    return {**facts, "status": "live" if _holds(int(owner["pid"]), path / "dataset.json") else "dead"}


def _holds(pid: int, file: Path) -> bool:
    """The process runs and, as far as can be seen, has `file` open. A lock would disturb writers."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    target = file.resolve()
    try:
        return any(os.readlink(link.path) == str(target) for link in os.scandir(f"/proc/{pid}/fd"))
    except OSError:
        return True


def _info_text(facts: dict[str, Any]) -> str:
    episodes, spec = facts["episodes"], facts["spec"]
    kinds = [f"{episodes[name]:,} {name}" for name in ("terminated", "truncated", "cut") if episodes[name]]
    if before := episodes["begun_before_window"]:
        kinds.append(f"{before:,} begun before the window")
    streams = len(facts["stream_rows"])
    segments = ", ".join(f"{count:,} {kind}" for kind, count in facts["segments"].items() if count)
    normalised = facts["normalised_return"]
    text = console.fields(
        {
            "dataset": facts["path"],
            "environment": env_text(spec.get("env")),
            "observation": spec_text(spec.get("observation")),
            "action": spec_text(spec.get("action")),
            "rows": f"{facts['rows']:,}" + (f" in {streams} streams" if streams > 1 else ""),
            "window": f"the newest {facts['window']:,} rows of each stream" if facts["window"] else None,
            "episodes": f"{episodes['count'] + before:,}" + (f" ({', '.join(kinds)})" if kinds else ""),
            "unfinished": console.count_text(episodes["unfinished_rows"], "row")
            if episodes["unfinished_rows"]
            else None,
            "next unknown": console.count_text(facts["unknown_next_rows"], "row")
            if facts["unknown_next_rows"]
            else None,
            "return": _quantiles_text(facts["return"]),
            "normalised": None if normalised is None else f"{normalised:.2f} (0 random, 100 expert)",
            "length": _quantiles_text(facts["length"]),
            "size": size_text(facts) + (f", segments: {segments}" if segments else ""),
            "state": _state_text(facts),
            "digest": facts["digest"] or "not yet: it is open",
            "uuid": facts["uuid"],
            "format": f"{facts['format']}, generation {facts['generation']:,}"
            + (f", features: {', '.join(facts['features'])}" if facts["features"] else ""),
            "created": f"{facts['created']} by {facts['created_by']}",
        }
    )
    columns = [
        [c["key"], c["dtype"], _shape_text(c), _encoding_text(c), c["row_bytes"]] for c in facts["columns"]
    ]
    text += "\n\n" + console.table(["column", "dtype", "shape", "encoding", "B/row"], columns)
    lineage = [words for entry in facts["lineage"] if (words := _lineage_text(entry))]
    if lineage:
        text += "\n\nmade by\n" + "\n".join(lineage[-SHOWN_LINEAGE:])
        if len(lineage) > SHOWN_LINEAGE:
            text += f"\n  and {len(lineage) - SHOWN_LINEAGE} earlier (--json)"
    return text


def size_text(facts: Mapping[str, Any]) -> str:
    """How much disk a dataset takes, from the facts of `info`; what is elsewhere, how many bytes it has."""
    here = facts["disk_bytes"]
    size = (
        f"{console.bytes_text(facts['bytes'])} there"
        if here is None
        else f"{console.bytes_text(here)} on disk"
    )
    return f"{size}, {facts['row_bytes']:,} B per row"


def _quantiles_text(summary: dict[str, Any] | None) -> str | None:
    if summary is None:
        return None
    names = ("mean", "std", "min", "median", "max")
    return "  ".join(f"{name} {summary[name]:,.5g}" for name in names)


def _state_text(facts: dict[str, Any]) -> str:
    state, writer = str(facts["state"]), facts["writer"]
    if writer is None:
        return state
    who = {
        "live": f"process {writer['pid']} is writing",
        "dead": f"its writer, process {writer['pid']}, is gone; appending recovers",
        "elsewhere": f"opened by process {writer['pid']} on {writer['host']}",
    }
    return f"{state}: {who[writer['status']]}"


def _lineage_text(entry: dict[str, Any]) -> str:
    words = [str(entry[name]) for name in ("time", "op", "command") if entry.get(name)]
    return "  " + "  ".join(words) if words else ""
