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
    src: Annotated[
        str | None,
        typer.Argument(
            metavar="SRC", help="A path, d4rl:NAME, minari:NAME, or the URL of a dataset of ours."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="A new dataset, or a new output such as out.hdf5.")
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
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="SRC=KEY", help="A key of SRC and what it is here; repeatable."),
    ] = None,
    observation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SRC[=NAME]",
            help="A key of SRC that is the observation, or with NAME (or several) a part of it; repeatable.",
        ),
    ] = None,
    action: Annotated[
        list[str] | None,
        typer.Option(metavar="SRC[=NAME]", help="A key of SRC that is the action, or a part; repeatable."),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", metavar="FILE", help="A TOML file of such pairs.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take a mapping that had to be guessed.")] = False,
    images: Annotated[
        str, typer.Option(metavar="keep|decode", help="Encoded pictures: as they are, or as arrays.")
    ] = "keep",
    episodes: Annotated[
        str | None, typer.Option(metavar="A:B", help="Only episodes A to B - 1 of SRC.")
    ] = None,
    limit: Annotated[
        int | None, console.count_option("--limit", help="Only the first rows, this many.")
    ] = None,
    drop_invalid_last: Annotated[
        bool,
        typer.Option("--drop-invalid-last", help="Leave out last rows whose next observation is unknown."),
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An option of the format (--list shows); repeatable."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", help="Processes that read pieces.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep finished pieces when stopped, and go on from them.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Allow formats that can run code of their author.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Read source and result again and compare all rows.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the formats and exit.")] = False,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Convert SRC to OUT and print OUT."""
    console.configure(json=json, quiet=quiet)
    if list_:
        _list()
        return
    from rlcli.datasets.contract import AmbiguousMapping
    from rlcli.errors import UsageError
    from rlcli.pipeline import convert as pipeline
    from rlcli.pipeline.convert_memory import share_one_heap

    if not src or out is None:
        raise UsageError("rl convert needs SRC and OUT", hint="rl convert --help")
    share_one_heap()
    try:
        report = pipeline.convert(
            src,
            out,
            from_=from_,
            to=to,
            env_id=env_id,
            images=images,
            mapping=_pairs(map_ or [], observation=observation or [], action=action or []),
            mapping_file=mapping,
            yes=yes,
            episodes=episodes,
            limit=limit,
            drop_invalid_last=drop_invalid_last,
            jobs=jobs,
            resume=resume,
            offline=offline,
            trust_pickle=trust_pickle,
            check=check,
            sets=set_ or (),
        )
    except AmbiguousMapping as err:
        console.result("mapping", {"map": err.mapping}, _toml(err.mapping))
        raise
    for line in pipeline.remarks(report):
        console.log(line)
    console.result("conversion", report, str(out))


def _pairs(texts: list[str], **parts: list[str]) -> dict[str, str] | None:
    """Source key -> our key, of `source=key` and of `parts` (observation, action) as `source[=name]`."""
    from rlcli.errors import UsageError

    pairs = {}
    for text in texts:
        key, separator, value = text.rpartition("=")
        if not separator or not key or not value:
            raise UsageError(f"--map {text!r} is not of the form source=key")
        pairs[key] = value
    for top, chosen in parts.items():
        for text in chosen:
            key, _, name = text.partition("=")
            name = name or (key.rsplit("/", 1)[-1] if len(chosen) > 1 else "")
            if not key or key in pairs:
                raise UsageError(f"--{top} {text!r}: {'mapped twice' if key else 'no key of the source'}")
            pairs[key] = f"{top}/{name}" if name else top
    return pairs or None


def _toml(mapping: dict[str, str]) -> str:
    """A mapping as the file that `--mapping` takes."""
    import json

    rows = [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in mapping.items()]
    return "\n".join(["[map]", *rows])


def _list() -> None:
    from rlcli.commands.convert_list import text_of
    from rlcli.pipeline import convert as pipeline

    rows = pipeline.formats()
    console.result("formats", {"formats": rows}, text_of(rows))
