"""`rl collect --share` and `--max-size`: several processes, one dataset; a dataset that forgets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlcli.format import dataset_json, generations, manifest
from rlcli.format.dataset import Dataset
from rlcli.format.verify import verify
from rlcli.main import run

COUNTING = "rlcli.testing.counting:Counting"


def _newest(path: Path) -> manifest.Manifest:
    return generations.load_newest(path, dataset_json.load(path)["uuid"])


def test_two_processes_collect_into_one_dataset_at_the_same_time(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "rlcli",
        "collect",
        COUNTING,
        "-o",
        "ds",
        "--share",
        "--json",
        "--steps",
        "6000",
    ]
    both = [subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    results = [json.loads(process.communicate()[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [result["added"]["steps"] for result in results] == [6000, 6000]
    with Dataset.open(tmp_path / "ds") as dataset:
        assert (dataset.state, dataset.num_rows) == ("sealed", 12_000)
        table = dataset.episodes
        for stream in range(len(dataset.stream_rows)):
            mine = table.stream == stream
            assert len(set(table.number[mine].tolist())) == mine.sum()
        assert len({(s, int(k)) for s, k in zip(table.seed, table.start, strict=True)}) == len(table)
        assert len(set(table.seed.tolist())) == len(table), "no episode is collected twice"
        assert [entry["op"] for entry in dataset.lineage] == ["collect", "collect"]
    assert verify(tmp_path / "ds", deep=True) == []


def test_sharing_goes_on_in_free_streams(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def collect(*words: str) -> Any:
        code = run(["collect", COUNTING, "-o", str(tmp_path / "ds"), "--json", *words])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    collect("--share", "--steps", "30")
    assert collect("--share", "--steps", "50", "--num-envs", "2")["rows"] == 80
    assert Dataset.open(tmp_path / "ds").stream_rows == [55, 25]
    collect("--append", "--steps", "20")  # alone again, in both
    assert Dataset.open(tmp_path / "ds").stream_rows == [65, 35]


def test_a_busy_dataset_is_exit_75_and_names_the_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlcli.format.writer import Writer

    assert run(["collect", COUNTING, "-o", str(tmp_path / "ds"), "--steps", "10"]) == 0
    with Writer.append(tmp_path / "ds", lineage={}):
        capsys.readouterr()
        assert run(["collect", COUNTING, "-o", str(tmp_path / "ds"), "--steps", "10", "--share"]) == 75
        assert "another writer has it open (process " in capsys.readouterr().err


def test_a_size_limit_makes_a_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "ds")
    words = ["collect", COUNTING, "-o", path, "--steps", "100", "--num-envs", "3"]
    assert run([*words, "--max-size", "100"]) == 0
    assert _newest(tmp_path / "ds").window == 34
    assert run([*words, "--append", "--max-size", "100"]) == 0
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.num_rows == 3 * 34
    capsys.readouterr()
    assert run([*words, "--append", "--max-size", "200"]) == 5
    assert "keeps 34 rows of each stream; leave --max-size out" in capsys.readouterr().err
