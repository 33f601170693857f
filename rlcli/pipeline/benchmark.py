"""How fast is it, against what: arms measured in turn, so that they meet the same machine.

All arms of an item run once per round, in rotated order; a figure is the median over the rounds, a comparison
the median of the ratios inside the rounds. Absolute numbers move by tens of percent on a shared machine.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rlcli import console
from rlcli.errors import InputError, UsageError
from rlcli.pipeline.benchmark_limits import Measured, Role, Slowest, Spread
from rlcli.pipeline.machine import OtherLoad

QUIET_CORES = 0.15  # a round in which others used more is not quiet
MIN_QUIET_ROUNDS = 5
_LONG = 5  # times the seconds of an arm and round


class Arm(Protocol):
    """One way to do the work of an item."""

    name: str
    role: Role
    units: float  # units of work in one call
    cpu_seconds: float  # of all processors in the last measurement, NaN where nobody knows

    def measure(self, repeats: int) -> float:
        """Seconds that `repeats` calls took, without what prepares them."""
        ...


@dataclass
class LocalArm:
    """A call in this process. Untimed: `prepare` before each call, `around` around each measurement."""

    name: str
    role: Role
    call: Callable[[], object]
    units: float = 1.0
    prepare: Callable[[], object] | None = None
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    cpu_seconds: float = field(default=math.nan, init=False)

    def measure(self, repeats: int) -> float:
        calls = range(repeats)
        with self.around():
            if self.prepare is None:
                total, self.cpu_seconds = _timed(self.call, calls)
                return total
            total, self.cpu_seconds = 0.0, 0.0
            for _ in calls:
                self.prepare()
                taken, cpu = _timed(self.call, (0,))
                total, self.cpu_seconds = total + taken, self.cpu_seconds + cpu
        return total


def _timed(call: Callable[[], object], calls: Iterable[int]) -> tuple[float, float]:
    """Seconds that so many calls take, and seconds of processors."""
    cpu, start = time.process_time(), time.perf_counter()
    for _ in calls:
        call()
    return time.perf_counter() - start, time.process_time() - cpu


@dataclass(frozen=True)
class Goal:
    """Our first arm should be at least `ratio` times as fast as `arm`."""

    arm: str
    ratio: float


@dataclass(frozen=True)
class Memory:
    """The largest resident memory of a process that does the work of an item once, in bytes.

    `imports` is that of a process which only imports the same modules; the work may take `allowed` over that.
    """

    name: str
    peak: int
    imports: int
    allowed: int
    cpu_seconds: float

    def to_json(self) -> dict[str, Any]:
        over = max(0, self.peak - self.imports)
        return {
            "name": self.name,
            "peak_bytes": self.peak,
            "imports_bytes": self.imports,
            "over_bytes": over,
            "allowed_bytes": self.allowed,
            "met": over <= self.allowed,
            "cpu_seconds": self.cpu_seconds,
        }


@dataclass
class Item:
    """Arms that do the same work. The first arm of role `ours` is the one that is compared.

    `check` proves before the timing that the arms agree: `AssertionError`, or what was proved.
    """

    name: str
    unit: str
    arms: list[Arm]
    goals: tuple[Goal, ...] = ()
    check: Callable[[], str] | None = None
    remarks: tuple[str, ...] = ()
    computed: tuple[Slowest | Spread, ...] = ()
    memory: tuple[Memory, ...] = ()
    processes: tuple[int, ...] = field(default_factory=lambda: (os.getpid(),))


def run_item(item: Item, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure an item: `rounds` rounds in which each arm works for about `seconds`; JSON-able figures.

    Rounds in which other processes used more than 0.15 core are left out if five quiet ones remain;
    otherwise the quietest are kept and the report says so.
    """
    proved = item.check() if item.check is not None else None
    arms = list(item.arms)
    repeats = {arm.name: _warm_up(arm, seconds) for arm in arms}
    rounds_done: list[dict[str, Measured]] = []
    loads: list[float] = []
    most = rounds * 2
    with console.progress(rounds, item.name, "rounds") as bar:
        other = OtherLoad(item.processes)
        for index in range(most):
            shift = index % len(arms)
            found = {arm.name: _measured(arm, repeats[arm.name]) for arm in arms[shift:] + arms[:shift]}
            computed = {each.name: Measured(each.rate(found), math.nan) for each in item.computed}
            rounds_done.append(found | computed)
            loads.append(other.cores() or 0.0)
            bar.advance()
            quiet = sum(load <= QUIET_CORES for load in loads)
            if index + 1 >= rounds and quiet >= min(rounds, MIN_QUIET_ROUNDS):
                break
            if index + 1 >= rounds and quiet == 0:
                break  # a busy machine does not become quiet by waiting twice as long
    kept = _quietest(loads, min(rounds, MIN_QUIET_ROUNDS), rounds)
    return _summary(item, [rounds_done[i] for i in kept], [loads[i] for i in kept], len(loads), proved)


