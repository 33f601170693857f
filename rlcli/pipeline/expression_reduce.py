"""Many values to one: steps to their episode, episodes to the dataset, and quantiles of either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.format.spans import Chunk
from rlcli.pipeline.expression_terms import Term
from rlcli.pipeline.expression_values import Text

Array = NDArray[Any]

_UFUNCS: dict[str, np.ufunc] = {
    "sum": np.add, "mean": np.add, "min": np.minimum, "max": np.maximum, "any": np.logical_or,
    "all": np.logical_and,
}  # fmt: skip


class Collected:
    """The values of an aggregate's or a quantile's argument, chunk after chunk in row order.

    Of an aggregate only one value per episode and chunk is kept; a quantile keeps them all.
    """

    def __init__(self, term: Term, num_spans: int) -> None:
        self.term, self._num_spans = term, num_spans
        self._spans: list[Array] = []
        self._values: list[Any] = []
        self._counts = np.zeros(num_spans, np.int64)

    def add(self, found: Array | Text, chunk: Chunk) -> None:
        """`found` is `[rows]` or `[rows, size]`, of the chunk's rows."""
        if self.term.op == "quantile":
            assert isinstance(found, np.ndarray)
            self._values.append(found.reshape(-1).astype(np.float64))
            return
        span = chunk.span
        starts = np.flatnonzero(np.diff(span, prepend=-1))
        self._spans.append(span[starts])
        if self.term.op in ("first", "last"):
            rows = starts if self.term.op == "first" else np.append(starts[1:], len(span)) - 1
            self._values.append(found[rows])
            return
        assert isinstance(found, np.ndarray)
        ufunc = _UFUNCS[self.term.op]
        if ufunc is np.add:
            found = found.astype(np.float64)
            self._counts += np.bincount(span, minlength=self._num_spans) * (found.size // len(found))
        elif found.dtype == np.bool_ and self.term.kind == "number":
            found = found.astype(np.uint8)
        flat: Array = ufunc.reduce(found, axis=1) if found.ndim == 2 else found
        self._values.append(ufunc.reduceat(flat, starts))

    def result(self) -> Any:
        """One number of a quantile; else an array or `Text`, `[spans]`."""
        op = self.term.op
        if op == "quantile":
            return quantile(self._values, self.term.value)
        spans = np.concatenate(self._spans) if self._spans else np.zeros(0, np.int64)
        starts = np.flatnonzero(np.diff(spans, prepend=-1))
        ends = np.append(starts[1:], len(spans)) - 1
        if self.term.kind == "text":
            texts = [text for part in self._values for text in part.objects().tolist()]
            return Text.of([texts[i] for i in (starts if op == "first" else ends)])
        joined = np.concatenate(self._values) if self._values else np.zeros(0)
        if op in ("first", "last"):
            return joined[starts if op == "first" else ends]
        found = _UFUNCS[op].reduceat(joined, starts) if len(starts) else joined
        return found / self._counts if op == "mean" else found


def over_episodes(op: str, found: Array | Text) -> Any:
    """An aggregate over `[episodes]`; without any: a sum of 0, `any` False, `all` True, else NaN."""
    if isinstance(found, Text):
        return (
            Text(found.codes[[0 if op == "first" else -1]], found.table).objects()[0]
            if len(found.codes)
            else ""
        )
    if op in ("any", "all"):
        return bool(found.any() if op == "any" else found.all())
    if not len(found):
        return np.float64(0.0 if op == "sum" else np.nan)
    if op in ("first", "last"):
        return found[0 if op == "first" else -1]
    wide = found.astype(np.float64) if op in ("mean", "sum") or found.dtype == np.bool_ else found
    return getattr(wide, op)()


def quantile(parts: Sequence[Array], q: float) -> np.float64:
    """Linear interpolation between the two nearest values; NaN are left out, of nothing it is NaN."""
    joined = np.concatenate([part.reshape(-1).astype(np.float64) for part in parts] or [np.zeros(0)])
    kept = joined[~np.isnan(joined)]
    return np.float64(np.quantile(kept, q)) if len(kept) else np.float64(np.nan)
