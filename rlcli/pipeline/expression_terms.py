"""What an expression means for a schema: names are looked up and types are checked before data are read.

A term is a constant, one value per episode, or one (or a vector) per step. `docs/expressions.md` is the
user's page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, NoReturn

from rlcli.errors import nearest
from rlcli.format.schema import Column, Schema
from rlcli.pipeline.expression_syntax import Node, fail

Kind = Literal["condition", "number", "text"]

ATTRIBUTES: dict[str, Kind] = {
    "return": "number",
    "length": "number",
    "terminated": "condition",
    "truncated": "condition",
    "cut": "condition",
    "seed": "number",
    "number": "number",
    "start": "number",
    "stream": "number",
}
AGGREGATES = ("mean", "min", "max", "sum", "any", "all", "first", "last")
FUNCTIONS = (*AGGREGATES, "abs", "finite", "quantile")
_OF_CONDITIONS = ("any", "all")
_PREFIX = re.compile(r"episode[./]")


class Level(IntEnum):
    """How many values a term has."""

    CONSTANT = 0
    EPISODE = 1
    STEP = 2


@dataclass(frozen=True, eq=False)
class Term:
    """`op` computes it of its `parts`; `value` is what else that needs.

    Ops: constant (value: it), attribute (its name), column (key and element, None for all), minus, not, and,
    or, compare (sign), in (constants), arithmetic (sign), quantile (the fraction), abs, finite, aggregates.
    """

    op: str
    level: Level
    kind: Kind
    size: int = 1  # values per step; above 1 a vector
    parts: tuple[Term, ...] = ()
    value: Any = None


def bind(node: Node, schema: Schema, text: str, flag: str) -> Term:
    """The term that `node`, parsed from `text`, is for datasets of this schema. Raises `UsageError`."""
    return _Binder(schema, text, flag).term(node)


class _Binder:
    def __init__(self, schema: Schema, text: str, flag: str) -> None:
        self.schema, self.text, self.flag = schema, text, flag
        self.across: Term | None = None  # the other side of the comparison that is being bound

    def fail(self, node: Node, message: str) -> NoReturn:
        fail(self.text, node.at, self.flag, message)

    def term(self, node: Node) -> Term:
        return getattr(self, f"_{node.kind}")(node)  # type: ignore[no-any-return]

    def _constant(self, node: Node) -> Term:
        kind: Kind = "number"
        if isinstance(node.value, bool):
            kind = "condition"
        elif isinstance(node.value, str):
            kind = "text"
        return Term("constant", Level.CONSTANT, kind, value=node.value)

    def _name(self, node: Node, indices: Sequence[int] | None = None) -> Term:
        name = str(node.value)
        found = self._lookup(node, name)
        if isinstance(found, str):
            if indices is not None:
                self.fail(node, f"{name} is one value per episode; it has no elements")
            return Term("attribute", Level.EPISODE, ATTRIBUTES[found], value=found)
        column, size = found, math.prod(found.shape)
        kind: Kind = "condition" if column.dtype == "bool" else "number"
        if column.heap is not None:
            kind = "text"
            if column.heap.value != "text":
                self.fail(node, f"{name} has {column.heap.value} values, which do not compare")
        elif column.dtype == "complex64":
            self.fail(node, f"{name} is complex; only real numbers compare")
        if indices is None:
            return Term("column", Level.STEP, kind, size, value=(column.key, None))
        return Term("column", Level.STEP, kind, value=(column.key, self._element(node, column, indices)))

    def _element(self, node: Node, column: Column, indices: Sequence[int]) -> int:
        """The flat position of an element."""
        shape = "×".join(map(str, column.shape)) or "no"
        if len(indices) != len(column.shape):
            self.fail(node, f"{node.value} has shape {shape}: {len(column.shape)} indices expected")
        element = 0
        for index, size in zip(indices, column.shape, strict=True):
            if not -size <= index < size:
                self.fail(node, f"{node.value} has shape {shape}; there is no element {index}")
            element = element * size + index % size
        return element

    def _item(self, node: Node) -> Term:
        assert isinstance(node.value, tuple)
        return self._name(node.parts[0], [int(index) for index in node.value])

    def _lookup(self, node: Node, name: str) -> str | Column:
        """The attribute or the column that a name means; SPEC of the order in `docs/expressions.md`."""
        declared = {column.key: column for column in self.schema.columns}
        keys = [tuple(name.split("/")), tuple(re.split("[./]", name))]
        for key in keys:
            if key in declared:
                return declared[key]
        if _PREFIX.match(name) and name[8:] in ATTRIBUTES:
            return name[8:]
        for key in keys:
            if ("next", *key) in declared:
                return declared["next", *key]
        if name in ATTRIBUTES:
            return name
        ends = [key for key in declared if key[-len(keys[1]) :] == keys[1] and key[0] != "next"]
        if len(ends) == 1:
            return declared[ends[0]]
        known = ["/".join(key) for key in declared]
        inside = ["/".join(key) for key in ends] or [key for key in known if key.startswith(f"{name}/")]
        if inside:
            self.fail(node, f"{name!r} could be {', '.join(inside)}; write which")
        if _PREFIX.match(name):
            known = [f"episode.{attribute}" for attribute in ATTRIBUTES]
        else:
            known += [*ATTRIBUTES, *(key[-1] for key in declared if key[0] == "next")]
        blanks = "; a division has blanks around its /" if "/" in name else ""
        self.fail(node, f"there is no {name!r}; {nearest(name, known)}{blanks}")

    def _minus(self, node: Node) -> Term:
        part = self._number(node.parts[0])
        return Term("minus", part.level, "number", part.size, (part,))

    def _not(self, node: Node) -> Term:
        part = self._condition(node.parts[0])
        return Term("not", part.level, "condition", part.size, (part,))

    def _and(self, node: Node) -> Term:
        parts = tuple(self._condition(part) for part in node.parts)
        return Term(node.kind, *self._join(node, parts, "condition"))

    _or = _and

    def _join(
        self, node: Node, parts: tuple[Term, ...], kind: Kind
    ) -> tuple[Level, Kind, int, tuple[Term, ...]]:
        """Level and size of what is computed element by element."""
        sizes = {part.size for part in parts} - {1}
        if len(sizes) > 1:
            self.fail(node, f"vectors of {' and '.join(map(str, sorted(sizes)))} values do not go together")
        return max(part.level for part in parts), kind, max(sizes, default=1), parts

    def _compare(self, node: Node) -> Term:
        left, right = self._sides(node)
        sign = str(node.value)
        kinds = {left.kind, right.kind}
        if sign == "contains":
            if kinds != {"text"} or right.level != Level.CONSTANT:
                self.fail(node, "'contains' takes a text column and a text: task contains 'cube'")
        elif "text" in kinds and kinds != {"text"}:
            other = (kinds - {"text"}).pop()
            self.fail(node, f"a text and a {other} do not compare")
        return Term("compare", *self._join(node, (left, right), "condition"), sign)

    def _sides(self, node: Node) -> tuple[Term, Term]:
        """The operands of a comparison; `quantile(q)` in one is of the other."""
        left, right = node.parts
        if not _awaits(left):
            first = self.term(left)
            return first, self._with(first, right)
        if _awaits(right):
            self.fail(node, "quantile(q) on both sides: write quantile(x, q) on one")
        second = self.term(right)
        return self._with(second, left), second

    def _with(self, other: Term, node: Node) -> Term:
        before, self.across = self.across, other
        term = self.term(node)
        self.across = before
        return term

    def _in(self, node: Node) -> Term:
        part = self.term(node.parts[0])
        assert isinstance(node.value, tuple)
        for value in node.value:
            if isinstance(value, str) != (part.kind == "text"):
                self.fail(node, f"the list has {value!r}, compared is a {part.kind}")
        return Term("in", part.level, "condition", part.size, (part,), node.value)

    def _arithmetic(self, node: Node) -> Term:
        parts = tuple(self._number(part) for part in node.parts)
        return Term("arithmetic", *self._join(node, parts, "number"), node.value)

    def _call(self, node: Node) -> Term:
        name = str(node.value)
        if name not in FUNCTIONS:
            self.fail(node, f"there is no function {name!r}; {nearest(name, FUNCTIONS)}")
        if name == "quantile":
            return self._quantile(node)
        if len(node.parts) != 1:
            self.fail(node, f"{name}() takes one argument, got {len(node.parts)}")
        if name in ("abs", "finite"):
            part = self._number(node.parts[0])
            kind: Kind = "number" if name == "abs" else "condition"
            return Term(name, part.level, kind, part.size, (part,))
        argument = node.parts[0]
        part = self._condition(argument) if name in _OF_CONDITIONS else self.term(argument)
        if part.level == Level.CONSTANT:
            self.fail(node, f"{name}() of a constant")
        if name in ("first", "last"):
            if part.size > 1:
                self.fail(node, f"{name}() of a vector: name an element, e.g. {name}(observation[0])")
            return Term(name, Level(part.level - 1), part.kind, 1, (part,))
        if part.kind == "text":
            self.fail(argument, f"{name}() needs numbers, this is text")
        result: Kind = "condition" if name in _OF_CONDITIONS else "number"
        return Term(name, Level(part.level - 1), result, 1, (part,))

    def _quantile(self, node: Node) -> Term:
        if len(node.parts) not in (1, 2):
            self.fail(node, "quantile() takes a fraction, or a quantity and a fraction")
        if len(node.parts) == 2:
            part = self._number(node.parts[0])
        elif self.across is None or self.across.kind == "text":
            self.fail(
                node, "quantile(q) is of what it is compared with: return > quantile(0.9); or quantile(x, q)"
            )
        else:
            part = self.across
        fraction = self.term(node.parts[-1])
        q = fraction.value
        if fraction.op != "constant" or not isinstance(q, int | float) or not 0 <= q <= 1:
            self.fail(node.parts[-1], "the fraction of a quantile is a number from 0 to 1")
        if part.level == Level.CONSTANT:
            self.fail(node, "quantile() of a constant")
        return Term("quantile", Level.CONSTANT, "number", 1, (part,), float(q))

    def _condition(self, node: Node) -> Term:
        term = self.term(node)
        if term.kind != "condition":
            self.fail(node, f"this is a {term.kind}, expected a condition such as {_example(term)}")
        return term

    def _number(self, node: Node) -> Term:
        term = self.term(node)
        if term.kind == "text":
            self.fail(node, "this is text, expected a number")
        return term


def _example(term: Term) -> str:
    return "task == 'push'" if term.kind == "text" else "x > 0"


def _awaits(node: Node) -> bool:
    """It has a `quantile(q)` that is of the other side."""
    if node.kind == "call" and node.value == "quantile" and len(node.parts) == 1:
        return True
    return node.kind != "compare" and any(map(_awaits, node.parts))


def all_terms(term: Term) -> list[Term]:
    """The term and what it is made of, each once, parts before what they are parts of."""
    found: dict[int, Term] = {}

    def visit(term: Term) -> None:
        if id(term) not in found:
            for part in term.parts:
                visit(part)
            found[id(term)] = term

    visit(term)
    return list(found.values())
