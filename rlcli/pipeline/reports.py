"""Reports of a training run: `metrics.jsonl`, TensorBoard, and a live table on a terminal."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import IO, Any

from rlcli import console
from rlcli.pipeline.run import Run


class Reporter(AbstractContextManager["Reporter"]):
    """Writes each report where it belongs. Lines of `metrics.jsonl` are whole or absent."""

    def __init__(self, run: Run, title: str, step: int, total: int, unit: str, tensorboard: bool) -> None:
        self._file: IO[str] = open(run.metrics_path, "a", buffering=1)  # noqa: SIM115 - closed in __exit__
        self._events = _events(run) if tensorboard else None
        self._live = _Live(title, step, total, unit) if console.on_terminal() else None
        self._diverged = False

    def report(self, step: int, updates: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """One line of metrics at `step`; `seconds` is the time since this process began training."""
        line = {"step": step, "updates": updates, "seconds": round(seconds, 3), **metrics}
        infinite = sorted(name for name, value in metrics.items() if not math.isfinite(value))
        if infinite and not self._diverged:
            self._diverged = True
            console.warn(
                f"{', '.join(infinite)} not finite at step {step:,}: training has diverged, or the data hold "
                "NaN or infinite values (`rl buffer verify --semantics` finds those of a dataset)"
            )
        self._file.write(console.to_json(line) + "\n")
        if self._events is not None:
            for name, value in metrics.items():
                self._events.add_scalar(name, value, step)
        if self._live is not None:
            self._live.report(line)
        elif "eval/score_mean" in metrics:
            console.log(f"step {step:,}: score {metrics['eval/score_mean']:.1f} ({seconds:.0f} s)")

    def advance(self, step: int) -> None:
        """Training has reached `step`."""
        if self._live is not None:
            self._live.advance(step)

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()
        if self._live is not None:
            self._live.close()


class _Live:
    """A progress line above the newest metrics, redrawn a few times a second."""

    def __init__(self, title: str, step: int, total: int, unit: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._title, self._step, self._first, self._total, self._unit = title, step, step, total, unit
        self._started = self._drawn = time.monotonic()
        self._line: dict[str, Any] = {}
        self._scores: list[tuple[int, float]] = []
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=False)
        self._live.start()

    def advance(self, step: int) -> None:
        self._step = step
        now = time.monotonic()
        if now - self._drawn >= 0.2:
            self._drawn = now
            self._live.update(self._table(now), refresh=True)

    def report(self, line: dict[str, Any]) -> None:
        self._line.update(line)
        if "eval/score_mean" in line:
            self._scores.append((line["step"], line["eval/score_mean"]))

    def close(self) -> None:
        self._live.update(self._table(time.monotonic()), refresh=True)
        self._live.stop()

    def _table(self, now: float) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        rate = (self._step - self._first) / max(now - self._started, 1e-9)
        left = (self._total - self._step) / rate if rate > 0 else float("inf")
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True, justify="right")
        amount = f"{self._step:,}/{self._total:,} {self._unit}  {rate:,.0f}/s  {_clock(left)} left"
        head.add_row(self._title, ProgressBar(total=self._total, completed=self._step), amount)
        body = Table(box=None, padding=(0, 2), show_header=False)
        names = [name for name in self._line if name not in ("step", "seconds")]
        for name in names:
            body.add_row(name, f"{self._line[name]:,.5g}")
        if self._scores:
            best = max(self._scores, key=lambda pair: pair[1])
            body.add_row("best so far", f"{best[1]:,.5g} at {best[0]:,}")
        return Group(head, body)


def _events(run: Run) -> Any:
    """A TensorBoard writer in the run, or None when the package is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.path / "tensorboard"))


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "–"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
