"""Stacked observations in batches, against a loop over the rows of an episode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.format.schema import Column, Schema, stack_column, ted_schema
from rlcli.format.specs import Box, Discrete
from rlcli.format.writer import Writer
from rlcli.replay.choice import make_sampler
from rlcli.transforms.transform import Episodic
from tests.replay.made_up import Growing, counting, goals

LENGTHS = [4, 9, 1, 6, 3]
STATE = ("observation", "observation")


def value(node: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        node = node[name]
    return node


def expected(start: int, row: int, frames: int, final: float | None) -> list[float]:
    """The stack of a row of an episode that begins at `start`; `final` is what follows it, or None."""
    if final is None:
        return [float(max(start, row - age)) for age in range(frames - 1, -1, -1)]
    return [*[float(max(start, row + 1 - age)) for age in range(frames - 1, 0, -1)], final]


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize(
    ("name", "steps"),
    [("uniform", 1), ("without-replacement", 1), ("prioritized", 1), ("n-step", 3), ("prioritized-n-step", 3),
     ("top-return", 1), ("consuming", 1)],
)  # fmt: skip
def test_observations_are_stacks_within_their_episode(
    name: str, steps: int, frames: int, tmp_path: Path
) -> None:
    """Rows count up, and a final observation is half more than its row's."""
    sampler = make_sampler(name, counting(tmp_path / "a", LENGTHS, streams=1), episodic=Episodic(frames))
    ends = np.cumsum(LENGTHS)
    for _ in range(1 if name == "consuming" else 5):
        batch = sampler.sample(9)
        assert batch["observation"].shape == (9, frames, 1)
        for stack, following in zip(batch["observation"], batch["next"]["observation"], strict=True):
            row = int(stack[-1, 0])
            episode = int(np.searchsorted(ends, row, side="right"))
            start = int(ends[episode] - LENGTHS[episode])
            last = min(row + steps, int(ends[episode])) - 1
            final = last + (0.5 if last == ends[episode] - 1 else 1.0)
            assert stack[:, 0].tolist() == expected(start, row, frames, None)
            assert following[:, 0].tolist() == expected(start, last, frames, final)


def test_all_leaves_of_an_observation_are_stacked_and_nothing_else(tmp_path: Path) -> None:
    batch = make_sampler("uniform", goals(tmp_path / "a", LENGTHS, width=5), episodic=Episodic(3)).sample(8)
    assert value(batch, STATE).shape == value(batch["next"], STATE).shape == (8, 3, 5)
    assert batch["observation"]["desired_goal"].shape == (8, 3, 1)
    assert batch["next"]["reward"].shape == (8, 1)


def test_a_window_stacks_what_it_has(tmp_path: Path) -> None:
    growing = Growing(tmp_path / "a", window=20, segment_rows=8)
    growing.add(73)
    dataset = Dataset.open(tmp_path / "a")
    low = 73 - dataset.num_rows
    batch = make_sampler("uniform", dataset, episodic=Episodic(4)).sample(400)
    stacks, following = value(batch, STATE)[..., 0], value(batch["next"], STATE)[..., 0]
    for stack, after in zip(stacks.tolist(), following.tolist(), strict=True):
        row = int(stack[-1])
        start = max(low, row - row % 7)
        assert stack == expected(start, row, 4, None)
        assert after == expected(start, row, 4, row + 1.0)
    growing.writer.close()


@pytest.mark.parametrize("name", ["hindsight", "slices", "prioritized-slices"])
def test_a_sampler_without_stacks_says_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="no frame-stack"):
        make_sampler(name, goals(tmp_path / "a", LENGTHS), episodic=Episodic(2))


def test_observations_that_are_stacks_already_are_refused(tmp_path: Path) -> None:
    frame = Column(("frame",), "float32", (1,))
    columns = (*ted_schema(Box((1,)), Discrete(2)).columns, frame)
    kept = tuple(c for c in columns if c.key not in (("observation",), ("next", "observation")))
    schema = Schema((*kept, stack_column(("observation",), frame, 2)))
    Writer.create(tmp_path / "a", schema, spec={}, lineage={"op": "test"}).close()
    with pytest.raises(IncompatibleError, match="observation is a stack column"):
        make_sampler("uniform", Dataset.open(tmp_path / "a"), episodic=Episodic(2))
