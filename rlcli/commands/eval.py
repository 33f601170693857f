"""`rl eval RUN…`: seeded episodes, interquartile mean with interval, gates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlcli import console

EVAL_HELP = "Evaluate runs: seeded episodes, IQM with a bootstrap interval, gates."


def register(app: typer.Typer, arguments: list[str]) -> None:
    """Add `rl eval`."""
    app.command("eval", help=EVAL_HELP)(evaluate)


def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run directories, side by side.")],
    episodes: Annotated[int, console.count_option("--episodes", help="Episodes per run.")] = 20,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Chooses the episodes; equal seeds compare like with like.")
    ] = 0,
    sample: Annotated[
        bool, typer.Option("--sample", help="Sample actions; without it the mode is taken.")
    ] = False,
    checkpoint: Annotated[
        str, typer.Option(metavar="WHICH", help="best, last, or the step of a checkpoint.")
    ] = "best",
    env: Annotated[
        str | None, typer.Option(metavar="ENV", help="Another environment than the recorded one.")
    ] = None,
    env_arg: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="Argument of it; repeatable.")
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'NAME >= X'", help="Exit 8 unless iqm, mean, median, min, max, … holds; repeatable."
        ),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="DS", help="Write the episodes as a dataset.")
    ] = None,
    video: Annotated[Path | None, typer.Option(metavar="FILE.mp4", help="Film the first episode.")] = None,
    video_episodes: Annotated[int, typer.Option(min=1, metavar="N", help="How many episodes to film.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the JSON report too.")
    ] = None,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Evaluate runs and print one line each."""
    console.configure(json=json, quiet=quiet)
    from rlcli.errors import UsageError
    from rlcli.pipeline.arguments import parse_arguments
    from rlcli.pipeline.evaluate import Gate, check_gates, table
    from rlcli.pipeline.evaluate_runs import Options, evaluate_runs

    if episodes < 1:
        raise UsageError("--episodes must be at least 1")
    gates = [Gate.parse(text) for text in gate or ()]
    options = Options(
        episodes=episodes,
        seed=seed,
        deterministic=not sample,
        checkpoint=checkpoint,
        env=env,
        env_args=parse_arguments(env_arg or ()),
        record=record,
        video=video,
        video_episodes=video_episodes,
    )
    report = evaluate_runs(runs, options, report=out)
    console.result("evaluation", report, table(report["runs"]))
    check_gates(gates, report["runs"])
