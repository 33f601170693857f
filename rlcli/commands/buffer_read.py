"""The verbs of `rl buffer` that look: nothing here writes a dataset, and nothing needs torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from rlcli import console
from rlcli.format.location import local, locate

Dataset = Annotated[str, typer.Argument(metavar="DS", help="A dataset: a folder, or a URL.")]
NumRows = Annotated[int, console.count_option("--rows", "-n", help="How many rows.")]
Keys = Annotated[
    str | None,
    typer.Option(metavar="A,B,…", help="Columns, e.g. action,next/reward; all of next by next."),
]
Where = Annotated[
    str | None, typer.Option(metavar="EXPR", help="Rows that satisfy a condition, e.g. 'reward > 1'.")
]


def register(group: typer.Typer) -> None:
    """Add the verbs, in the order of the help page."""
    group.command("info", short_help="What a dataset is and what made it.")(info)
    group.command("ls", short_help="The datasets below some folders.")(list_datasets)
    group.command("head", short_help="The first rows.")(head)
    group.command("tail", short_help="The last rows.")(tail)
    group.command("cat", short_help="All rows, or those chosen, as NDJSON, CSV or Arrow.")(cat)
    group.command("stats", short_help="What the numbers look like.")(stats)
    group.command("verify", short_help="Prove that datasets are sound, or say where not.")(verify)
    group.command("query", short_help="SQL over episodes and steps.")(query)
    group.command("diff", short_help="Whether two datasets say the same, or share episodes.")(diff)
    group.command("lineage", short_help="What made a dataset, of what, and what made that.")(lineage)
    group.command("card", short_help="A page about a dataset, as Markdown or HTML.")(card)


def info(dataset: Dataset, json: console.Json = False) -> None:
    """What a dataset is: environment, columns, episodes, returns, size, state, digest, what made it.

    Reads no rows. The digest of an open dataset is left out: it changes with every commit.
    """
    console.configure(json=json)
    from rlcli.pipeline.buffer import info

    console.result(*info(locate(dataset)))


def list_datasets(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH", help="Folders; - reads them from standard input. [default: .]"),
    ] = None,
    json: console.Json = False,
) -> None:
    """Every dataset below some folders, one line each, the replay of runs too.

    A broken one is listed with its error and does not change the exit code. With --json: one object whose
    "datasets" is the list.
    """
    console.configure(json=json)
    from rlcli.pipeline.buffer_list import list_datasets

    given = paths or [Path(".")]
    lines = sys.stdin.read().splitlines() if Path("-") in given else []
    found = [Path(line) for line in lines if line.strip()]
    facts, text = list_datasets([*(path for path in given if path != Path("-")), *found])
    console.result("datasets", facts, text)


def head(
    dataset: Dataset,
    rows: NumRows = 10,
    keys: Keys = None,
    episode: Annotated[int | None, typer.Option(help="From the episode with this number.")] = None,
    where: Where = None,
    json: console.Json = False,
) -> None:
    """The first rows, shortened to fit the terminal; with --json all columns and every number."""
    console.configure(json=json)
    from rlcli.pipeline.buffer_rows import head

    facts, text = head(locate(dataset), rows, keys=keys, episode=episode, where=where)
    console.result("rows", facts, text)


def tail(
    dataset: Dataset,
    rows: NumRows = 10,
    keys: Keys = None,
    episode: Annotated[int | None, typer.Option(help="Of the episode with this number.")] = None,
    where: Where = None,
    json: console.Json = False,
) -> None:
    """The last rows, shortened to fit the terminal; with --json all columns and every number."""
    console.configure(json=json)
    from rlcli.pipeline.buffer_rows import head

    facts, text = head(locate(dataset), rows, keys=keys, episode=episode, where=where, last=True)
    console.result("rows", facts, text)


def cat(
    dataset: Dataset,
    format: Annotated[
        Literal["ndjson", "csv", "arrow"], typer.Option("--format", "-f", help="What is written.")
    ] = "ndjson",
    table: Annotated[Literal["steps", "episodes"], typer.Option(help="What a row is.")] = "steps",
    keys: Keys = None,
    where: Where = None,
    episodes: Annotated[
        str | None, typer.Option(metavar="A:B", help="Episodes at these positions; -10: is the last ten.")
    ] = None,
    rows: Annotated[str | None, typer.Option(metavar="A:B", help="Rows at these positions.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="A new file; - is standard output.")
    ] = None,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Write rows to standard output or a file, a chunk at a time, whatever the size of the dataset.

    NDJSON nests columns as they are; CSV has a column per element, next/observation[0]; Arrow (an IPC stream)
    has one per key, next.observation, with lists of fixed size. Unknown next values are null, or empty.
    With -o FILE the path is printed.
    """
    console.configure(json=json, quiet=quiet)
    from rlcli.errors import UsageError
    from rlcli.pipeline.buffer_cat import cat

    file = None if out is None or out == Path("-") else out
    if json and file is None:
        raise UsageError(
            "--json tells about a file that was written; name it with -o, or see --format ndjson"
        )
    facts = cat(
        locate(dataset),
        file,
        format=format,
        table=table,
        keys=keys,
        where=where,
        episodes=episodes,
        rows=rows,
    )
    if file is not None:
        console.result("file", {**facts, "file": file}, str(file))


