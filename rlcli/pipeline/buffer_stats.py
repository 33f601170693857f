"""`rl buffer stats`: what the numbers in a dataset look like, read once, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli import console
from rlcli.format.dataset import Dataset
from rlcli.format.episode_table import Episodes
from rlcli.format.location import Location
from rlcli.format.schema import Column
from rlcli.format.semantic_rules import spec_leaves
from rlcli.format.values import as_numbers
from rlcli.pipeline.coverage import coverage_of
from rlcli.pipeline.heap_stats import heap_facts, heap_text
from rlcli.pipeline.moments import Moments

Array = NDArray[Any]

CHUNK_ELEMENTS = 1 << 20
QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
SHOWN_QUANTILES = ("min", "p25", "median", "p75", "max")
LISTED_ELEMENTS = 1024  # per column, in JSON
SHOWN_ELEMENTS = 20  # per column, in text
MAX_BINS = 10
_BOOKKEEPING = {("episode",), ("step",), ("is_init",), ("next", "done")}


def stats(path: Location, *, hist: bool = False) -> tuple[dict[str, Any], str]:
    """Facts and text: extremes, mean, deviation, NaN, infinite and constant elements per stored column;
    lengths and frequent texts of heap columns; how actions cover their spec; quantiles of returns and lengths
    of episodes that were not cut.

    With `hist` a column whose values differ has `"histogram": {"edges": [bins + 1], "counts": [bins]}` of the
    finite values of all its elements; that reads the dataset twice.

    Raises `CorruptError` when reading finds damaged bytes.
    """
    with Dataset.open(path) as dataset:
        columns, actions = [], []
        specs, _ = spec_leaves(dataset)
        numbers = [column for column in dataset.schema.columns if column.encoding == "plain"]
        total = (1 + hist) * dataset.num_rows * sum(column.row_bytes for column in numbers)
        with console.progress(total, "reading", "B") as bar:
            for column in numbers:
                moments = Moments(_num_elements(column))
                spec = specs.get(column.key) if column.key[0] == "action" else None
                cover = None if spec is None else coverage_of(spec)
                for values in _parts(dataset, column):
                    moments.add(values)
                    if cover is not None:
                        cover.add(values)
                    bar.advance(len(values) * column.row_bytes)
                columns.append(_column_facts(column, moments))
                if hist:
                    columns[-1]["histogram"] = _histogram(dataset, column, columns[-1], bar)
                if cover is not None:
                    actions.append({"key": "/".join(column.key), **cover.facts()})
        table = dataset.episodes
        facts: dict[str, Any] = {
            "path": path,
            "rows": dataset.num_rows,
            "columns": columns,
            "heaps": [heap_facts(dataset, column) for column in dataset.schema.heaps],
            "actions": actions,
            **episode_quantiles(table),
        }
        return facts, _text(facts, table)


def stats_by_episode(path: Location) -> tuple[dict[str, Any], str]:
    """Facts and text of every episode that has an end, in row order."""
    with Dataset.open(path) as dataset:
        table = dataset.episodes
    ends = _ends(table)
    rows = [
        {
            "number": int(table.number[i]),
            "stream": int(table.stream[i]),
            "first_row": int(table.start[i]),
            "length": int(table.length[i]),
            "return": float(table.return_[i]),
            "terminated": bool(table.terminated[i]),
            "truncated": bool(table.truncated[i]),
            "cut": bool(table.cut[i]),
            "final_known": bool(table.has_final[i]),
            "seed": None if table.seed[i] == -1 else int(table.seed[i]) & ((1 << 64) - 1),
        }
        for i in range(len(table))
    ]
    text = console.table(
        ["episode", "stream", "first row", "length", "return", "end", "seed"],
        [
            [
                r["number"],
                r["stream"],
                r["first_row"],
                r["length"],
                r["return"],
                end,
                "–" if r["seed"] is None else str(r["seed"]),
            ]
            for r, end in zip(rows, ends, strict=True)
        ],
    )
    return {"path": path, "episodes": rows}, text


def episode_quantiles(table: Episodes) -> dict[str, Any]:
    """`return` and `length` of episodes that were not cut: count, mean, std, quantiles; None without any."""
    whole = ~table.cut
    return {"return": _quantiles(table.return_[whole]), "length": _quantiles(table.length[whole])}


def _quantiles(values: Array) -> dict[str, Any] | None:
    if not len(values):
        return None
    wide = values.astype(np.float64)
    with np.errstate(invalid="ignore"):  # of NaN and infinite returns
        quantiles = np.quantile(wide, list(QUANTILES.values()))
        summary = {"count": len(wide), "mean": float(wide.mean()), "std": float(wide.std())}
    return summary | dict(zip(QUANTILES, quantiles.tolist(), strict=True))


def _num_elements(column: Column) -> int:
    """Numbers per row; a complex one counts as two."""
    return int(np.prod(column.shape, dtype=np.int64)) * (2 if column.dtype == "complex64" else 1)


def _parts(dataset: Dataset, column: Column) -> Iterator[Array]:
    """A column as `[rows, elements]` real numbers, about a million at a time."""
    elements = _num_elements(column)
    step = max(1, CHUNK_ELEMENTS // elements)
    for start in range(0, dataset.num_rows, step):
        values = as_numbers(column, dataset.read(column.key, start, min(start + step, dataset.num_rows)))
        yield (values.view(np.float32) if column.dtype == "complex64" else values).reshape(-1, elements)


def _column_facts(column: Column, moments: Moments) -> dict[str, Any]:
    mean, std = moments.pooled()
    some = moments.count > 0
    facts: dict[str, Any] = {
        "key": "/".join(column.key),
        "dtype": column.dtype,
        "shape": list(column.shape),
        "min": moments.min[some].min() if moments.min is not None and some.any() else None,
        "mean": mean,
        "std": std,
        "max": moments.max[some].max() if moments.max is not None and some.any() else None,
        "nan": int(moments.nan.sum()),
        "inf": int(moments.inf.sum()),
        "constant": np.flatnonzero(moments.constant).tolist(),
    }
    if 1 < len(moments.count) <= LISTED_ELEMENTS and moments.min is not None:
        facts["elements"] = {
            "min": moments.min,
            "mean": np.where(some, moments.mean, np.nan),
            "std": moments.std,
            "max": moments.max,
            "nan": moments.nan,
            "inf": moments.inf,
        }
    return facts


def _histogram(
    dataset: Dataset, column: Column, facts: dict[str, Any], bar: console.Progress
) -> dict[str, Any] | None:
    """Of the finite values of all elements: a bin for each of a few whole numbers, else ten equal ones."""
    if facts["min"] is None or facts["min"] == facts["max"]:
        return None
    low, high = float(facts["min"]), float(facts["max"])
    bins = MAX_BINS
    if column.dtype.startswith(("int", "uint", "bool")) and high - low < MAX_BINS:
        bins, low, high = int(high - low) + 1, low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    counts = np.zeros(bins, np.int64)
    for values in _parts(dataset, column):
        wide = values[np.isfinite(values)].astype(np.float64)
        counts += np.histogram(wide, edges)[0]
        bar.advance(len(values) * column.row_bytes)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _ends(table: Episodes) -> list[str]:
    names = (("terminated", table.terminated), ("truncated", table.truncated), ("cut", table.cut))
    return ["+".join(name for name, flags in names if flags[i]) or "no reason" for i in range(len(table))]


def _text(facts: dict[str, Any], table: Episodes) -> str:
    rows = []
    for column in facts["columns"]:
        if tuple(column["key"].split("/")) in _BOOKKEEPING:
            continue
        size = int(np.prod(column["shape"], dtype=np.int64))
        constant = (
            ("yes" if size == 1 else f"{len(column['constant'])} of {size}") if column["constant"] else ""
        )
        numbers = [column[name] for name in ("min", "mean", "std", "max")]
        rows.append([column["key"], *map(_number, numbers), column["nan"], column["inf"], constant])
        elements = column.get("elements")
        if elements is not None and len(elements["mean"]) <= SHOWN_ELEMENTS:
            for i in range(len(elements["mean"])):
                numbers = [elements[name][i] for name in ("min", "mean", "std", "max")]
                odd = [int(elements[name][i]) for name in ("nan", "inf")]
                constant = "yes" if i in column["constant"] else ""
                rows.append([f"  [{i}]", *map(_number, numbers), *odd, constant])
    blocks = [console.table(["column", "min", "mean", "std", "max", "NaN", "inf", "constant"], rows)]
    told = {entry["key"] for entry in facts["actions"] if entry["kind"] == "counts"}
    told |= {"/".join(key) for key in _BOOKKEEPING}
    for column in facts["columns"]:
        if column.get("histogram") and column["key"] not in told:
            blocks.append(_histogram_text(column["key"], **column["histogram"]))
    blocks += [heap_text(entry) for entry in facts["heaps"]]
    blocks += [_coverage_text(entry) for entry in facts["actions"]]
    whole = ~table.cut
    if facts["return"] == facts["length"] is not None:  # a reward of 1 per step
        blocks.append(_quantile_text("return and length", facts["length"], table.length[whole]))
    elif facts["return"] is not None:
        blocks.append(_quantile_text("return", facts["return"], table.return_[whole]))
        blocks.append(_quantile_text("length", facts["length"], table.length[whole]))
    if int(table.cut.sum()):
        cut = console.count_text(int(table.cut.sum()), "cut episode")
        blocks.append(f"left out of returns and lengths: {cut}")
    return "\n\n".join(blocks)


def _number(value: Any) -> float | None:
    """Four digits, which keeps the table narrow; all of them are in the facts."""
    return None if value is None or not np.isfinite(value) else float(f"{float(value):.4g}")


def _histogram_text(name: str, edges: list[float], counts: list[int]) -> str:
    if edges[1] - edges[0] == 1 and edges[0] % 1 == 0.5:  # of whole numbers
        return bars(name, [f"{low + 0.5:.0f}" for low in edges[:-1]], counts)
    return bars(name, [f"{low:,.4g} to {high:,.4g}" for low, high in pairwise(edges)], counts)


def _coverage_text(entry: dict[str, Any]) -> str:
    name = entry["key"]
    if entry["kind"] == "counts":
        blocks = []
        for index, part in enumerate(entry["parts"]):
            title = name if len(entry["parts"]) == 1 else f"{name}[{index}]"
            counts = part["counts"]
            labels = [str(part["start"] + i) for i in range(len(counts))]
            if len(counts) > SHOWN_ELEMENTS:
                unused = sum(count == 0 for count in counts)
                blocks.append(f"{title}: {len(counts) - unused:,} of {len(counts):,} values occur")
            else:
                blocks.append(bars(title, labels, counts))
            if part["outside"]:
                blocks[-1] += f"\n{console.count_text(part['outside'], 'row')} outside the spec"
        return "\n\n".join(blocks)
    mean = {key: 100 * float(np.mean(entry[key])) for key in ("at_low", "at_high", "outside")}
    return (
        f"{name}: {mean['at_low']:.1f} % of values at the lower bound, {mean['at_high']:.1f} % at the upper, "
        f"{mean['outside']:.2f} % outside"
    )


def _quantile_text(name: str, summary: dict[str, Any], values: Array) -> str:
    episodes = console.count_text(summary["count"], "episode")
    title = f"{name} of {episodes}: mean {summary['mean']:,.5g}, std {summary['std']:,.5g}"
    quantiles = "  " + "  ".join(f"{key} {summary[key]:,.5g}" for key in SHOWN_QUANTILES)
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite) or finite.min() == finite.max():
        return f"{title}\n{quantiles}"
    bins = min(MAX_BINS, math.isqrt(len(finite) - 1) + 1)
    counts, edges = np.histogram(finite, bins=bins)
    labels = [f"{low:,.4g} to {high:,.4g}" for low, high in pairwise(edges)]
    return bars(title, labels, counts.tolist()) + f"\n{quantiles}"


def bars(title: str, labels: list[str], counts: list[int], *, width: int = 30) -> str:
    """A small histogram: label, bar, count, share."""
    total, most = max(1, sum(counts)), max([1, *counts])
    label_width = max(len(label) for label in labels)
    count_width = max(len(f"{count:,}") for count in counts)
    lines = [title]
    for label, count in zip(labels, counts, strict=True):
        bar = "█" * round(width * count / most) or ("▏" if count else "")
        share = f"{count:>{count_width},}  {100 * count / total:5.1f} %"
        lines.append(f"  {label.rjust(label_width)}  {bar.ljust(width)}  {share}")
    return "\n".join(lines)
