"""The verbs of `rl buffer` that care for a dataset where it lies, pack it, or take a few rows out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rlcli import console
from rlcli.format.location import local, locate

Dataset = Annotated[str, typer.Argument(metavar="DS", help="A dataset: a folder, or a URL.")]
Folder = Annotated[str, typer.Argument(metavar="DS", help="A dataset in a folder.")]


def register(group: typer.Typer) -> None:
    """Add the verbs, in the order of the help page."""
    group.command("sample", short_help="Rows as a sampler draws them.")(sample)
    group.command("recover", short_help="Close what a killed writer left open.")(recover)
    group.command("gc", short_help="Remove what killed writers left and nobody reads.")(gc)
    group.command("upgrade", short_help="Bring a dataset to the newest version of the format.")(upgrade)
    group.command("downgrade", short_help="Bring a dataset back to an older version.")(downgrade)
    group.command("pack", short_help="A sealed dataset as one file.")(pack)
    group.command("unpack", short_help="The dataset in a packed file, proven.")(unpack)
    group.command("export", short_help="A dataset as a foreign file; same as rl convert.")(export)


def sample(
    dataset: Dataset,
    rows: Annotated[int, console.count_option("--rows", "-n", help="How many rows, or slices.")],
    seed: Annotated[int, typer.Option(help="Equal seeds draw equal rows.")] = 0,
    sampler: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How they are drawn: a name that rl algo samplers lists, with its options, or module:Class.",
        ),
    ] = "uniform",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One option of the sampler; repeatable."),
    ] = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:K=V,…]",
            help="Show what an update of rl train --transform would see; repeatable, in order; not with -o.",
        ),
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="Columns, e.g. action,next/reward; all of next by next."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="OUT", help="A new dataset of these rows.")
    ] = None,
    format: Annotated[
        Literal["ndjson", "csv", "arrow"], typer.Option("--format", "-f", help="What is written without -o.")
    ] = "ndjson",
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Draw rows, or slices, and write them to standard output, or to a new dataset OUT and print OUT.

    In OUT every row is an episode of one step with its next values stored, and source_row says which row of
    DS it is; a slice is an episode of its steps. What the sampler adds, such as weight, is a column. Rows
    whose next observation is unknown are never drawn.
    """
    console.configure(json=json, quiet=quiet)
    from rlcli.errors import UsageError
    from rlcli.pipeline import buffer_sample

    place = locate(dataset)
    if out is None:
        if json:
            raise UsageError(
                "--json tells about a dataset that was written; name it with -o, or see --format"
            )
        buffer_sample.sample_rows(
            place,
            rows,
            seed=seed,
            sampler=sampler,
            sets=set_ or [],
            transforms=transform or [],
            keys=keys,
            format=format,
        )
        return
    if transform:
        raise UsageError(
            "--transform shows what updates see; it makes no dataset", hint="rl buffer map makes one"
        )
    report = buffer_sample.sample_dataset(
        place, out, rows, seed=seed, sampler=sampler, sets=set_ or [], keys=keys
    )
    console.log(f"{console.count_text(report['rows'], 'row')}, {report['seconds']:.2f} s")
    console.result("sample", report, str(out))


def recover(dataset: Folder, json: console.Json = False, quiet: console.Quiet = False) -> None:
    """Close a dataset whose writer was killed, and print DS. A sound one stays as it is.

    Everything that was committed is kept; an unfinished episode is marked cut. The end of a journal that is
    damaged is cut after its last whole commit. Damaged rows are never repaired, nor sealed (exit 4): see
    rl buffer verify. Exit 75 while a writer is at work.
    """
    console.configure(json=json, quiet=quiet)
    from rlcli.pipeline import buffer_care

    report = buffer_care.recover(local(locate(dataset), "rl buffer recover"))
    for line in buffer_care.recover_remarks(report):
        console.log(line)
    console.result("recovery", report, str(dataset))


