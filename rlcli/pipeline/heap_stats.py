"""What the values of heap columns look like: how long they are, and which texts occur how often."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from rlcli import console
from rlcli.format.dataset import Dataset
from rlcli.format.schema import Column

CHUNK_ROWS = 4096
MOST_DISTINCT = 100_000  # texts that are counted; of more only their lengths are told
SHOWN = 5
SHOWN_LETTERS = 40


def heap_facts(dataset: Dataset, column: Column) -> dict[str, Any]:
    """Bytes of its stored values, and of a text column how many are distinct and which are the most frequent.

    `distinct` is None where there are too many to count.
    """
    assert column.heap is not None
    is_text = column.heap.value == "text"
    counts: Counter[str] = Counter()
    least, most, total = None, 0, 0
    for start in range(0, dataset.num_rows, CHUNK_ROWS):
        rows = np.arange(start, min(start + CHUNK_ROWS, dataset.num_rows))
        lengths = [0 if value is None else len(value) for value in dataset.encoded(column.key, rows)]
        least = min(lengths) if least is None else min(least, *lengths)
        most, total = max(most, *lengths), total + sum(lengths)
        if is_text and len(counts) <= MOST_DISTINCT:
            index, table = dataset.text(column.key, rows)
            often = np.bincount(index, minlength=len(table)).tolist()
            counts.update(dict(zip(table, often, strict=True)))
    facts: dict[str, Any] = {
        "key": "/".join(column.key),
        "value": column.heap.value,
        "codec": column.heap.codec,
        "bytes": {"min": least, "mean": total / max(1, dataset.num_rows), "max": most},
    }
    if is_text:
        known = len(counts) <= MOST_DISTINCT
        facts["distinct"] = len(counts) if known else None
        facts["most"] = counts.most_common(SHOWN) if known else []
    return facts


def heap_text(facts: dict[str, Any]) -> str:
    """A line about lengths, and one for each of the most frequent texts."""
    size = facts["bytes"]
    if size["min"] is None:
        return f"{facts['key']}: no rows"
    least, mean, most = (console.bytes_text(size[name]) for name in ("min", "mean", "max"))
    line = f"{facts['key']}: {facts['value']} of {least} to {most}, mean {mean}"
    if facts.get("distinct"):
        line += f", {console.count_text(facts['distinct'], 'distinct value')}"
    shown = [(_short(text), count) for text, count in facts.get("most", [])]
    return "\n".join([line, *(f"  {count:>9,}  {text}" for text, count in shown)])


def _short(text: str) -> str:
    told = ascii(text) if not text.isprintable() else repr(text)
    return told if len(told) <= SHOWN_LETTERS else f"{told[: SHOWN_LETTERS - 1]}…"
