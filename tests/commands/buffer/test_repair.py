"""`rl buffer verify --repair`: the episodes without a damaged byte, as they were, and never a damaged one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "proof"))
import known_rows

from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

# Two streams of 30 rows in segments of 12: episodes begin at rows 0, 7, 14, 21 and 28.
STARTS = [0, 7, 14, 21, 28]


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)


def _kept(path: Path) -> list[tuple[int, int]]:
    """Stream and first row of each episode, told by `speed`, which is the row in the stream."""
    with Dataset.open(path) as dataset:
        table, speed = dataset.episodes, dataset.read(("info", "speed"), 0, dataset.num_rows)
        return [(int(table.stream[i]), int(speed[table.start[i]])) for i in range(len(table))]


@pytest.mark.parametrize(
    ("file", "kept"),
    [
        ("segments/w01-000000000012/action.memmap", [*((0, row) for row in STARTS), (1, 0), (1, 28)]),
        (
            "segments/w00-000000000024/next/reward.memmap",
            [*((0, row) for row in STARTS[:3]), *((1, row) for row in STARTS)],
        ),
        ("episodes/w00-000000000012/length.memmap", [(0, 0), *((1, row) for row in STARTS)]),
        ("journal/w01-000000000024.log", [*((0, row) for row in STARTS), *((1, row) for row in STARTS[:3])]),
        ("sums/w00-000000000000.json", [(1, row) for row in STARTS]),
    ],
)
def test_episodes_without_damage_are_kept(
    rl: Callable[..., Any], sealed: Path, copy: Path, file: str, kept: list[tuple[int, int]], tmp_path: Path
) -> None:
    _flip(copy / file)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    ended = rl("verify", copy, "--repair", "-o", tmp_path / "out")
    assert (ended.code, ended.out) == (0, f"{tmp_path / 'out'}\n")
    assert "left out" in ended.err
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert verify(tmp_path / "out", deep=True) == []
    assert _kept(tmp_path / "out") == kept
    with Dataset.open(sealed) as source, Dataset.open(tmp_path / "out") as out:
        table, whole = out.episodes, source.episodes
        for i, (stream, row) in enumerate(kept):
            at = stream * 30 + row
            (j,) = np.flatnonzero(whole.start == at)
            assert table.length[i] == whole.length[j]
            assert (table.seed[i], table.return_[i]) == (whole.seed[j], whole.return_[j])
            for key in (("observation", "image"), ("next", "observation", "position"), ("action",)):
                found = out.read(key, int(table.start[i]), int(table.start[i] + table.length[i]))
                assert np.array_equal(found, source.read(key, at, at + int(whole.length[j])))
    assert rl("lineage", tmp_path / "out").code == 0


def test_in_a_window_too(rl: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "ds"
    known = known_rows.KnownWriter(
        Writer.create(
            path, known_rows.schema(), spec={}, lineage={"op": "test"}, num_streams=2, window=100,
            segment_rows=40, durability="process",
        )
    )  # fmt: skip
    for stream in range(2):
        known.write(stream, 230)
    known.close()
    _flip(path / "segments" / "w01-000000000160" / "observation.memmap")
    (problem,) = verify(path)
    assert problem.rows == (130, 170)  # stream 1 begins with its row 130, as logical row 100
    assert rl("verify", path, "--repair", "-o", tmp_path / "out").code == 0
    with Dataset.open(path) as source, Dataset.open(tmp_path / "out") as out:
        table = source.episodes
        hit = (table.start < 170) & (table.start + table.length > 130)
        assert 0 < hit.sum() < len(table)
        np.testing.assert_array_equal(out.episodes.length, table.length[~hit])
        ids = [np.arange(s, s + n) for s, n in zip(table.start[~hit], table.length[~hit], strict=True)]
        expected = source.row_ids(np.concatenate(ids))
        np.testing.assert_array_equal(out.read(known_rows.ID), expected)


def test_what_cannot_be_repaired_is_left(rl: Callable[..., Any], copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = rl("verify", copy, "--repair", "-o", out)
    assert (ended.code, ended.out) == (0, f"{copy}: sound; nothing to repair\n")
    shutil.copytree(copy, tmp_path / "all")
    for segment in (tmp_path / "all" / "segments").iterdir():
        _flip(segment / "action.memmap")
    ended = rl("verify", tmp_path / "all", "--repair", "-o", out)
    assert ended.code == 4
    assert "no whole episode" in ended.err
    _flip(max((copy / "manifests").iterdir()))
    assert rl("verify", copy, "--repair", "-o", out).code == 4
    assert not out.exists()


@pytest.mark.parametrize("words", [["--repair"], ["-o", "x"], ["--repair", "-o", "x", "--deep"]])
def test_wrong_words_are_exit_2(rl: Callable[..., Any], sealed: Path, words: list[str]) -> None:
    assert rl("verify", sealed, *words).code == 2
    assert rl("verify", sealed, "--repair", "-o", sealed).code == 2
    assert rl("verify", sealed, sealed, "--repair", "-o", "x").code == 2
