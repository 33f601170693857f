"""Learning curves: what is drawn, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlcli.errors import InputError, UsageError
from rlcli.pipeline.plot import learning_curve, read_metrics

LINES = [
    {"step": 10, "score": 20.0},
    {"step": 20, "score": None, "eval/score_mean": 30.0, "eval/score_min": 10.0, "eval/score_max": 50.0},
    {"step": 30, "eval/score_mean": 40.0, "eval/score_min": 40.0, "eval/score_max": 40.0},
]


def make_run(folder: Path, lines: list[dict[str, object]], tail: str = "") -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return folder


def test_several_runs_become_one_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = [make_run(tmp_path / name, LINES) for name in ("a", "b")]
    picture = learning_curve(runs, tmp_path / "curve.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "curve.png"]


def test_a_line_that_is_being_written_is_ignored(tmp_path: Path) -> None:
    assert read_metrics(make_run(tmp_path / "run", LINES, tail='{"step": 4')) == LINES


def test_what_is_no_run_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run"):
        learning_curve([tmp_path], tmp_path / "curve.png")
    with pytest.raises(InputError, match="no scores"):
        learning_curve([make_run(tmp_path / "empty", [{"step": 1}])], tmp_path / "curve.png")
    with pytest.raises(InputError, match="not JSON"):
        learning_curve([make_run(tmp_path / "odd", [], tail="x\n")], tmp_path / "curve.png")


def test_a_picture_is_never_overwritten(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LINES)
    (tmp_path / "curve.png").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        learning_curve([run], tmp_path / "curve.png")
    with pytest.raises(UsageError, match=r"\.png"):
        learning_curve([run], tmp_path / "curve.jpeg")