def gc(
    dataset: Folder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    grace: Annotated[
        float, typer.Option(metavar="SECONDS", help="What changed in the last so many seconds stays.")
    ] = 3600.0,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Remove files that no manifest names and no writer has, and unfinished creations of DS; print DS.

    Readers never see these; they only take space. Writers may be at work. Committed rows are not touched.
    """
    console.configure(json=json, quiet=quiet)
    from rlcli.errors import UsageError
    from rlcli.pipeline import buffer_care

    if not grace >= 0:
        raise UsageError(f"--grace must be at least 0, got {grace}")
    report = buffer_care.gc(local(locate(dataset), "rl buffer gc"), dry_run=dry_run, grace_seconds=grace)
    for line in buffer_care.gc_remarks(report):
        console.log(line)
    console.result("garbage", report, str(dataset))


def upgrade(
    dataset: Folder,
    to: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Such as 1.0; the newest by default.")
    ] = None,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Bring DS to a newer version of the format, as a new generation, and print DS. No row is rewritten."""
    console.configure(json=json, quiet=quiet)
    _change_version(dataset, to, up=True)


def downgrade(
    dataset: Folder,
    to: Annotated[str, typer.Option(metavar="VERSION", help="Such as 1.0.")],
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Bring DS back to an older version of the format, for older releases, and print DS.

    Exit 5 if it holds what that version cannot say.
    """
    console.configure(json=json, quiet=quiet)
    _change_version(dataset, to, up=False)


def _change_version(dataset: str, to: str | None, *, up: bool) -> None:
    from rlcli.pipeline import buffer_care

    report = buffer_care.change_version(local(locate(dataset), "changing the version"), to, up=up)
    before, after = report["before"], report["after"]
    console.log(f"version {after} already" if before == after else f"version {before} became {after}")
    console.result("version", report, str(dataset))


def pack(
    dataset: Folder,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, such as data.rlz.")],
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Write a sealed dataset to one file, for transport, and print FILE.

    It is a ZIP file without compression whose files begin on pages. Every byte is checked on the way; equal
    datasets give equal files. Segments that were sealed early are as long as they might have become:
    rl buffer compact first makes a smaller file.
    """
    console.configure(json=json, quiet=quiet)
    from rlcli.pipeline import buffer_care

    report = buffer_care.pack(local(locate(dataset), "rl buffer pack"), out)
    console.log(
        f"{console.counts_text(row=report['rows'], episode=report['episodes'])} in "
        f"{console.count_text(report['files'], 'file')}, "
        f"{console.bytes_text(report['bytes'])}"
    )
    console.result("pack", report, str(out))


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What rl buffer pack wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The dataset; must not exist.")],
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Make the dataset in FILE again at OUT, prove every byte, and print OUT.

    Whatever is not exactly what rl buffer pack writes is refused (exit 4), and nothing is written.
    """
    console.configure(json=json, quiet=quiet)
    from rlcli.pipeline import buffer_care

    report = buffer_care.unpack(file, out)
    counts = console.counts_text(row=report["rows"], episode=report["episodes"])
    console.log(f"{counts}, {report['seconds']:.2f} s")
    console.result("unpack", report, str(out))


def export(
    dataset: Dataset,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new file, such as out.hdf5.")],
    to: Annotated[
        str | None, typer.Option("--to", metavar="FORMAT", help="The format of OUT; else by its suffix.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Read OUT again and compare all rows.")] = False,
    json: console.Json = False,
    quiet: console.Quiet = False,
) -> None:
    """Write DS as a foreign file and print OUT; rl convert DS OUT does the same and has more options."""
    console.configure(json=json, quiet=quiet)
    from rlcli.errors import InputError
    from rlcli.pipeline import convert

    place = locate(dataset)
    if isinstance(place, Path) and not (place / "dataset.json").exists():
        raise InputError(f"{place}: not a dataset (no dataset.json)", path=place)
    report = convert.convert(place, out, to=to, check=check)
    for line in convert.remarks(report):
        console.log(line)
    console.result("conversion", report, str(out))
