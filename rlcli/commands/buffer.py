"""`rl buffer`: verbs over datasets, whose bodies are in `buffer_read`, `buffer_select` and `buffer_write`."""

from __future__ import annotations

import typer

from rlcli.commands import buffer_read, buffer_select, buffer_write

BUFFER_HELP = "Look at, check, measure, cut and join datasets."


def register(app: typer.Typer, arguments: list[str]) -> None:
    """Add `rl buffer` and its verbs."""
    group = typer.Typer(help=BUFFER_HELP, no_args_is_help=True, rich_markup_mode=None)
    buffer_read.register(group)
    buffer_select.register(group)
    buffer_write.register(group, arguments)
    app.add_typer(group, name="buffer", help=BUFFER_HELP)
