"""LeRobot: damaged and lying datasets are one line and leave nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlcli.errors import CorruptError, IncompatibleError, InputError, RLError
from rlcli.pipeline.convert import convert
from tests.datasets.lerobot_made import make, rewrite, video

_VIDEO = "videos/observation.images.top/chunk-000/file-000.mp4"


def test_frames_of_another_size_are_corrupt(tmp_path: Path) -> None:
    path = make(tmp_path / "src", without_video=False)
    video(path / "videos" / "observation.images.top" / "chunk-000" / "file-001.mp4", [1, 2, 3], side=64)
    with pytest.raises(CorruptError, match=r"a frame uint8\[64, 64, 3\], others are \[32, 32, 3\]"):
        convert(path, tmp_path / "bad")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        (lambda p: rewrite(p, codebase_version="v1.6"), IncompatibleError, "LeRobot v1.6"),
        (lambda p: rewrite(p, fps=0), CorruptError, "malformed"),
        (lambda p: rewrite(p, features={"x": 3}), CorruptError, "malformed"),
        (lambda p: rewrite(p, video_path="../../{video_key}/x.mp4"), CorruptError, "leads out of"),
        (lambda p: rewrite(p, video_path="{other}.mp4"), CorruptError, "unknown place 'other'"),
        (lambda p: rewrite(p, video_path="{video_key.__class__}.mp4"), CorruptError, "leads out"),
        (lambda p: (p / "meta" / "info.json").write_text("{"), CorruptError, "damaged JSON"),
        (lambda p: _truncate(p / "data/chunk-000/file-001.parquet"), CorruptError, "damaged Parquet"),
        (lambda p: _truncate(p / "meta/tasks.parquet"), CorruptError, "damaged Parquet"),
        (lambda p: _truncate(p / _VIDEO), CorruptError, "damaged"),
        (
            lambda p: (p / _VIDEO).write_text("#EXTM3U\n/etc/passwd\n"),
            CorruptError,
            "damaged video",
        ),
        (
            lambda p: (p / "data/chunk-000/file-002.parquet").write_bytes(
                (p / "data/chunk-000/file-001.parquet").read_bytes()
            ),
            InputError,
            "episode 2 has rows in two places",
        ),
    ],
)  # fmt: skip
def test_damage_is_one_line_and_leaves_nothing(
    tmp_path: Path, change: Callable[[Path], None], kind: type[RLError], match: str
) -> None:
    path = make(tmp_path / "src", without_video=False)
    change(path)
    with pytest.raises(kind, match=match) as caught:
        convert(path, tmp_path / "bad", from_="lerobot")
    assert "\n" not in caught.value.message
    assert [p.name for p in tmp_path.iterdir()] == ["src"]


def test_flipped_bytes_give_one_line_or_rows(tmp_path: Path) -> None:
    path = make(tmp_path / "src", without_video=False)
    files = [p for p in path.rglob("*") if p.is_file()]
    rng = np.random.default_rng(0)
    messages = []
    for number in range(24):
        file = files[number % len(files)]
        good = file.read_bytes()
        bad = bytearray(good)
        for at in rng.integers(0, len(bad), 4):
            bad[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(bad)
        try:
            convert(path, tmp_path / f"out{number}", from_="lerobot")
        except RLError as err:
            messages.append(err.message)
            assert not (tmp_path / f"out{number}").exists()
        file.write_bytes(good)
    assert messages
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize("version", ["v2.0", "v3.0"])
def test_a_row_group_with_more_rows_than_the_file_is_corrupt(tmp_path: Path, version: str) -> None:
    """A footer that Arrow reads, whose row group claims a row more; Arrow then gives fewer than it says."""
    path = make(tmp_path / "src", version)
    file = sorted((path / "data").rglob("*.parquet"))[0]
    good = file.read_bytes()
    rows = pq.read_metadata(file).num_rows
    for at in range(len(good) - 8 - int.from_bytes(good[-8:-4], "little"), len(good) - 8):
        bad = good[:at] + bytes([(good[at] + 2) % 256]) + good[at + 1 :]  # a varint, zigzag: + 1
        try:
            told = pq.read_metadata(pa.BufferReader(bad))
        except (OSError, pa.ArrowException):
            continue
        if (told.num_rows, told.row_group(0).num_rows) == (rows, rows + 1):
            file.write_bytes(bad)
            break
    else:
        pytest.fail("no byte of the footer counts the rows of a group")
    with pytest.raises(CorruptError, match="row groups and rows disagree"):
        convert(path, tmp_path / "ds")
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize("second", [float("inf"), float("nan"), 1e300])
def test_a_video_that_begins_never_is_corrupt(tmp_path: Path, second: float) -> None:
    path = make(tmp_path / "x", without_video=False)
    for file in (path / "meta" / "episodes").rglob("*.parquet"):
        entry = pq.read_table(file).to_pylist()[0]
        entry["videos/observation.images.top/from_timestamp"] = second
        pq.write_table(pa.Table.from_pylist([entry]), file)
    with pytest.raises(CorruptError, match="is at second"):
        convert(path, tmp_path / "ds")


@pytest.mark.parametrize("line", ['{"task_index": 0}', "7", '{"task_index": 1e999, "task": "x"}', "{"])
def test_a_line_of_tasks_that_is_none_is_corrupt(tmp_path: Path, line: str) -> None:
    path = make(tmp_path / "x", "v2.1")
    (path / "meta" / "tasks.jsonl").write_text(line)
    with pytest.raises(CorruptError, match=r"tasks\.jsonl"):
        convert(path, tmp_path / "ds")
