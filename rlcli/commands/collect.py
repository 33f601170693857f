"""`rl collect ENV`: a policy acts, a dataset grows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlcli import console

COLLECT_HELP = "Run a policy in an environment and write a dataset."


def register(app: typer.Typer, arguments: list[str]) -> None:
    """Add `rl collect`."""
    app.command("collect", help=COLLECT_HELP)(collect)


def collect(
    env: Annotated[
        str, typer.Argument(metavar="ENV", help="CartPole-v1, gymnasium:ID, or your own module:factory.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DS", help="The dataset; default data/<env>-<policy>-s<seed>."),
    ] = None,
    steps: Annotated[
        int | None, console.count_option("--steps", help="How many steps to collect, over all environments.")
    ] = None,
    episodes: Annotated[
        int | None, console.count_option("--episodes", help="How many whole episodes, instead of --steps.")
    ] = None,
    policy: Annotated[
        str, typer.Option(metavar="POLICY", help="random, a run directory, or your own module:attribute.")
    ] = "random",
    checkpoint: Annotated[
        str,
        typer.Option(metavar="WHICH", help="Of a run: best, last, or the step of a checkpoint."),
    ] = "best",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="A run acts by its mode instead of sampling.")
    ] = False,
    num_envs: Annotated[
        int | None,
        typer.Option(
            "--num-envs", metavar="N", help="Environments stepped in turn, a stream each; default 1."
        ),
    ] = None,
    seed: Annotated[
        int | None, console.count_option("--seed", help="Decides everything; default 0, or as before.")
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Go on with the dataset at -o; counts say how much to add.")
    ] = False,
    share: Annotated[
        bool,
        typer.Option(
            "--share",
            help="Like --append, beside other processes that also share; on other hosts only where they see "
            "each other's locks (format/SPEC.md 10).",
        ),
    ] = False,
    max_size: Annotated[
        int | None,
        console.count_option(
            "--max-size",
            help="Keep the newest steps only; per stream this by --num-envs, rounded up.",
        ),
    ] = None,
    env_arg: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="Argument of the environment; repeatable.")
    ] = None,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Collect and print the path of the dataset."""
    console.configure(json=json, quiet=quiet)
    import sys
    from contextlib import redirect_stdout

    from rlcli.pipeline.arguments import parse_arguments
    from rlcli.pipeline.collect import Options
    from rlcli.pipeline.collect import collect as run

    options = Options(
        env=env,
        steps=steps,
        episodes=episodes,
        policy=policy,
        checkpoint=checkpoint,
        deterministic=deterministic,
        num_envs=num_envs,
        seed=seed,
        append=append,
        share=share,
        max_size=max_size,
        env_args=parse_arguments(env_arg or ()),
    )
    with redirect_stdout(sys.stderr):  # what environments and policies print is not the result
        result = run(out, options)
    added = result.added
    console.log(
        f"{console.count_text(added.steps, 'step')}, {console.count_text(added.episodes, 'episode')}"
        + ("" if result.score is None else f", mean score {result.score:,.6g}")
        + f" in {result.seconds:.1f} s"
    )
    console.result("dataset", result.to_json(), str(result.path))
