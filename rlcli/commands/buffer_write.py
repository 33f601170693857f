"""The verbs of `rl buffer` that make a dataset of datasets. None changes its input, and none needs torch."""

from __future__ import annotations

import json as jsons
import sys
from pathlib import Path
from typing import Annotated

import typer

from rlcli import console
from rlcli.commands import buffer_care, buffer_map
from rlcli.format.location import Location, local, locate

Dataset = Annotated[str, typer.Argument(metavar="DS", help="A dataset: a folder, or a URL.")]
Folder = Annotated[str, typer.Argument(metavar="DS", help="A dataset in a folder.")]
Datasets = Annotated[
    list[str], typer.Argument(metavar="DS…", help="Datasets; - reads their paths from standard input.")
]
Output = Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The new dataset; must not exist.")]


def register(group: typer.Typer, arguments: list[str]) -> None:
    """Add the verbs, in the order of the help page. `arguments` are the words of the command line."""
    group.command("merge", short_help="Several datasets as one, by hard link.")(merge)
    group.command("append", short_help="Add the episodes of datasets to the end of one.")(append)
    group.command("compact", short_help="The same rows in few, large segments.")(compact)
    buffer_map.register(group, arguments)
    buffer_care.register(group)


def _paths(given: list[str]) -> list[Location]:
    """Paths as given, `-` replaced by the lines of standard input: paths, or JSON objects with a "path"."""
    from rlcli.errors import UsageError

    found: list[Location] = []
    for path in given:
        lines = [path] if path != "-" else sys.stdin.read().splitlines()
        for line in filter(None, map(str.strip, lines)):
            try:
                found.append(locate(jsons.loads(line)["path"] if line.startswith("{") else line))
            except (ValueError, KeyError, TypeError) as err:
                raise UsageError(f'standard input: {line[:60]!r} is no object with a "path"') from err
    return found


def merge(
    datasets: Datasets,
    out: Output,
    dedup: Annotated[
        bool, typer.Option("--dedup", help="Leave out episodes that are equal to an earlier one.")
    ] = False,
    copy: Annotated[bool, typer.Option("--copy", help="Share no files with the sources.")] = False,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Join datasets of equal columns and specs and print OUT.

    Files of sealed segments get a second name (hard link) instead of being copied, which takes no time and no
    space; committed files are never changed, so the datasets stay independent. Streams are those of the
    sources, in order. Of a dataset that is being written, what is committed now is copied. With --dedup the
    first of equal episodes stays: equal in every stored value and in how they end, whatever their numbers.
    """
    console.configure(json=json, quiet=quiet)
    from rlcli.pipeline import buffer_merge

    report = buffer_merge.merge(_paths(datasets), out, dedup=dedup, link=not copy)
    for line in buffer_merge.remarks(report):
        console.log(line)
    console.result("merge", report, str(out))


def append(
    dataset: Folder,
    sources: Annotated[
        list[str], typer.Argument(metavar="SRC…", help="Datasets; - reads their paths from standard input.")
    ],
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Add the episodes of SRC to the end of DS, all or none, and print DS.

    Nothing that is committed changes: rows are added as `rl collect --append` does. Stream k of SRC goes on
    in stream k of DS (modulo their number), and episodes get new numbers.
    """
    console.configure(json=json, quiet=quiet)
    from rlcli.pipeline import buffer_copy

    report = buffer_copy.append(local(locate(dataset), "rl buffer append"), _paths(sources))
    for line in buffer_copy.append_remarks(report):
        console.log(line)
    console.result("append", report, str(dataset))


def compact(
    dataset: Dataset,
    out: Output,
    one_stream: Annotated[
        bool, typer.Option("--one-stream", help="All streams one after the other in a single one.")
    ] = False,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Copy DS into few, large, full segments and print OUT.

    Rows, episodes, flags, final observations and seeds stay the same; with --one-stream episodes are numbered
    anew. What is left behind: space of segments that were sealed early, and rows of a window whose episode's
    beginning is gone.
    """
    console.configure(json=json, quiet=quiet)
    from rlcli.pipeline import buffer_copy

    report = buffer_copy.compact(locate(dataset), out, one_stream=one_stream)
    for line in buffer_copy.compact_remarks(report):
        console.log(line)
    console.result("compact", report, str(out))
