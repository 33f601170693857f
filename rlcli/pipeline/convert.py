"""`rl convert`: a foreign dataset becomes ours, or ours a foreign output.

Formats are modules of `rlcli.datasets`; here is what is the same for all of them: which way to go, options,
checking, and the report. Import is in `convert_import.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.config import options, read_toml, resolve, to_dict
from rlcli.datasets import every_row, registry
from rlcli.datasets.contract import ConverterModule, NoOptions, Request
from rlcli.datasets.every_row import with_every_row
from rlcli.datasets.mapping import check_told
from rlcli.datasets.stacked import whole
from rlcli.datasets.stopping import stoppable
from rlcli.errors import InputError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.location import Location, is_folder, locate
from rlcli.pipeline import convert_check, convert_import, provenance
from rlcli.pipeline.convert_job import Job
from rlcli.pipeline.convert_rows import Selection, parse_episodes
from rlcli.pipeline.outputs import publish, refuse_existing, unfinished


def convert(
    src: str | Location,
    out: str | Path,
    *,
    from_: str | None = None,
    to: str | None = None,
    env_id: str | None = None,
    images: str = "keep",
    mapping: Mapping[str, str] | None = None,
    mapping_file: Path | None = None,
    yes: bool = False,
    episodes: str | None = None,
    limit: int | None = None,
    drop_invalid_last: bool = False,
    jobs: int = 1,
    resume: bool = False,
    offline: bool = False,
    trust_pickle: bool = False,
    check: bool = False,
    sets: Sequence[str] = (),
) -> dict[str, Any]:
    """Convert `src` to `out` and return the report.

    A dataset of ours becomes a foreign output (`to`, or by the suffix of `out`); anything else becomes a
    dataset (`from_`, or by content; `FORMAT:NAME` finds or downloads a dataset by its name). `sets` are
    `key=value` for the options of the format. `episodes` is `A:B`, `limit` a number of rows. `jobs` processes
    read pieces of the source; `resume` keeps finished pieces beside `out` and goes on from them. `check`
    reads source and result again, independently, and compares all rows before the result appears. The rest
    is as in `contract.Request` and `convert_rows.Selection`.

    Raises `UsageError` if `out` exists, `AmbiguousMapping` if keys had to be guessed, `InputError`,
    `CorruptError`, `ResourceError`, or `Interrupted` after the first SIGINT or SIGTERM. In every case but
    `resume` nothing stays of an unfinished output.
    """
    out = Path(out)
    refuse_existing(out)
    given: dict[str, Any] = {"--from": from_, "--env-id": env_id, "--map": mapping, "--mapping": mapping_file}
    given |= {"--episodes": episodes, "--limit": limit, "--drop-invalid-last": drop_invalid_last or None}
    given |= {"--resume": resume or None, "--trust-pickle": trust_pickle or None}
    given |= {"--jobs": None if jobs == 1 else jobs, "--images": None if images == "keep" else images}
    if not is_folder(location := locate(src)):
        _refuse(given, f"{location} is a dataset")
        return _export(location, out, to, sets, check)
    named = registry.split_name(str(src)) if not location.exists() else None
    if named is None and not location.exists():
        raise InputError(f"{src}: no such file or folder", path=src)
    if named is None and (location / "dataset.json").exists():
        _refuse(given, f"{src} is a dataset")
        return _export(location, out, to, sets, check)
    if named is None and (location / "run.json").exists():
        from rlcli.pipeline.export_policy import Options, export_policy  # with it comes torch

        _refuse(given, f"{src} is a run")
        return export_policy(location, out, resolve(Options, sets=sets), to)
    if to is not None:
        raise UsageError(f"--to {to}: {src} is not a dataset, and foreign formats become datasets first")
    if (written := registry.format_of_output(out)) is not None:
        raise UsageError(
            f"{out} names a {written} output, and {src} is not a dataset",
            hint=f"foreign formats become datasets first: rl convert {src} {out.with_suffix('')}",
        )
    if limit is not None and limit < 1:
        raise UsageError(f"--limit must be at least 1 row, got {limit}")
    if images != "keep" and images != "decode":
        raise UsageError(f"--images {images!r}: keep or decode")
    if jobs < 1:
        raise UsageError(f"--jobs must be at least 1, got {jobs}")
    told = {**(_mapping_of(mapping_file) if mapping_file else {}), **(mapping or {})}
    check_told(told)
    request = Request(
        env_id=env_id,
        images="keep" if images == "keep" else "decode",
        mapping=told,
        confirmed=yes or mapping_file is not None,
        offline=offline,
        trust_pickle=trust_pickle,
    )
    chosen = None if episodes is None else parse_episodes(episodes)
    selection = Selection(chosen, limit, drop_invalid_last)
    if named is not None:
        if from_ not in (None, named[0]):
            raise UsageError(f"--from {from_}: {src} names a {named[0]} dataset")
        name, what = named[0], f"{named[0]} dataset {named[1]}"
        path = convert_import.fetch(name, named[1], request)
    else:
        path = location
        name, what = (from_, "") if from_ is not None else _recognise(path)
    chosen_options = resolve(_options_of(registry.load(name), "Options"), sets=sets)
    job = Job(name, path, request, chosen_options, selection)
    report = convert_import.run(job, out, check=check, jobs=jobs, resume=resume)
    return {**report, "seen": what or f"{name}, as told"}


def _refuse(given: Mapping[str, Any], what: str) -> None:
    """Raises `UsageError` for options of reading foreign data that would do nothing."""
    foreign = [flag for flag, value in given.items() if value is not None]
    if foreign:
        cuts = {"--episodes", "--limit", "--drop-invalid-last"}.intersection(foreign)
        raise UsageError(
            f"{', '.join(foreign)} {'is' if len(foreign) == 1 else 'are'} for reading foreign data; {what}",
            hint="rl buffer filter makes a smaller dataset" if cuts and what.endswith("dataset") else None,
        )


def formats() -> list[dict[str, Any]]:
    """What `rl convert --list` shows: name, directions, suffixes, extra, help, and what `--set` takes."""
    return [
        {
            "name": name,
            "reads": converter.reads,
            "writes": converter.writes,
            "suffixes": list(converter.suffixes),
            "extra": converter.extra,
            "help": converter.help,
            "options": _described_options(registry.load(name)),
        }
        for name, converter in registry.CONVERTERS.items()
    ]


def _described_options(module: ConverterModule) -> dict[str, list[dict[str, Any]]]:
    """The options of a format, by direction."""
    kinds = {"read": _options_of(module, "Options"), "write": _options_of(module, "ExportOptions")}
    return {
        direction: [
            {"name": option.name, "type": option.type_name, "default": option.default, "help": option.help}
            for option in options(kind)
        ]
        for direction, kind in kinds.items()
    }


def _recognise(path: Path) -> tuple[str, str]:
    """See `registry.recognise`. Raises `Interrupted` after the first SIGINT or SIGTERM, too.

    As an exception Ctrl-C could come where Python has none, and be lost: while a generator is closed.
    """
    with console.interruptible() as stop:

        def check() -> None:
            stop.raise_if_requested(f"{path}: conversion stopped, nothing was written")

        with stoppable(check):
            found = registry.recognise(path)
        check()
    return found


def _mapping_of(file: Path) -> dict[str, str]:
    """The table `[map]` of a TOML file, or the whole file: source key = our key."""
    table = read_toml(file)
    table = table["map"] if isinstance(table.get("map"), dict) else table
    for key, value in table.items():
        if not isinstance(value, str):
            raise UsageError(f'{file}: {key} = {value!r} is not of the form "source key" = "our key"')
    return table


def _options_of(module: ConverterModule, name: str) -> type[Any]:
    found: type[Any] = getattr(module, name, NoOptions)
    return found


def _export(src: Location, out: Path, to: str | None, sets: Sequence[str], check: bool) -> dict[str, Any]:
    name = to or registry.format_of_output(out)
    if name is None:
        writers = [name for name, converter in registry.CONVERTERS.items() if converter.writes]
        raise UsageError(
            f"{src} is a dataset already, and the name of {out} tells no other format",
            hint=f"name it with --to ({', '.join(writers)}) or by suffix, e.g. {out}.hdf5",
        )
    module = registry.load(name)
    if not hasattr(module, "export"):
        raise UsageError(f"--to {name}: this format is only read")
    chosen = resolve(_options_of(module, "ExportOptions"), sets=sets)
    with console.interruptible() as stop, unfinished(out) as temporary, Dataset.open(src) as opened:
        dataset = with_every_row(opened)
        started = time.monotonic()
        stopped = f"{out}: conversion stopped, nothing was written"

        def advance(count: int) -> None:
            stop.raise_if_requested(stopped)
            bar.advance(count)

        with console.progress(dataset.num_rows * dataset.schema.row_bytes, "convert", "B") as bar:
            releasing = convert_check.releasing(dataset, advance)
            report = module.export(whole(dataset), temporary, chosen, releasing)
        report.rows, report.episodes = dataset.num_rows, dataset.num_episodes
        report.remarks += every_row.remarks(dataset)
        flat = report.to_json()
        if check:
            flat["check"] = convert_check.of_output(module, temporary, dataset, stop)
        flat |= _described(temporary)
        flat["source"] = {
            "path": str(src.absolute() if isinstance(src, Path) else src),
            "digest": dataset.digest,
        }
        flat["options"] = to_dict(chosen)
        stop.raise_if_requested(stopped)
        publish(temporary, out)
    seconds = time.monotonic() - started
    return {"file": str(out), "format": name, **flat, "seconds": round(seconds, 3)}


def _described(output: Path) -> dict[str, Any]:
    """Bytes of a finished output, and its SHA-256 where it is one file."""
    if output.is_file():
        return {"sha256": provenance.sha256_file(output), "bytes": output.stat().st_size}
    files = [path for path in output.rglob("*") if path.is_file()]
    return {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}


def remarks(report: dict[str, Any]) -> list[str]:
    """What a person should read about a conversion, a line each."""
    if "policy" in report:
        from rlcli.pipeline.export_policy import remarks as about_policy

        return about_policy(report)
    counts_text = console.counts_text(row=report["rows"], episode=report["episodes"])
    form = "" if "dataset" in report else f" as {report['format']}"
    lines = [f"{counts_text}{form} in {report['seconds']:.1f} s"]
    if "dataset" in report:
        lines.insert(0, f"source: {report['seen']}")
        if "episode_ends" in report:
            known = report.get("env") or "unknown (name it with --env-id)"
            lines.append(f"environment: {known}; episodes end by {', '.join(report['episode_ends'])}")
        counts = {
            "[row ends|rows end] an episode without a flag in the source; marked truncated": "repaired",
            "[row|rows] at the end [is|are] an unfinished episode": "unfinished_rows",
            "[row has|rows have] an unknown next observation": "unknown_next",
            "[episode has|episodes have] one row": "length_one_episodes",
            "[row|rows] of the source [was|were] left out": "dropped",
        }
        lines += [console.counted(report[name], what) for what, name in counts.items() if report[name]]
        lines += [
            console.counted(count, f"[value|values] of {name} [is|are] not finite")
            for name, count in report["not_finite"].items()
        ]
    lines += [f"lost: {sentence}" for sentence in report["lossy"]]
    lines += report["remarks"]
    if report.get("check"):
        lines.append("checked: every row equals the source")
    return lines
