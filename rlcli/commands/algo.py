"""`rl algo`: which algorithms there are and what each can be told."""

from __future__ import annotations

from typing import Annotated

import typer

from rlcli import console
from rlcli.config import options, to_dict

ALGO_HELP = "List algorithms and their options."


def register(app: typer.Typer, arguments: list[str]) -> None:
    """Add `rl algo list` and `rl algo show NAME`."""
    group = typer.Typer(help=ALGO_HELP, no_args_is_help=True, rich_markup_mode=None)
    group.command("list")(list_algorithms)
    group.command("show")(show)
    app.add_typer(group, name="algo")


def list_algorithms(json: console.Json = False) -> None:
    """Every algorithm with what it learns from and the actions it takes."""
    console.configure(json=json)
    from rlcli.algorithms import ALGORITHMS, SUMMARIES, load

    rows = []
    for name in ALGORITHMS:
        module = load(name)
        summary, _, takes = SUMMARIES[name].partition(": ")
        rows.append(
            {
                "name": name,
                "sources": list(module.SOURCES),
                "on_policy": module.ON_POLICY,
                "summary": summary,
                "takes": takes,
            }
        )
    text = console.table(
        ["algorithm", "what it is", "learns from, acts with"],
        [[row["name"], row["summary"], row["takes"]] for row in rows],
    )
    console.result("algorithms", {"algorithms": rows}, text)


def show(
    name: Annotated[str, typer.Argument(help="An algorithm from `rl algo list`, or your own module.")],
    json: console.Json = False,
) -> None:
    """Every option of one algorithm: type, default, where the default comes from."""
    console.configure(json=json)
    from rlcli.algorithms import load

    config = load(name).Config
    defaults = to_dict(config())
    rows = [
        {"name": o.name, "type": o.type_name, "default": defaults[o.name], "help": o.help, "source": o.source}
        for o in options(config)
    ]
    text = console.table(
        ["option", "type", "default", "meaning", "source"],
        [[r["name"], r["type"], str(r["default"]), r["help"], r["source"]] for r in rows],
    )
    console.result("algorithm", {"name": name, "options": rows}, text)
