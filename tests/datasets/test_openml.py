"""Tables of features and a label become episodes of one step."""

from __future__ import annotations

import numpy as np
import pytest

from rlcli.errors import CorruptError, InputError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert

CSV = "sepal,petal,kind,class\n5.1,1.4,wild,0\n4.9,1.3,garden,2\n6.2,4.5,wild,1\n"


def test_every_row_is_an_episode(tmp_path):
    (tmp_path / "iris.csv").write_text(CSV)
    report = convert(tmp_path / "iris.csv", tmp_path / "ds", from_="openml", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.episodes.length.tolist() == [1, 1, 1]
        assert dataset.episodes.terminated.all()
        expected = np.array([[5.1, 1.4], [4.9, 1.3], [6.2, 4.5]], "f4")
        assert np.array_equal(dataset.read(("observation",)), expected)
        assert dataset.read(("action",)).tolist() == [0, 2, 1]
        assert dataset.spec["action"] == {"type": "discrete", "n": 3, "start": 0}
        assert list(dataset.read(("info", "kind"))) == ["wild", "garden", "wild"]
        assert dataset.extra["source"]["features"] == ["sepal", "petal"]
    assert report["unknown_next"] == 3
    assert "the source has no rewards; they are 0" in report["remarks"]


def test_the_label_can_be_named(tmp_path):
    (tmp_path / "x.csv").write_text("a,b,answer\n1,2,0\n3,4,1\n")
    convert(tmp_path / "x.csv", tmp_path / "ds", from_="openml", sets=["target=answer"])
    with pytest.raises(UsageError, match="no column class, target, label, y"):
        convert(tmp_path / "x.csv", tmp_path / "no", from_="openml")
    with pytest.raises(UsageError, match="no column 'anser'"):
        convert(tmp_path / "x.csv", tmp_path / "no", from_="openml", sets=["target=anser"])


@pytest.mark.parametrize(
    ("header", "label"), [("a,CLASS", 1), ("Class,class", 1), ("Y,a", 0), ("y,Target", 1)]
)
def test_capitals_in_the_name_of_the_label_do_not_matter(tmp_path, header, label):
    (tmp_path / "x.csv").write_text(f"{header}\n1,2\n3,4\n")
    convert(tmp_path / "x.csv", tmp_path / "ds", from_="openml", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("action",)).tolist() == [[1, 3], [2, 4]][label]


def test_parquet_tables(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"a": [1.0, 2.0], "y": [1, 0]}), tmp_path / "x.parquet")
    convert(tmp_path / "x.parquet", tmp_path / "ds", from_="openml", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("action",)).tolist() == [1, 0]


def test_labels_of_text_are_numbered(tmp_path):
    (tmp_path / "x.csv").write_text("a,class\n1,yes\n2,no\n3,yes\n")
    convert(tmp_path / "x.csv", tmp_path / "ds", from_="openml", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.extra["source"]["classes"] == ["no", "yes"]
        assert dataset.read(("action",)).tolist() == [1, 0, 1]
        assert dataset.spec["action"] == {"type": "discrete", "n": 2, "start": 0}


def test_tables_that_cannot_be_are_one_line(tmp_path):
    (tmp_path / "y.bin").write_bytes(bytes(99))
    with pytest.raises(InputError):
        convert(tmp_path / "y.bin", tmp_path / "ds", from_="openml")


ARFF = """% a comment
@RELATION "iris, cut"

@attribute 'sepal length' REAL
@attribute petal\tnumeric
@attribute kind {wild, 'in a garden', "it's"}
@attribute note string
@attribute class{setosa,'versi color',virginica}
@DATA
% another one
5.1, 1.4, wild, 'a, \\'quoted\\' one', virginica
4.9,?, 'in a garden',"x",setosa

6.2,4.5,?,?,'versi color'
"""


def test_arff_is_read_as_it_is_declared(tmp_path):
    (tmp_path / "x.arff").write_text(ARFF)
    report = convert(tmp_path / "x.arff", tmp_path / "ds", check=True)
    assert report["seen"] == "ARFF table of features and a label"
    with Dataset.open(tmp_path / "ds") as dataset:
        expected = np.array([[5.1, 1.4], [4.9, np.nan], [6.2, 4.5]], "f4")
        assert np.array_equal(dataset.read(("observation",)), expected, equal_nan=True)
        assert dataset.extra["source"]["classes"] == ["setosa", "versi color", "virginica"]
        assert dataset.read(("action",)).tolist() == [2, 0, 1]
        assert list(dataset.read(("info", "kind"))) == ["wild", "in a garden", "?"]
        assert list(dataset.read(("info", "note"))) == ["a, 'quoted' one", "x", "?"]
        assert dataset.episodes.length.tolist() == [1, 1, 1]


def test_sparse_rows_of_arff_have_zeros(tmp_path):
    head = "@relation r\n@attribute a numeric\n@attribute b integer\n@attribute class {no,yes}\n@data\n"
    (tmp_path / "x.arff").write_text(head + "{}\n{1 -3, 2 yes}\n{0 0.5}\n")
    convert(tmp_path / "x.arff", tmp_path / "ds", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("observation",)).tolist() == [[0, 0], [0, -3], [0.5, 0]]
        assert dataset.read(("action",)).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("5.1", "five", "declared numeric"),
        ("setosa\n", "rosa\n", "none of its declared values"),
        ("?,?,", "?,", "4 values, 5 are declared"),
        ("'versi color'\n", "'versi color\n", "not closed"),
        ("@DATA", "", "ends before @data"),
        ("petal\tnumeric", "petal", "declares no attribute"),
    ],
)
def test_arff_that_is_not_what_it_declares_is_corrupt(old, new, said, tmp_path):
    text = ARFF.replace(old, new)
    (tmp_path / "x.arff").write_text(text if new else text[: text.index("% another")])
    with pytest.raises(CorruptError, match=said):
        convert(tmp_path / "x.arff", tmp_path / "ds")


def test_numbered_features_of_a_csv_are_features(tmp_path):
    (tmp_path / "x.csv").write_text("pixel_0,pixel_1,class\n1,2,0\n3,4,1\n")
    convert(tmp_path / "x.csv", tmp_path / "ds", from_="openml", check=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("observation",)).tolist() == [[1, 2], [3, 4]]
