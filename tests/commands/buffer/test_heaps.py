"""The verbs that look, over columns of text, bytes and arrays of any length, and over frame stacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, Heap, heap_column, stack_column, ted_schema
from rlcli.format.specs import Box, Composite
from rlcli.format.writer import Writer

TASKS = ["push", "pick the cube", "ünï"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes of five steps, a task each."""
    path = tmp_path_factory.mktemp("heaps") / "d"
    extra = [
        heap_column(("task",), Heap("text")),
        heap_column(("blob",), Heap("bytes")),
        heap_column(("tokens",), Heap("array"), "int32", (-1,)),
        stack_column(("stack",), Column(("observation",), "float32", (2,)), 3),
    ]
    spec = {"observation": Box((2,)).to_json(), "action": Box((1,)).to_json()}
    writer = Writer.create(
        path, ted_schema(Box((2,)), Box((1,)), extra=extra), spec=spec, lineage={}, segment_rows=8
    )
    with EpisodeWriter(writer, chunk_rows=4) as episodes:
        for row in range(20):
            last = row % 5 == 4
            episodes.add(
                0, observation=[row, 0], action=[0.5], reward=1.0, terminated=last, truncated=False,
                next_observation=[row + 1, 0] if last else None, task=TASKS[row // 5 % 3],
                blob=b"ab" * (row % 3), tokens=np.arange(row % 4, dtype=np.int32),
            )  # fmt: skip
    return path


def test_head_and_cat_show_the_values(rl: Callable[..., Any], data: Path) -> None:
    rows = rl("head", data, "-n", "20", "--json").json["rows"]
    lines = [json.loads(line) for line in rl("cat", data).out.splitlines()]
    for row, (shown, line) in enumerate(zip(rows, lines, strict=True)):
        for found in (shown, line):
            assert found["task"] == TASKS[row // 5 % 3]
            assert bytes.fromhex(found["blob"]) == b"ab" * (row % 3)
            assert found["tokens"] == list(range(row % 4))
            frames = [max(row - back, row // 5 * 5) for back in (2, 1, 0)]
            assert found["stack"] == [[frame, 0.0] for frame in frames]
    text = rl("head", data, "--keys", "task,tokens,blob").out
    assert "push" in text
    assert "[0, 1]" in text
    assert "4 B" in text


def test_text_compares(rl: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    found = rl("cat", data, "--keys", "task", "--where", "task contains 'cube' or task == 'ünï'").out
    assert [json.loads(line)["row"] for line in found.splitlines()] == list(range(5, 15))
    assert rl("filter", data, "--where", "first(task) in ['push', 'x']", "-o", tmp_path / "f").code == 0
    assert Dataset.open(tmp_path / "f").episodes.number.tolist() == [0, 3]
    assert rl("verify", "--deep", "--semantics", tmp_path / "f").code == 0
    assert rl("diff", data, tmp_path / "f", "--leakage", "--json").json["equal_pairs"] == 2
    for where in ("task > 3", "blob == 'a'", "mean(task) > 1", "not task"):
        assert rl("cat", data, "--where", where).code == 2


def test_diff_compares_heap_values(rl: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    assert rl("diff", data, data).code == 0
    rl("filter", data, "--where", "number in [0, 2]", "-o", tmp_path / "f")
    values = {entry["key"]: entry for entry in rl("diff", data, tmp_path / "f", "--json").json["values"]}
    assert values["task"]["first"]["a"] == "pick the cube"
    assert values["task"]["first"]["b"] == "ünï"
    assert values["task"]["rows"] == 5
    assert {"blob", "tokens", "stack"} <= values.keys()


def test_sql_sees_heap_values(rl: Callable[..., Any], data: Path) -> None:
    sql = "select task, count(*), max(len(tokens)) from steps group by all order by 2 desc, 1"
    rows = rl("query", data, sql, "--json").json["rows"]
    assert rows == [["push", 10, 3], ["pick the cube", 5, 3], ["ünï", 5, 3]]


def test_info_and_stats_tell_columns_not_how_they_are_stored(rl: Callable[..., Any], data: Path) -> None:
    columns = {column["key"]: column for column in rl("info", data, "--json").json["columns"]}
    assert (columns["task"]["dtype"], columns["tokens"]["dtype"]) == ("text", "int32")
    assert set(rl("info", data, "--json").json["features"]) == {"derived", "heap"}
    assert "task/off" not in rl("stats", data).out
    assert "any" in rl("info", data).out


def test_spaces_say_nothing_of_values_of_any_length(rl: Callable[..., Any], tmp_path: Path) -> None:
    schema = ted_schema(
        Composite({"text": Box((), "uint8"), "x": Box((2,))}), Box((1,)),
        heaps={("observation", "text"): Heap("text")},
    )  # fmt: skip
    with Writer.create(tmp_path / "d", schema, spec={}, lineage={}) as writer:
        episodes = EpisodeWriter(writer)
        for row in range(4):
            step = {"text": "ü" * row, "x": [row, 1]}
            episodes.add(
                0, observation=step, action=[0.5], reward=1.0, terminated=row == 3, truncated=False,
                next_observation=step if row == 3 else None,
            )  # fmt: skip
        episodes.flush()
    for verb in (("sample", "-n", 5), ("map", "--scale-reward", 2), ("map", "--exclude", "observation/x")):
        out = tmp_path / "-".join(map(str, verb)).replace("/", "")
        assert rl(verb[0], tmp_path / "d", *verb[1:], "-o", out).code == 0
        assert rl("verify", "--deep", "--semantics", out).code == 0
        with Dataset.open(out) as dataset:
            assert dataset.spec == {}
