"""`rl buffer cat` and `tail`: every number arrives, whatever is chosen, in bounded memory."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.ipc
import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.specs import Box, Discrete
from rlcli.format.writer import Writer


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_ndjson_has_every_number(rl: Callable[..., Any], sealed: Path) -> None:
    data = Dataset.open(sealed)
    rows = rows_of(rl("cat", sealed).out)
    assert [row["row"] for row in rows] == list(range(60))
    unknown = set(data.unknown_next.tolist())
    assert unknown
    for column in data.schema.columns:
        values = data.read(column.key)
        for row in rows:
            value: Any = row
            for part in column.key:
                value = value[part]
            if column.encoding == "derived" and row["row"] in unknown:
                assert value is None
            else:
                np.testing.assert_array_equal(np.array(value, column.numpy), values[row["row"]])


def test_csv_has_a_column_per_element(rl: Callable[..., Any], sealed: Path) -> None:
    data = Dataset.open(sealed)
    table = list(csv.DictReader(io.StringIO(rl("cat", sealed, "--format", "csv").out)))
    assert len(table) == 60
    image = data.read(("observation", "image"))
    assert [int(row["observation/image[1, 0]"]) for row in table] == image[:, 1, 0].tolist()
    position = data.read(("next", "observation", "position"))
    row = int(data.unknown_next[0])
    assert table[row]["next/observation/position[2]"] == ""
    assert float(table[row - 1]["next/observation/position[2]"]) == position[row - 1, 2]
    assert table[0]["next/terminated"] == "False"


def test_arrow_has_the_types_of_the_columns(rl: Callable[..., Any], sealed: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.arrow"
    ended = rl("cat", sealed, "-f", "arrow", "-o", file)
    assert (ended.code, ended.out) == (0, f"{file}\n")
    data = Dataset.open(sealed)
    table = pyarrow.ipc.open_stream(file.read_bytes()).read_all()
    assert table.schema.field("next.reward").type == pyarrow.float32()
    assert table.schema.field("observation.image").type == pyarrow.list_(pyarrow.uint8(), 4)
    for column in data.schema.columns:
        found = table.column(".".join(column.key))
        known = np.ones(60, np.bool_)
        if column.encoding == "derived":
            known[data.unknown_next] = False
            assert found.null_count == len(data.unknown_next)
        values = [value for value in found.to_pylist() if value is not None]
        wanted = data.read(column.key)[known].reshape(known.sum(), -1)
        np.testing.assert_array_equal(np.array(values, column.numpy).reshape(known.sum(), -1), wanted)


@pytest.mark.parametrize(
    ("flags", "rows"),
    [
        (["--rows", "3:6"], [3, 4, 5]),
        (["--rows", "-2:"], [58, 59]),
        (["--rows", "7"], [7]),
        (["--rows=-1"], [59]),
        (["--rows", "90:"], []),
        (["--episodes", "1:2"], list(range(7, 14))),
        (["--episodes", "-1:"], [58, 59]),
        (["--episodes", "0:2", "--rows", "5:9"], [5, 6, 7, 8]),
        (["--where", "step == 6 and episode.terminated"], [6, 20, 36, 50]),
        (["--where", "info/speed > 28", "--episodes", "5:"], [59]),
        (["--where", "reward > 5"], []),
    ],
)
def test_rows_are_chosen(rl: Callable[..., Any], sealed: Path, flags: list[str], rows: list[int]) -> None:
    found = rows_of(rl("cat", sealed, "--keys", "action", *flags).out)
    assert [row["row"] for row in found] == rows
    assert all(list(row) == ["row", "action"] for row in found)


def test_episodes_have_a_table(rl: Callable[..., Any], sealed: Path) -> None:
    found = rows_of(rl("cat", sealed, "--table", "episodes").out)
    table = Dataset.open(sealed).episodes
    assert [row["return"] for row in found] == table.return_.tolist()
    assert [row["index"] for row in found] == list(range(10))
    found = rows_of(
        rl("cat", sealed, "--table", "episodes", "--keys", "seed,cut", "--where", "length < 7").out
    )
    assert found == [{"seed": 28, "cut": True}, {"seed": 29, "cut": True}]


@pytest.mark.parametrize("format", ["ndjson", "csv", "arrow"])
def test_no_rows_are_no_error(rl: Callable[..., Any], sealed: Path, format: str, tmp_path: Path) -> None:
    file = tmp_path / "x"
    assert rl("cat", sealed, "--where", "reward > 5", "--keys", "step", "-f", format, "-o", file).code == 0
    if format == "arrow":
        assert pyarrow.ipc.open_stream(file.read_bytes()).read_all().column_names == ["row", "step"]
    else:
        assert file.read_text() == {"ndjson": "", "csv": "row,step\n"}[format]


def test_nan_is_null_in_json(rl: Callable[..., Any], tmp_path: Path) -> None:
    writer = Writer.create(tmp_path / "d", ted_schema(Box((2,)), Discrete(2)), spec={}, lineage={})
    with EpisodeWriter(writer) as episodes:
        step = {"observation": [np.nan, np.inf], "action": 1, "reward": 0.5, "next_observation": [0, 0]}
        episodes.add(0, **step, terminated=True, truncated=False)
    (row,) = rows_of(rl("cat", tmp_path / "d").out)
    assert (row["observation"], row["next"]["reward"]) == ([None, None], [0.5])


@pytest.mark.parametrize(
    "flags",
    [
        ["--rows", "a:b"], ["--rows", "1:2:3"], ["--episodes", ""], ["--keys", "actoin"], ["--where", "x >"],
        ["--format", "xml"], ["--table", "episodes", "--keys", "lenght"], ["--json"],
        ["--table", "episodes", "--where", "reward > 1"],
    ],
)  # fmt: skip
def test_a_wrong_choice_is_exit_2_before_any_output(
    rl: Callable[..., Any], sealed: Path, tmp_path: Path, flags: list[str]
) -> None:
    ended = rl("cat", sealed, *flags)
    assert (ended.code, ended.out) == (2, "")
    assert rl("cat", sealed, *flags, "-o", tmp_path / "x").code == (0 if flags == ["--json"] else 2)
    assert rl("cat", sealed, "-o", sealed).code == 2


def test_a_missing_library_is_exit_6(rl: Callable[..., Any], sealed: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ended = rl("cat", sealed, "-f", "arrow")
    assert (ended.code, ended.out) == (6, "")
    assert "pip install 'rlcli[arrow]'" in ended.err


def test_damage_is_exit_4_and_leaves_no_file(rl: Callable[..., Any], copy: Path, tmp_path: Path) -> None:
    with open(next((copy / "segments").glob("*/action.memmap")), "r+b") as file:
        file.write(b"\xff")
    assert rl("cat", copy, "-o", tmp_path / "x").code == 4
    assert rl("cat", copy, "--keys", "next/reward", "-o", tmp_path / "y").code == 0
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("format", ["ndjson", "csv", "arrow"])
def test_a_closed_pipe_is_quiet(large: Path, start: Callable[..., Any], format: str) -> None:
    ended = start("cat", large, "-f", format)
    assert ended.stdout is not None
    assert ended.stderr is not None
    assert ended.stdout.buffer.read(10)
    ended.stdout.close()
    assert ended.wait(timeout=300) == 141
    assert ended.stderr.read() == ""
    ended.stderr.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 MB of zeros, most of it never written: reading it whole would show."""
    path = tmp_path_factory.mktemp("large") / "d"
    schema = ted_schema(Box((64, 64, 3), "uint8"), Discrete(2))
    with EpisodeWriter(Writer.create(path, schema, spec={}, lineage={}, durability="process")) as episodes:
        rows = {
            column.key: np.zeros((4096, *column.shape), column.numpy)
            for column in schema.plain
            if column.key[0] in ("observation", "action") or column.key == ("next", "reward")
        }
        for _ in range(8):
            episodes.add_rows(0, rows)
    return path


