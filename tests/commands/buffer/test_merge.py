"""`rl buffer merge`: what it prints, where it takes paths from, how it ends."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify


@pytest.fixture
def two(tmp_path: Path, fill: Callable[..., Any]) -> tuple[Path, Path]:
    fill(tmp_path / "a")
    fill(tmp_path / "b", rows=(20, 9))
    return tmp_path / "a", tmp_path / "b"


def test_merge_prints_the_path_and_says_how_files_came(
    rl: Callable[..., Any], two: tuple[Path, Path]
) -> None:
    out = two[0].parent / "m"
    ended = rl("merge", *two, "-o", out)
    assert (ended.code, ended.out) == (0, f"{out}\n")
    assert "hard-linked" in ended.err
    assert max(map(len, ended.err.splitlines())) <= 80
    assert verify(out, deep=True) == []
    entry = Dataset.open(out).lineage[0]
    assert entry["op"] == "merge"
    assert [parent["path"] for parent in entry["parents"]] == [str(path) for path in two]
    assert [parent["digest"] for parent in entry["parents"]] == [Dataset.open(path).digest for path in two]


def test_merge_reads_paths_and_records_from_standard_input(
    rl: Callable[..., Any], two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = json.dumps({"path": str(two[1]), "rows": 29})
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{two[0]}\n\n{record}\n"))
    report = rl("merge", "-", two[0], "-o", two[0].parent / "m", "--json").json
    assert report["sources"] == [str(two[0]), str(two[1]), str(two[0])]
    assert (report["rows"], report["streams"]) == (60 + 29 + 60, 6)


@pytest.mark.parametrize("line", ["{", '{"rows": 1}', '{"path": 3}'])
def test_a_record_without_a_path_is_a_usage_error(
    line: str, rl: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(line))
    ended = rl("merge", "-", "-o", tmp_path / "m")
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1


def test_merge_with_dedup_counts_what_it_left_out(rl: Callable[..., Any], two: tuple[Path, Path]) -> None:
    report = rl("merge", two[0], two[0], "-o", two[0].parent / "m", "--dedup", "--json").json
    assert (report["rows"], report["episodes"], report["dropped_episodes"]) == (60, 10, 10)


def test_merge_with_copy_shares_nothing(rl: Callable[..., Any], two: tuple[Path, Path]) -> None:
    out = two[0].parent / "m"
    report = rl("merge", *two, "-o", out, "--copy", "--json").json
    assert report["files"]["link"] == 0
    assert all(path.stat().st_nlink == 1 for path in out.rglob("*") if path.is_file())


def test_a_conflict_ends_with_5_and_leaves_nothing(
    rl: Callable[..., Any], two: tuple[Path, Path], tmp_path: Path
) -> None:
    from rlcli.format.schema import ted_schema
    from rlcli.format.specs import Box
    from rlcli.format.writer import Writer

    box = Box((2,), "float64")
    Writer.create(tmp_path / "c", ted_schema(box, box), spec={}, lineage={}).close()
    before = sorted(tmp_path.iterdir())
    ended = rl("merge", two[0], tmp_path / "c", "-o", tmp_path / "new" / "m")
    assert ended.code == 5
    assert "column action is float32 [2] in the first and float64 [2] in the second" in ended.err
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_there_is_not_overwritten_and_what_is_missing_is_named(
    rl: Callable[..., Any], two: tuple[Path, Path], tmp_path: Path
) -> None:
    assert rl("merge", *two, "-o", two[0]).code == 2
    ended = rl("merge", two[0], tmp_path / "none", "-o", tmp_path / "m")
    assert ended.code == 3
    assert "none" in ended.err
    assert not (tmp_path / "m").exists()
