"""How an expression is written: text to tokens to a tree. Nothing is looked up or computed here.

    condition   = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation    = "not" negation | comparison
    comparison  = sum { ("<" | "<=" | ">" | ">=" | "==" | "!=" | "contains") sum }
                | sum [ "not" ] "in" "[" constant { "," constant } "]"
    sum         = product { ("+" | "-") product }
    product     = factor { ("*" | "/" | "%") factor }
    factor      = "-" factor | constant | name [ "[" index { "," index } "]" ]
                | function "(" condition { "," condition } ")" | "(" condition ")"

A slash or a dot inside a name joins the parts of a key; a division has blanks around its slash.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from rlcli.errors import UsageError

Value = bool | int | float | str

MAX_LENGTH = 10_000
MAX_DEPTH = 100  # of the tree
MAX_NESTING = 32  # of parentheses and calls
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=", "contains")
_SHOWN = 72  # characters around an error

_TOKEN = re.compile(
    r"""(?P<blank>\s+)
    | (?P<number>(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<name>[^\W\d]\w*(?:[./][^\W\d]\w*)*)
    | `(?P<quoted>[^`]+)`
    | '(?P<single>[^']*)' | "(?P<double>[^"]*)"
    | (?P<sign><=|>=|==|!=|\*\*|&&|\|\||//|[-+*/%()\[\],<>=&|!^])""",
    re.VERBOSE,
)
_INSTEAD = {
    "=": "==",
    "&&": "and",
    "&": "and",
    "||": "or",
    "|": "or",
    "!": "not",
    "//": "/",
    "**": "a * a",
    "^": "a * a",
}
_WORDS = {"and", "or", "not", "in", "contains"}
_CONSTANTS: dict[str, Value] = {"true": True, "false": False, "True": True, "False": False}


@dataclass(frozen=True)
class Token:
    """`kind` is number, name, text, sign, word or end."""

    kind: str
    text: str
    at: int


@dataclass(frozen=True)
class Node:
    """`kind` says what it is, `value` is its name, number, text or sign, `at` its place in the text.

    Kinds: constant, name, item (value: indices), minus, not, and, or, compare, in (value: constants),
    arithmetic, call.
    """

    kind: str
    at: int
    parts: tuple[Node, ...] = ()
    value: Value | tuple[Value, ...] | None = None
    depth: int = 1


def parse(text: str, flag: str) -> Node:
    """The tree of an expression. Raises `UsageError` that names `flag` and points at what is wrong."""
    return _Parser(text, flag).parse()


def fail(text: str, at: int, flag: str, message: str) -> NoReturn:
    """Raises a `UsageError` whose detail is the expression with a caret below position `at`."""
    start = max(0, min(at - _SHOWN // 2, len(text) - _SHOWN))
    shown = re.sub(r"\s", " ", text[start : start + _SHOWN])
    raise UsageError(f"{flag}: {message}", detail=f"  {shown}\n  {' ' * (at - start)}^")


def _tokens(text: str, flag: str) -> list[Token]:
    found, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            what = "a quote that is not closed" if text[at] in "'\"`" else f"the character {text[at]!r}"
            fail(text, at, flag, f"{what} is no part of an expression")
        kind, value = str(match.lastgroup), match[str(match.lastgroup)]
        if kind == "sign" and value in _INSTEAD:
            fail(text, at, flag, f"there is no {value!r}; write {_INSTEAD[value]!r}")
        if kind in ("single", "double"):
            found.append(Token("text", value, at))
        elif kind == "name" and value in _WORDS:
            found.append(Token("word", value, at))
        elif kind != "blank":
            found.append(Token("name" if kind == "quoted" else kind, value, at))
        at = match.end()
    return [*found, Token("end", "", len(text))]


