"""Windows that begin in the midst of an episode, single rows, heaps, and `-`: what the verbs say of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "proof"))
import known_rows
from known_rows import KnownWriter

from rlcli import console
from rlcli.format.dataset import Dataset
from rlcli.format.writer import Writer
from rlcli.main import run

BEFORE = "1 begun before the window"


@pytest.fixture
def window(tmp_path: Path) -> Path:
    path = tmp_path / "window"
    writer = KnownWriter(
        Writer.create(
            path, known_rows.schema(heap=True), spec={}, lineage={"op": "test"}, segment_rows=16, window=60
        )
    )
    for _ in range(30):
        writer.write(0, 7)
        writer.commit()
    writer.close()
    with Dataset.open(path) as dataset:
        assert len(dataset.episodes_all()) == len(dataset.episodes) + 1 == 6
    return path


def test_info_and_diff_count_alike(window: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["buffer", "info", str(window)]) == 0
    shown = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("episodes"))
    assert shown.split()[1] == "6"
    assert BEFORE in shown
    assert run(["buffer", "diff", str(window), str(window)]) == 0
    assert f"6 episodes ({BEFORE})" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["merge"], ["compact"], ["map", "--exclude", "note"], ["filter", "--where", "length>0"]]
)
def test_what_is_left_behind_is_said(
    window: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(["buffer", words[0], str(window), *words[1:], "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    with Dataset.open(window) as dataset:
        lost = dataset.num_rows - int(dataset.episodes.length.sum())
    assert console.counted(lost, "[row|rows] of episodes whose beginning had left the window") in said
    assert "--apply" not in said


def test_rows_take_suffixes(window: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["buffer", "cat", str(window), "--rows", "0:0.01k", "-o", "-"]) == 0
    assert len(capfdbinary.readouterr().out.splitlines()) == 10


def test_a_dataset_is_no_stream(window: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["buffer", "merge", str(window), "-o", "-"]) == 2
    assert "standard output" in capsys.readouterr().err
    assert not Path("-").exists()


def test_too_many_rows_are_refused_before_they_are_drawn(
    window: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["buffer", "sample", str(window), "-n", "1e12"]) == 2
    assert "at most 1,073,741,824" in capsys.readouterr().err


def test_texts_are_measured(window: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["buffer", "stats", str(window)]) == 0
    said = capsys.readouterr().out
    with Dataset.open(window) as dataset:
        notes = list(dataset.read(("note",)))
    assert f"{len(set(notes))} distinct values" in said
    most = max(notes.count(note) for note in notes)
    assert any(line.split()[0] == str(most) for line in said.splitlines() if line.endswith("''"))


@pytest.mark.parametrize(("count", "said"), [(1, "1 row is there"), (2, "2 rows are there")])
def test_numbers_agree_with_their_nouns(count: int, said: str) -> None:
    assert console.counted(count, "[row is|rows are] there") == said
