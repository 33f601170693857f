"""`rl show PATH`: what any artifact is, what made it and from what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlcli import console

SHOW_HELP = "Print what any artifact is and where it came from."


def register(app: typer.Typer, arguments: list[str]) -> None:
    """Add `rl show`."""
    app.command("show", help=SHOW_HELP)(show)


def show(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A dataset, run, checkpoint or report.")],
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw a run's learning curve.")
    ] = None,
    json: console.Json = False,
) -> None:
    """Print an artifact's facts."""
    console.configure(json=json)
    from rlcli.pipeline.artifacts import describe

    if plot is not None:
        from rlcli.pipeline.plot import learning_curve

        learning_curve([path], plot)
    kind, payload, text = describe(path)
    console.result(kind, payload, text)
