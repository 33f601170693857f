"""What `rl bench` prints: figures of three digits in 80 columns, sentences broken at the terminal's width."""

from __future__ import annotations

from typing import Any

import pytest

from rlcli.commands.bench_text import duration, rate, text
from rlcli.pipeline.benchmark import Memory


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.5123, "0.512"),
        (38.61, "38.6"),
        (452.4, "452"),
        (1126.2, "1,126"),
        (45_300, "45.3k"),
        (653_000, "653k"),
        (3_270_000, "3.27M"),
        (9.4e9, "9.4G"),
    ],
)
def test_rates(value: float, told: str) -> None:
    assert rate(value) == told


@pytest.mark.parametrize(
    ("microseconds", "told"),
    [(0.25, "0.25 µs"), (884.2, "884 µs"), (25_900, "25.9 ms"), (152_000, "152 ms"), (1_020_000, "1.02 s")],
)
def test_durations(microseconds: float, told: str) -> None:
    assert duration(microseconds) == told


GOAL = {"arm": "the slower of TFDS and disk", "at_least": 0.8, "measured": 0.81, "met": True, "at_most": 0.77}


def report(**changes: Any) -> dict[str, Any]:
    arm = {
        "name": "two of one process, a core each",
        "role": "limit",
        "rate": 9999.0,
        "quartiles": [9998.0, 9999.0],
        "microseconds": 123_000.0,
        "ours_is_times": 0.00098,
    }
    memory = Memory("", 97 << 20, 63 << 20, 32 << 20, 1.234).to_json()
    item = {
        "name": "convert/lerobot-video",
        "unit": "MB/s",
        "arms": [arm],
        "goals": [GOAL],
        "memory": [memory],
        "remarks": ["a sentence " * 12],
        "checked": None,
        "rounds": {"kept": 3, "quiet": 1, "other_cores": 1.7, "measured": 3},
    }
    return {"machine": {"processor": "P", "cores": 2}, "threads": 1, "items": [item | changes]}


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = text(report(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum(line.startswith("note: ") for line in lines) == 2


def test_memory_is_told_apart_from_the_interpreter() -> None:
    assert (
        "memory: peak 97 MiB, 63 of it the interpreter and its imports, 34 over that (goal: 32), MISSED; "
        "1.23 CPU s"
    ) in text(report(), 200)
    within = Memory("--jobs 2", 90 << 20, 70 << 20, 64 << 20, 2.0).to_json()
    told = text(report(memory=[within]), 200)
    assert "memory, --jobs 2: peak 90 MiB, 70 of it" in told
    assert "20 over that (goal: 64), reached; 2 CPU s" in told
    assert Memory("", 1, 2, 3, 0).to_json()["over_bytes"] == 0  # imports may have peaked higher


def test_a_goal_that_is_missed_tells_what_could_be() -> None:
    missed = GOAL | {"measured": 0.5, "met": False}
    plain = "goal: 0.8x the slower of TFDS and disk: "
    assert f"{plain}0.81x, reached\n" in text(report(), 200)
    assert f"{plain}0.50x, MISSED; processor time allows 0.77x\n" in text(report(goals=[missed]), 200)
    assert f"{plain}0.50x, MISSED\n" in text(report(goals=[missed | {"at_most": None}]), 200)
