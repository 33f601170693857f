"""The verbs of `rl buffer` that make a dataset of datasets. None changes its input, and none needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Dataset = Annotated[Path, typer.Argument(metavar="DS", help="A dataset.")]
Output = Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The new dataset; must not exist.")]


def register(group: typer.Typer) -> None:
    """Add the verbs, in the order of the help page."""
