"""Windows while they are written: what leaves, when its files go, what a killed writer leaves behind.

What is on disk is looked at here; reading windows has its own tests.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.errors import UsageError
from rlcli.format import dataset_json, folders, generations, layer, manifest, strictjson
from rlcli.format.episode_table import read_episodes
from rlcli.format.layout import SEGMENT_FOLDERS, SegmentPaths, choose_alloc
from rlcli.format.schema import Column, Schema
from rlcli.format.writer import Writer

SCHEMA = Schema((Column(("x",), "int64", ()), Column(("next", "reward"), "float32", (1,))))
STEPS = Schema((*SCHEMA.columns, Column(("step",), "int64", ())))


def _create(path: Path, window: int, **options: Any) -> Writer:
    options = {"segment_rows": 10, "durability": "process", "schema": SCHEMA, **options}
    return Writer.create(
        path, options.pop("schema"), spec={}, lineage={"op": "test"}, window=window, **options
    )


def _write(writer: Writer, rows: int, stream: int = 0) -> None:
    start = writer.streams[stream].rows
    columns = {("x",): np.arange(start, start + rows), ("next", "reward"): np.ones((rows, 1), np.float32)}
    if writer.schema != SCHEMA:
        columns["step",] = np.arange(start, start + rows) - writer.streams[stream].episode_start
    writer.write(stream, columns)


def _newest(path: Path) -> manifest.Manifest:
    return generations.load_newest(path, dataset_json.load(path)["uuid"])


def _firsts(path: Path, stream: int = 0) -> list[int]:
    return [segment.first for segment in _newest(path).segments if segment.stream == stream]


def _on_disk(path: Path) -> set[str]:
    found = [name for folder in SEGMENT_FOLDERS for name in folders.names(path / folder)]
    return {name.removesuffix(".log").removesuffix(".json") for name in found}


@pytest.mark.parametrize("window", [1, 9, 10, 11, 25, 40])
@pytest.mark.parametrize("step", [1, 3, 10, 35])
def test_segments_leave_when_they_are_wholly_below_the_window(tmp_path: Path, window: int, step: int) -> None:
    path = tmp_path / "ds"
    with _create(path, window) as writer:
        rows = 0
        while rows < 120:
            _write(writer, step)
            writer.commit()
            rows += step
            firsts = _firsts(path)
            assert firsts[0] <= max(0, rows - window), "all rows of the window are there"
            if len(firsts) > 1:
                assert firsts[1] > firsts[-1] - window, "and nothing that had left it when the last was added"
            assert firsts == list(range(firsts[0], firsts[-1] + 1, 10))
            assert _on_disk(path) == {s.name for s in _newest(path).segments}
    assert _firsts(path)[0] == max(0, (rows - window) // 10 * 10)
    for segment in _newest(path).segments:
        values = np.fromfile(path / "segments" / segment.name / "x.memmap", np.int64)[: segment.rows]
        assert np.array_equal(values, np.arange(segment.first, segment.first + segment.rows))


def test_each_stream_has_its_own_window(tmp_path: Path) -> None:
    with _create(tmp_path / "ds", 10, num_streams=2) as writer:
        for _ in range(6):
            _write(writer, 10, 0)
            writer.commit()
        _write(writer, 5, 1)
    assert (_firsts(tmp_path / "ds"), _firsts(tmp_path / "ds", 1)) == ([50], [0])


def test_writing_goes_on_where_it_was(tmp_path: Path) -> None:
    with _create(tmp_path / "ds", 15) as writer:
        _write(writer, 47)
        writer.commit()
    with Writer.append(tmp_path / "ds", lineage={}) as writer:
        assert (writer.stream_rows, writer.window) == ([47], 15)
        _write(writer, 4)
    assert _firsts(tmp_path / "ds") == [30, 40, 47]
    with Writer.join(tmp_path / "ds", lineage={}) as writer:
        assert writer.stream_rows == [51]


def test_the_manifest_says_window(tmp_path: Path) -> None:
    _create(tmp_path / "ds", 15).close()
    value, _ = strictjson.load_checked(generations.path_of(tmp_path / "ds", 1), "rl-manifest")
    assert (value["kind"], value["window"]) == ("window", {"rows": 15})
    assert value["features"]["incompat"] == ["window"]
    assert _newest(tmp_path / "ds").window == 15


class _Dying(layer.Layer):
    """Ends the process at the n-th removal of a file of a segment."""

    def __init__(self, left: int) -> None:
        self.left = left

    def unlink(self, path: Path) -> None:
        if "/manifests/" not in str(path):
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
            self.left -= 1
        super().unlink(path)


@pytest.mark.parametrize("call", range(5))
def test_a_kill_between_publishing_and_removing_leaves_what_the_next_writer_removes(
    tmp_path: Path, call: int
) -> None:
    path = tmp_path / "ds"
    pid = os.fork()
    if pid == 0:
        try:
            writer = _create(path, 10)
            _write(writer, 20)
            writer.end_episode(0, terminated=True, truncated=False)
            writer.commit()
            with layer.use(_Dying(call)):
                _write(writer, 25)
                writer.commit()
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    assert _firsts(path)[0] > 0
    assert "w00-000000000000" in _on_disk(path)
    Writer.append(path, lineage={}).close()
    assert _on_disk(path) == {s.name for s in _newest(path).segments}


def test_a_cut_episode_that_began_below_the_window_keeps_its_true_start(tmp_path: Path) -> None:
    path = tmp_path / "ds"
    writer = _create(path, 12, schema=STEPS)
    _write(writer, 5)
    writer.end_episode(0, terminated=True, truncated=False)
    for _ in range(8):
        _write(writer, 8)
        writer.commit()
    writer.abort()
    Writer.append(path, lineage={}).close()
    last = _newest(path).segments[-1]
    episodes = read_episodes(SegmentPaths(path, last.name), last)
    assert (episodes["start"].tolist(), episodes["length"].tolist()) == ([5], [64])
    assert episodes["cut"].tolist() == [True]
    assert np.isnan(episodes["return"]).all(), "the sum of what has left is not known"


def test_rewinding_below_the_window_is_refused(tmp_path: Path) -> None:
    with _create(tmp_path / "ds", 10) as writer:
        _write(writer, 45)
    first = _firsts(tmp_path / "ds")[0]
    for keep in (0, first - 1, first):
        with pytest.raises(UsageError, match="left the window"):
            Writer.append(tmp_path / "ds", lineage={}, rewind=[keep])
    with Writer.append(tmp_path / "ds", lineage={}, rewind=[first + 1]) as writer:
        assert writer.stream_rows == [first + 1]


def test_segments_of_a_window_are_a_fraction_of_it() -> None:
    assert choose_alloc(SCHEMA, 65_536, None, 1_000_000) == 65_536
    assert choose_alloc(SCHEMA, 65_536, None, 100_000) == 8192
    assert choose_alloc(SCHEMA, None, None, 100) == 4096
    assert choose_alloc(SCHEMA, None, 7, 100) == 7


def test_a_fast_stream_soon_has_large_segments() -> None:
    assert SCHEMA.row_bytes == 12
    assert choose_alloc(SCHEMA, 4096, None, is_fast=True) == 32_768
    assert choose_alloc(SCHEMA, 131_072, None, is_fast=True) == 1_048_576, "twelve MiB"
    assert choose_alloc(SCHEMA, 262_144, None, is_fast=True) == 524_288, "eight times were more than sixteen"
    assert choose_alloc(SCHEMA, 131_072, None, is_fast=True, num_streams=2) == 262_144, "six MiB each"
    assert choose_alloc(SCHEMA, 4096, None, 10_000, is_fast=True) == 4096


def test_a_first_segment_is_larger_where_rows_come_hundreds_at_a_time() -> None:
    assert choose_alloc(SCHEMA, None, None, at_once=255) == 4096
    assert choose_alloc(SCHEMA, None, None, at_once=1000) == 131_072
    assert choose_alloc(SCHEMA, None, None, at_once=1000, expected=5000) == 8192
    assert choose_alloc(SCHEMA, None, None, at_once=1000, expected=10**6) == 131_072, "not above it"
    assert choose_alloc(SCHEMA, None, None, at_once=1000, num_streams=200) == 4096, "nine MiB of all"
    assert choose_alloc(SCHEMA, None, None, 100_000, at_once=1000) == 8192, "of a window an eighth"
    assert choose_alloc(SCHEMA, None, 7, at_once=1000) == 7
