"""CSV and other text: delimiters, what columns hold, vectors, lines that are none."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from rlcli.datasets import csv_text
from rlcli.errors import CorruptError, InputError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert


def test_vectors_of_a_csv_are_in_numeric_order(tmp_path):
    names = [f"obs_{n}" for n in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)]
    lines = [",".join([*names, "action", "done", "truncated"])]
    lines += [
        ",".join([*(str(n) for n in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)), "1", f"{end}", "False"])
        for end in (False, True)
    ]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    convert(tmp_path / "x.csv", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("observation",), 0, 2).tolist() == [list(range(11))] * 2
        assert dataset.spec["action"] == {"type": "discrete", "n": 2, "start": 0}


def test_lines_of_different_lengths_are_corrupt(tmp_path):
    (tmp_path / "x.csv").write_text("obs,action,timeout\n1,2,True\n1,2\n")
    with pytest.raises(CorruptError, match="row 3 has 2 fields"):
        convert(tmp_path / "x.csv", tmp_path / "ds")


@pytest.mark.parametrize(
    "text",
    [
        "obs,action,episode\n\n1,5,0\n\n2,6,0\n",
        '\ufeff"obs","action","episode"\r\n1,5,0\r\n2,6,0\r\n',
        'obs,action,episode,"a ""note"",\nin lines"\n1,5,0,x\n2,6,0,"y\n,"\n',
    ],
)
def test_any_legal_csv_is_recognised(text, tmp_path):
    (tmp_path / "x.csv").write_text(text, encoding="utf-8", newline="")
    convert(tmp_path / "x.csv", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("observation",), 0, 2).tolist() == [1, 2]
        assert dataset.read(("action",), 0, 2).tolist() == [5, 6]


@pytest.mark.parametrize("between", [";", "\t"])
def test_semicolons_and_tabs_are_found_out(between, tmp_path):
    lines = [["obs_0", "obs_1", "action", "episode", "note"], ["1.5", "2", "5", "0", "a, b"]]
    text = "".join(between.join(line) + "\r\n" for line in [*lines, ["-3", "", "6", "0", "c,,d"]])
    (tmp_path / "x.csv").write_text(text, encoding="utf-8", newline="")
    report = convert(tmp_path / "x.csv", tmp_path / "ds", check=True)
    assert report["seen"].startswith("CSV file, 5 columns, ")
    with Dataset.open(tmp_path / "ds") as dataset:
        expected = np.array([[1.5, 2], [-3, np.nan]])
        assert np.array_equal(dataset.read(("observation",), 0, 2), expected, equal_nan=True)
        assert list(dataset.read(("info", "note"), 0, 2)) == ["a, b", "c,,d"]


def test_a_delimiter_can_be_said(tmp_path):
    (tmp_path / "x.csv").write_text("obs|action|episode\n1|5|0\n2|6|0\n")
    convert(tmp_path / "x.csv", tmp_path / "ds", from_="csv", sets=["delimiter=|"], check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("action",), 0, 2).tolist() == [5, 6]
    with pytest.raises(UsageError, match="expected one character, or tab"):
        convert(tmp_path / "x.csv", tmp_path / "no", from_="csv", sets=["delimiter=ab"])


@pytest.mark.parametrize(
    ("first", "then", "dtype"),
    [
        ("16777217", "0.5", "float64"),
        ("16777217", "", "float64"),
        ("7", "0.5", "float32"),
        ("7", "8", "int64"),
    ],
)
def test_what_a_column_is_goes_by_all_its_cells(first, then, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr("rlcli.datasets.text_table._MAX_LINES", 2)
    lines = ["obs,action,timeout"] + [f"{first},0,True"] * 4 + [f"{then},1,True"]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    convert(tmp_path / "x.csv", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        values = dataset.read(("observation",), 0, 5).reshape(-1)
        assert str(values.dtype) == dtype
        expected = [float(first)] * 4 + [float(then or "nan")]
        assert np.array_equal(values.astype(float), expected, equal_nan=True)


def commas(path, text):
    path.write_text(text)
    return path


NUMBERS = (
    "obs_0;obs_1;action_0;rewards;episode_id;name\n0,5;1;-2,25;1e-3;0;a,b\n1,5;2;3,5;,5;0;1\n7;3;0;2;1;c\n"
)


def test_decimal_commas_between_semicolons(tmp_path):
    report = convert(commas(tmp_path / "x.csv", NUMBERS), tmp_path / "ds", check=True)
    assert "3 columns have decimal commas" in report["remarks"]
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("observation",), 0, 3).tolist() == [[0.5, 1], [1.5, 2], [7, 3]]
        assert dataset.read(("action",), 0, 3)[:, 0].tolist() == [-2.25, 3.5, 0]
        assert dataset.read(("next", "reward"), 0, 3)[:, 0].tolist() == [np.float32(1e-3), 0.5, 2]
        assert list(dataset.read(("info", "name"), 0, 3)) == ["a,b", "1", "c"]  # text stays as it was


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("obs;action;rewards\n1,234;1;1\n2,500;2;1\n", "may be thousands"),
        ("obs;action;rewards\n1,5;1.5;1\n2,5;2;1\n", "a point elsewhere"),
        ("obs;action;rewards\n1,5;1;1\n2.5;2;1\n", "a point in the column"),
        ("obs;action;rewards\n1.234,5;1;1\n2.500,5;2;1\n", "thousands have points"),
    ],
)
def test_commas_that_may_be_something_else_stay_text(tmp_path, text, why):
    with pytest.raises(InputError, match="obs holds text"):
        convert(commas(tmp_path / "x.csv", text), tmp_path / "ds", yes=True)


def test_decimal_commas_are_told(tmp_path):
    text = 'obs,action,rewards,episode_id\n"1,234",1,1,0\n"2,500",2,1,0\n'
    convert(commas(tmp_path / "x.csv", text), tmp_path / "ds", sets=["decimal=comma"], yes=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("observation",), 0, 2).reshape(-1).tolist() == [np.float32(1.234), 2.5]
    text = NUMBERS.replace("obs_0", "obs").replace("obs_1", "more")
    with pytest.raises(InputError, match="rewards has object"):
        convert(commas(tmp_path / "y.csv", text), tmp_path / "no", sets=["decimal=point"], yes=True)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("text", ["5", "True", "1.50", "-0", "nan", "007"])
def test_text_that_reads_as_numbers_is_written_and_said(text, size, tmp_path):
    values = {
        "observations": np.zeros((size, 2), "f4"),
        "actions": np.ones((size, 1), "f4"),
        "terminals": np.arange(size) == size - 1,
        "note": np.array([text] * size),
        "word": np.array(["a"] * size),
    }
    np.savez(tmp_path / "x.npz", **values)
    convert(tmp_path / "x.npz", tmp_path / "ds")
    report = convert(tmp_path / "ds", tmp_path / "x.csv", check=True)
    assert "text: infos/note is read as numbers, which all of it could be" in report["lossy"]
    with open(tmp_path / "x.csv", newline="") as stream:
        assert [row["infos/note"] for row in csv.DictReader(stream)] == [text] * size


def test_another_number_than_the_text_is_still_found(tmp_path, monkeypatch):
    np.savez(
        tmp_path / "x.npz",
        observations=np.zeros((2, 2)),
        actions=np.ones((2, 1)),
        terminals=np.array([False, True]),
        note=np.array(["1.5", "2"]),
    )
    convert(tmp_path / "x.npz", tmp_path / "ds")
    written = csv_text._texts
    monkeypatch.setattr(csv_text, "_texts", lambda values: ["7" if v == "2" else v for v in written(values)])
    with pytest.raises(CorruptError, match="note: 1 of 2 rows differ"):
        convert(tmp_path / "ds", tmp_path / "x.csv", check=True)