def test_memory_is_bounded(large: Path) -> None:
    code = (
        "import sys; from rlcli.main import run; "
        "sys.exit(run(['buffer', 'cat', *sys.argv[1:], '-f', 'arrow', '--keys', 'observation']))"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (300 << 20, 300 << 20))

    done = subprocess.run(
        [sys.executable, "-c", code, str(large), "-o", str(large.parent / "out")],
        capture_output=True, text=True, preexec_fn=limit, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (large.parent / "out").stat().st_size > 400e6
    (large.parent / "out").unlink()


def test_tail_is_the_end_of_head(rl: Callable[..., Any], sealed: Path) -> None:
    everything = rl("head", sealed, "-n", "100", "--json").json["rows"]
    assert rl("tail", sealed, "--json").json["rows"] == everything[-10:]
    assert rl("tail", sealed, "-n", "0", "--json").json["rows"] == []
    assert rl("tail", sealed, "-n", "100", "--json").json["rows"] == everything
    found = rl("tail", sealed, "-n", "2", "--episode", "2", "--json").json["rows"]
    assert [row["row"] for row in found] == [12, 13]
    lines = rl("tail", sealed, "-n", "3").out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["57", "58", "59"]


def test_a_file_that_is_cut_short_while_it_is_read_is_one_line(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    path = tmp_path / "data"
    schema = ted_schema(Box((4096,), "float32"), Discrete(2))
    writer = Writer.create(path, schema, spec={}, lineage={"op": "test"}, durability="process")
    with EpisodeWriter(writer) as episodes:
        for row in range(600):  # 10 MB, of which a pipe takes 64 KiB
            if row == 0:
                episodes.begin(0, 0)
            now = np.full(4096, row, np.float32)
            episodes.add(0, observation=now, action=0, reward=1.0, terminated=False, truncated=False)
    process = start("cat", path, "--format", "csv")
    assert process.stdout is not None
    assert process.stdout.read(1000)
    (found,) = path.glob("segments/*/observation.memmap")
    os.truncate(found, 0)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 4, stderr
    assert stderr == f"error: {found} was cut short while it was read\n"


@pytest.mark.parametrize("form", ["ndjson", "csv", "arrow"])
@pytest.mark.parametrize("table", ["steps", "episodes"])
def test_a_dataset_without_rows_is_written_without_rows(
    rl: Callable[..., Any], tmp_path: Path, form: str, table: str
) -> None:
    schema = ted_schema(Box((2, 3), "float32"), Discrete(2))
    Writer.create(tmp_path / "empty", schema, spec={}, lineage={}).close()
    done = rl("cat", tmp_path / "empty", "--format", form, "--table", table, "-o", tmp_path / "out")
    assert done.code == 0
    assert (tmp_path / "out").read_bytes().count(b"\n") == (form == "csv") or form == "arrow"