class _Parser:
    def __init__(self, text: str, flag: str) -> None:
        self.text, self.flag = text, flag
        if len(text) > MAX_LENGTH:
            start = textwrap.shorten(text, 40)
            raise UsageError(
                f"{flag}: the expression has {len(text):,} characters, at most {MAX_LENGTH:,}: {start}"
            )
        self.tokens = _tokens(text, flag)
        self.next = 0
        self.nesting = 0

    def parse(self) -> Node:
        if self.token.kind == "end":
            raise UsageError(f"{self.flag}: the expression is empty")
        node = self.condition()
        if self.token.kind != "end":
            self.fail(f"expected an operator or the end, found {self.token.text!r}")
        return node

    @property
    def token(self) -> Token:
        return self.tokens[self.next]

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        fail(self.text, self.token.at if at is None else at, self.flag, message)

    def take(self, *texts: str) -> Token | None:
        """The next token if it is one of these signs or words."""
        token = self.token
        if token.kind not in ("sign", "word") or token.text not in texts:
            return None
        self.next += 1
        return token

    def expect(self, text: str, after: str) -> None:
        if self.take(text) is None:
            found = repr(self.token.text) if self.token.text else "the end"
            self.fail(f"expected {text!r} {after}, found {found}")

    def node(self, kind: str, at: int, *parts: Node, value: Value | tuple[Value, ...] | None = None) -> Node:
        depth = 1 + max((part.depth for part in parts), default=0)
        if depth > MAX_DEPTH:
            self.fail(f"more than {MAX_DEPTH} operations inside each other", at)
        return Node(kind, at, parts, value, depth)

    def condition(self) -> Node:
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            self.fail(f"more than {MAX_NESTING} parentheses inside each other")
        node = self.joined("or", self.conjunction)
        self.nesting -= 1
        return node

    def conjunction(self) -> Node:
        return self.joined("and", self.negation)

    def joined(self, word: str, part: Callable[[], Node]) -> Node:
        parts = [part()]
        while self.take(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else self.node(word, parts[0].at, *parts)

    def negation(self) -> Node:
        signs = []
        while token := self.take("not"):
            signs.append(token.at)
        node = self.comparison()
        for at in reversed(signs):
            node = self.node("not", at, node)
        return node

    def comparison(self) -> Node:
        operands, pairs = [self.sum()], []
        while sign := self.take(*COMPARISONS):
            operands.append(self.sum())
            left, right = operands[-2:]
            pairs.append(self.node("compare", sign.at, left, right, value=sign.text))
        if pairs:
            return pairs[0] if len(pairs) == 1 else self.node("and", operands[0].at, *pairs)
        negated = self.take("not")
        if sign := self.take("in"):
            node = self.node("in", sign.at, operands[0], value=self.constants())
            return self.node("not", negated.at, node) if negated else node
        if negated:
            self.fail("expected 'in' after 'not'")
        return operands[0]

    def constants(self) -> tuple[Value, ...]:
        """`[1, -2, 'x']`."""
        self.expect("[", "after 'in'")
        found: list[Value] = []
        while not self.take("]"):
            if found:
                self.expect(",", "between constants")
            at, node = self.token.at, self.factor()
            if node.kind != "constant" or node.value is None or isinstance(node.value, tuple):
                self.fail("a list after 'in' has constants only", at)
            found.append(node.value)
        return tuple(found)

    def sum(self) -> Node:
        return self.chain(("+", "-"), self.product)

    def product(self) -> Node:
        return self.chain(("*", "/", "%"), self.factor)

    def chain(self, signs: tuple[str, ...], part: Callable[[], Node]) -> Node:
        node: Node = part()
        while sign := self.take(*signs):
            node = self.node("arithmetic", sign.at, node, part(), value=sign.text)
        return node

    def factor(self) -> Node:
        signs = []
        while token := self.take("-"):
            signs.append(token.at)
        node = self.atom()
        for at in reversed(signs):
            if node.kind == "constant" and isinstance(node.value, int | float):
                node = self.node("constant", at, value=-node.value)
            else:
                node = self.node("minus", at, node)
        return node

    def atom(self) -> Node:
        token = self.token
        if self.take("("):
            node = self.condition()
            self.expect(")", "to close the one before")
            return node
        self.next += 1
        if token.kind == "number":
            return self.node("constant", token.at, value=self.number(token))
        if token.kind == "text":
            return self.node("constant", token.at, value=token.text)
        if token.kind == "name":
            quoted = self.text[token.at] == "`"
            if not quoted and token.text in _CONSTANTS:
                return self.node("constant", token.at, value=_CONSTANTS[token.text])
            if not quoted and self.take("("):
                return self.call(token)
            node = self.node("name", token.at, value=token.text)
            return self.item(node) if self.take("[") else node
        self.next -= 1
        found = repr(token.text) if token.text else "the end"
        self.fail(f"expected a name, a number or '(', found {found}")

    def call(self, name: Token) -> Node:
        parts: list[Node] = []
        while not self.take(")"):
            if parts:
                self.expect(",", "between arguments")
            parts.append(self.condition())
        return self.node("call", name.at, *parts, value=name.text)

    def item(self, node: Node) -> Node:
        indices: list[Value] = []
        while not self.take("]"):
            if indices:
                self.expect(",", "between indices")
            minus, token = self.take("-"), self.token
            if token.kind != "number" or not token.text.isdigit():
                self.fail("an index is a whole number, e.g. observation[0]")
            self.next += 1
            number = int(self.number(token))
            indices.append(-number if minus else number)
        return self.node("item", node.at, node, value=tuple(indices))

    def number(self, token: Token) -> int | float:
        """A whole number stays exact up to 64 bits."""
        text = token.text.replace("_", "")
        value = float(text)
        if value == float("inf"):
            self.fail("the number is too large", token.at)
        if text.isdigit() and value < 2.0**64:
            return int(text)
        return value
