"""`rl buffer sample`, `recover` and `export`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.semantics import check as check_semantics
from rlcli.format.verify import verify


def test_sample_writes_equal_rows_for_equal_seeds(rl: Callable[..., Any], sealed: Path) -> None:
    first, again, other = (rl("sample", sealed, "-n", 50, "--seed", seed).out for seed in (1, 1, 2))
    assert first == again != other
    rows = [json.loads(line) for line in first.splitlines()]
    assert len(rows) == 50
    with Dataset.open(sealed) as dataset:
        unknown = set(dataset.unknown_next.tolist())
        for row in rows:
            at = row["row"]
            assert at not in unknown
            assert row["info"]["speed"] == dataset.read(("info", "speed"), at, at + 1)[0]
            expected = dataset.read(("next", "observation", "position"), at, at + 1)[0]
            np.testing.assert_array_equal(np.float32(row["next"]["observation"]["position"]), expected)


def test_sampling_without_replacement_gives_every_known_row_once(
    rl: Callable[..., Any], sealed: Path
) -> None:
    ended = rl("sample", sealed, "-n", 58, "--sampler", "without-replacement", "--keys", "step", "-f", "csv")
    lines = ended.out.splitlines()
    assert lines[0] == "row,step"
    found = sorted(int(line.split(",")[0]) for line in lines[1:])
    assert found == sorted(set(range(60)) - set(Dataset.open(sealed).unknown_next.tolist()))
    assert rl("sample", sealed, "-n", 59, "--sampler", "without-replacement").code == 5


def test_sample_makes_a_dataset_of_single_steps(rl: Callable[..., Any], sealed: Path, tmp_path: Path) -> None:
    report = rl("sample", sealed, "-n", 40, "--seed", 3, "-o", tmp_path / "out", "--json").json
    assert (report["rows"], report["episodes"]) == (40, 40)
    drawn = [json.loads(line)["row"] for line in rl("sample", sealed, "-n", 40, "--seed", 3).out.splitlines()]
    with Dataset.open(sealed) as source, Dataset.open(tmp_path / "out") as found:
        rows = found.read(("source_row",))
        assert rows.tolist() == drawn
        assert not found.schema.derived
        for column in source.schema.columns:
            if column.key not in (("episode",), ("step",), ("is_init",)):
                np.testing.assert_array_equal(found.read(column.key), source.read(column.key)[rows])
        assert list(check_semantics(found).errors) == []
    assert verify(tmp_path / "out", deep=True) == []


def test_samplers_come_from_the_table_with_their_options(rl: Callable[..., Any], sealed: Path) -> None:
    ended = rl("sample", sealed, "-n", 5, "--sampler", "consuming")
    assert [json.loads(line)["row"] for line in ended.out.splitlines()] == [0, 1, 2, 3, 4]
    assert rl("sample", sealed, "-n", 5, "--sampler", "top-return", "--set", "share=0.5").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-n", "0"], "at least 1"),
        (["-n", "3", "--sampler", "unifrom"], "did you mean 'uniform'"),
        (["-n", "3", "--sampler", "top-return", "--set", "sampler.shar=1"], "did you mean 'share'"),
        (["-n", "3", "--seed", "-1"], "--seed"),
        (["-n", "3", "--keys", "stp"], "did you mean 'step'"),
        (["-n", "3", "--json"], "-o"),
    ],
)
def test_wrong_samples_are_one_line(
    arguments: list[str], words: str, rl: Callable[..., Any], sealed: Path
) -> None:
    ended = rl("sample", sealed, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err


def test_recover_closes_what_a_killed_writer_left(
    rl: Callable[..., Any], tmp_path: Path, fill: Callable[..., Any]
) -> None:
    writer = fill(tmp_path / "a", close=False)
    assert rl("recover", tmp_path / "a").code == 75
    shutil.copytree(tmp_path / "a", tmp_path / "killed")
    writer.abort()
    report = rl("recover", tmp_path / "killed", "--json").json
    assert (report["changed"], report["rows"], len(report["sealed"]), report["cut_episodes"]) == (
        True,
        60,
        2,
        2,
    )
    assert verify(tmp_path / "killed", deep=True) == []
    generation = report["generation"]
    again = rl("recover", tmp_path / "killed")
    assert (again.out, again.err) == (f"{tmp_path / 'killed'}\n", "nothing to recover; 60 rows\n")
    assert Dataset.open(tmp_path / "killed").generation == generation
    assert rl("recover", tmp_path / "none").code == 3


def test_gc_removes_what_no_manifest_names_and_a_dry_run_does_not(rl: Callable[..., Any], copy: Path) -> None:
    orphan = copy / "segments" / "w00-000000000900"
    shutil.copytree(next((copy / "segments").iterdir()), orphan)
    sibling = copy.parent / f".{copy.name}.tmp-{'0' * 32}"
    shutil.copytree(copy, sibling)
    assert rl("gc", copy).err.splitlines()[-1] == "nothing to remove"  # all of it is young
    before = Dataset.open(copy).digest
    report = rl("gc", copy, "--dry-run", "--grace", 0, "--json").json
    assert any("w00-000000000900" in path for path in report["removed"])
    assert report["freed_bytes"] > 0
    assert orphan.exists()
    assert rl("gc", copy, "--grace", 0, "--json").json["removed"] == report["removed"]
    assert not orphan.exists()
    assert Dataset.open(copy).digest == before
    assert verify(copy, deep=True) == []
    assert rl("gc", copy, "--grace", -1).code == 2


def test_pack_and_unpack_print_paths_and_give_the_dataset_back(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path
) -> None:
    file = tmp_path / "new" / "data.rlz"
    ended = rl("pack", sealed, file)
    assert (ended.code, ended.out) == (0, f"{file}\n")
    report = rl("unpack", file, "-o", tmp_path / "out", "--json").json
    assert report["digest"] == Dataset.open(sealed).digest
    assert verify(tmp_path / "out", deep=True) == []
    assert rl("pack", sealed, file).code == rl("unpack", file, "-o", tmp_path / "out").code == 2


def test_pack_and_unpack_refuse_with_one_line_and_leave_nothing(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path, fill: Callable[..., Any]
) -> None:
    writer = fill(tmp_path / "live", close=False)
    (tmp_path / "bad.rlz").write_bytes(b"PK" * 1000)
    before = sorted(tmp_path.iterdir())
    ended = rl("pack", tmp_path / "live", tmp_path / "x.rlz")
    assert ended.code == 75
    assert "rl buffer merge" in ended.err
    writer.abort()
    assert rl("pack", tmp_path / "live", tmp_path / "x.rlz").code == 2
    assert rl("unpack", tmp_path / "bad.rlz", "-o", tmp_path / "out").code == 4
    assert rl("unpack", tmp_path / "none.rlz", "-o", tmp_path / "out").code == 3
    assert sorted(tmp_path.iterdir()) == before


def test_the_only_version_is_the_newest_one(rl: Callable[..., Any], copy: Path) -> None:
    generation = Dataset.open(copy).generation
    for arguments in (
        ["upgrade", copy],
        ["upgrade", copy, "--to", "1.0"],
        ["downgrade", copy, "--to", "1.0"],
    ):
        ended = rl(*arguments)
        assert (ended.code, ended.out, ended.err) == (0, f"{copy}\n", "version 1.0 already\n")
    assert Dataset.open(copy).generation == generation
    ended = rl("upgrade", copy, "--to", "1.7")
    assert ended.code == 5
    assert "known: 1.0" in ended.err


def test_export_is_convert(rl: Callable[..., Any], sealed: Path, tmp_path: Path) -> None:
    assert rl("export", tmp_path / "none", tmp_path / "out.hdf5").code == 3
    assert rl("export", sealed, tmp_path / "out.unknown").code == 2
    assert list(tmp_path.iterdir()) == []
