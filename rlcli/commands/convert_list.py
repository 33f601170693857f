"""What `rl convert --list` prints: the formats, and what `--set` takes for each, as wide as the terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from rlcli import console

_MAX_WIDTH = 120  # longer lines are hard to read
_MIN_WIDTH = 60


def text_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """The formats of `pipeline.convert.formats()` as a table, then their options in paragraphs."""
    rows = list(rows)
    width = max(_MIN_WIDTH, min(shutil.get_terminal_size().columns, _MAX_WIDTH))
    columns = ["format", "directions", "suffixes", "extra", "what it is"]
    cells = [
        [
            row["name"],
            {(1, 0): "read", (0, 1): "write"}.get((row["reads"], row["writes"]), "read, write"),
            " ".join(row["suffixes"]),
            row["extra"] or "",
        ]
        for row in rows
    ]
    before = sum(max(len(line[i]) for line in [columns[:4], *cells]) + 2 for i in range(4))
    lines: list[list[str]] = []
    for row, cell in zip(rows, cells, strict=True):
        first, *rest = textwrap.wrap(row["help"], max(20, width - before))
        lines += [[*cell, first], *(["", "", "", "", more] for more in rest)]
    told = [
        f"{row['name']}, to {direction}:\n" + "\n".join(_option(option, width) for option in found)
        for row in rows
        for direction, found in row["options"].items()
        if found
    ]
    table = console.table(columns, lines)
    return "\n\n".join([table, "Options of formats, each given as --set NAME=VALUE:", *told])


def _option(option: Mapping[str, Any], width: int) -> str:
    """`  name=type  help [default: x]`, the help below where the first part is long."""
    kind = {"str": "TEXT", "int": "N", "float": "X", "bool": "true|false"}.get(option["type"], option["type"])
    default = option["default"]
    shown = str(default).lower() if isinstance(default, bool) else default
    told = option["help"] + (f" [default: {shown}]" if shown not in (None, "") else "")
    name, indent = f"  {option['name']}={kind}", " " * 28
    first = name.ljust(26) + "  " if len(name) <= 26 else f"{name}\n{indent}"
    return first + f"\n{indent}".join(textwrap.wrap(told, width - len(indent)))
