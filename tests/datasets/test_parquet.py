"""Parquet files that are legal and unusual, written with pyarrow."""

from __future__ import annotations

import os
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.datasets.contract import NoOptions, Report, Request
from rlcli.datasets.parquet import ParquetTable, open_source
from rlcli.datasets.parquet_batches import Batches
from rlcli.errors import InputError, RLError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = 10
OBSERVATIONS = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("f4")


def table(**more: Any) -> Any:
    """Two episodes of five steps."""
    told = {
        "observation": pa.array(OBSERVATIONS.tolist(), pa.list_(pa.float32())),
        "action": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(20.0, dtype="f4")), 2),
        "reward": pa.array(np.arange(ROWS, dtype="f4")),
        "episode_index": pa.array(np.repeat([0, 1], 5)),
    }
    return pa.table({name: values for name, values in {**told, **more}.items() if values is not None})


def read(path: Path, *key: str) -> Any:
    with Dataset.open(path) as dataset:
        return dataset.read(key, 0, dataset.num_rows)


def test_lists_of_any_kind_in_row_groups_of_any_size_are_vectors(tmp_path):
    pq.write_table(
        table(grid=pa.array(np.arange(60).reshape(ROWS, 2, 3).tolist())),
        tmp_path / "x.parquet",
        row_group_size=3,
    )
    convert(tmp_path / "x.parquet", tmp_path / "ds", check=True)
    assert (read(tmp_path / "ds", "observation") == OBSERVATIONS).all()
    assert read(tmp_path / "ds", "action").tolist() == np.arange(20.0).reshape(ROWS, 2).tolist()
    assert read(tmp_path / "ds", "info", "grid").tolist() == np.arange(60).reshape(ROWS, 2, 3).tolist()


def test_fields_of_structs_are_columns(tmp_path):
    steps = [{"pose": {"xy": [float(n), 1.0]}, "door": n % 2 == 0} for n in range(ROWS)]
    pq.write_table(table(observation=pa.array(steps)), tmp_path / "x.parquet", row_group_size=4)
    convert(tmp_path / "x.parquet", tmp_path / "ds", check=True)
    pose = read(tmp_path / "ds", "observation", "pose", "xy")
    assert pose.tolist() == [[float(n), 1.0] for n in range(ROWS)]
    assert read(tmp_path / "ds", "observation", "door").tolist() == [True, False] * 5


def test_files_without_rows_are_passed_over(tmp_path):
    (tmp_path / "x").mkdir()
    for number, part in enumerate((table().slice(0, 4), table().slice(0, 0), table().slice(4))):
        pq.write_table(part, tmp_path / "x" / f"part-{number}.parquet")
    convert(tmp_path / "x", tmp_path / "ds", check=True)
    assert (read(tmp_path / "ds", "observation") == OBSERVATIONS).all()


@pytest.mark.parametrize(
    "values",
    [
        [[1, 2]] * 7 + [[1, None]] + [[1, 2]] * 2,  # would become a number that nobody wrote
        [{"a": 1}] * 9 + [None],
    ],
)
def test_empty_values_that_no_number_stands_for_are_refused_unless_left_out(values, tmp_path):
    pq.write_table(table(odd=pa.array(values)), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="odd has"):
        convert(tmp_path / "x.parquet", tmp_path / "ds")
    if not isinstance(values[0], dict):
        report = convert(tmp_path / "x.parquet", tmp_path / "ds", mapping={"odd": "-"})
        assert report["lossy"] == ["odd: left out, as asked"]


def test_empty_rows_of_text_bools_and_integers_are_told_by_a_column_beside(tmp_path):
    text = ["a", None, "", *["b"] * 7]
    whole = pa.array([1, None, *range(8)], pa.int16())
    more = {"odd": pa.array(text), "number": whole, "flag": pa.array([True] * 8 + [None, True])}
    more["word"] = pa.array(text).dictionary_encode()
    pq.write_table(table(**more), tmp_path / "x.parquet", row_group_size=4)
    pq.write_table(table(**more), tmp_path / "y.parquet", row_group_size=4, write_statistics=False)
    for name in ("x", "y"):
        report = convert(tmp_path / f"{name}.parquet", tmp_path / name, check=True)
        assert "odd: 1 rows are empty; odd_valid tells which" in report["remarks"]
        with Dataset.open(tmp_path / name) as dataset:
            assert dataset.schema.column(("info", "number")).dtype == "int16"
        for key in ("odd", "word"):
            assert list(read(tmp_path / name, "info", key)) == ["a", "", "", *["b"] * 7]
            assert read(tmp_path / name, "info", f"{key}_valid").tolist() == [True, False, *[True] * 8]
        assert read(tmp_path / name, "info", "number").tolist() == [1, 0, *range(8)]
        assert read(tmp_path / name, "info", "flag").tolist() == [True] * 8 + [False, True]


