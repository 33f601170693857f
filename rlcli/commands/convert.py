"""`rl convert SRC OUT`: foreign formats to datasets and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlcli import console

CONVERT_HELP = "Convert a foreign format to a dataset, or a dataset to a foreign format."


def register(app: typer.Typer, arguments: list[str]) -> None:
    """Add `rl convert`."""
    app.command("convert", help=CONVERT_HELP)(convert)


def convert(
    src: Annotated[Path | None, typer.Argument(metavar="SRC", help="What to convert.")] = None,
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="A new dataset, or a new file such as out.hdf5.")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="FORMAT", help="The format of SRC; else by its content.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="FORMAT", help="The format of OUT; else by its suffix.")
    ] = None,
    env_id: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="The environment, e.g. hopper-medium-v2; else by the name of SRC where known."
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(metavar="flags|jump", help="Where episodes end: flags, or jumps in position (antmaze)."),
    ] = "flags",
    check: Annotated[
        bool, typer.Option("--check", help="Read source and result again and compare all rows.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the formats and exit.")] = False,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Convert SRC to OUT and print OUT."""
    console.configure(json=json, quiet=quiet)
    from rlcli.errors import UsageError
    from rlcli.pipeline import convert as pipeline

    if list_:
        rows = pipeline.formats()
        cells = [
            [
                row["name"],
                {(1, 0): "read", (0, 1): "write"}.get((row["reads"], row["writes"]), "read, write"),
                " ".join(row["suffixes"]),
                row["extra"] or "",
                row["help"],
            ]
            for row in rows
        ]
        text = console.table(["format", "directions", "suffixes", "extra", "what it is"], cells)
        console.result("formats", {"formats": rows}, text)
        return
    if src is None or out is None:
        raise UsageError("rl convert needs SRC and OUT", hint="rl convert --help")
    report = pipeline.convert(src, out, from_=from_, to=to, env_id=env_id, split=split, check=check)
    for line in pipeline.remarks(report):
        console.log(line)
    console.result("conversion", report, str(out))
