"""The verbs of `rl buffer` that choose episodes: what they choose goes to new datasets. None needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rlcli import console
from rlcli.format.location import locate

Dataset = Annotated[str, typer.Argument(metavar="DS", help="A dataset: a folder, or a URL.")]


def register(group: typer.Typer) -> None:
    """Add the verbs, in the order of the help page."""
    group.command("filter", short_help="The episodes that satisfy a condition.")(filter_)
    group.command("split", short_help="Every episode to one of several datasets.")(split)


def filter_(
    dataset: Dataset,
    where: Annotated[
        str, typer.Option(metavar="EXPR", help="A condition, e.g. 'return > quantile(0.9) and length >= 50'.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The new dataset.")],
    invert: Annotated[bool, typer.Option("--invert", help="The episodes that do not satisfy it.")] = False,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Copy the episodes that satisfy EXPR, whole, to OUT and print OUT.

    EXPR knows episodes (return, length, episode.terminated, truncated, cut, seed, number, start, stream) and
    the columns of steps, which mean, min, max, sum, any, all, first and last turn into one value per episode:
    'any(abs(action) > 0.99)', 'last(reward) < 0'. docs/expressions.md has all of it.
    Exit 8 if no episode is left; then nothing is written.
    """
    console.configure(json=json, quiet=quiet)
    from rlcli.pipeline import buffer_filter

    report = buffer_filter.filter_episodes(locate(dataset), where, out, invert=invert)
    for line in buffer_filter.remarks(report):
        console.log(line)
    console.result("filter", report, str(out))


def split(
    dataset: Dataset,
    prefix: Annotated[Path, typer.Option("--out", "-o", metavar="PREFIX", help="Outputs are PREFIX-NAME.")],
    frac: Annotated[
        str | None, typer.Option(metavar="F[,F…]", help="Shares of the episodes: 0.9, or 0.8,0.1,0.1.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="EXPR", help="Or: those that satisfy a condition, and the rest.")
    ] = None,
    by: Annotated[
        Literal["episode", "seed"], typer.Option(help="What stays together: an episode, or all of one seed.")
    ] = "episode",
    seed: Annotated[int, typer.Option(min=0, help="Of the shuffle.")] = 0,
    names: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="Instead of train,val,test, or match,rest, or 0,1,2,3…"),
    ] = None,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Copy every episode to one of several new datasets and print their paths.

    --frac 0.9 makes PREFIX-train and PREFIX-val, three shares PREFIX-test too; --where makes PREFIX-match and
    PREFIX-rest. The same seed draws the same episodes. `rl buffer diff --leakage` compares any two of them.
    """
    console.configure(json=json, quiet=quiet)
    from rlcli.errors import UsageError
    from rlcli.pipeline import buffer_filter

    try:
        fractions = None if frac is None else [float(part) for part in frac.split(",")]
    except ValueError as err:
        raise UsageError(f"--frac {frac}: expected numbers, e.g. 0.9 or 0.8,0.1,0.1") from err
    report = buffer_filter.split(
        locate(dataset), prefix, fractions=fractions, where=where, by=by, seed=seed,
        names=None if names is None else [name.strip() for name in names.split(",")],
    )  # fmt: skip
    for line in buffer_filter.remarks(report):
        console.log(line)
    console.result("split", report, "\n".join(made["dataset"] for made in report["datasets"]))
