"""`rl buffer map`: steps in the order of the command line, which is why it looks at that itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rlcli import console
from rlcli.format.location import locate

_FLAGS = (
    "--rename", "--cast", "--select", "--exclude", "--relabel-reward", "--scale-reward", "--reward-to-go",
    "--n-step", "--normalise", "--denormalise", "--apply",
)  # fmt: skip
Steps = list[str] | None


def register(group: typer.Typer, arguments: list[str]) -> None:
    """Add `rl buffer map`."""
    settings = {"obj": arguments}
    group.command("map", short_help="The same episodes with other columns.", context_settings=settings)(map_)


def _step(help: str, metavar: str) -> Any:
    return typer.Option(help=help, metavar=metavar)


def map_(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(metavar="DS", help="A dataset: a folder, or a URL.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The new dataset; must not exist.")],
    rename: Annotated[Steps, _step("Another name for a column, or for all below it.", "OLD=NEW")] = None,
    cast: Annotated[Steps, _step("Another dtype; values that do not fit are refused.", "KEY=DTYPE")] = None,
    select: Annotated[Steps, _step("Only these columns.", "A,B,…")] = None,
    exclude: Annotated[Steps, _step("All columns but these and their next values.", "A,B,…")] = None,
    relabel_reward: Annotated[
        Steps, _step("Rewards by an expression over DS, or by a function of an episode.", "EXPR|MODULE:FN")
    ] = None,
    scale_reward: Annotated[Steps, _step("Rewards times a factor.", "FACTOR")] = None,
    reward_to_go: Annotated[
        Steps, _step("Add reward_to_go, the sum of rewards from here on, discounted.", "GAMMA")
    ] = None,
    n_step: Annotated[Steps, _step("n-step rewards and next values; needs --gamma.", "N")] = None,
    normalise: Annotated[
        Steps, _step("(value − mean) / std; the statistics are kept in the result.", "A,B,…")
    ] = None,
    denormalise: Annotated[Steps, _step("Undo --normalise by the statistics kept in DS.", "A,B,…")] = None,
    apply: Annotated[
        Steps, _step("A function of an episode's columns that returns its columns.", "MODULE:FN")
    ] = None,
    gamma: Annotated[float | None, typer.Option(metavar="G", help="Discount per step of --n-step.")] = None,
    stats_from: Annotated[
        str | None, typer.Option(metavar="DS2", help="--normalise by the statistics kept in DS2.")
    ] = None,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Write the episodes of DS with other columns to OUT and print OUT; steps run in the order given.

    Next observations follow their observations, and stay derived where they still are the next row's; else
    they are stored. --n-step: reward Σ γᵏ r, everything else of next from m ≤ n rows on (fewer at an
    episode's end), next/discount γᵐ. --apply gives a nested dict of arrays [rows, …] and takes one back; None
    leaves the episode out. Where observations or actions change, the result has no environment.
    """
    console.configure(json=json, quiet=quiet)
    from rlcli.pipeline import buffer_map

    values = {
        "--rename": rename, "--cast": cast, "--select": select, "--exclude": exclude,
        "--relabel-reward": relabel_reward, "--scale-reward": scale_reward, "--reward-to-go": reward_to_go,
        "--n-step": n_step, "--normalise": normalise, "--denormalise": denormalise, "--apply": apply,
    }  # fmt: skip
    steps = in_order(context.obj, {flag: list(given or ()) for flag, given in values.items()})
    other = None if stats_from is None else locate(stats_from)
    report = buffer_map.map_dataset(locate(dataset), out, buffer_map.Options(steps, gamma, other))
    for line in buffer_map.remarks(report):
        console.log(line)
    console.result("map", report, str(out))


def in_order(arguments: Sequence[str], values: dict[str, list[str]]) -> list[tuple[str, str]]:
    """`(flag, value)` of repeatable options as they follow each other on the command line."""
    found = []
    skip = False
    for word in arguments:
        flag = word.partition("=")[0]
        if skip or flag not in values or not values[flag]:
            skip = False
            continue
        found.append((flag, values[flag].pop(0)))
        skip = word == flag  # its value is the next word, whatever that looks like
    return found
