"""Heaps, stacks, shifts of heaps and windows through every verb that makes a dataset of datasets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.format.digests import episode_digest
from rlcli.format.schema import Column, Heap, Schema, heap_column, shift_column, stack_column
from rlcli.format.verify import verify
from rlcli.format.writer import Writer

OBSERVATION = Column(("observation",), "float32", (2,))
TEXT = heap_column(("prompt",), Heap("text"))
BLOB = heap_column(("blob",), Heap("bytes"))
TOKENS = heap_column(("tokens",), Heap("array"), "int32", (-1,))
COLUMNS = (
    OBSERVATION,
    TEXT,
    BLOB,
    TOKENS,
    shift_column(("next", "observation"), OBSERVATION),
    shift_column(("next", "prompt"), TEXT),
    stack_column(("frames",), OBSERVATION, 3),
    Column(("next", "reward"), "float32", (1,)),
    Column(("episode",), "int64"),
)


def fill(
    path: Path,
    lengths: list[int],
    *,
    seed: int = 0,
    close: bool = True,
    window: int | None = None,
    tail: int = 0,
) -> Writer:
    """Episodes of these lengths, all but every third with a final; `tail` rows stay unfinished."""
    rng = np.random.default_rng(seed)
    writer = Writer.create(
        path, Schema(COLUMNS), spec={}, lineage={"op": "test"}, segment_rows=16, window=window,
        durability="process",
    )  # fmt: skip
    for index, length in enumerate([*lengths, tail]):
        if not length:
            continue
        writer.write(
            0,
            {
                ("observation",): rng.normal(size=(length, 2)).astype("float32"),
                ("prompt",): [f"prompt {rng.integers(3)}" for _ in range(length)],
                ("blob",): [rng.bytes(int(rng.integers(0, 30))) for _ in range(length)],
                ("tokens",): [np.arange(rng.integers(0, 5), dtype="int32") for _ in range(length)],
                ("next", "reward"): rng.normal(size=(length, 1)).astype("float32"),
                ("episode",): np.full(length, index),
            },
        )
        if index < len(lengths):
            final = {("observation",): np.full(2, index, np.float32), ("prompt",): f"final {index}"}
            writer.end_episode(
                0, terminated=True, truncated=False, final=None if index % 3 == 2 else final, seed=index
            )
        writer.commit()
    if close:
        writer.close()
    return writer


def rows_of(path: Path) -> dict[tuple[str, ...], list[Any]]:
    with Dataset.open(path) as dataset:
        return {
            column.key: [
                value.tolist() if isinstance(value, np.ndarray) else value
                for value in dataset.read(column.key, 0, dataset.num_rows)
            ]
            for column in COLUMNS
            if column.key in dataset.schema.by_key
        }


def episode_digests(path: Path) -> list[str]:
    with Dataset.open(path) as dataset:
        table = dataset.episodes
        return [episode_digest(dataset, table, index) for index in range(len(table))]


LENGTHS = [5, 20, 3, 1, 9]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("heaps") / "data"
    fill(path, LENGTHS)
    return path


@pytest.mark.parametrize("verb", ["merge", "compact", "map", "pack", "copy"])
def test_every_value_and_every_episode_goes_over(
    verb: str, rl: Callable[..., Any], source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if verb == "pack":
        assert rl("pack", source, tmp_path / "x.rlz").code == 0
        assert rl("unpack", tmp_path / "x.rlz", "-o", out).code == 0
    elif verb == "copy":
        assert rl("merge", source, "-o", out, "--copy").code == 0
    else:
        assert rl(verb, source, "-o", out).code == 0
    assert rows_of(out) == rows_of(source)
    assert episode_digests(out) == episode_digests(source)
    assert verify(out, deep=True) == []


def test_a_live_dataset_with_heaps_is_merged(rl: Callable[..., Any], tmp_path: Path) -> None:
    writer = fill(tmp_path / "a", LENGTHS, close=False, tail=4)
    report = rl("merge", tmp_path / "a", "-o", tmp_path / "out", "--json").json
    assert report["copied_rows"] == 42 - 32
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "a")
    assert verify(tmp_path / "out", deep=True) == []
    writer.abort()


def test_dedup_and_append_copy_heaps(rl: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    fill(tmp_path / "b", [4, 2], seed=1)
    rl("append", tmp_path / "b", source)
    assert episode_digests(tmp_path / "b")[2:] == episode_digests(source)
    report = rl("merge", source, tmp_path / "b", "-o", tmp_path / "out", "--dedup", "--json").json
    assert report["dropped_episodes"] == len(LENGTHS)
    assert episode_digests(tmp_path / "out") == episode_digests(source) + episode_digests(tmp_path / "b")[:2]
    assert verify(tmp_path / "out", deep=True) == []


def test_n_step_moves_next_texts_too(rl: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    report = rl("map", source, "-o", tmp_path / "out", "--n-step", 3, "--gamma", 0.9, "--json").json
    assert report["stored_next"] == ["next/observation", "next/prompt"]
    before, after = rows_of(source), rows_of(tmp_path / "out")
    stops = np.cumsum(LENGTHS)
    last = np.repeat(stops - 1, LENGTHS)
    for row in range(sum(LENGTHS)):
        end = min(row + 2, int(last[row]))
        assert after["next", "prompt"][row] == before["next", "prompt"][end]
        assert after["next", "observation"][row] == before["next", "observation"][end]
    assert after["frames",] == before["frames",]  # the observations themselves are where they were
    assert verify(tmp_path / "out", deep=True) == []


def test_sampled_rows_show_texts(rl: Callable[..., Any], source: Path, tmp_path: Path) -> None:
    ended = rl("sample", source, "-n", 20, "--keys", "prompt,blob,tokens,next/prompt")
    assert ended.code == 0
    assert '"prompt": "prompt ' in ended.out
    assert rl("sample", source, "-n", 20, "-o", tmp_path / "out").code == 0
    assert verify(tmp_path / "out", deep=True) == []


@pytest.mark.parametrize("verb", ["merge", "compact", "map"])
@pytest.mark.parametrize("close", [True, False])
def test_a_window_becomes_a_log_of_its_whole_episodes(
    close: bool, verb: str, rl: Callable[..., Any], tmp_path: Path
) -> None:
    fill(tmp_path / "all", [7] * 12)
    writer = fill(tmp_path / "w", [7] * 12, close=close, window=40)
    with Dataset.open(tmp_path / "w") as window:
        assert window.snapshot["starts"] == [44]
    assert rl(verb, tmp_path / "w", "-o", tmp_path / "out").code == 0
    assert episode_digests(tmp_path / "out") == episode_digests(tmp_path / "all")[-5:]  # 44 is in the seventh
    with Dataset.open(tmp_path / "out") as out:
        assert (out.num_rows, out.snapshot["starts"], out.state) == (35, [0], "sealed")
    assert verify(tmp_path / "out", deep=True) == []
    writer.abort()


def test_a_window_that_lost_nothing_is_linked_and_its_unfinished_episode_is_cut(
    rl: Callable[..., Any], tmp_path: Path
) -> None:
    writer = fill(tmp_path / "w", [7] * 4, close=False, window=40, tail=5)
    report = rl("merge", tmp_path / "w", "-o", tmp_path / "out", "--json").json
    assert (report["rows"], report["copied_rows"], report["cut_episodes"]) == (33, 1, 1)
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "w")
    writer.abort()
    late = fill(tmp_path / "late", [7], close=False, window=10, tail=60)
    report = rl("merge", tmp_path / "late", "-o", tmp_path / "none", "--json").json
    assert (report["rows"], report["dropped_rows"]) == (0, 10)  # the episode's beginning has left
    late.abort()
