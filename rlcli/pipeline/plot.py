"""Learning curves as pictures, from the metrics that runs wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcli.errors import InputError, UsageError
from rlcli.plugins import require

SUFFIXES = (".png", ".svg", ".pdf")


def learning_curve(run_paths: Sequence[str | Path], out: str | Path) -> Path:
    """Draw evaluation scores over training of one or more runs into the new file `out`; returns its path.

    A line is the mean score of an evaluation, its band the range of its episodes, a faint line the score of
    training episodes. Raises `InputError` for a run without metrics, `UsageError` for an `out` that exists or
    has another suffix than .png, .svg or .pdf, `MissingExtraError` without matplotlib.
    """
    out = Path(out)
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{out}: a picture ends in {', '.join(SUFFIXES)}")
    if out.exists():
        raise UsageError(f"{out} exists; a picture is written to a new file", path=out)
    curves = {str(path): read_metrics(Path(path)) for path in run_paths}
    require("matplotlib", "plot", needed_for="drawing a learning curve")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, lines) in enumerate(curves.items()):
        _draw(axes, name, lines, color=f"C{index}")
    if axes.get_ylim()[0] > 0:
        axes.set_ylim(bottom=0)  # a curve that starts high should look high
    axes.set_xlabel(" or ".join(sorted({_unit(lines) for lines in curves.values()})))
    axes.set_title("mean and range of evaluations; faint: training episodes", fontsize="medium")
    axes.set_ylabel("score: undiscounted return of an episode")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, out)
    return out


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, oldest first. A last line that was cut short is ignored.

    Raises `InputError` if there is no such file or it has no scores.
    """
    path = run / "metrics.jsonl"
    try:
        text = path.read_text()
    except OSError as err:
        raise InputError(f"{run} is not a run with metrics: {path}: {err.strerror}", path=run) from err
    lines = []
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            try:
                lines.append(json.loads(line))
            except ValueError as err:
                raise InputError(f"{path} has a line that is not JSON: {err}", path=path) from err
    if not any("score" in line or "eval/score_mean" in line for line in lines):
        raise InputError(f"{path} has no scores yet", path=path)
    return lines


def _unit(lines: list[dict[str, Any]]) -> str:
    """What the steps of a run count: trained from a dataset, every step is an update."""
    offline = all(line.get("updates") == line["step"] for line in lines)
    return "updates (from a dataset)" if offline else "environment steps"


def _draw(axes: Any, name: str, lines: list[dict[str, Any]], color: str) -> None:
    training = [(line["step"], line["score"]) for line in lines if line.get("score") is not None]
    if training:
        axes.plot(*zip(*training, strict=True), color=color, alpha=0.3, linewidth=1)
    evaluated = [line for line in lines if line.get("eval/score_mean") is not None]
    if evaluated:
        steps = [line["step"] for line in evaluated]
        axes.plot(steps, [line["eval/score_mean"] for line in evaluated], color=color, marker=".", label=name)
        if all("eval/score_min" in line and "eval/score_max" in line for line in evaluated):
            low, high = ([line[f"eval/score_{end}"] for line in evaluated] for end in ("min", "max"))
            axes.fill_between(steps, low, high, color=color, alpha=0.12, linewidth=0)


def _save(figure: Any, out: Path) -> None:
    temporary = out.with_name(f".{out.stem}.{os.getpid()}{out.suffix}")
    try:
        figure.savefig(temporary, dpi=120)
        temporary.rename(out)
    finally:
        temporary.unlink(missing_ok=True)
