"""Columns of Parquet of every type that tables are published with, and the folders they are published in."""

from __future__ import annotations

import datetime
import decimal
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rlcli.format.dataset import Dataset
from rlcli.pipeline.convert import convert

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

SIZE = 6


def columns(**more: Any) -> dict[str, Any]:
    return {
        "observation": pa.array(np.arange(SIZE * 2.0).reshape(SIZE, 2).tolist()),
        "action": pa.array(np.ones((SIZE, 1)).tolist()),
        "episode_id": np.arange(SIZE) // 3,
        **more,
    }


def converted(tmp_path, values: dict[str, Any], **options: Any) -> tuple[dict[str, Any], Dataset]:
    pq.write_table(pa.table(values), tmp_path / "x.parquet", row_group_size=4)
    report = convert(tmp_path / "x.parquet", tmp_path / "ds", check=True, **options)
    return report, Dataset.open(tmp_path / "ds")


def png(level: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), level, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "value", "number"),
    [
        (pa.timestamp("us", "UTC"), datetime.datetime(1970, 1, 1, 0, 0, 1, 5, datetime.UTC), 1_000_005),
        (pa.timestamp("ms"), datetime.datetime(1970, 1, 2), 86_400_000),
        (pa.date32(), datetime.date(1970, 1, 11), 10),
        (pa.time64("ns"), datetime.time(0, 0, 2), 2_000_000_000),
        (pa.time32("ms"), datetime.time(0, 1), 60_000),
        (pa.duration("ms"), datetime.timedelta(seconds=-2), -2_000),
    ],
)
def test_dates_and_times_are_whole_numbers_of_their_unit(kind, value, number, tmp_path):
    report, dataset = converted(tmp_path, columns(stamp=pa.array([value, None] * 3, kind)))
    assert dataset.read(("info", "stamp")).tolist() == [number, 0] * 3
    assert dataset.read(("info", "stamp_valid")).tolist() == [True, False] * 3
    assert f"stamp: {kind} is stored as whole numbers" in report["remarks"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (pa.nulls(SIZE), "null"),
        (pa.array([decimal.Decimal("1.50")] * SIZE, pa.decimal128(9, 2)), r"decimal128\(9, 2\)"),
        (pa.array([["a"]] * SIZE), "string"),
    ],
)
def test_what_has_no_place_is_left_out_and_its_type_said(values, named, tmp_path):
    report, dataset = converted(tmp_path, columns(odd=values))
    assert ("info", "odd") not in dataset.schema.by_key
    assert report["lossy"] == [
        f"odd has values of type {named.replace(chr(92), '')}, which cannot be stored; left out"
    ]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(2)])
def test_bytes_and_text_of_any_kind_are_kept(kind, tmp_path):
    values = [b"\x00\xff", b"ab", b"\xff\xd8"] * 2
    texts = pa.array(["ä", "", "b"] * 2).cast(pa.string_view())
    _, dataset = converted(tmp_path, columns(raw=pa.array(values, kind), note=texts))
    assert [bytes(value) for value in dataset.read(("info", "raw"))] == values
    assert list(dataset.read(("info", "note"))) == ["ä", "", "b"] * 2


@pytest.mark.parametrize("images", ["keep", "decode"])
@pytest.mark.parametrize("name", ["image", "observation"])
def test_pictures_of_hugging_face_are_pictures(name, images, tmp_path):
    values = [{"bytes": png(10 * row), "path": None if row else "0.png"} for row in range(SIZE)]
    report, dataset = converted(tmp_path, columns(**{name: pa.array(values)}), images=images)
    key = ("observation",) if name == "observation" else ("info", "image")
    expected = np.broadcast_to(10 * np.arange(SIZE).reshape(-1, 1, 1, 1), (SIZE, 4, 5, 3))
    np.testing.assert_array_equal(dataset.read(key), expected)
    assert (dataset.schema.by_key[key].heap is None) == (images == "decode")
    assert report["lossy"] == [f"{name}/path names the files that the bytes were; left out"]


def test_pictures_in_rows_that_are_episodes(tmp_path):
    lengths = [2, 0, 3]
    frames = [[png(50 * episode + step) for step in range(n)] for episode, n in enumerate(lengths)]
    values = {
        "observations": pa.array(frames, pa.list_(pa.binary())),
        "actions": pa.array([[[0.5]] * n for n in lengths], pa.list_(pa.list_(pa.float32()))),
        "dones": pa.array([[step == n - 1 for step in range(n)] for n in lengths], pa.list_(pa.bool_())),
    }
    _, dataset = converted(tmp_path, values, yes=True)
    assert dataset.episodes.length.tolist() == [2, 3]
    assert dataset.read(("observation",))[:, 0, 0, 0].tolist() == [0, 1, 100, 101, 102]


def test_a_repository_of_hugging_face_is_its_folder_data(tmp_path):
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "README.md").write_text("# A dataset\n")
    table = pa.table(columns())
    for number, part in enumerate((table.slice(0, 4), table.slice(4))):  # an episode goes on in the next file
        pq.write_table(part, tmp_path / "set" / "data" / f"train-{number:05d}-of-00002.parquet")
    report = convert(tmp_path / "set", tmp_path / "ds", check=True)
    assert Dataset.open(tmp_path / "ds").episodes.length.tolist() == [3, 3]
    assert not any("splits" in told for told in report["remarks"])
    pq.write_table(table, tmp_path / "set" / "data" / "test-00000-of-00001.parquet")
    report = convert(tmp_path / "set", tmp_path / "two", check=True)
    assert "the files of splits test, train follow each other" in report["remarks"]


@pytest.mark.parametrize(
    "to", ["rlds", "lerobot", "minari", "robomimic", "d4rl", "hdf5", "parquet", "torchrl"]
)
def test_bytes_go_nowhere_silently(to, tmp_path):
    values = columns(raw=pa.array([b"\x00\xff", b"", b"abc"] * 2, pa.binary()))
    converted(tmp_path, values)
    report = convert(tmp_path / "ds", tmp_path / "out", to=to, check=True)
    assert any(told.startswith("info/raw") for told in report["lossy"])
