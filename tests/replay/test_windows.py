"""Sampling from a window that moves: what is drawn is there, whatever was there before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.replay import SAMPLERS
from rlcli.replay.choice import make_sampler
from tests.replay.made_up import Growing

WINDOW = 50
SETS = {
    "without-replacement": ["drop_last=false"],
    "slices": ["length=3"],
    "prioritized-slices": ["length=3"],
    "top-return": ["share=0.5"],
    "hindsight": ["strategy=random"],
}


def check(batch: Any, low: int, rows: int) -> None:
    """Every value in a batch is that of one of the rows `low … rows - 1`, or what follows one."""
    counts = batch["valid"][..., 0] if "valid" in batch else np.ones(len(batch["action"]), bool)
    for where, first, last in ((batch, low, rows - 1), (batch["next"], low + 1, rows)):
        states = where["observation"]["observation"][counts]
        assert first <= states.min(), "a row that has left was drawn"
        assert states.max() <= last
        goals = where["observation"]["desired_goal"][counts]
        assert ((goals == -1) | ((goals > low) & (goals <= rows))).all()
    if "row" in batch:
        assert low <= batch["row"].min()


def draw(name: str, path: Path, turns: int, batch_size: int) -> None:
    growing = Growing(path, window=WINDOW, segment_rows=16)
    growing.add(30)
    dataset = Dataset.open(path)
    sampler = make_sampler(name, dataset, sets=SETS.get(name, []))
    for _ in range(turns):
        growing.add(11)
        dataset.refresh()
        growing.add(5)  # after the snapshot: the window has moved on already
        rows = dataset.stream_rows[0]
        batch = sampler.sample(batch_size)
        check(batch, rows - dataset.num_rows, rows)
        if "row" in batch:
            told: Any = sampler
            told.update(batch["row"] - 20, np.full(batch_size, 1e3))  # many have left
    assert rows > 2 * WINDOW
    assert dataset.num_rows == WINDOW
    growing.writer.close()


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_row_that_left_a_window_is_drawn(name: str, tmp_path: Path) -> None:
    draw(name, tmp_path / "a", 10, 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "consuming"])
def test_no_row_that_left_a_window_is_drawn_in_a_million_each(name: str, tmp_path: Path) -> None:
    draw(name, tmp_path / "a", 200, 5000)
