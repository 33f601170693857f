"""`rl buffer diff`: whether two datasets say the same, and if not, where they first differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli import console
from rlcli.errors import ConditionFalse, UsageError, nearest
from rlcli.format.dataset import Dataset
from rlcli.format.location import Location
from rlcli.format.schema import Column
from rlcli.format.spans import CHUNK_BYTES, MAX_CHUNK_ROWS, Spans
from rlcli.format.values import as_numbers

Array = NDArray[Any]

SHOWN = 10
LISTED = 1000  # differing episodes, in JSON
_ATTRIBUTES = ("length", "return", "terminated", "truncated", "cut", "final_known", "seed", "number")
_MISSING = "–"


@dataclass
class _Side:
    """One of the datasets: its rows as episodes, those without an end too."""

    data: Dataset
    spans: Spans = field(init=False)

    def __post_init__(self) -> None:
        self.spans = Spans(self.data)

    def __len__(self) -> int:
        return len(self.spans.start)

    def attributes(self) -> dict[str, Array]:
        """Per episode; of one without an end, what its rows say."""
        spans, table = self.spans, self.spans.table
        found: dict[str, Array] = {"length": spans.stop - spans.start, "number": spans.number}
        for name, missing in (("return", np.nan), ("seed", -1)):
            found[name] = self._entries(getattr(table, "return_" if name == "return" else name), missing)
        for name in ("terminated", "truncated", "cut"):
            found[name] = self._entries(getattr(table, name), False)
        found["final_known"] = self._entries(table.has_final, False)
        return found

    def _entries(self, values: Array, missing: Any) -> Array:
        chosen = self.spans.finished
        found = np.full(len(self), missing, values.dtype)
        found[chosen] = values[self.spans.entry[chosen]]
        return found


@dataclass
class _Difference:
    """What differs in a column."""

    key: str
    rows: int = 0
    largest: float = 0.0
    first: dict[str, Any] | None = None


def diff(
    first: Location, second: Location, *, tol: float = 0.0, ignore: Sequence[str] = ()
) -> tuple[dict[str, Any], str]:
    """Facts and text: how schema, spec, episodes and values of two datasets differ.

    Episodes are compared by position, and of two with different lengths the rows that both have. Numbers are
    equal if they differ by at most `tol`, returns by `tol` per step; NaN equals NaN. `ignore` names columns
    and attributes of episodes. How a column is stored, streams and segments make no difference.
    """
    if not 0 <= tol < float("inf"):
        raise UsageError(f"--tol {tol:g}: expected a number, 0 or more")
    with Dataset.open(first) as data_a, Dataset.open(second) as data_b:
        a, b = _Side(data_a), _Side(data_b)
        columns = _ignoring(a, b, ignore)
        schema, common = _schema(a, b, columns)
        spec = list(_json_differences(data_a.spec, data_b.spec, ""))
        unasked = {*ignore, *(["number"] if "episode" in ignore else [])}
        if not (data_a.schema.derived and data_b.schema.derived):
            unasked.add("final_known")  # one stores next observations, finals too, in its rows
        episodes = _episodes(a, b, tol, unasked)
        found = _values(a, b, common, tol)
    facts: dict[str, Any] = {
        "a": first,
        "b": second,
        "tol": tol,
        "rows": [data_a.num_rows, data_b.num_rows],
        "schema": schema,
        "spec": spec,
        "episodes": episodes,
        "values": [
            {"key": d.key, "rows": d.rows, "largest": d.largest, "first": d.first} for d in found if d.rows
        ],
    }
    same_count = episodes["count"][0] == episodes["count"][1]
    facts["equal"] = not (schema or spec or episodes["different"] or facts["values"]) and same_count
    return facts, _text(facts)


def raise_if_different(facts: dict[str, Any]) -> None:
    """Raises `ConditionFalse` (exit 8) that says in what they differ."""
    if not facts["equal"]:
        counts = facts["episodes"]["count"]
        parts = [
            "schema" if facts["schema"] else "",
            "spec" if facts["spec"] else "",
            "number of episodes" if counts[0] != counts[1] else "",
            "episodes" if facts["episodes"]["different"] else "",
            "values" if facts["values"] else "",
        ]
        words = ", ".join(part for part in parts if part)
        raise ConditionFalse(f"{facts['a']} and {facts['b']} differ: {words}")


def _ignoring(a: _Side, b: _Side, ignore: Sequence[str]) -> set[str]:
    """The names of all columns that are compared."""
    names = {"/".join(column.key) for side in (a, b) for column in side.data.schema.columns}
    for name in ignore:
        if name not in names and name not in _ATTRIBUTES:
            raise UsageError(f"--ignore: there is no {name!r}; {nearest(name, [*names, *_ATTRIBUTES])}")
    return names - set(ignore)


def _schema(a: _Side, b: _Side, names: set[str]) -> tuple[list[dict[str, Any]], list[Column]]:
    """What differs in the columns, and the columns that both have alike."""
    different, common = [], []
    sides = [{"/".join(c.key): c for c in side.data.schema.columns} for side in (a, b)]
    for name in sorted(names):
        one, other = (_what(side.get(name)) for side in sides)
        if one == other:
            common.append(sides[0][name])
        else:
            different.append({"key": name, "a": one, "b": other})
    order = {column.key: i for i, column in enumerate(a.data.schema.columns)}
    return different, sorted(common, key=lambda column: order[column.key])


def _what(column: Column | None) -> str | None:
    if column is None:
        return None
    if column.heap is not None and column.heap.value != "array":
        return column.heap.value
    shape = "×".join(map(str, column.shape))
    return f"{column.dtype} {shape}" if shape else column.dtype


def _json_differences(a: Any, b: Any, where: str) -> Iterator[dict[str, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in sorted(a.keys() | b.keys()):
            yield from _json_differences(a.get(name), b.get(name), f"{where}.{name}" if where else name)
    elif a != b:
        yield {"where": where, "a": a, "b": b}


def _episodes(a: _Side, b: _Side, tol: float, ignore: set[str]) -> dict[str, Any]:
    """How many episodes there are, and which differ in what the episode table says."""
    count = min(len(a), len(b))
    sides = [{name: values[:count] for name, values in side.attributes().items()} for side in (a, b)]
    listed: list[dict[str, Any]] = []
    any_differs = np.zeros(count, np.bool_)
    for name in _ATTRIBUTES:
        if name in ignore:
            continue
        one, other = (side[name] for side in sides)
        differs = one != other
        if name == "return":
            near = np.abs(one - other) <= tol * sides[0]["length"]
            differs = differs & ~near & ~(np.isnan(one) & np.isnan(other))
        any_differs |= differs
        for index in np.flatnonzero(differs)[: LISTED - len(listed)].tolist():
            listed.append({"episode": index, "what": name, "a": one[index].item(), "b": other[index].item()})
    return {
        "count": [len(a), len(b)],
        "begun_before_window": [int((side.spans.lost > 0).sum()) for side in (a, b)],
        "unfinished": [int((~side.spans.ended).sum()) for side in (a, b)],
        "different": int(any_differs.sum()),
        "first": sorted(listed, key=lambda entry: entry["episode"]),
    }


def _runs(a: _Side, b: _Side) -> Iterator[tuple[int, int, int]]:
    """`(row in A, row in B, rows)`: the rows of episodes at the same position, in long stretches."""
    count = min(len(a), len(b))
    if not count:
        return
    start_a, start_b = a.spans.start[:count], b.spans.start[:count]
    rows = np.minimum(a.spans.stop[:count] - start_a, b.spans.stop[:count] - start_b)
    joined = (start_a[1:] == start_a[:-1] + rows[:-1]) & (start_b[1:] == start_b[:-1] + rows[:-1])
    firsts = np.concatenate(([0], np.flatnonzero(~joined) + 1))
    lengths = np.add.reduceat(rows, firsts)
    for first, length in zip(firsts.tolist(), lengths.tolist(), strict=True):
        yield int(start_a[first]), int(start_b[first]), length


def _values(a: _Side, b: _Side, columns: list[Column], tol: float) -> list[_Difference]:
    found = [_Difference("/".join(column.key)) for column in columns]
    row_bytes = sum(column.row_bytes for column in columns)
    step = min(max(1, CHUNK_BYTES // max(1, row_bytes)), MAX_CHUNK_ROWS)
    with console.progress(min(a.data.num_rows, b.data.num_rows), "compare", "rows") as bar:
        for row_a, row_b, rows in _runs(a, b):
            for offset in range(0, rows, step):
                size = min(step, rows - offset)
                for column, difference in zip(columns, found, strict=True):
                    _compare(a, b, column, (row_a + offset, row_b + offset, size), tol, difference)
                bar.advance(size)
    return found


def _compare(
    a: _Side, b: _Side, column: Column, place: tuple[int, int, int], tol: float, difference: _Difference
) -> None:
    row_a, row_b, size = place
    read_a = a.data.read(column.key, row_a, row_a + size)
    read_b = b.data.read(column.key, row_b, row_b + size)
    if column.heap is not None:
        pairs = zip(read_a, read_b, strict=True)
        rows = np.array([not np.array_equal(one, other) for one, other in pairs], np.bool_)
        largest = 0.0
    else:
        one, other = (as_numbers(column, values).reshape(size, -1) for values in (read_a, read_b))
        elements = one != other
        if elements.any():
            with np.errstate(all="ignore"):
                gap = np.abs(_wide(one) - _wide(other))
            elements &= ~((one != one) & (other != other))
            if tol:
                elements &= ~(gap <= tol)
            largest = float(np.nanmax(np.where(elements, gap, 0), initial=0))
        rows, largest = elements.any(axis=1), largest if elements.any() else 0.0
    if column.encoding == "derived" and rows.any():
        for side, row in ((a, row_a), (b, row_b)):
            unknown = side.spans.unknown_next
            rows[unknown[np.searchsorted(unknown, row) : np.searchsorted(unknown, row + size)] - row] = False
    if not rows.any():
        return
    difference.rows += int(rows.sum())
    difference.largest = max(difference.largest, largest)
    if difference.first is None:
        at = int(np.argmax(rows))
        span = int(np.searchsorted(a.spans.start, row_a + at, side="right")) - 1
        difference.first = {
            "episode": span,
            "number": int(a.spans.number[span]),
            "step": row_a + at - int(a.spans.start[span]),
            "row_a": row_a + at,
            "row_b": row_b + at,
            "element": None,
            "a": read_a[at] if column.heap is not None else one[at].tolist(),
            "b": read_b[at] if column.heap is not None else other[at].tolist(),
        }
        if column.heap is None:
            element = int(np.argmax(elements[at]))
            shape = column.shape if one.shape[1] > 1 else ()
            index = [int(i) for i in np.unravel_index(element, shape)] if shape else None
            difference.first |= {
                "element": index, "a": one[at, element].item(), "b": other[at, element].item()
            }  # fmt: skip


def _wide(values: Array) -> Array:
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)


def _among(episodes: dict[str, Any], side: int) -> str:
    kinds = {"begun before the window": "begun_before_window", "unfinished": "unfinished"}
    found = [f"{episodes[name][side]:,} {what}" for what, name in kinds.items() if episodes[name][side]]
    return f" ({', '.join(found)})" if found else ""


def _text(facts: dict[str, Any]) -> str:
    episodes = facts["episodes"]
    if facts["equal"]:
        within = f" within {facts['tol']:g}" if facts["tol"] else ""
        return (
            f"equal{within}: {console.count_text(facts['rows'][0], 'row')}, "
            f"{console.count_text(episodes['count'][0], 'episode')}{_among(episodes, 0)}"
        )
    blocks = []
    if facts["schema"]:
        rows = [[d["key"], d["a"] or _MISSING, d["b"] or _MISSING] for d in facts["schema"]]
        blocks.append(console.table(["column", "A", "B"], rows))
    if facts["spec"]:
        rows = [[d["where"], _short(d["a"]), _short(d["b"])] for d in facts["spec"][:SHOWN]]
        blocks.append(console.table(["spec", "A", "B"], rows))
    counts = (
        " and ".join(f"{n:,}{_among(episodes, k)}" for k, n in enumerate(episodes["count"])) + " episodes"
    )
    if episodes["different"]:
        counts += f", {episodes['different']:,} differ in what the table says of them"
    blocks.append(counts)
    if episodes["first"]:
        rows = [[d["episode"], d["what"], d["a"], d["b"]] for d in episodes["first"][:SHOWN]]
        blocks.append(console.table(["episode", "what", "A", "B"], rows))
    if facts["values"]:
        rows = []
        for d in facts["values"]:
            at = d["first"]
            place = f"{at['step']}" + (f" [{', '.join(map(str, at['element']))}]" if at["element"] else "")
            values = [_short(at["a"]), _short(at["b"])]
            rows.append([d["key"], d["rows"], float(f"{d['largest']:.4g}"), at["episode"], place, *values])
        names = ["column", "rows", "largest", "episode", "step", "A", "B"]
        blocks.append(console.table(names, rows) + "\n(the first difference of each column)")
    return "\n\n".join(blocks)


def _short(value: Any) -> str:
    if value is None:
        return _MISSING
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else f"{text[:23]}…"
