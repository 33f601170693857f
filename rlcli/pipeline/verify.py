"""`rl buffer verify`: proves datasets, and says in words and JSON where they are damaged or mean nonsense."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from rlcli import console
from rlcli.errors import CorruptError
from rlcli.format import dataset_json, semantics
from rlcli.format.dataset import Dataset
from rlcli.format.download import download
from rlcli.format.location import Location, is_folder
from rlcli.format.remote import RemoteSource
from rlcli.format.semantics import Finding
from rlcli.format.verify import Problem
from rlcli.format.verify import verify as find_damage

Level = Literal["fast", "bytes", "deep"]

SHOWN_PROBLEMS = 20
SHOWN_EPISODES = 8


def verify(
    paths: Sequence[Location], *, level: Level = "bytes", meaning: bool = False
) -> tuple[dict[str, Any], str]:
    """Facts and text: every problem of each dataset. `facts["ok"]` says whether there is none.

    `fast` checks what opening does: identity, newest manifests, sizes, hashes of small files; it stops at the
    first problem. `bytes` compares every byte with its hash and the whole chain of manifests. `deep` also
    compares what the files say about each other. `meaning` judges intact data by the rules of the data model.
    A dataset at a URL, or a packed one, is copied to a temporary folder, all of it, and judged there. Opens
    nothing for writing. Raises `InputError` and `IncompatibleError` as `Dataset.open` does.
    """
    for path in paths:  # a wrong path is told before hours of hashing
        with suppress(CorruptError):
            dataset_json.load(path) if is_folder(path) else RemoteSource(path).identity()
    entries = [
        _verify(path, level, meaning) if is_folder(path) else _verify_there(path, level, meaning)
        for path in paths
    ]
    text = "\n".join(_text(entry) for entry in entries)
    return {"ok": all(entry["ok"] for entry in entries), "datasets": entries}, text


def raise_if_damaged(facts: dict[str, Any]) -> None:
    """Raises `CorruptError` (exit 4) that names the first damaged dataset and file, unless all are sound."""
    damaged = [entry for entry in facts["datasets"] if not entry["ok"]]
    if not damaged:
        return
    first = damaged[0]
    count, problems = first["num_problems"], first["problems"]
    problem = next(
        (p for p in problems if p["block"] is not None), problems[0]
    )  # the cause, not what it upsets
    more = f"; so have {_plural(len(damaged) - 1, 'other dataset')}" if len(damaged) > 1 else ""
    raise CorruptError(
        f"{first['path']}: {_plural(count, 'problem')}; {_line(problem)}{more}", path=first["path"]
    )


def _verify_there(url: Location, level: Level, meaning: bool) -> dict[str, Any]:
    with TemporaryDirectory(prefix="rl-verify-") as folder:
        target = Path(folder) / "dataset"
        with console.progress(None, f"fetching {url}", "B"):
            download(RemoteSource(url), target)
        return {**_verify(target, level, meaning), "path": url}


def _verify(path: Path, level: Level, meaning: bool) -> dict[str, Any]:
    started = time.monotonic()
    problems: list[dict[str, Any]] = []
    entry: dict[str, Any] = {"path": path, "ok": False, "level": level, "bytes_compared": 0, "rules": []}
    warnings: list[dict[str, Any]] = []

    def compared(count: int) -> None:
        entry["bytes_compared"] += count
        bar.advance(count)

    if level != "fast":
        with console.progress(_file_bytes(path), "comparing", "B") as bar:
            found = find_damage(path, deep=level == "deep", progress=compared)
        problems += [_damage(path, problem) for problem in found]
    if not problems:
        try:
            with Dataset.open(path) as dataset:
                entry |= {"rows": dataset.num_rows, "episodes": dataset.num_episodes, "state": dataset.state}
                if meaning:
                    with console.progress(dataset.num_rows, "judging", "rows") as bar:
                        report = semantics.check(dataset, progress=bar.advance)
                    problems += [_finding(finding) for finding in report.errors]
                    warnings += [_finding(finding) for finding in report.warnings]
                    entry["rules"] = list(report.proven)
        except CorruptError as err:  # `fast` has compared little, and the disk may fail meanwhile
            problems.append(_damage(path, Problem(_relative(path, err.path), err.message)))
    entry["ok"] = not problems
    entry |= {"num_problems": len(problems), "problems": problems, "warnings": warnings}
    entry["meaning_judged"] = bool(entry["rules"])
    entry["seconds"] = round(time.monotonic() - started, 3)
    return entry


def _damage(path: Path, problem: Problem) -> dict[str, Any]:
    """A problem with bytes. Rows are first and last."""
    rows = None if problem.rows is None else [problem.rows[0], problem.rows[1] - 1]
    return {
        "rule": "bytes",
        "file": problem.file,
        "block": problem.block,
        "rows": rows,
        "episodes": list(problem.episodes),
        "message": problem.message.removeprefix(str(path / problem.file)).lstrip(": "),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    """A problem with meaning. Rows are first and last; `count` of those between are meant."""
    rows = None if finding.first_row is None else [finding.first_row, finding.last_row or finding.first_row]
    return {
        "rule": finding.rule,
        "file": finding.file,
        "block": finding.block,
        "rows": rows,
        "count": finding.count or None,
        "episodes": [] if finding.episode is None else [finding.episode],
        "message": finding.message,
    }


def _relative(path: Path, file: str | None) -> str:
    if file is None or not Path(file).is_relative_to(path):
        return file or "dataset.json"
    return Path(file).relative_to(path).as_posix()


def _file_bytes(path: Path) -> int:
    """Bytes to be read by a full verification, roughly: sizes of all files."""
    found = (os.path.join(parent, name) for parent, _, names in os.walk(path) for name in names)
    return sum(os.lstat(file).st_size for file in found if os.path.lexists(file))


def _text(entry: dict[str, Any]) -> str:
    warnings = [f"  warning: {_line(warning)}" for warning in entry["warnings"]]
    if entry["ok"]:
        parts = [
            f"{console.count_text(entry['rows'], 'row')}, {console.count_text(entry['episodes'], 'episode')}"
        ]
        if entry["level"] == "fast":
            parts.append("sizes, manifests and small files are right (column bytes not compared)")
        else:
            size = console.bytes_text(entry["bytes_compared"])
            also = ", files agree with each other" if entry["level"] == "deep" else ""
            parts.append(f"{size} equal to their hashes{also}")
        if entry["rules"]:
            parts.append(f"{_plural(len(entry['rules']), 'rule')} of meaning hold")
        return "\n".join([f"{entry['path']}: sound: {'; '.join(parts)}", *warnings])
    lines = [f"{entry['path']}: {_plural(entry['num_problems'], 'problem')}"]
    lines += [f"  {_line(problem)}" for problem in entry["problems"][:SHOWN_PROBLEMS]]
    if entry["num_problems"] > SHOWN_PROBLEMS:
        lines.append(f"  and {entry['num_problems'] - SHOWN_PROBLEMS:,} more (--json lists all)")
    return "\n".join([*lines, *warnings])


def _line(problem: dict[str, Any]) -> str:
    """`FILE: message (block 0, row 3, episode 1)`."""
    where = []
    if problem["block"] is not None and not problem["message"].startswith("block "):
        where.append(f"block {problem['block']}")
    if problem["rows"]:
        first, last = problem["rows"]
        where.append(f"row {first:,}" if first == last else f"rows {first:,} to {last:,}")
        if problem.get("count") and problem["count"] != last - first + 1:
            where[-1] = f"{problem['count']:,} of {where[-1]}"
    if problem["episodes"]:
        where.append(_episodes(problem["episodes"]))
    file = f"{problem['file']}: " if problem["file"] else ""
    return f"{file}{problem['message']}" + (f" ({', '.join(where)})" if where else "")


def _episodes(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"episode {numbers[0]}"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"episodes {numbers[0]} to {numbers[-1]}"
    more = f" … {numbers[-1]}" if len(numbers) > SHOWN_EPISODES else ""
    return f"episodes {', '.join(map(str, numbers[:SHOWN_EPISODES]))}{more}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
