"""Memory that is bound once gets what any other memory gets: checked, unchecked, while a window moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from rlcli.format.dataset import Dataset
from rlcli.replay.block import Block
from rlcli.replay.choice import make_sampler
from tests.replay.made_up import Growing, counting

SAMPLERS = ["uniform", "prioritized", "without-replacement", "top-return"]


def equal(dataset: Dataset, block: Block, rows: Any) -> bool:
    """A block has the dataset's values at these rows."""
    keys = [key for key in block.arrays if key not in (("row",), ("weight",))]
    found = Block({key: (block.arrays[key].dtype, block.arrays[key].shape) for key in keys})
    dataset.gather_into(rows, tuple(keys), found.columns)
    return all(np.array_equal(found.arrays[key], block.arrays[key]) for key in keys)


@pytest.mark.parametrize("check", ["touch", "none"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_one_block_gets_batch_after_batch(tmp_path: Path, name: str, check: Literal["touch", "none"]) -> None:
    counting(tmp_path / "d", [7, 9, 5], streams=2).close()
    for seed in range(2):
        dataset = Dataset.open(tmp_path / "d", check=check)  # nothing is touched yet
        sampler = make_sampler(name, dataset, seed=seed)
        other = make_sampler(name, Dataset.open(tmp_path / "d"), seed=seed)
        block = Block(sampler.layout(6))
        for _ in range(6):
            sampler.fill(block, 6)
            fresh = other.sample(6)
            rewards = block.arrays["next", "reward"][:, 0]
            assert np.array_equal(fresh["next"]["reward"][:, 0], rewards)
            rows = {float(value): row for row, value in enumerate(dataset.read(("next", "reward"))[:, 0])}
            assert equal(dataset, block, np.array([rows[float(value)] for value in rewards]))


def test_a_block_follows_a_window(tmp_path: Path) -> None:
    growing = Growing(tmp_path / "d", window=50, segment_rows=16)
    growing.add(30)
    dataset = Dataset.open(tmp_path / "d")
    samplers = [make_sampler(name, dataset) for name in ("uniform", "prioritized")]
    blocks = [Block(sampler.layout(20)) for sampler in samplers]
    for _ in range(20):
        growing.add(11)
        dataset.refresh()
        low, rows = dataset.snapshot["starts"][0], dataset.stream_rows[0]
        for sampler, block in zip(samplers, blocks, strict=True):
            sampler.fill(block, 20)
            states = block.arrays["observation", "observation"]
            assert low <= states.min()
            assert states.max() < rows
    assert equal(dataset, blocks[1], dataset.rows_of(blocks[1].arrays["row",]))


def test_memory_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    dataset = counting(tmp_path / "d", [5])
    key = ("observation",)
    dataset.gather(np.arange(5))  # compares all with its hashes
    for wrong in (np.empty((4, 2), np.float32), np.empty((4, 1)), np.empty((4, 2), np.float32)[:, :1]):
        bound = dataset.bind((key,), [wrong])
        assert bound is not None
        with pytest.raises(ValueError, match="out: an array differs"):
            bound.target()
    bound = dataset.bind((key,), [np.empty((4, 1), np.float32)])
    assert bound is not None
    target = bound.target()
    assert target is not None
    with pytest.raises(ValueError, match="as many as the arrays have"):
        target.gather(np.arange(3))
    with pytest.raises(IndexError):
        target.gather(np.array([0, 1, 2, 5]))
