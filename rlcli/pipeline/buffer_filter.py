"""`rl buffer filter` and `split`: whole episodes that an expression or chance chooses go to new datasets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli import console
from rlcli.errors import ConditionFalse, UsageError
from rlcli.format.copying import copy_episodes, whole_segment_rows
from rlcli.format.dataset import Dataset
from rlcli.format.location import Location
from rlcli.format.spans import Spans
from rlcli.format.writer import Writer
from rlcli.pipeline.buffer import unfinished_rows
from rlcli.pipeline.buffer_copy import lost_rows
from rlcli.pipeline.expressions import Expression
from rlcli.pipeline.making import Making, lineage, making
from rlcli.pipeline.outputs import publish_all, refuse_existing, unfinished

Rows = NDArray[np.int64]

NAMES = {2: ("train", "val"), 3: ("train", "val", "test")}
WHERE_NAMES = ("match", "rest")


def filter_episodes(path: Location, where: str, out: Path, *, invert: bool = False) -> dict[str, Any]:
    """Copy the episodes for which `where` holds (with `invert`: does not) to `out` and return the report.

    Rows, finals, flags, seeds, numbers and streams stay as they are. Episodes that have not ended are left
    out. Raises `UsageError` for a wrong expression or if `out` exists, `ConditionFalse` if no episode is
    left, `Interrupted` after a signal; then nothing is there.
    """
    refuse_existing(out)
    with Dataset.open(path) as source:
        holds = _holds(source, where) != invert
        chosen = np.flatnonzero(holds)
        if not len(chosen):
            episodes, verb = console.count_text(len(holds), "episode"), "fails" if invert else "satisfies"
            raise ConditionFalse(
                f"{path}: none of {episodes} {verb} {where!r}; nothing was written",
                path=path,
            )
        entry = lineage("filter", {"where": where, "invert": invert}, [source])
        with making(out, int(source.episodes.length[chosen].sum()), "filter") as work:
            copy_chosen(source, chosen, work.temporary, entry, work.advance)
            facts = work.finish()
        return {**facts, **_source(path, source), "where": where, "invert": invert}


def split(
    path: Location,
    prefix: Path,
    *,
    fractions: Sequence[float] | None = None,
    where: str | None = None,
    by: Literal["episode", "seed"] = "episode",
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Copy every episode to one of several datasets `PREFIX-NAME` and return the report.

    By `fractions` (one is completed to two; they sum to 1) of the shuffled episodes, or, by "seed", of groups
    with one seed; or by whether `where` holds. Inside a part episodes keep their order, their streams and all
    that `filter_episodes` keeps. The default `names` are train, val, test, or match and rest, or 0, 1, ….

    Raises `UsageError` for wrong fractions, names or expressions, for a part without episodes, or if an
    output exists; `Interrupted` after a signal. Either all parts appear or none.
    """
    if (fractions is None) == (where is None):
        raise UsageError("split takes --frac or --where, one of them")
    shares = None if fractions is None else _shares(fractions)
    count = 2 if shares is None else len(shares)
    outs = [prefix.with_name(f"{prefix.name}-{name}") for name in _names(names, count, where is not None)]
    for out in outs:
        refuse_existing(out)
    with Dataset.open(path) as source:
        if shares is None:
            assert where is not None
            holds = _holds(source, where)
            parts = [np.flatnonzero(holds), np.flatnonzero(~holds)]
        else:
            parts = _draw(source, shares, by, seed)
        for out, chosen in zip(outs, parts, strict=True):
            if not len(chosen):
                raise UsageError(
                    f"{out} would have none of the {console.count_text(source.num_episodes, 'episode')}"
                )
        options = {"frac": shares, "by": by, "seed": seed} if shares else {"where": where}
        with ExitStack() as stack:
            total = int(source.episodes.length.sum())
            stop = stack.enter_context(console.interruptible())
            bar = stack.enter_context(console.progress(total, "split", "rows"))
            works = [Making(out, stack.enter_context(unfinished(out)), stop, bar) for out in outs]
            for work, chosen in zip(works, parts, strict=True):
                entry = lineage("split", {**options, "part": work.out.name}, [source])
                copy_chosen(source, chosen, work.temporary, entry, work.advance)
            made = [work.facts() for work in works]
            publish_all([(work.temporary, work.out) for work in works])
        seeds = [_seeds(source, chosen) for chosen in parts]
        shared = sum(len(a & b) for i, a in enumerate(seeds) for b in seeds[i + 1 :])
        return {"datasets": made, **_source(path, source), **options, "shared_seeds": shared}