def test_a_name_that_comes_twice_is_refused(tmp_path):
    twice = table().append_column("reward", pa.array(np.zeros(ROWS)))
    pq.write_table(twice, tmp_path / "x.parquet")
    with pytest.raises(InputError, match="has reward more than once"):
        convert(tmp_path / "x.parquet", tmp_path / "ds")


def test_an_empty_action_is_refused(tmp_path):
    pq.write_table(table(action=pa.array([1, None, *range(8)])), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="action has 1 empty rows"):
        convert(tmp_path / "x.parquet", tmp_path / "ds")


def test_empty_floats_are_nan(tmp_path):
    pq.write_table(table(x=pa.array([[1.0, None]] * ROWS)), tmp_path / "x.parquet")
    report = convert(tmp_path / "x.parquet", tmp_path / "ds", check=True)
    assert report["not_finite"] == {"info/x": ROWS}
    assert np.isnan(read(tmp_path / "ds", "info", "x")[:, 1]).all()


def test_whole_numbers_at_the_ends_of_their_types_are_kept(tmp_path):
    big = pa.array(np.full(ROWS, 2**64 - 1, np.uint64))
    pq.write_table(table(big=big, low=pa.array(np.full(ROWS, -(2**63)))), tmp_path / "x.parquet")
    convert(tmp_path / "x.parquet", tmp_path / "ds", check=True)
    assert read(tmp_path / "ds", "info", "big").tolist() == [2**64 - 1] * ROWS
    assert read(tmp_path / "ds", "info", "low").tolist() == [-(2**63)] * ROWS


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="not a regular file"):
        convert(tmp_path / "x.parquet", tmp_path / "ds", from_="parquet")


@pytest.mark.parametrize("bits", [0x0C, 0xFF])
def test_damage_in_the_footer_does_not_end_the_process(tmp_path, bits):
    """Asking Arrow for a column's metadata does, where these are damaged."""
    pq.write_table(pa.table({"obs": [[1.0, 2.0]] * 6, "done": [0, 0, 1, 0, 0, 1]}), tmp_path / "x.parquet")
    sound = (tmp_path / "x.parquet").read_bytes()
    footer = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")
    for at in range(footer, footer + 200):
        broken = bytearray(sound)
        broken[at] ^= bits
        (tmp_path / "x.parquet").write_bytes(broken)
        with suppress(RLError):
            ParquetTable(tmp_path / "x.parquet").close()


def test_slices_and_row_groups_of_any_size_give_the_same_rows(tmp_path):
    rng = np.random.default_rng(2)
    for number, rows in enumerate((23, 1, 40)):
        values = rng.standard_normal((rows, 3)).astype("f4")
        steps = pa.table({"obs": list(values), "name": [f"{number} {row}" for row in range(rows)]})
        pq.write_table(steps, tmp_path / f"{number}.parquet", row_group_size=7)
    whole = pa.concat_tables(pq.read_table(file) for file in sorted(tmp_path.glob("*")))
    told = np.array(whole["obs"].to_pylist(), "f4")
    with closing(ParquetTable(tmp_path)) as opened:
        for low, high, most in ((0, 64, 7), (0, 64, 20), (5, 60, 5), (22, 25, 9), (6, 8, 1), (0, 64, 99)):
            ranges = list(opened.slices(low, high, most))
            assert [row for start, stop in ranges for row in range(start, stop)] == list(range(low, high))
            assert all(0 < stop - start <= most for start, stop in ranges)
            for start, stop in ranges:
                found = opened.read(["obs", "name"], start, stop)
                np.testing.assert_array_equal(found["obs"], told[start:stop])
                assert found["name"].tolist() == whole["name"].to_pylist()[start:stop]
        assert list(opened.slices(5, 64, 20)) == [(5, 24), (24, 38), (38, 52), (52, 64)]


def test_who_stops_while_rows_are_decoded_hears_of_nothing_else(tmp_path, monkeypatch):
    rows = {"obs": list(np.zeros((90, 3), "f4")), "action": list(np.zeros((90, 2), "f4"))}
    pq.write_table(pa.table(rows | {"terminals": np.arange(90) % 9 == 8}), tmp_path / "x", row_group_size=5)
    decoding, may_go_on, groups = threading.Event(), threading.Event(), Batches._batches

    def waits(self, at, group, names, batch_rows):
        if group == 2:
            decoding.set()
            may_go_on.wait(60)
        return groups(self, at, group, names, batch_rows)

    def stop_while_a_thread_decodes():
        with open_source(tmp_path / "x", Request(confirmed=True), NoOptions()) as source:
            monkeypatch.setattr(Batches, "_batches", waits)
            source.slice_rows = 5
            parts = source.parts(source.pieces[0], Report(), lambda count: None)
            next(parts), next(parts)
            assert decoding.wait(60)
            threading.Timer(0.01, may_go_on.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_while_a_thread_decodes()
