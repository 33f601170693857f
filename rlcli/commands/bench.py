"""`rl bench`: speed against peers and physical limits, and a gate for regressions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal

import typer

from rlcli import console
from rlcli.benchmarks import CASES, load
from rlcli.errors import ConditionFalse, InputError, UsageError, nearest

BENCH_HELP = "Measure speed against peers and physical limits."


def register(app: typer.Typer, arguments: list[str]) -> None:
    """Add `rl bench`."""
    app.command("bench", help=_HELP)(bench)


_HELP = f"""{BENCH_HELP}

Cases: {", ".join(CASES)}; `update/dqn` names one item of a case, no name means all.
All arms of an item take turns on one machine; shown are medians, quartiles, and the median over rounds of how
many times as fast rl is. Peers are measured in processes of their own: an arm runs in the first Python given
that can import its package, and this Python is asked last.
"""


def bench(
    cases: Annotated[list[str] | None, typer.Argument(metavar="[CASE]...", show_default=False)] = None,
    list_: Annotated[bool, typer.Option("--list", help="Print the cases and exit.")] = False,
    rounds: Annotated[int, console.count_option("--rounds", help="Rounds per item.")] = 15,
    seconds: Annotated[
        float, typer.Option(min=0.001, metavar="SECONDS", help="Seconds per arm and round.")
    ] = 0.2,
    size: Annotated[
        Literal["full", "small"],
        typer.Option(metavar="full|small", help="Amount of data; small is for a try."),
    ] = "full",
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="Threads that each arm may use.")] = 1,
    peer_python: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PYTHON",
            show_default=False,
            help="A Python that has peers; may be given several times. `none`: no peers.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An earlier report to compare with.")
    ] = None,
    fail_if_slower: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Exit 8 if slower than the baseline by more, e.g. 5%.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Write the report as JSON to this new file."),
    ] = None,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Checks the options, runs the cases, prints the report."""
    console.configure(json=json, quiet=quiet)
    if list_:
        titles = {name: str(load(name).TITLE) for name in CASES}
        console.result("cases", {"cases": titles}, console.table(["case", "measures"], list(titles.items())))
        return
    wanted = cases or list(CASES)
    for name in wanted:
        if name.split("/")[0] not in CASES:
            raise UsageError(f"there is no case {name!r}; {nearest(name.split('/')[0], CASES)}")
    if rounds < 1:
        raise UsageError(f"--rounds must be at least 1, got {rounds}")
    allowed = None if fail_if_slower is None else share(fail_if_slower)
    if allowed is not None and baseline is None:
        raise UsageError("--fail-if-slower needs --baseline")
    pythons = peer_python or []
    if "none" in pythons and len(pythons) > 1:
        raise UsageError("--peer-python none leaves peers out, so it cannot be given with others")
    if out is not None and out.exists():
        raise InputError(f"{out} exists; a report is written to a new file", path=out)
    from rlcli.pipeline import benchmark

    before = None if baseline is None else benchmark.read_report(baseline)
    from rlcli.benchmarks.suite import run_cases
    from rlcli.commands.bench_text import text

    report = run_cases(
        wanted, rounds=rounds, seconds=seconds, size=size, threads=threads, peer_python=pythons
    )
    if before is not None:
        report["baseline"] = benchmark.compare(report, before)
    if out is not None:
        benchmark.write_report(report, out)
    console.result("bench", report, text(report, shutil.get_terminal_size().columns))
    slower = [row for row in report.get("baseline", []) if allowed is not None and row["slower_by"] > allowed]
    if slower:
        named = ", ".join(f"{row['name']} by {row['slower_by']:.1%}" for row in slower)
        raise ConditionFalse(f"slower than the baseline, measured against the physical limit: {named}")


def share(value: str) -> float:
    """`5%` or `0.05` as 0.05. Raises `UsageError`."""
    try:
        number = float(value.rstrip("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        raise UsageError(f"--fail-if-slower {value!r} is not a share (examples: 5%, 0.05)") from None
    if not 0 <= number < 1:
        raise UsageError(f"--fail-if-slower must be from 0% to below 100%, got {value}")
    return number
