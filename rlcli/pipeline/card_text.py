"""The sentences and tables of a dataset card, and the card as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlcli.console import count_text
from rlcli.pipeline.buffer import size_text


def headline(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few numbers a reader wants first: name and text."""
    episodes, env = facts["episodes"], facts["spec"].get("env")
    ends = [f"{episodes[name]:,} {name}" for name in ("terminated", "truncated", "cut") if episodes[name]]
    lines = [
        ("environment", f"{env['library']}: {env['id']}" if env else "not recorded"),
        ("steps", f"{facts['rows']:,}"),
        ("episodes", f"{episodes['count']:,}" + (f" ({', '.join(ends)})" if ends else "")),
    ]
    for name in ("return", "length"):
        if facts[name]:
            q = facts[name]
            text = (
                f"mean {q['mean']:,.4g}, median {q['median']:,.4g}, from {q['min']:,.4g} to {q['max']:,.4g}"
            )
            lines.append((name, text))
    if facts["normalised_return"] is not None:
        lines.append(("D4RL score", f"{facts['normalised_return']:.1f}"))
    lines += [
        ("unknown next observations", count_text(facts["unknown_next_rows"], "row")),
        ("size", size_text(facts)),
        ("state", facts["state"]),
        ("digest", facts["digest"] or "changes until it is sealed"),
    ]
    return lines


def markdown(facts: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    lines = [f"# {facts['path'].name}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {_cell(text)} |" for name, text in headline(facts)]
    lines += ["", "## Columns", "", "| column | dtype | shape | min | mean | std | max | not finite |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in column_rows(facts)]
    lines += ["", "## Worth knowing", ""]
    lines += [f"- {_cell(sentence)}" for sentence in remarks(facts)]
    lines += ["", "## Made by", ""]
    lines += [f"- {_cell(text)}" for text in history(facts)]
    lines += ["", "Read it with `rl buffer info`, check it with `rl buffer verify --deep --semantics`.", ""]
    return "\n".join(lines)


def column_rows(facts: Mapping[str, Any]) -> list[list[str]]:
    """A line per column: name, dtype, shape, extremes and moments, values that are not finite."""
    rows = []
    for column in facts["columns"]:
        odd = (column.get("nan") or 0) + (column.get("inf") or 0)
        dtype = column["dtype"] + ("" if column["encoding"] == "plain" else f" ({column['encoding']})")
        shape = "×".join("any" if size < 0 else str(size) for size in column["shape"]) or "–"
        numbers = [_number(column.get(name)) for name in ("min", "mean", "std", "max")]
        rows.append([column["key"], dtype, shape, *numbers, f"{odd:,}" if odd else ""])
    return rows


def remarks(facts: Mapping[str, Any]) -> list[str]:
    """What a reader might trip over, a sentence each."""
    found = [
        f"{entry['column']}: {len(entry['elements'])} of {entry['of']} dimensions never change "
        f"({', '.join(map(str, entry['elements'][:10]))}{', …' if len(entry['elements']) > 10 else ''})"
        for entry in facts["dead"]
    ]
    for action in facts["actions"]:
        if action["kind"] == "counts":
            unused = sum(count == 0 for part in action["parts"] for count in part["counts"])
            outside = sum(part["outside"] for part in action["parts"])
            if unused:
                found.append(f"{action['key']}: {unused} of the actions never occur")
        else:
            outside = float(np.mean(action["outside"]))
            saturated = float(np.mean(action["at_low"])) + float(np.mean(action["at_high"]))
            if saturated > 0.01:
                found.append(f"{action['key']}: {100 * saturated:.0f} % of the values lie at a bound")
        if outside:
            found.append(f"{action['key']}: some values lie outside the spec")
    if facts["unknown_next_rows"]:
        rows = count_text(facts["unknown_next_rows"], "row")
        found.append(f"the next observation of {rows} is unknown; samplers leave them out")
    if facts["episodes"]["unfinished_rows"]:
        rows = count_text(facts["episodes"]["unfinished_rows"], "row")
        found.append(f"the last {rows} belong to an episode that has no end yet")
    odd = [c["key"] for c in facts["columns"] if (c.get("nan") or 0) + (c.get("inf") or 0)]
    if odd:
        found.append(f"values that are not finite occur in {', '.join(odd)}")
    return found or ["nothing unusual was found"]


def history(facts: Mapping[str, Any]) -> list[str]:
    """The lineage, oldest first, a line each."""
    lines = []
    for entry in facts["lineage"]:
        what = entry.get("command") or entry.get("op") or "unknown"
        command = " ".join(what) if isinstance(what, list) else str(what)
        lines.append(f"{entry.get('time', 'at an unknown time')}: {command}")
    return lines or ["nothing is recorded"]


def _number(value: Any) -> str:
    return "" if value is None else f"{float(value):,.4g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
