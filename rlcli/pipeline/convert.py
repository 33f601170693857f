"""`rl convert`: a foreign dataset becomes ours, or ours a foreign file.

Formats are modules of `rlcli.datasets`; here is what is the same for all of them: which way to go, where the
output grows, lineage, checking, and that an interrupted or failed conversion leaves nothing behind.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.datasets import registry
from rlcli.datasets.contract import ConverterModule, LayoutMismatch, Options, Source
from rlcli.errors import CorruptError, InputError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Schema
from rlcli.format.writer import Writer
from rlcli.pipeline import provenance
from rlcli.pipeline.outputs import publish, refuse_existing, unfinished

_CHUNK_BYTES = 8 << 20  # rows gathered before one write
_SEGMENT_BYTES = 1 << 30
_SEGMENT_ROWS = 4096  # segments are a multiple of this, so that every column ends on a page


def convert(
    src: Path,
    out: Path,
    *,
    from_: str | None = None,
    to: str | None = None,
    env_id: str | None = None,
    split: str = "flags",
    check: bool = False,
) -> dict[str, Any]:
    """Convert `src` to `out` and return the report.

    A dataset of ours becomes a foreign file (`to`, or by the suffix of `out`); anything else becomes a
    dataset (`from_`, or by content). `env_id` and `split` are for readers, see `contract.Options`. `check`
    reads source and result again, independently, and compares all rows before the result appears.

    Raises `UsageError` if `out` exists, `InputError`, `CorruptError`, `ResourceError`, or `Interrupted` after
    the first SIGINT or SIGTERM. In every case nothing stays of an unfinished output.
    """
    src, out = Path(src), Path(out)
    if not src.exists():
        raise InputError(f"{src}: no such file or folder", path=src)
    refuse_existing(out)
    if (src / "dataset.json").exists():
        to = to or registry.format_of_output(out)
        if to is None:
            raise UsageError(
                f"{src} is a dataset already, and the name of {out} tells no other format",
                hint=f"name it with --to ({', '.join(registry.CONVERTERS)}) or by suffix, e.g. {out}.hdf5",
            )
        if from_ is not None or env_id is not None:
            raise UsageError("--from and --env-id describe a foreign source; this one is a dataset")
        return _export(src, out, to, check)
    if to is not None:
        raise UsageError(f"--to {to}: {src} is not a dataset, and foreign formats become datasets first")
    if (written := registry.format_of_output(out)) is not None:
        raise UsageError(
            f"{out} names a {written} file, and {src} is not a dataset",
            hint=f"foreign formats become datasets first: rl convert {src} {out.with_suffix('')}",
        )
    name = from_ or registry.recognise(src)
    return _import(src, out, name, Options(env_id=env_id, split=split), check)


def formats() -> list[dict[str, Any]]:
    """What `rl convert --list` shows: name, directions, suffixes, extra, help."""
    return [
        {
            "name": name,
            "reads": converter.reads,
            "writes": converter.writes,
            "suffixes": list(converter.suffixes),
            "extra": converter.extra,
            "help": converter.help,
        }
        for name, converter in registry.CONVERTERS.items()
    ]


def _import(src: Path, out: Path, name: str, options: Options, check: bool) -> dict[str, Any]:
    module = registry.load(name)
    with console.interruptible() as stop, unfinished(out) as temporary:
        started = time.monotonic()
        before = _fingerprint(src)
        digest = provenance.sha256_file(src) if src.is_file() else None
        source = {"path": str(src.absolute()), "bytes": src.stat().st_size, "sha256": digest}
        try:
            report = _fill(module, src, temporary, name, options, source, stop)
        except LayoutMismatch:
            shutil.rmtree(temporary, ignore_errors=True)
            stored = Options(options.env_id, options.split, derive=False)
            report = _fill(module, src, temporary, name, stored, source, stop)
        if check:
            report["check"] = _check(module, src, temporary, stop)
        if _fingerprint(src) != before:
            raise InputError(f"{src}: changed while it was converted", path=src)
        with Dataset.open(temporary) as dataset:
            report["digest"] = dataset.digest
            report["bytes"] = dataset.size_bytes
        stop.raise_if_requested(f"{out}: conversion stopped, nothing was written")
        publish(temporary, out)
    seconds = time.monotonic() - started
    return {"dataset": str(out), "format": name, "source": source, **report, "seconds": round(seconds, 3)}


def _fill(
    module: ConverterModule,
    src: Path,
    temporary: Path,
    name: str,
    options: Options,
    origin: dict[str, Any],
    stop: console.Stop,
) -> dict[str, Any]:
    stopped = f"{src}: conversion stopped, nothing was written"
    with (
        module.open_source(src, options) as source,
        console.progress(source.num_bytes, "convert", "B") as bar,
    ):
        lineage = {
            "op": "convert",
            "command": provenance.command_line(),
            "versions": provenance.versions(),
            "time": provenance.now(),
            "format": name,
            "options": {"env_id": options.env_id, "split": options.split},
            "parents": [{"file": origin["path"], "bytes": origin["bytes"], "sha256": origin["sha256"]}],
        }
        writer = Writer.create(
            temporary,
            source.schema,
            spec=source.spec,
            lineage=lineage,
            segment_rows=_segment_rows(source),
            extra={"source": {**source.record, **origin}},
        )
        with EpisodeWriter(writer, chunk_rows=_chunk_rows(source.schema)) as episodes:
            for part in source.parts(bar.advance):
                stop.raise_if_requested(stopped)
                episodes.add_rows(0, part.columns)
                if part.end is not None:
                    end = part.end
                    episodes.end(
                        0, terminated=end.terminated, truncated=end.truncated, cut=end.cut, final=end.final
                    )
        return source.report()


def _export(src: Path, out: Path, name: str, check: bool) -> dict[str, Any]:
    module = registry.load(name)
    with console.interruptible() as stop, unfinished(out) as temporary, Dataset.open(src) as dataset:
        started = time.monotonic()

        def advance(count: int) -> None:
            stop.raise_if_requested(f"{out}: conversion stopped, nothing was written")
            bar.advance(count)

        with console.progress(dataset.num_rows * dataset.schema.row_bytes, "convert", "B") as bar:
            report = module.export(dataset, temporary, advance)
        report = {"rows": dataset.num_rows, "episodes": dataset.num_episodes, **report}
        if check:
            report["check"] = _check(module, temporary, src, stop)
        report["sha256"] = provenance.sha256_file(temporary)
        report["bytes"] = temporary.stat().st_size
        report["source"] = {"path": str(src.absolute()), "digest": dataset.digest}
        stop.raise_if_requested(f"{out}: conversion stopped, nothing was written")
        publish(temporary, out)
    seconds = time.monotonic() - started
    return {"file": str(out), "format": name, **report, "seconds": round(seconds, 3)}


def _check(module: ConverterModule, file: Path, dataset: Path, stop: console.Stop) -> dict[str, Any]:
    """Compare a foreign file with a dataset, all rows. Raises `CorruptError` with the first difference."""

    def advance(count: int) -> None:
        stop.raise_if_requested("check stopped, nothing was written")
        bar.advance(count)

    with Dataset.open(dataset) as opened, console.progress(None, "check", "B") as bar:
        found = module.compare(file, opened, advance)
    problems = found.pop("problems")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CorruptError(f"the result differs from the source: {problems[0]}{more}; nothing was written")
    return {"equal": True, **found}


def _fingerprint(src: Path) -> tuple[int, ...]:
    found = src.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _chunk_rows(schema: Schema) -> int:
    return max(1, min(65_536, _CHUNK_BYTES // schema.row_bytes))


def _segment_rows(source: Source) -> int:
    """One segment for all rows up to 1 GiB: few manifests, one range to read."""
    fitting = max(1, _SEGMENT_BYTES // source.schema.row_bytes)
    if fitting < _SEGMENT_ROWS:
        return fitting
    wanted = -(-source.num_rows // _SEGMENT_ROWS) * _SEGMENT_ROWS
    return min(wanted, fitting - fitting % _SEGMENT_ROWS)


def remarks(report: dict[str, Any]) -> list[str]:
    """What a person should read about a conversion, a line each."""
    lines = [f"{report['rows']:,} rows, {report['episodes']:,} episodes in {report['seconds']:.1f} s"]
    if "dataset" in report:
        known = report["env"] or "unknown (name it with --env-id)"
        lines.append(f"environment: {known}; episodes end by {', '.join(report['episode_ends'])}")
        counts = {
            "rows end an episode without a flag in the source; they are marked truncated": report["repaired"],
            "rows at the end are an unfinished episode": report["unfinished_rows"],
            "rows have an unknown next observation": report["unknown_next"],
            "episodes have one row": report["length_one_episodes"],
        }
        lines += [f"{count:,} {what}" for what, count in counts.items() if count]
        if report["next_observation"] == "stored":
            lines.append("next observations differ from the following rows inside episodes; all are stored")
        lines += [
            f"{count:,} values of {name} are not finite" for name, count in report["not_finite"].items()
        ]
    lines += report.get("omitted", [])
    if report.get("check"):
        lines.append("checked: every row equals the source")
    return lines
