"""Where the episodes of a LeRobot file are does not depend on how many of its rows are looked at together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rlcli.datasets.lerobot_scan import Scan, _note_episodes
from rlcli.errors import InputError

PATH = Path("file.parquet")
Columns = dict[str, NDArray[Any]]


def columns(lengths: list[int], first: int = 0) -> Columns:
    """A sound file of episodes of these lengths, the first of which has number 3."""
    number = np.repeat(np.arange(len(lengths)) + 3, lengths)
    steps = np.concatenate([np.arange(n) for n in lengths])
    done = np.concatenate([np.arange(n) == n - 1 for n in lengths])
    return {
        "episode_index": number, "frame_index": steps, "next.done": done,
        "index": np.arange(len(number)) + first,
    }  # fmt: skip


def in_batches(whole: Columns, size: int) -> Iterator[Columns]:
    for start in range(0, len(whole["episode_index"]), size):
        yield {name: values[start : start + size].copy() for name, values in whole.items()}


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("lengths", [[10], [1, 1, 1], [4, 1, 5], [2, 3, 4], [1, 9]])
def test_sound_files(lengths: list[int], size: int) -> None:
    found = Scan(files=["before"])
    _note_episodes(found, in_batches(columns(lengths, first=7), size), PATH, 7)
    stops = np.cumsum(lengths)
    assert found.episodes == [
        [3 + k, 1, int(stop) - n, int(stop)] for k, (n, stop) in enumerate(zip(lengths, stops, strict=True))
    ]
    assert found.inexact == []
    assert found.done_at_ends == [True] * len(lengths)


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("row", range(10))
@pytest.mark.parametrize("name", ["frame_index", "index", "next.done"])
def test_one_wrong_row_is_seen_wherever_it_is(name: str, row: int, size: int) -> None:
    whole = columns([4, 1, 5])
    whole[name][row] = not whole[name][row] if name == "next.done" else whole[name][row] + 1
    found = Scan()
    _note_episodes(found, in_batches(whole, size), PATH, 0)
    assert found.inexact == [name]
    ends = [3, 4, 9]
    assert found.done_at_ends == [name != "next.done" or row != end for end in ends]


@pytest.mark.parametrize("size", range(1, 8))
def test_an_episode_in_two_places(size: int) -> None:
    whole = {"episode_index": np.array([0, 0, 1, 1, 0, 0])}
    with pytest.raises(InputError, match="episode 0 has rows in two places"):
        _note_episodes(Scan(), in_batches(whole, size), PATH, 0)
