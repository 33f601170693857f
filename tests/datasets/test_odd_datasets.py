"""Datasets as collectors leave them, to every format under --check and back: what is lost is said."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import Column, Heap, heap_column, ted_schema
from rlcli.format.specs import Box
from rlcli.format.writer import Writer
from rlcli.pipeline.convert import convert

HOLD_FLAGS = ("hdf5", "npz", "zarr", "parquet", "torchrl", "robomimic", "minari", "lerobot")
LOSE_FLAGS = ("csv", "d4rl", "rlds")


def written(path: Path, lengths: dict[int, list[int]], flags: Any, **extra: Any) -> Path:
    """Episodes of these lengths in each stream, ended by `flags`; None leaves the stream's last one open.

    `extra` are columns below `info`: `(dtype, values of all rows, stream by stream)`; bytes are PNG.
    """
    box = Box((2,), "float32")
    columns = [
        heap_column(("info", name), Heap("array", "png"), dtype, (8, 9, 3))
        if isinstance(rows[0], bytes)
        else Column(("info", name), dtype, np.shape(rows)[1:])
        for name, (dtype, rows) in extra.items()
    ]
    spec = {"env": None, "observation": box.to_json(), "action": box.to_json()}
    schema = ted_schema(box, box, extra=columns)
    writer = Writer.create(path, schema, spec=spec, lineage={"op": "test"}, num_streams=len(lengths))
    rng, at = np.random.default_rng(1), 0
    with EpisodeWriter(writer) as rows:
        for stream, of_stream in lengths.items():
            for length, ends in zip(of_stream, flags[stream], strict=True):
                values: dict[Any, Any] = {
                    ("observation",): rng.normal(size=(length, 2)).astype("f4"),
                    ("action",): rng.normal(size=(length, 2)).astype("f4"),
                    ("next", "reward"): rng.normal(size=(length, 1)).astype("f4"),
                }
                values |= {("info", name): given[at : at + length] for name, (_, given) in extra.items()}
                at += length
                rows.add_rows(stream, values)
                if ends is not None:
                    final = np.ones(2, "f4")
                    rows.end(stream, terminated=ends[0], truncated=ends[1], final=final)
    return path


@pytest.mark.parametrize("to", [*HOLD_FLAGS, *LOSE_FLAGS])
def test_an_open_end_and_both_flags_at_once_come_back_or_are_said(to: str, tmp_path: Path) -> None:
    flags = {0: [(True, False), (True, True), None], 1: [(False, True), None]}
    source = written(tmp_path / "source", {0: [3, 2, 4], 1: [1, 5]}, flags)
    lossy = convert(source, tmp_path / "out", to=to, check=True)["lossy"]
    convert(tmp_path / "out", tmp_path / "back", from_=to, check=True, yes=True)
    with Dataset.open(tmp_path / "back") as back:
        found = [back.episodes.terminated.tolist(), back.episodes.truncated.tolist()]
        cut = back.episodes.cut.tolist()
    terminated, truncated = [True, True, False, False, False], [False, True, False, True, False]
    if to in HOLD_FLAGS:
        assert (found, cut) == ([terminated, truncated], [False, False, True, False, True])
        return
    assert found == [terminated, [False, to != "rlds", True, True, True]]
    assert "2 unfinished episodes are written as if they had ended" in lossy
    assert ("1 episodes that terminated are not truncated too" in lossy) == (to == "rlds")


LARGE = np.array([2**64 - 1, 0, 2**63, 2**53 + 1, 7], np.uint64)
TURNED = np.array([1 + 2j, -0.5j, 3, 0, np.inf], np.complex64)


@pytest.mark.parametrize("to", [*HOLD_FLAGS, *LOSE_FLAGS])
def test_numbers_of_odd_dtypes_come_back_or_are_said(to: str, tmp_path: Path) -> None:
    values = {"large": ("uint64", LARGE), "turned": ("complex64", TURNED)}
    source = written(tmp_path / "source", {0: [3, 2]}, {0: [(True, False), (False, True)]}, **values)
    lossy = convert(source, tmp_path / "out", to=to, check=True)["lossy"]
    convert(tmp_path / "out", tmp_path / "back", from_=to, check=True, yes=True)
    with Dataset.open(tmp_path / "back") as back:
        for name, (_, wanted) in values.items():
            if ("info", name) in back.schema.by_key:
                found = back.read(("info", name))
                assert found.dtype == wanted.dtype
                assert found.tobytes() == wanted.tobytes()
            else:
                assert any(name in sentence for sentence in lossy)
        assert ("info", "large") in back.schema.by_key


def test_whole_numbers_of_a_csv_file_keep_all_digits(tmp_path: Path) -> None:
    cells = [(2**64 - 1, 5, -1, 0.5), (1, 2**63, 2**62 + 1, 2)]
    lines = [f"{n},0,0,{a},{b},{c},{d}" for n, (a, b, c, d) in enumerate(cells)]
    text = "\n".join(["observation,action,reward,id_0,id_1,signed,mixed", *lines])
    (tmp_path / "x.csv").write_text(text + "\n")
    convert(tmp_path / "x.csv", tmp_path / "ds", check=True, yes=True)
    with Dataset.open(tmp_path / "ds") as dataset:
        assert dataset.read(("info", "id")).tolist() == [[2**64 - 1, 5], [1, 2**63]]
        assert dataset.read(("info", "signed")).tolist() == [-1, 2**62 + 1]
        assert dataset.read(("info", "mixed")).tolist() == [0.5, 2]


@pytest.mark.parametrize("to", [*HOLD_FLAGS, *LOSE_FLAGS])
def test_pictures_that_were_kept_come_back_or_as_pixels_which_is_said(to: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (5, 8, 9, 3), np.uint8)
    encoded = []
    for picture in pixels:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "PNG")
        encoded.append(stream.getvalue())
    flags = {0: [(True, False), (False, True)]}
    source = written(tmp_path / "source", {0: [3, 2]}, flags, camera=("uint8", encoded))
    lossy = convert(source, tmp_path / "out", to=to, check=True)["lossy"]
    convert(tmp_path / "out", tmp_path / "back", from_=to, check=True, yes=True)
    if to == "csv":
        assert any("camera: shape [8, 9, 3] is flattened" in sentence for sentence in lossy)
        return
    assert ("info/camera: stored decoded, not as png" in lossy) == (to not in ("rlds", "lerobot"))
    with Dataset.open(tmp_path / "back") as back:
        assert np.array_equal(np.stack(list(back.read(("info", "camera")))), pixels)


@pytest.mark.parametrize("to", [*HOLD_FLAGS, *LOSE_FLAGS])
def test_bfloat16_comes_back_or_is_said(to: str, tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC000, 0x7F80, 0, 0x0001], np.uint16)  # 1, -2, inf, 0 and the least number
    flags = {0: [(True, False), (False, True)]}
    source = written(tmp_path / "source", {0: [3, 2]}, flags, half=("bfloat16", bits))
    report = convert(source, tmp_path / "out", to=to, check=True)
    convert(tmp_path / "out", tmp_path / "back", from_=to, check=True, yes=True)
    with Dataset.open(tmp_path / "back") as back:
        column = back.schema.by_key.get(("info", "half"))
        if to in ("hdf5", "npz", "zarr", "parquet", "torchrl", "rlds"):
            assert column is not None
            assert column.dtype == "bfloat16"
            assert back.read(column.key).tolist() == bits.tolist()
        else:
            assert column is None or column.dtype != "bfloat16"
            assert any("half" in sentence for sentence in report["lossy"])


def test_finals_that_d4rl_cannot_tell_from_unknown_ones_are_counted(tmp_path: Path) -> None:
    flags = {0: [(True, False), (False, True), None]}
    source = written(tmp_path / "source", {0: [3, 2, 4]}, flags)
    lossy = convert(source, tmp_path / "out", to="d4rl", check=True)["lossy"]
    assert "next_observations: unknown for 1 rows; the file cannot say which" in lossy
    assert "next_observations: 2 known ends are lost, as others are unknown" in lossy


@pytest.mark.parametrize("to", [*HOLD_FLAGS, *LOSE_FLAGS])
def test_a_dataset_that_is_being_written_goes_out_with_all_its_rows(to: str, tmp_path: Path) -> None:
    box = Box((2,), "float32")
    spec = {"env": None, "observation": box.to_json(), "action": box.to_json()}
    schema = ted_schema(box, box)
    writer = Writer.create(tmp_path / "live", schema, spec=spec, lineage={"op": "test"}, num_streams=2)
    observations = np.random.default_rng(3).normal(size=(13, 2)).astype("f4")
    with EpisodeWriter(writer) as rows:
        at = 0
        for stream, length, ends in [(0, 4, True), (0, 2, False), (1, 3, True), (1, 1, True), (1, 3, False)]:
            for step in range(length):
                done = ends and step == length - 1
                rows.add(
                    stream, observation=observations[at], action=observations[at], reward=at,
                    terminated=done, truncated=False, next_observation=observations[at] if done else None,
                )  # fmt: skip
                at += 1
        rows.flush()
        report = convert(tmp_path / "live", tmp_path / "out", to=to, check=True)
        assert (report["rows"], report["episodes"]) == (13, 5)
        assert "2 episodes are unfinished; the rows so far are written" in report["remarks"]
        convert(tmp_path / "out", tmp_path / "back", from_=to, check=True, yes=True)
    with Dataset.open(tmp_path / "back") as back:
        assert np.array_equal(back.read(("observation",)), observations)
        assert back.episodes.length.tolist() == [4, 2, 3, 1, 3]
        assert back.episodes.terminated.tolist() == [True, False, True, True, False]
        assert back.episodes.cut.tolist() == [False, to in HOLD_FLAGS, False, False, to in HOLD_FLAGS]


@pytest.mark.parametrize("to", [*HOLD_FLAGS, *LOSE_FLAGS])
def test_a_window_goes_out_with_the_rest_of_its_first_episode(to: str, tmp_path: Path) -> None:
    box = Box((2,), "float32")
    spec = {"env": None, "observation": box.to_json(), "action": box.to_json()}
    writer = Writer.create(
        tmp_path / "window", ted_schema(box, box), spec=spec, lineage={"op": "test"}, window=100,
        segment_rows=32,
    )  # fmt: skip
    total = 407
    with EpisodeWriter(writer) as rows:
        for at in range(total):
            value, done = np.full(2, at, "f4"), at % 37 == 36
            rows.add(
                0, observation=value, action=value, reward=1.0, terminated=done, truncated=False,
                next_observation=-value if done else None,
            )  # fmt: skip
            rows.flush()
    with Dataset.open(tmp_path / "window") as window:
        kept = window.num_rows
        assert window.stream_rows == [total]
    first = total - kept
    report = convert(tmp_path / "window", tmp_path / "out", to=to, check=True)
    ends = [*range(first - first % 37 + 37, total, 37), total]
    assert (report["rows"], report["episodes"]) == (kept, len(ends))
    convert(tmp_path / "out", tmp_path / "back", from_=to, check=True, yes=True)
    with Dataset.open(tmp_path / "back") as back:
        assert np.array_equal(back.read(("observation",))[:, 0], np.arange(first, total, dtype="f4"))
        assert back.episodes.length.tolist() == np.diff([first, *ends]).tolist()
        assert back.episodes.return_.tolist() == back.episodes.length.tolist()


@pytest.mark.parametrize("to", ["csv", "d4rl"])
def test_a_column_does_not_take_the_name_of_another_that_comes_later(to: str, tmp_path: Path) -> None:
    box = Box((2,), "float32")
    spec = {"env": None, "observation": box.to_json(), "action": box.to_json()}
    keys = [("speed",), ("info", "speed")]
    schema = ted_schema(box, box, extra=[Column(key, "int64", ()) for key in keys])
    with EpisodeWriter(Writer.create(tmp_path / "ds", schema, spec=spec, lineage={"op": "test"})) as rows:
        for at in range(6):
            rows.add(
                0, observation=np.full(2, at, "f4"), action=np.full(2, at, "f4"), reward=0.0, speed=at,
                info={"speed": -at}, terminated=at == 5, truncated=False,
                next_observation=np.zeros(2, "f4") if at == 5 else None,
            )  # fmt: skip
    convert(tmp_path / "ds", tmp_path / "out", to=to, check=True)
    convert(tmp_path / "out", tmp_path / "back", from_=to, check=True)
    with Dataset.open(tmp_path / "back") as back:
        assert back.read(("info", "speed")).tolist() == [0, -1, -2, -3, -4, -5]
        other = ("speed",) if to == "d4rl" else ("info", "rl", "speed")
        assert back.read(other).tolist() == [0, 1, 2, 3, 4, 5]
