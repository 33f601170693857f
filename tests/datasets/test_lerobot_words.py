"""Numbers in LeRobot's rows that stand for texts: tasks and subtasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert
from tests.datasets.lerobot_made import TASKS, make

SUBTASKS = ["reach", "öffne", "schließe 机器"]
NUMBER = {"dtype": "int64", "shape": [1], "names": None}
TEXT = {"dtype": "string", "shape": [1], "names": None}


def with_subtasks(root: Path, names: list[str] | None, *, index: str = "subtask") -> Path:
    """Row r of a file is at subtask r modulo 3; `names` are the table."""

    def numbered(columns: dict[str, Any]) -> None:
        columns["subtask_index"] = pa.array([row % 3 for row in range(len(columns["index"]))])

    made = make(root, change=numbered, features=lambda told: told.update(subtask_index=NUMBER))
    if names is not None:
        table = pa.table({"subtask_index": list(range(len(names))), index: names})
        pq.write_table(table, made / "meta" / "subtasks.parquet")
    return made


def texts(path: Path, *key: str) -> list[str]:
    with Dataset.open(path) as dataset:
        return list(dataset.read(key, 0, dataset.num_rows))


@pytest.mark.parametrize("index", ["subtask", "__index_level_0__"])
def test_subtasks_are_texts_and_come_back(index: str, tmp_path: Path) -> None:
    convert(with_subtasks(tmp_path / "src", SUBTASKS, index=index), tmp_path / "ds", check=True)
    expected = [SUBTASKS[row % 3] for rows in (6, 3) for row in range(rows)]
    assert texts(tmp_path / "ds", "subtask") == expected
    assert convert(tmp_path / "ds", tmp_path / "out", to="lerobot", check=True)["lossy"] == []
    rows = pq.read_table(tmp_path / "out" / "data" / "chunk-000" / "file-000.parquet")
    assert rows["subtask_index"].to_pylist() == [row % 3 for n in (6, 3) for row in range(n)]
    table = pq.read_table(tmp_path / "out" / "meta" / "subtasks.parquet").to_pydict()
    assert table == {"subtask_index": [0, 1, 2], "__index_level_0__": SUBTASKS}
    convert(tmp_path / "out", tmp_path / "again", check=True)
    assert Dataset.open(tmp_path / "again").digest == Dataset.open(tmp_path / "ds").digest


def test_a_subtask_without_a_text_keeps_its_number(tmp_path: Path) -> None:
    convert(with_subtasks(tmp_path / "src", SUBTASKS[:2]), tmp_path / "ds", check=True)
    assert texts(tmp_path / "ds", "subtask")[:3] == [*SUBTASKS[:2], "subtask 2"]


def test_subtasks_without_a_table_are_numbers(tmp_path: Path) -> None:
    convert(with_subtasks(tmp_path / "src", None), tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("subtask_index",), 0, 3).reshape(-1).tolist() == [0, 1, 2]


def test_equal_texts_of_several_numbers_keep_the_numbers(tmp_path: Path) -> None:
    convert(with_subtasks(tmp_path / "src", ["a", "a", "b"]), tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("source", "subtask_index"), 0, 3).reshape(-1).tolist() == [0, 1, 2]


def test_a_feature_called_task_does_not_take_the_place_of_the_task(tmp_path: Path) -> None:
    def said(columns: dict[str, Any]) -> None:
        columns["task"] = pa.array(["said"] * len(columns["index"]))

    made = make(tmp_path / "src", change=said, features=lambda told: told.update(task=TEXT))
    convert(made, tmp_path / "ds", check=True)
    assert texts(tmp_path / "ds", "task")[0] == TASKS[0]
    assert texts(tmp_path / "ds", "info", "task")[0] == "said"