def _holds(source: Dataset, where: str) -> NDArray[np.bool_]:
    """Whether the condition holds, per episode of the table."""
    expression = Expression(where, source.schema, per="episode")
    spans = Spans(source)
    with console.progress(None, "looking", "rows") as bar:
        values = expression.on(source, spans, bar.advance).episodes()
    found = np.zeros(source.num_episodes, np.bool_)
    found[spans.entry[spans.finished]] = values[spans.finished]
    return found


def copy_chosen(
    source: Dataset,
    chosen: Rows,
    temporary: Path,
    entry: dict[str, Any],
    advance: Callable[[int], None],
) -> None:
    """A new dataset of the chosen episodes, in the streams they are in."""
    table = source.episodes
    extra = {name: value for name, value in source.extra.items() if name != "segment_rows"}
    with Writer.create(
        temporary, source.schema, spec=source.spec, lineage=entry, num_streams=len(source.stream_rows),
        extra=extra,
    ) as writer:  # fmt: skip
        by_stream = [chosen[table.stream[chosen] == stream] for stream in range(len(source.stream_rows))]
        longest = max(int(table.length[mine].sum()) for mine in by_stream)
        writer.segment_rows = whole_segment_rows(source.schema, longest)
        for stream, mine in enumerate(by_stream):
            copy_episodes(source, table, mine, writer, stream, advance=advance)


def _shares(fractions: Sequence[float]) -> list[float]:
    shares = [*fractions, 1 - fractions[0]] if len(fractions) == 1 else list(fractions)
    if not all(0 < share < 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        given = ",".join(f"{fraction:g}" for fraction in fractions)
        raise UsageError(
            f"--frac {given}: expected fractions between 0 and 1 that sum to 1, e.g. 0.8,0.1,0.1"
        )
    return shares


def _names(names: Sequence[str] | None, count: int, where: bool) -> list[str]:
    default = WHERE_NAMES if where else NAMES.get(count, tuple(map(str, range(count))))
    found = list(names or default)
    if len(found) != count or len(set(found)) < count or not all(found) or "/" in "".join(found):
        raise UsageError(f"--names: expected {count} different names, got {','.join(found)!r}")
    return found


def _draw(source: Dataset, shares: Sequence[float], by: Literal["episode", "seed"], seed: int) -> list[Rows]:
    """Episodes of each part, ascending. Parts differ from their share by less than one episode or group."""
    table = source.episodes
    groups = np.arange(len(table))
    if by == "seed":
        known = table.seed != -1
        groups[known] = len(table) + np.unique(table.seed[known], return_inverse=True)[1]
        groups = np.unique(groups, return_inverse=True)[1]
    count = int(groups.max(initial=-1)) + 1
    order = np.random.default_rng(seed).permutation(count)
    edges = np.rint(np.concatenate(([0.0], np.cumsum(shares))) * count).astype(np.int64)
    edges[-1] = count
    part_of = np.empty(count, np.int64)
    for part, (low, high) in enumerate(pairwise(edges.tolist())):
        part_of[order[low:high]] = part
    return [np.flatnonzero(part_of[groups] == part) for part in range(len(shares))]


def _seeds(source: Dataset, chosen: Rows) -> set[int]:
    return set(source.episodes.seed[chosen].tolist()) - {-1}


def _source(path: Location, source: Dataset) -> dict[str, Any]:
    table = source.episodes
    return {
        "source": str(path),
        "source_rows": source.num_rows,
        "source_episodes": len(table),
        "unfinished_rows": (unfinished := unfinished_rows(source)),
        "lost_rows": source.num_rows - int(table.length.sum()) - unfinished,
    }


def remarks(report: dict[str, Any]) -> list[str]:
    """What a person should read about a filter or a split, a line each."""
    lines = []
    for made in report.get("datasets", [report]):
        share = 100 * made["episodes"] / report["source_episodes"]
        name = f"{made['dataset']}: " if "datasets" in report else ""
        lines.append(
            f"{name}{made['episodes']:,} of "
            f"{console.count_text(report['source_episodes'], 'episode')} ({share:.1f} %), "
            f"{made['rows']:,} of {console.count_text(report['source_rows'], 'row')}"
        )
    if report["unfinished_rows"]:
        lines.append(
            f"{console.count_text(report['unfinished_rows'], 'row')} of unfinished episodes are left out"
        )
    if report["lost_rows"]:
        lines.append(lost_rows(report["lost_rows"]))
    if report.get("shared_seeds"):
        lines.append(
            f"common seeds of parts: {report['shared_seeds']:,}; --by seed keeps those of one seed together"
        )
    return lines
