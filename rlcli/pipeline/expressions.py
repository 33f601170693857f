"""Conditions and quantities over episodes and steps, as `--where` takes them; `docs/expressions.md`.

An expression is parsed by `expression_syntax`, looked up in a schema by `expression_terms` and computed here
with NumPy, a chunk of rows at a time. Nothing is ever handed to Python's own evaluator.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli.format.dataset import Dataset
from rlcli.format.schema import Schema
from rlcli.format.spans import Chunk, Spans, chunks
from rlcli.pipeline import expression_values as values
from rlcli.pipeline.expression_reduce import Collected, over_episodes, quantile
from rlcli.pipeline.expression_syntax import fail, parse
from rlcli.pipeline.expression_terms import AGGREGATES, Kind, Level, Term, all_terms, bind

Array = NDArray[Any]

_BARRIERS = (*AGGREGATES, "quantile")  # known only after all rows, or all episodes, were seen


class Expression:
    """An expression that fits a schema.

    `per` is what it has one value of: "episode" refuses what differs from step to step, "step" takes both.
    Raises `UsageError` that names `flag` and shows the place for whatever is wrong with it.
    """

    def __init__(
        self,
        text: str,
        schema: Schema,
        *,
        per: Literal["episode", "step"],
        kind: Kind = "condition",
        flag: str = "--where",
    ) -> None:
        node = parse(text, flag)
        self.text, self.term = text, bind(node, schema, text, flag)
        term = self.term
        if term.kind != kind:
            fail(text, node.at, flag, f"this is a {term.kind}, expected a {kind}")
        if term.level == Level.STEP and per == "episode":
            ways = "any(…), all(…) or last(…)" if kind == "condition" else "mean(…), max(…) or last(…)"
            fail(text, node.at, flag, f"this differs from step to step; of an episode take {ways}")
        if term.size > 1:
            fail(text, node.at, flag, f"this has {term.size} values per step; name one, e.g. observation[0]")

    def on(self, dataset: Dataset, spans: Spans, advance: Callable[[int], None] | None = None) -> Values:
        """Its values in a dataset of that schema. Reads the rows that aggregates and quantiles need.

        `advance` is called with the number of rows of each chunk that was read.
        """
        return Values(self.term, dataset, spans, advance or (lambda rows: None))


class Values:
    """What an expression comes to: `episodes()` per span, `steps(chunk)` per row."""

    def __init__(self, term: Term, dataset: Dataset, spans: Spans, advance: Callable[[int], None]) -> None:
        self._term, self._dataset, self._spans = term, dataset, spans
        self._known: dict[int, Any] = {}  # by id of the term: of aggregates, quantiles and per episode
        self._attributes: dict[str, Array] = {}
        terms = all_terms(term)
        stages: dict[int, int] = {}
        for part in terms:
            below = max((stages[id(child)] for child in part.parts), default=0)
            stages[id(part)] = below + (part.op in _BARRIERS)
        with np.errstate(all="ignore"):
            for stage in range(1, stages[id(term)] + 1):
                batch = [t for t in terms if t.op in _BARRIERS and stages[id(t)] == stage]
                self._resolve(batch, advance)

    def episodes(self) -> Array:
        """`[spans]`; of text, objects. A constant is repeated."""
        with np.errstate(all="ignore"):
            return self._full(self._of_episodes(self._term), len(self._spans.start))

    def steps(self, chunk: Chunk) -> Array:
        """`[rows]` of a chunk of the same spans; what is per episode is repeated in its rows."""
        with np.errstate(all="ignore"):
            return self._full(self._of_steps(self._term, chunk), len(chunk))

    def _full(self, found: Any, count: int) -> Array:
        if isinstance(found, values.Text):
            return found.objects()
        return found if isinstance(found, np.ndarray) else np.full(count, found)

    def _resolve(self, batch: list[Term], advance: Callable[[int], None]) -> None:
        """Computes aggregates and quantiles whose arguments are known, all of them in one pass."""
        collecting = {}
        finished = self._spans.finished
        for term in batch:
            (part,) = term.parts
            if part.level == Level.STEP:
                collecting[id(term)] = Collected(term, len(self._spans.start))
                continue
            found = self._of_episodes(part)
            chosen = found[finished]
            self._known[id(term)] = (
                quantile([chosen], term.value) if term.op == "quantile" else over_episodes(term.op, chosen)
            )
        if not collecting:
            return
        used = {key for item in collecting.values() for key in _columns(item.term.parts[0])}
        columns = [column for column in self._dataset.schema.columns if column.key in used]
        for start, stop in chunks(self._dataset, columns):
            chunk = Chunk(self._dataset, self._spans, start, stop)
            for item in collecting.values():
                item.add(self._of_steps(item.term.parts[0], chunk), chunk)
            advance(stop - start)
        self._known |= {number: item.result() for number, item in collecting.items()}

    def _of_episodes(self, term: Term) -> Any:
        if term.op == "constant":
            return term.value
        if id(term) not in self._known:
            if term.op == "attribute":
                self._known[id(term)] = self._attribute(term.value)
            else:
                parts = [self._of_episodes(part) for part in term.parts]
                self._known[id(term)] = values.compute(term, parts)
        return self._known[id(term)]

    def _of_steps(self, term: Term, chunk: Chunk) -> Any:
        if term.level == Level.STEP:
            if term.op == "column":
                return values.column(chunk, *term.value)
            return values.compute(term, [self._of_steps(part, chunk) for part in term.parts])
        found = self._of_episodes(term)
        return found[chunk.span] if term.level == Level.EPISODE else found

    def _attribute(self, name: str) -> Array:
        """Per span. Of an episode that has not ended: what is known so far, every flag False, no seed."""
        spans = self._spans
        if name in ("number", "start"):
            return getattr(spans, name)  # type: ignore[no-any-return]
        if name == "length":
            return np.asarray(spans.stop - spans.start)
        if name == "stream":
            return np.searchsorted(spans.stream_stop, spans.start, side="right")
        table = getattr(spans.table, "return_" if name == "return" else name)
        found = np.zeros(len(spans.start), table.dtype)
        found[spans.finished] = table[spans.entry[spans.finished]]
        unfinished = np.flatnonzero(~spans.finished)
        if name == "seed":
            found[unfinished] = -1
            unsigned = found.view(np.uint64)
            found = np.where(found < -1, unsigned.astype(np.float64), found) if (found < -1).any() else found
        reward = ("next", "reward")
        if name == "return" and reward in self._dataset.schema.by_key:
            for span in unfinished:
                rows = self._dataset.read(reward, int(spans.start[span]), int(spans.stop[span]))
                found[span] = rows.sum(dtype=np.float64)
        return found


def _columns(term: Term) -> set[tuple[str, ...]]:
    """Columns whose rows the term itself reads, not those inside its aggregates and quantiles."""
    if term.op == "column":
        return {term.value[0]}
    inside = (part for part in term.parts if part.op not in _BARRIERS)
    return reduce(set.union, map(_columns, inside), set())