def stats(
    dataset: Dataset,
    by: Annotated[Literal["column", "episode"], typer.Option(help="What a line is about.")] = "column",
    hist: Annotated[bool, typer.Option("--hist", help="Also a histogram of every column.")] = False,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """What the numbers look like: ranges, means, NaN, constants, action coverage, returns, lengths.

    Standard deviations are of the population. NaN and infinite values are counted and left out of the rest.
    """
    console.configure(json=json, quiet=quiet)
    from rlcli.errors import UsageError
    from rlcli.pipeline.buffer_stats import stats, stats_by_episode

    if hist and by == "episode":
        raise UsageError("--hist is about columns; --by episode has none")
    place = locate(dataset)
    facts, text = stats(place, hist=hist) if by == "column" else stats_by_episode(place)
    console.result("statistics" if by == "column" else "episodes", facts, text)


def verify(
    datasets: Annotated[list[str], typer.Argument(metavar="DS", help="Datasets: folders or URLs.")],
    fast: Annotated[
        bool, typer.Option("--fast", help="Only sizes, manifests and small files; columns are not read.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also what files say about each other: commits, episode tables.")
    ] = False,
    semantics: Annotated[
        bool, typer.Option("--semantics", help="Also whether the data obey the rules of the data model.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Copy the episodes of DS that are proven to OUT.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="OUT", help="With --repair: the new dataset.")
    ] = None,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Prove that every byte is what was committed; exit 4 and name file, block, rows and episodes otherwise.

    --semantics adds: done = terminated | truncated, next observations equal the following row's, is_init on
    first rows only, episode and step numbers, flags and returns agree with the episode table, no NaN or
    infinity in observations, actions and rewards, discrete values in range. Values beyond the bounds of a Box
    are lawful (actions are stored before clipping) and counted as warnings.

    --repair writes OUT if DS is damaged, and prints OUT: every whole episode without a damaged byte, up to
    the first segment of a stream of which more than rows is damaged. DS stays as it is.
    """
    console.configure(json=json, quiet=quiet)
    if repair or out is not None:
        _repair(datasets, out if repair else None, alone=not (fast or deep or semantics))
        return
    from rlcli.errors import UsageError
    from rlcli.pipeline.verify import raise_if_damaged, verify

    if fast and deep:
        raise UsageError("--fast and --deep exclude each other")
    level: Literal["fast", "bytes", "deep"] = "fast" if fast else "deep" if deep else "bytes"
    facts, text = verify([locate(text) for text in datasets], level=level, meaning=semantics)
    console.result("verification", facts, text)
    raise_if_damaged(facts)


def _repair(datasets: list[str], out: Path | None, *, alone: bool) -> None:
    from rlcli.errors import UsageError
    from rlcli.pipeline import buffer_repair

    if out is None:
        raise UsageError("--repair and -o OUT go together")
    if len(datasets) != 1 or not alone:
        raise UsageError("--repair takes one dataset, and none of --fast, --deep and --semantics")
    report = buffer_repair.repair(local(locate(datasets[0]), "rl buffer verify --repair"), out)
    if report["dataset"] is None:
        console.result("repair", report, f"{datasets[0]}: sound; nothing to repair")
        return
    console.log(buffer_repair.remark(report))
    console.result("repair", report, str(out))


def query(
    words: Annotated[list[str], typer.Argument(metavar="DS… SQL", help="Datasets, then one SELECT.")],
    limit: Annotated[int, console.count_option("--limit", help="At most this many rows.")] = 1000,
    format: Annotated[
        Literal["ndjson", "csv", "arrow"] | None,
        typer.Option("--format", "-f", help="Write all rows like `rl buffer cat`, not a table."),
    ] = None,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Ask DuckDB about the tables episodes and steps.

    Keys are joined by dots, in double quotes: 'select episode, max("next.reward") from steps group by all'.
    Vectors are lists, element 1 first. Of several datasets the tables are a.steps, a.episodes, b.steps, ….
    Columns: rl buffer query DS 'describe steps'. Nothing is written, and no file can be read by SQL.
    """
    console.configure(json=json, quiet=quiet)
    from rlcli.errors import UsageError
    from rlcli.pipeline.buffer_query import query

    if len(words) < 2:
        raise UsageError("rl buffer query needs datasets and one SELECT", hint="rl buffer query --help")
    if json and format:
        raise UsageError("--json and --format exclude each other")
    *paths, sql = words
    found = query([locate(path) for path in paths], sql, limit=limit, format=format)
    if found is not None:
        console.result("table", *found)


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A dataset.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    tol: Annotated[float, typer.Option(metavar="T", help="Numbers may differ by this much.")] = 0.0,
    ignore: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="Columns, and what is known of episodes: seed, return, number…"),
    ] = None,
    leakage: Annotated[
        bool, typer.Option("--leakage", help="Instead: whether an episode, or its seed, is in both.")
    ] = False,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Compare columns, specs, episodes by position, and every value; exit 8 if something differs.

    NaN equals NaN. Streams, segments and how a column is stored make no difference. With --leakage, exit 8
    if the datasets have an episode in common: equal content, whatever its number, or the same seed.
    """
    console.configure(json=json, quiet=quiet)
    if leakage:
        from rlcli.errors import UsageError
        from rlcli.pipeline import leakage as leaks

        if tol or ignore:
            raise UsageError("--leakage takes neither --tol nor --ignore")
        facts, text = leaks.leakage(locate(first), locate(second))
        console.result("leakage", facts, text)
        leaks.raise_if_leaking(facts)
        return
    from rlcli.pipeline.buffer_diff import diff, raise_if_different

    names = [] if ignore is None else [name.strip() for name in ignore.split(",")]
    facts, text = diff(locate(first), locate(second), tol=tol, ignore=names)
    console.result("difference", facts, text)
    raise_if_different(facts)


def lineage(dataset: Dataset, json: console.Json = False) -> None:
    """What made a dataset, newest first; below each entry what it was made of, and what made that.

    A parent that is still there is compared by its digest. With --json every entry is whole: options,
    versions, seeds.
    """
    console.configure(json=json)
    from rlcli.pipeline.buffer_lineage import lineage

    facts, text = lineage(locate(dataset))
    console.result("lineage", facts, text)


def card(
    dataset: Dataset,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="A new file, .md or .html. [default: print]"),
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="One self-contained page instead of Markdown.")
    ] = False,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """What a stranger should know: numbers, returns, actions, dead dimensions, sample frames, what made it.

    The HTML page has pictures and needs no network. Reads the whole dataset once.
    """
    console.configure(json=json, quiet=quiet)
    from rlcli.pipeline.card import write_card

    facts, text = write_card(locate(dataset), out, html=html)
    console.result("card", facts, text)
