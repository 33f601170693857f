"""`rl buffer card`: what a stranger should know of a dataset before using it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.errors import UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.location import Location
from rlcli.format.nested import pick
from rlcli.pipeline import card_page, card_text
from rlcli.pipeline.buffer import info
from rlcli.pipeline.buffer_stats import stats
from rlcli.pipeline.outputs import publish, refuse_existing, unfinished

Array = NDArray[Any]

BINS = 24
SAMPLED_ROWS = 100_000  # of actions, for their histograms
SHOWN_DIMENSIONS = 12
FRAMES = 8
PLOTTED_EPISODES = 2_000


def card_facts(path: Location) -> dict[str, Any]:
    """Everything a card says: the facts of `info` and `stats`, histograms, dead dimensions, sample frames.

    `frames` are RGB or grey arrays `[H, W, 3]` or `[H, W]`, uint8, by column. Reads the whole dataset once.
    """
    _, described, _ = info(path)
    measured, _ = stats(path)
    with Dataset.open(path) as dataset:
        table = dataset.episodes
        whole = ~table.cut
        facts = {
            **described,
            "columns": _merged(described["columns"], measured["columns"]),
            "actions": measured["actions"],
            "histograms": {
                "return": histogram(table.return_[whole]),
                "length": histogram(table.length[whole]),
            },
            "returns_in_order": _thinned(table.return_[whole]),
            "action_histograms": _action_histograms(dataset),
            "dead": [
                {"column": column["key"], "elements": column["constant"], "of": int(np.prod(column["shape"]))}
                for column in measured["columns"]
                if column["constant"] and column["key"].split("/")[0] in ("observation", "action")
            ],
            "frames": _frames(dataset),
        }
    return facts


def write_card(path: Location, out: Path | None, *, html: bool = False) -> tuple[dict[str, Any], str]:
    """Facts of the card of a dataset, and its text, or the path of the new file `out` that it went to.

    The suffix of `out` decides between Markdown and HTML where `html` does not. Raises `UsageError` for an
    `out` that exists or has another suffix.
    """
    if out is not None:
        refuse_existing(out)
        if out.suffix.lower() not in (".md", ".html", ".htm"):
            raise UsageError(f"{out}: a card ends in .md or .html")
        html = html or out.suffix.lower() != ".md"
    facts = card_facts(path)
    text = card_page.page(facts) if html else card_text.markdown(facts)
    shown = {name: value for name, value in facts.items() if name not in ("frames", "returns_in_order")}
    if out is None:
        return shown, text.rstrip("\n")
    with unfinished(out) as temporary:
        temporary.write_text(text)
        publish(temporary, out)
    return {**shown, "file": out}, str(out)


def histogram(values: Array, bins: int = BINS) -> dict[str, Any] | None:
    """`{"edges": [bins + 1], "counts": [bins]}` of the finite values; None where all are equal."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite) or finite.min() == finite.max():
        return None
    distinct = len(np.unique(finite)) if np.issubdtype(values.dtype, np.integer) else bins
    counts, edges = np.histogram(finite, bins=min(bins, distinct))
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _merged(columns: list[dict[str, Any]], measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_key = {column["key"]: column for column in measured}
    names = ("min", "mean", "std", "max", "nan", "inf")
    return [{**c, **{n: by_key[c["key"]][n] for n in names if c["key"] in by_key}} for c in columns]


def _thinned(values: Array) -> list[float]:
    step = max(1, -(-len(values) // PLOTTED_EPISODES))
    return [float(value) for value in values[::step]]


def _action_histograms(dataset: Dataset) -> list[dict[str, Any]]:
    """Per dimension of a continuous action, from rows spread over the dataset."""
    found = []
    step = max(1, dataset.num_rows // SAMPLED_ROWS)
    rows = np.arange(0, dataset.num_rows, step, dtype=np.int64)
    for column in dataset.schema.plain:
        if column.key[0] != "action" or not np.issubdtype(column.numpy, np.floating) or not len(rows):
            continue
        values = pick(dataset.gather(rows, [column.key]), column.key).reshape(len(rows), -1)
        for dimension in range(min(values.shape[1], SHOWN_DIMENSIONS)):
            drawn = histogram(values[:, dimension])
            if drawn is not None:
                found.append({"name": f"{'/'.join(column.key)}[{dimension}]", **drawn})
    return found


def _frames(dataset: Dataset) -> dict[str, list[Array]]:
    """Images spread over the dataset, by column."""
    if not dataset.num_rows:
        return {}
    rows = np.unique(np.linspace(0, dataset.num_rows - 1, FRAMES).astype(np.int64))
    found: dict[str, list[Array]] = {}
    for column in dataset.schema.columns:
        if column.key[0] != "observation":
            continue
        if column.encoding == "heap":
            if column.shape and len(column.shape) >= 2 and column.dtype == "uint8":
                values = [dataset.read(column.key, int(row), int(row) + 1)[0] for row in rows]
            else:
                continue
        elif column.dtype == "uint8" and len(column.shape) in (2, 3):
            values = list(pick(dataset.gather(rows, [column.key]), column.key))
        else:
            continue
        pictures = [picture for value in values if (picture := as_picture(value)) is not None]
        if pictures:
            found["/".join(column.key)] = pictures
    return found


def as_picture(value: Array) -> Array | None:
    """`[H, W]` or `[H, W, 3]` of a uint8 image in any usual layout; None if it is none.

    Channels may be first or last; of a stack of other sizes the last frame is shown.
    """
    if value.ndim == 2:
        return value
    if value.ndim != 3:
        return None
    if value.shape[-1] in (1, 3, 4):
        return np.asarray(value[..., 0] if value.shape[-1] == 1 else value[..., :3])
    if value.shape[0] in (1, 3):
        return np.asarray(value[0] if value.shape[0] == 1 else np.moveaxis(value, 0, -1))
    return np.asarray(value[-1])
