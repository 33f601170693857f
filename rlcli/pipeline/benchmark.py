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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from rlcli import console
from rlcli.errors import InputError, UsageError
from rlcli.pipeline.machine import OtherLoad

Role = Literal["ours", "reference", "peer", "limit"]
QUIET_CORES = 0.15  # a round in which others used more is not quiet
MIN_QUIET_ROUNDS = 5
_LONG = 5  # times the seconds of an arm and round


class Arm(Protocol):
    """One way to do the work of an item."""

    name: str
    role: Role
    units: float  # units of work in one call

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

    def measure(self, repeats: int) -> float:
        call, total = self.call, 0.0
        with self.around():
            if self.prepare is None:
                start = time.perf_counter()
                for _ in range(repeats):
                    call()
                return time.perf_counter() - start
            for _ in range(repeats):
                self.prepare()
                start = time.perf_counter()
                call()
                total += time.perf_counter() - start
        return total


@dataclass(frozen=True)
class Goal:
    """Our first arm should be at least `ratio` times as fast as `arm`."""

    arm: str
    ratio: float


@dataclass(frozen=True)
class Slowest:
    """What the arms `of` take that work at the same time without disturbing each other; not measured."""

    name: str
    of: tuple[str, ...]
    role: Role = "reference"


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
    slowest: tuple[Slowest, ...] = ()
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
    rates: list[dict[str, float]] = []
    loads: list[float] = []
    most = rounds * 2
    with console.progress(rounds, item.name, "rounds") as bar:
        other = OtherLoad(item.processes)
        for index in range(most):
            shift = index % len(arms)
            times = {arm.name: arm.measure(repeats[arm.name]) for arm in arms[shift:] + arms[:shift]}
            rates.append({arm.name: arm.units * repeats[arm.name] / times[arm.name] for arm in arms})
            rates[-1] |= {slow.name: min(rates[-1][name] for name in slow.of) for slow in item.slowest}
            loads.append(other.cores() or 0.0)
            bar.advance()
            quiet = sum(load <= QUIET_CORES for load in loads)
            if index + 1 >= rounds and quiet >= min(rounds, MIN_QUIET_ROUNDS):
                break
            if index + 1 >= rounds and quiet == 0:
                break  # a busy machine does not become quiet by waiting twice as long
    kept = _quietest(loads, min(rounds, MIN_QUIET_ROUNDS), rounds)
    return _summary(item, [rates[i] for i in kept], [loads[i] for i in kept], len(rates), proved)


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
    item: Item, rates: list[dict[str, float]], loads: list[float], measured: int, proved: str | None
) -> dict[str, Any]:
    ours = next(arm.name for arm in item.arms if arm.role == "ours")
    rows: list[dict[str, Any]] = []
    shown: list[Arm | Slowest] = [*item.arms, *item.slowest]
    for arm in shown:
        values = [rate[arm.name] for rate in rates]
        low, middle, high = _quartiles(values)
        ratio = statistics.median(rate[ours] / rate[arm.name] for rate in rates)
        rows.append(
            {
                "name": arm.name,
                "role": arm.role,
                "rate": middle,
                "quartiles": [low, high],
                "microseconds": 1e6 / middle,
                "ours_is_times": ratio,
            }
        )
    ratios = {row["name"]: row["ours_is_times"] for row in rows}
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
            }
            for goal in item.goals
            if goal.arm in ratios
        ],
        "memory": [memory.to_json() for memory in item.memory],
        "checked": proved,
        "remarks": list(item.remarks),
        "rounds": {
            "measured": measured,
            "kept": len(rates),
            "quiet": sum(load <= QUIET_CORES for load in loads),
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
