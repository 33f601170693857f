"""The report of `rl bench` for a person: a table per item, goals, memory, and what was found."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from rlcli import console


def text(report: Mapping[str, Any], width: int = 80) -> str:
    """The report in lines; sentences are broken at `width`, tables need 80 columns."""
    machine = report["machine"]
    about = f"{machine['processor']}, {machine['cores']} cores; {report['threads']} thread(s) per arm"
    parts = [_wrapped(about, width), *(_item(item, width) for item in report["items"])]
    if "baseline" in report:
        rows = [[r["name"], r["before"], r["now"], f"{r['slower_by']:+.1%}"] for r in report["baseline"]]
        parts.append(console.table(["against the limit", "baseline", "now", "slower by"], rows))
    return "\n\n".join(parts)


def _item(item: Mapping[str, Any], width: int) -> str:
    count = item["rounds"]
    title = f"{item['name']}  ({item['unit']}, median of {count['kept']} rounds, {count['quiet']} quiet)"
    rows = [
        [
            f"{arm['name']}" + (" [limit]" if arm["role"] == "limit" else ""),
            rate(arm["rate"]),
            "–".join(map(rate, arm["quartiles"])),
            duration(arm["microseconds"]),
            times(arm["ours_is_times"]),
        ]
        for arm in item["arms"]
    ]
    lines = [_goal(goal) for goal in item["goals"]]
    lines += [_memory(memory) for memory in item["memory"]]
    lines += [f"note: {remark}" for remark in [*item["remarks"], item["checked"]] if remark]
    if count["quiet"] < count["kept"]:
        busy = f"{count['other_cores']:.1f} cores"
        lines.append(
            f"note: other processes used {busy} meanwhile; trust ratios of what was measured, not rates"
        )
    table = console.table(["arm", "rate", "quartiles", "each", "rl is"], rows)
    return "\n".join([title, table, *(_wrapped(line, width) for line in lines)])


def _goal(goal: Mapping[str, Any]) -> str:
    """What was wanted and reached; where that is too little, what a conversion could reach on these cores."""
    told = f"goal: {goal['at_least']:g}x {goal['arm']}: {times(goal['measured'])}, {_verdict(goal['met'])}"
    if goal["met"] or goal["at_most"] is None:
        return told
    return f"{told}; processor time allows {times(goal['at_most'])}"


def _memory(memory: Mapping[str, Any]) -> str:
    """What of the peak is the interpreter with its imports, what the work took over that, and may take."""
    named = f", {memory['name']}" if memory["name"] else ""
    peak, imports, over, allowed = (
        f"{memory[name] / 2**20:.0f}"
        for name in ("peak_bytes", "imports_bytes", "over_bytes", "allowed_bytes")
    )
    return (
        f"memory{named}: peak {peak} MiB, {imports} of it the interpreter and its imports, {over} over that "
        f"(goal: {allowed}), {_verdict(memory['met'])}; {memory['cpu_seconds']:.3g} CPU s"
    )


def _verdict(met: bool) -> str:
    return "reached" if met else "MISSED"


def _wrapped(line: str, width: int) -> str:
    return textwrap.fill(line, max(width, 40), subsequent_indent="  ", break_on_hyphens=False)


def times(ratio: float) -> str:
    """A ratio with two decimals, or two digits if it is small."""
    return f"{ratio:.2f}x" if ratio >= 0.1 else f"{ratio:.2g}x"


def rate(value: float) -> str:
    """Three digits: 0.512, 38.6, 1,126, 45.3k, 3.27M."""
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= least:
            return f"{_three(value / size)}{letter}"
    return _three(value)


def duration(microseconds: float) -> str:
    """Three digits with a unit: 884 µs, 25.9 ms, 1.02 s."""
    for size, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= size:
            return f"{_three(microseconds / size)} {unit}"
    return f"{_three(microseconds)} µs"


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
