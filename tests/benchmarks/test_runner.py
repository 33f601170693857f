"""The runner's arithmetic on arms whose times are made up, so nothing here depends on the machine."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlcli.errors import InputError, UsageError
from rlcli.pipeline import benchmark
from rlcli.pipeline.benchmark import Goal, Item, LocalArm, run_item
from rlcli.pipeline.benchmark_limits import Measured, Role, Slowest, Spread
from rlcli.pipeline.machine import OtherLoad, describe

ORDER: list[str] = []


@dataclass
class FakeArm:
    """Takes `seconds` per call; `mood` multiplies the time of successive measurements."""

    name: str
    role: Role
    seconds: float
    units: float = 1.0
    mood: Iterator[float] = field(default_factory=lambda: iter([]))
    cores: float = math.nan  # that it keeps busy
    cpu_seconds: float = math.nan

    def measure(self, repeats: int) -> float:
        ORDER.append(self.name)
        self.cpu_seconds = repeats * self.seconds * self.cores
        return repeats * self.seconds * next(self.mood, 1.0)


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    ORDER.clear()
    monkeypatch.setattr(OtherLoad, "cores", lambda self: 0.0)


def test_rates_and_ratios_are_medians() -> None:
    arms = [
        FakeArm("rl", "ours", 0.001, units=10),
        FakeArm("slow", "peer", 0.004, units=10),
        FakeArm("memcpy", "limit", 0.0005, units=10),
    ]
    report = run_item(
        Item("x/y", "rows/s", arms, (Goal("slow", 3.0), Goal("memcpy", 0.9), Goal("absent", 1))),
        rounds=5,
        seconds=0.1,
    )
    by_name = {arm["name"]: arm for arm in report["arms"]}
    assert by_name["rl"]["rate"] == pytest.approx(10_000)
    assert by_name["slow"]["ours_is_times"] == pytest.approx(4)
    assert by_name["rl"]["quartiles"] == pytest.approx([10_000, 10_000])
    assert by_name["memcpy"]["microseconds"] == pytest.approx(50)
    assert [(goal["arm"], goal["met"]) for goal in report["goals"]] == [("slow", True), ("memcpy", False)]
    assert benchmark.limit_share(report) == pytest.approx(0.5)
    json.dumps(report)


def test_what_cores_allow_follows_from_processor_time() -> None:
    """Per unit 8 s of processors decode, 3 hash and 1 writes: 6 s on two cores, 4 on three, hashing 3."""
    told = {"decode": Measured(1 / 4, 8.0), "hash": Measured(1 / 3, 3.0), "disk": Measured(1 / 5, 1.0)}
    of = ("decode", "hash", "disk")
    assert Spread("all", of, 2).rate(told) == pytest.approx(1 / 6)
    assert Spread("all", of, 3).rate(told) == pytest.approx(1 / 4)
    assert Spread("all", of, 12, {"hash": 1.0}).rate(told) == pytest.approx(1 / 3)
    assert Spread("all", of, 12, {"hash": 0.5}).rate(told) == pytest.approx(2 / 3)
    assert Slowest("slowest", of).rate(told) == pytest.approx(1 / 5)


def test_a_goal_tells_what_processor_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    arms = [
        FakeArm("rl", "ours", 0.03, units=10, cores=1.5),
        FakeArm("reader", "reference", 0.01, units=10, cores=2.0),
        FakeArm("SHA-256", "limit", 0.008, units=5, cores=1.0),
        FakeArm("peer", "peer", 0.02, units=10),
    ]
    spread = Spread("on 2 cores", ("reader", "SHA-256"), 2)
    goals = (Goal("reader", 0.8), Goal("peer", 0.5))
    report = run_item(Item("x", "rows/s", arms, goals, computed=(spread,)), rounds=3, seconds=0.1)
    by_name = {arm["name"]: arm for arm in report["arms"]}
    assert by_name["on 2 cores"]["role"] == "limit"
    assert by_name["on 2 cores"]["microseconds"] == pytest.approx((0.02 / 10 + 0.008 / 5) / 2 * 1e6)
    assert by_name["rl"]["cpu_microseconds"] == pytest.approx(0.045 / 10 * 1e6)
    assert (by_name["peer"]["cpu_microseconds"], by_name["on 2 cores"]["cpu_microseconds"]) == (None, None)
    reader, peer = report["goals"]
    assert (reader["measured"], reader["met"], reader["at_most"]) == pytest.approx((1 / 3, False, 1 / 1.8))
    assert peer["at_most"] == pytest.approx(2 / 1.8)
    json.dumps(report)
    monkeypatch.setattr(OtherLoad, "cores", lambda self: 1.0)  # who reads waits for others then
    report = run_item(Item("x", "rows/s", arms, goals, computed=(spread,)), rounds=3, seconds=0.1)
    assert [goal["at_most"] for goal in report["goals"]] == [None, None]


def test_a_local_arm_tells_its_processor_time() -> None:
    idle, busy = threading.Event(), LocalArm("busy", "ours", lambda: sum(range(300_000)))
    waiting = LocalArm("waiting", "ours", lambda: idle.wait(0.01), prepare=busy.call)
    assert math.isnan(busy.cpu_seconds)
    busy.measure(3)
    waiting.measure(3)
    assert 0 < waiting.cpu_seconds < busy.cpu_seconds  # and nothing of what prepares it


def test_each_round_rotates_the_order() -> None:
    arms = [FakeArm(name, "ours" if name == "a" else "peer", 0.001) for name in "abc"]
    run_item(Item("x", "calls/s", arms), rounds=4, seconds=0.001)
    rounds = "".join(ORDER[-12:])
    assert [rounds[i : i + 3] for i in range(0, 12, 3)] == ["abc", "bca", "cab", "abc"]


def test_ratios_are_taken_inside_a_round() -> None:
    """A machine that is twice as slow in every other round changes rates, not ratios."""

    def moods() -> Iterator[float]:
        yield from [1.0] * 30  # the warm-up
        while True:
            yield from (1.0, 2.0)

    ours, theirs = FakeArm("rl", "ours", 0.01), FakeArm("peer", "peer", 0.03)
    for arm in (ours, theirs):
        used = 1 + sum(1 for _ in _warm_up_calls(arm.seconds))
        arm.mood = iter([1.0] * used + [1.0, 2.0] * 20)
    report = run_item(Item("x", "calls/s", [ours, theirs]), rounds=6, seconds=0.1)
    assert report["arms"][1]["ours_is_times"] == pytest.approx(3)
    assert report["arms"][0]["quartiles"][0] < report["arms"][0]["quartiles"][1]


def _warm_up_calls(seconds: float) -> list[int]:
    probe = FakeArm("probe", "ours", seconds)
    before = len(ORDER)
    benchmark._warm_up(probe, 0.1)
    calls = ORDER[before + 1 :]
    del ORDER[before:]
    return [1] * len(calls)


def test_busy_rounds_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = iter([0.0, 1.0, 0.05, 0.0, 2.0, 0.1, 0.0, 0.0, 1.5, 0.0])
    monkeypatch.setattr(OtherLoad, "cores", lambda self: next(loads))
    report = run_item(Item("x", "calls/s", [FakeArm("rl", "ours", 0.01)]), rounds=5, seconds=0.01)
    assert report["rounds"] == {"measured": 7, "kept": 5, "quiet": 5, "other_cores": 0.0}


def test_a_machine_that_is_never_quiet_is_measured_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OtherLoad, "cores", lambda self: 1.0)
    report = run_item(Item("x", "calls/s", [FakeArm("rl", "ours", 0.01)]), rounds=5, seconds=0.01)
    assert report["rounds"] == {"measured": 5, "kept": 5, "quiet": 0, "other_cores": 1.0}


def test_an_arm_that_disagrees_is_not_timed() -> None:
    def check() -> str:
        raise AssertionError("row 3 differs")

    with pytest.raises(AssertionError, match="row 3"):
        run_item(Item("x", "calls/s", [FakeArm("rl", "ours", 0.01)], check=check), rounds=1, seconds=0.01)
    assert ORDER == []


def test_preparing_is_not_timed() -> None:
    log: list[str] = []
    arm = LocalArm("rl", "ours", lambda: log.append("call"), prepare=lambda: log.append("prepare"))
    assert arm.measure(2) >= 0
    assert log == ["prepare", "call"] * 2


def report_of(**shares: float) -> dict[str, object]:
    items = [
        {
            "name": name,
            "arms": [{"role": "ours", "ours_is_times": 1.0}, {"role": "limit", "ours_is_times": share}],
        }
        for name, share in shares.items()
    ]
    return {"items": items}


def test_a_baseline_is_compared_by_the_share_of_the_limit() -> None:
    rows = benchmark.compare(report_of(a=0.45, b=0.5, new=1.0), report_of(a=0.5, b=0.4, gone=1.0))
    assert {row["name"]: pytest.approx(row["slower_by"]) for row in rows} == {"a": 0.1, "b": -0.25}
    with pytest.raises(UsageError, match="none of the measured cases"):
        benchmark.compare(report_of(a=1.0), report_of(b=1.0))
    assert math.isnan(benchmark.limit_share({"arms": []}))


def test_reports_are_written_once_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    benchmark.write_report({"items": [1]}, path)
    assert benchmark.read_report(path) == {"items": [1]}
    with pytest.raises(FileExistsError):
        benchmark.write_report({"items": []}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("content", ["", "[]", '{"items": 3}'])
def test_what_is_no_report_is_an_input_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(InputError, match="not a report"):
        benchmark.read_report(path)


def test_the_machine_is_described() -> None:
    facts = describe()
    assert facts["cores"] >= 1
    assert facts["processor"]
