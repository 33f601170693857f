"""`rl algo`: which algorithms and samplers there are and what each can be told."""

from __future__ import annotations

from typing import Annotated

import typer

from rlcli import console
from rlcli.config import options, to_dict

ALGO_HELP = "List algorithms and their options."


def register(app: typer.Typer, arguments: list[str]) -> None:
    """Add `rl algo list` and `rl algo show NAME`."""
    group = typer.Typer(help=ALGO_HELP, no_args_is_help=True, rich_markup_mode=None)
    group.command("list", short_help="Every algorithm, and what it learns from.")(list_algorithms)
    group.command("show", short_help="Every option of one algorithm.")(show)
    group.command("samplers", short_help="Every sampler and its options.")(samplers)
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


def samplers(json: console.Json = False) -> None:
    """Every sampler for `rl train --sampler NAME`, its options and the algorithms that can learn from it.

    Options are set by `--set sampler.OPTION=VALUE` or under [sampler] of a config file.
    """
    console.configure(json=json)
    from rlcli.algorithms import ALGORITHMS, load
    from rlcli.pipeline.sampling import fitting
    from rlcli.replay import SAMPLERS
    from rlcli.replay.choice import load_sampler

    fits = {}
    for name in ALGORITHMS:
        module = load(name)
        fits[name] = {sampler for source in module.SOURCES for sampler in fitting(module, source)}
    found, rows = [], []
    for name in SAMPLERS:
        config = load_sampler(name).CONFIG
        defaults = to_dict(config())
        listed = [
            {"name": o.name, "type": o.type_name, "default": defaults[o.name], "help": o.help}
            for o in options(config)
        ]
        learners = [algorithm for algorithm, fitting_ones in fits.items() if name in fitting_ones]
        summary = (config.__doc__ or "").splitlines()[0]
        found.append({"name": name, "summary": summary, "options": listed, "algorithms": learners})
        rows.append([name, "", "", summary, " ".join(learners)])
        rows += [["", o["name"], str(o["default"]), o["help"], ""] for o in listed]
    text = console.table(["sampler", "option", "default", "meaning", "algorithms"], rows)
    console.result("samplers", {"samplers": found}, text)
