"""What a command says: results on standard output, all else on standard error.

A person gets a path or a table; `--json` gives one JSON object. Progress bars appear only when
standard error is a terminal. `configure` is called once by the command that runs.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from rlcli.config import parse_count
from rlcli.errors import Interrupted, RLError

JSON_VERSION = 1
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CHOICE = re.compile(r"\[([^|\]]*)\|([^|\]]*)\]")


def _count(text: str | int) -> int:
    try:
        return parse_count(str(text))
    except ValueError as err:
        raise typer.BadParameter(str(err)) from None


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks on standard error.")]


@dataclass
class _Settings:
    json: bool = False
    quiet: bool = False


_settings = _Settings()  # set once per process by `configure`, before any work


def configure(*, json: bool = False, quiet: bool = False) -> None:
    """How this process speaks; called first by every command."""
    _settings.json, _settings.quiet = json, quiet


def count_option(*names: str, help: str) -> Any:
    """A typer option for a whole number that may be written `100k`, `1e6` or `1_000`."""
    return typer.Option(*names, help=help, parser=_count, metavar="COUNT")


def result(kind: str, payload: Mapping[str, Any], text: str) -> None:
    """The result of a command: `text` for a person, or `{"rl": 1, "kind": kind, **payload}` with `--json`."""
    if _settings.json:
        text = to_json({"rl": JSON_VERSION, "kind": kind, **payload})
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def to_json(value: Any) -> str:
    """Strict JSON on one line: NaN and infinities become null, NumPy numbers plain ones."""
    return json.dumps(_jsonable(value), ensure_ascii=False, allow_nan=False)


def log(message: str) -> None:
    """A remark on standard error; silent with `--quiet`."""
    if not _settings.quiet:
        print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Something the user should know; shown with `--quiet` too."""
    print(f"warning: {printable(message)}", file=sys.stderr, flush=True)


def error(err: RLError) -> None:
    """A line for a person, then its detail; or an error object with `--json`. On standard error."""
    print(error_text(err), file=sys.stderr, flush=True)


def error_text(err: RLError) -> str:
    """What `error` prints, without the last line's end."""
    if _settings.json:
        facts = {"code": int(err.code), "message": err.message, "hint": err.hint, "path": err.path}
        if err.detail:
            facts["detail"] = err.detail
        return to_json({"rl": JSON_VERSION, "error": facts})
    hint = f" ({err.hint})" if err.hint else ""
    detail = f"\n{err.detail}" if err.detail else ""
    return f"error: {printable(' '.join(err.message.split()))}{printable(hint)}{detail}"


def on_terminal() -> bool:
    """Whether live output makes sense: standard error is a terminal and `--quiet` is off."""
    return not _settings.quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """The text with control characters as escapes: a name cannot steer a terminal, or break a line."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A plain aligned table: text left, numbers right, fits any width by not wrapping."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        for i in range(len(columns))
    ]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]

    def render(line: Sequence[str]) -> str:
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        return "  ".join(padded).rstrip()

    rule = "  ".join("─" * width for width in widths)
    return "\n".join([render(columns), rule, *map(render, cells)])


def fields(pairs: Mapping[str, Any]) -> str:
    """Aligned `name  value` lines; entries that are None are left out."""
    shown = {name: value for name, value in pairs.items() if value is not None}
    width = max((len(name) for name in shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {_cell(value)}" for name, value in shown.items())


def count_text(count: int, noun: str) -> str:
    """`1 episode`, `2,000 episodes`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def counts_text(**counts: int) -> str:
    """`counts_text(row=1, episode=2)` is `1 row, 2 episodes`."""
    return ", ".join(count_text(count, noun) for noun, count in counts.items())


def counted(count: int, text: str) -> str:
    """`counted(1, "[row was|rows were] copied")` is `1 row was copied`."""
    return f"{count:,} " + _CHOICE.sub(lambda found: found[1 if count == 1 else 2], text)


def bytes_text(count: float) -> str:
    """`1536` as `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


class Progress:
    """A progress bar on a terminal; nothing otherwise. `advance` is cheap enough for a hot loop."""

    def __init__(self, total: float | None, description: str, unit: str) -> None:
        self._bar: Any = None
        self._done = 0.0
        self._shown = 0.0
        self._note = ""
        if on_terminal():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            amount = "{task.fields[amount]}"
            self._bytes = unit == "B"
            self._unit = unit
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn(amount),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
                refresh_per_second=5,
            )
            self._task = self._bar.add_task(description, total=total, amount="", note="")
            self._total = total
            self._start = time.monotonic()
            self._bar.start()

    def advance(self, amount: float = 1) -> None:
        """`amount` more units are done; the bar is redrawn at most ten times a second."""
        if self._bar is None:
            return
        self._done += amount
        now = time.monotonic()
        if now - self._shown >= 0.1:
            self._shown = now
            self._draw(now)

    def note(self, text: str) -> None:
        """A few words shown after the bar, e.g. the last score."""
        self._note = text

    def close(self) -> None:
        if self._bar is not None:
            self._draw(time.monotonic())
            self._bar.stop()
            self._bar = None

    def _draw(self, now: float) -> None:
        rate = self._done / max(now - self._start, 1e-9)
        if self._bytes:
            amount = f"{bytes_text(self._done)}  {bytes_text(rate)}/s"
        else:
            total = f"/{self._total:,.0f}" if self._total else ""
            amount = f"{self._done:,.0f}{total} {self._unit}  {rate:,.0f}/s"
        self._bar.update(self._task, completed=self._done, amount=amount, note=self._note)


@contextmanager
def progress(total: float | None, description: str, unit: str = "steps") -> Iterator[Progress]:
    """A `Progress` that is cleared at the end. `unit="B"` shows bytes."""
    bar = Progress(total, description, unit)
    try:
        yield bar
    finally:
        bar.close()


class Stop:
    """Whether a signal asked the process to finish its step and stop."""

    def __init__(self) -> None:
        self.requested = 0

    def raise_if_requested(self, message: str, *, hint: str | None = None) -> None:
        """Raise `Interrupted` (exit 130 or 143) if a signal came. Call after the state is safe on disk."""
        if self.requested:
            raise Interrupted(self.requested, message, hint=hint)


@contextmanager
def interruptible() -> Iterator[Stop]:
    """The first SIGINT or SIGTERM sets `requested`; the second ends the process at once."""
    stop = Stop()

    def handle(signum: int, frame: object) -> None:
        stop.requested = signum
        signal.signal(signum, signal.SIG_DFL)
        print("stopping after this step; once more to stop at once", file=sys.stderr, flush=True)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM unwinds the block, as Ctrl-C does, and ends the process with 143, unless it is handled."""
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}"
    return printable(str(value))


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy and torch values, without importing either
        return _jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
