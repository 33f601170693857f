"""`key=value` arguments from a command line, typed."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from rlcli.errors import UsageError


def parse_arguments(items: Iterable[str]) -> dict[str, Any]:
    """`["g=9.8", "mode=fast"]` as `{"g": 9.8, "mode": "fast"}`.

    A value is a Python literal (`true`, `false` and `none` in any case count) or else the text itself.
    Raises `UsageError` for an item without `=` or a key given twice.
    """
    arguments: dict[str, Any] = {}
    for item in items:
        key, separator, text = item.partition("=")
        if not separator or not key.isidentifier():
            raise UsageError(f"--env-arg {item!r} is not of the form key=value")
        if key in arguments:
            raise UsageError(f"--env-arg {key} is given twice")
        arguments[key] = _literal(text)
    return arguments


def _literal(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
