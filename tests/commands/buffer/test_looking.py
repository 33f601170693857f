"""`rl buffer info`, `ls` and `head`: what they tell, and that it fits a terminal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format import spans
from rlcli.format.dataset import Dataset
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Box, Discrete
from rlcli.format.writer import Writer


def test_info_tells_what_is_in_a_dataset(rl: Callable[..., Any], sealed: Path) -> None:
    facts = rl("info", sealed, "--json").json
    assert facts["kind"] == "dataset"
    assert (facts["rows"], facts["stream_rows"], facts["state"], facts["writer"]) == (
        60,
        [30, 30],
        "sealed",
        None,
    )
    counts = {"count": 10, "terminated": 4, "truncated": 4, "cut": 2}
    counts |= {"begun_before_window": 0, "unfinished_rows": 0}
    assert facts["episodes"] == counts
    assert facts["return"]["mean"] == facts["length"]["mean"] == 7.0
    assert facts["normalised_return"] == 70.0
    assert facts["unknown_next_rows"] == 2  # the cut episodes were closed without a last observation
    assert facts["segments"] == {"sealed": 6, "open": 0}
    assert facts["digest"] == Dataset.open(sealed).digest
    assert facts["spec"] == Dataset.open(sealed).spec
    assert facts["lineage"][0]["command"] == "rl test it"
    assert facts["format"] == "1.0"
    columns = {column["key"]: column for column in facts["columns"]}
    assert columns["observation/image"]["row_bytes"] == 4
    assert columns["next/observation/image"]["encoding"] == "derived"
    assert sum(column["row_bytes"] for column in facts["columns"]) == facts["row_bytes"]


def test_info_for_people_fits_80_columns(rl: Callable[..., Any], copy: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(copy.parent)
    text = rl("info", "data").out
    assert max(map(len, text.splitlines())) <= 80
    for words in (
        "Test-v0 size=2, at most 7 steps",
        "10 (4 terminated, 4 truncated, 2 cut)",
        "70.00",
        "rl test it",
    ):
        assert words in text


def test_info_of_an_open_dataset_tells_a_live_writer_from_a_dead_one(
    rl: Callable[..., Any], tmp_path: Path, fill: Callable[..., Any]
) -> None:
    writer = fill(tmp_path / "live", close=False)
    facts = rl("info", tmp_path / "live", "--json").json
    assert facts["state"] == "open"
    assert facts["digest"] is None
    assert (facts["writer"]["status"], facts["writer"]["pid"]) == ("live", os.getpid())
    assert facts["episodes"]["unfinished_rows"] == 4
    assert facts["unknown_next_rows"] == 2
    assert "is writing" in rl("info", tmp_path / "live").out
    writer.abort()  # this process lives on, but has the dataset no longer open
    assert rl("info", tmp_path / "live", "--json").json["writer"]["status"] == "dead"
    assert "is gone" in rl("info", tmp_path / "live").out


def test_an_empty_dataset_can_be_looked_at(rl: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "empty"
    spec = {"observation": Box((3,)).to_json(), "action": Discrete(3).to_json()}
    with Writer.create(path, ted_schema(Box((3,)), Discrete(2)), spec=spec, lineage={}):
        pass
    for command in (["info"], ["head"], ["stats"], ["stats", "--by", "episode"], ["verify", "--semantics"]):
        for flags in ([], ["--json"]):
            ended = rl(*command, path, *flags)
            assert (ended.code, ended.err) == (0, "")


def test_ls_lists_datasets_in_folders_and_runs_and_shows_broken_ones(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path
) -> None:
    for name in ("b", "a/deep", "run/replay", ".hidden", "broken", "headless"):
        shutil.copytree(sealed, tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(sealed)
    max((tmp_path / "broken" / "manifests").iterdir()).write_bytes(b"{}")
    (tmp_path / "headless" / "dataset.json").unlink()
    ended = rl("ls", tmp_path, "--json")
    assert ended.code == 0
    found = {Path(entry["path"]).relative_to(tmp_path).as_posix(): entry for entry in ended.json["datasets"]}
    assert list(found) == ["a/deep", "b", "broken", "headless", "link", "run/replay"]
    assert found["b"]["rows"] == 60
    assert found["b"]["env"] == "Test-v0"
    assert found["broken"]["code"] == found["headless"]["code"] == 4
    lines = rl("ls", tmp_path).out.splitlines()
    assert len(lines) == 2 + len(found)
    assert "damaged" in next(line for line in lines if "broken" in line)


def test_ls_reads_paths_from_standard_input(sealed: Path, tmp_path: Path, start: Callable[..., Any]) -> None:
    ended = start("ls", "-", "--json", stdin=subprocess.PIPE)
    out, _ = ended.communicate(f"{sealed}\n\n{tmp_path}\n")
    assert [entry["path"] for entry in json.loads(out)["datasets"]] == [str(sealed)]


def test_head_gives_whole_rows_as_json(rl: Callable[..., Any], sealed: Path) -> None:
    data = Dataset.open(sealed)
    rows = rl("head", sealed, "-n", "3", "--json").json["rows"]
    assert [row["row"] for row in rows] == [0, 1, 2]
    for i, row in enumerate(rows):
        for column in data.schema.columns:
            value: Any = row
            for part in column.key:
                value = value[part]
            np.testing.assert_array_equal(np.array(value, column.numpy), data.read(column.key, i, i + 1)[0])


def test_head_shows_unknown_next_values_as_such(rl: Callable[..., Any], sealed: Path) -> None:
    row = int(Dataset.open(sealed).unknown_next[0])
    number = int(Dataset.open(sealed).read(("episode",), row, row + 1)[0])
    rows = rl("head", sealed, "--episode", number, "--json").json["rows"]
    assert [r["next"]["observation"]["position"] is None for r in rows] == [False, True]
    assert "unknown" in rl("head", sealed, "--episode", number, "--keys", "next/observation").out


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_head_fits_the_terminal(rl: Callable[..., Any], sealed: Path, width: int, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = rl("head", sealed).out
    table = [line for line in text.splitlines() if not line.startswith("(no room")]
    assert max(map(len, table)) <= width
    assert len(table) == 12
    assert ("info/speed" in table[0]) == (width >= 120)


def test_head_takes_keys_and_an_episode(rl: Callable[..., Any], sealed: Path) -> None:
    ended = rl("head", sealed, "--episode", "2", "--keys", "action, next/reward", "--json", "-n", "100")
    rows = ended.json["rows"]
    assert len(rows) == 7
    assert set(rows[0]) == {"row", "action", "next"}
    assert set(rows[0]["next"]) == {"reward"}
    header = rl("head", sealed, "--keys", "observation").out.splitlines()[0].split()
    assert header == ["row", "observation/position", "observation/image"]


@pytest.mark.parametrize("chunk", [1, 1 << 23])
@pytest.mark.parametrize(("where", "count"), [("step >= 5", 4), ("step == 3", 100), ("reward > 1", 3)])
def test_head_and_tail_show_the_rows_of_a_condition(
    rl: Callable[..., Any], sealed: Path, where: str, count: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "CHUNK_BYTES", chunk)
    heaps = Path(__file__).parents[2] / "golden" / "v1-heaps"
    for dataset, condition in ((sealed, where), (heaps, where.replace("step", "reward"))):
        lines = rl("cat", dataset, "--where", condition).out.splitlines()
        expected = [json.loads(line) for line in lines]
        for verb, wanted in (("head", expected[:count]), ("tail", expected[-count:])):
            assert rl(verb, dataset, "--where", condition, "-n", count, "--json").json["rows"] == wanted
            assert rl(verb, dataset, "--where", condition, "-n", count).code == 0
    only = rl("tail", sealed, "--where", where, "--episode", 2, "--json").json["rows"]
    assert all(row["episode"] == 2 for row in only)
    assert rl("head", sealed, "--where", "stepp > 1").code == 2


def test_head_names_the_nearest_key_and_the_episodes_there_are(rl: Callable[..., Any], sealed: Path) -> None:
    ended = rl("head", sealed, "--keys", "next/rewards")
    assert ended.code == 2
    assert "did you mean 'next/reward'?" in ended.err
    ended = rl("head", sealed, "--episode", "99")
    assert ended.code == 2
    assert "0 to 9" in ended.err


def test_head_of_an_open_dataset_finds_its_unfinished_episode(
    rl: Callable[..., Any], tmp_path: Path, fill: Callable[..., Any]
) -> None:
    writer = fill(tmp_path / "d", close=False)
    rows = rl("head", tmp_path / "d", "--episode", "9", "--json").json["rows"]
    assert [row["step"] for row in rows] == [0, 1]
    writer.abort()
