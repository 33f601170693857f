"""A stored bool is 0 or 1, whatever a view made of it (SPEC.md section 3); a file with others is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rlcli.format import heap
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.mutable import SideColumn
from rlcli.format.schema import Column, Heap, Schema, heap_column, ted_schema
from rlcli.format.semantics import check
from rlcli.format.specs import Box, Discrete
from rlcli.format.writer import Writer

BYTES = np.array([0, 1, 2, 255], np.uint8)
GIVEN: Any = BYTES.view(bool)
STORED = b"\0\1\1\1"
X = ("x",)


def _create(path: Path, schema: Schema) -> Writer:
    return Writer.create(path, schema, spec={}, lineage={}, durability="process")


def test_rows_are_stored_as_0_or_1(tmp_path: Path) -> None:
    columns: dict[tuple[str, ...], Any] = {X: GIVEN, ("y",): np.zeros(4, np.float32)}
    with _create(tmp_path / "d", Schema((Column(X, "bool"), Column(("y",), "float32")))) as writer:
        for _ in range(2):  # the first makes the segment, the second may go the quick way
            writer.write(0, columns)
            writer.commit()
    assert GIVEN.tobytes() == BYTES.tobytes(), "what was given is left alone"
    with Dataset.open(tmp_path / "d") as dataset:
        assert dataset.read(X, 0, 8).tobytes() == 2 * STORED


def test_steps_and_finals_are_stored_as_0_or_1(tmp_path: Path) -> None:
    key = ("observation",)
    with EpisodeWriter(_create(tmp_path / "d", ted_schema(Box((4,), "bool"), Discrete(2)))) as episodes:
        end: Any = {"action": 0, "reward": 0.0, "terminated": GIVEN[2], "truncated": False}
        episodes.add(0, observation=GIVEN, next_observation=GIVEN, **end)
    with Dataset.open(tmp_path / "d") as dataset:
        assert dataset.read(key, 0, 1).tobytes() == STORED
        assert dataset.read(("next", *key), 0, 1).tobytes() == STORED
        assert dataset.read(("next", "terminated"), 0, 1).tobytes() == b"\1"
        assert dataset.read(("next", "done"), 0, 1).tobytes() == b"\1"


def test_values_of_any_length_are_stored_as_0_or_1() -> None:
    column = heap_column(X, Heap("array"), "bool", (-1,))
    assert heap.encode(column, GIVEN) == STORED


def test_side_columns_hold_0_or_1(tmp_path: Path) -> None:
    with _create(tmp_path / "d", Schema((Column(X, "bool"),))) as writer:
        writer.write(0, {X: np.zeros(4, bool)})
    with Dataset.open(tmp_path / "d") as dataset, SideColumn.open(dataset, "x", "bool") as side:
        side.write(np.arange(4), GIVEN)
        assert side.read(np.arange(4)).tobytes() == STORED


def test_a_file_with_others_is_found(tmp_path: Path) -> None:
    ragged = heap_column(("y",), Heap("array"), "bool", (-1,))
    with _create(tmp_path / "d", Schema((Column(X, "bool"), ragged))) as writer:
        writer.write_arrays(0, [GIVEN, [b"", b"\0\1", b"\2", b"\1"]], 4)  # as another's writer might
    with Dataset.open(tmp_path / "d") as dataset:
        found = [
            (finding.rule, finding.key, finding.first_row, finding.count, finding.file)
            for finding in check(dataset).errors
        ]
    assert found == [
        ("booleans", X, 2, 2, "segments/w00-000000000000/x.memmap"),
        ("booleans", ("y",), 2, 1, "heaps/w00-000000000000/y.heap"),
    ]