def _measured(arm: Arm, repeats: int) -> Measured:
    taken, units = arm.measure(repeats), arm.units * repeats
    return Measured(units / taken, arm.cpu_seconds / units)


def _warm_up(arm: Arm, seconds: float) -> int:
    """Calls that take about `seconds`, found by doubling; caches and compilers are warm after it.

    A first call that takes many times as long is warm-up enough.
    """
    if arm.measure(1) > _LONG * seconds:
        return 1
    repeats = 1
    while True:
        taken = arm.measure(repeats)
        if taken >= seconds / 4:
            return max(1, round(repeats * seconds / taken))
        repeats = (
            repeats * 2 if taken <= 0 else max(repeats * 2, min(repeats * 16, int(repeats * seconds / taken)))
        )


def _quietest(loads: Sequence[float], least: int, most: int) -> list[int]:
    """Indices of the quiet rounds, or of the `least` quietest if fewer are quiet; at most `most`."""
    order = sorted(range(len(loads)), key=lambda index: loads[index])
    quiet = sum(load <= QUIET_CORES for load in loads)
    if quiet == 0:
        return list(range(min(len(loads), most)))  # equally busy: nothing to choose by
    return sorted(order[: min(most, max(quiet, least))])


def _summary(
    item: Item, found: list[dict[str, Measured]], loads: list[float], measured: int, proved: str | None
) -> dict[str, Any]:
    def times(one: str, other: str) -> float:
        return statistics.median(arms[one].rate / arms[other].rate for arms in found)

    ours = next(arm.name for arm in item.arms if arm.role == "ours")
    rows: list[dict[str, Any]] = []
    shown: list[Arm | Slowest | Spread] = [*item.arms, *item.computed]
    for arm in shown:
        low, middle, high = _quartiles([arms[arm.name].rate for arms in found])
        cpu_seconds = statistics.median(arms[arm.name].cpu_seconds for arms in found)
        rows.append(
            {
                "name": arm.name,
                "role": arm.role,
                "rate": middle,
                "quartiles": [low, high],
                "microseconds": 1e6 / middle,
                "cpu_microseconds": None if math.isnan(cpu_seconds) else 1e6 * cpu_seconds,
                "ours_is_times": times(ours, arm.name),
            }
        )
    ratios = {row["name"]: row["ours_is_times"] for row in rows}
    quiet = sum(load <= QUIET_CORES for load in loads)
    spread = next((each.name for each in item.computed if isinstance(each, Spread)), None)
    return {
        "name": item.name,
        "unit": item.unit,
        "arms": rows,
        "goals": [
            {
                "arm": goal.arm,
                "at_least": goal.ratio,
                "measured": ratios[goal.arm],
                "met": ratios[goal.arm] >= goal.ratio,
                "at_most": times(spread, goal.arm) if spread and quiet == len(found) else None,
            }
            for goal in item.goals
            if goal.arm in ratios
        ],
        "memory": [memory.to_json() for memory in item.memory],
        "checked": proved,
        "remarks": list(item.remarks),
        "rounds": {
            "measured": measured,
            "kept": len(found),
            "quiet": quiet,
            "other_cores": statistics.median(loads),
        },
    }


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def limit_share(item: Mapping[str, Any]) -> float:
    """Our speed as a share of the physical limit measured in the same rounds; NaN without a limit."""
    for arm in item["arms"]:
        if arm["role"] == "limit":
            return float(arm["ours_is_times"])
    return math.nan


def compare(now: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each item of both reports how much slower we are, as a share (0.05 is 5 % slower).

    Compared is the share of the physical limit, which cancels most of a machine's mood.
    Raises `UsageError` if the reports have no item in common.
    """
    before = {item["name"]: limit_share(item) for item in baseline["items"]}
    rows = []
    for item in now["items"]:
        share, old = limit_share(item), before.get(item["name"], math.nan)
        if math.isfinite(share) and math.isfinite(old):
            rows.append({"name": item["name"], "before": old, "now": share, "slower_by": 1 - share / old})
    if not rows:
        raise UsageError("the baseline has none of the measured cases")
    return rows


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """torch with that many threads, and as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_report(path: Path) -> dict[str, Any]:
    """A report that `write_report` wrote. Raises `InputError` if it is none."""
    try:
        report = json.loads(path.read_text())
    except OSError as err:
        raise InputError(f"cannot read the baseline {path}: {err.strerror}", path=path) from err
    except ValueError as err:
        raise InputError(f"{path} is not a report of rl bench: {err}", path=path) from err
    if not (isinstance(report, dict) and isinstance(report.get("items"), list)):
        raise InputError(f"{path} is not a report of rl bench: it has no items", path=path)
    return report


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write the report as JSON, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
