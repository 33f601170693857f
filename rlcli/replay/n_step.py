"""Transitions over several steps (Sutton, 1988; Watkins, 1989)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlcli.config import opt
from rlcli.errors import IncompatibleError
from rlcli.format.specs import Key
from rlcli.replay.block import Block, Layout
from rlcli.replay.sampler import DatasetSampler
from rlcli.replay.source import Source
from rlcli.replay.streams import Rows
from rlcli.replay.uniform import uniform_rows

REWARD: Key = ("next", "reward")
DISCOUNT: Key = ("next", "discount")


@dataclass(frozen=True)
class Config:
    """Transitions of up to `n` steps."""

    n: int = opt(3, "Steps of a transition, fewer where the episode ends.", ge=1)
    gamma: float = opt(0.99, "Discount per step, in [0, 1]; the same as the algorithm's.", ge=0, le=1)


class Steps:
    """How rows of a source become transitions of several steps.

    Raises `IncompatibleError` if the source has no rewards.
    """

    def __init__(self, source: Source, n: int, gamma: float) -> None:
        if REWARD not in source.keys:
            raise IncompatibleError(f"{source.dataset.path}: n steps need the column next/reward")
        self.source, self.n, self.gamma = source, n, gamma
        self._now = tuple(key for key in source.keys if key[0] != "next")
        self._later = tuple(key for key in source.keys if key[0] == "next" and key != REWARD)
        self._reward = source.columns[source.keys.index(REWARD)]

    def layout(self, batch_size: int) -> Layout:
        """The columns `[B, …]` and `("next", "discount")`."""
        one = (np.dtype(np.float32), (batch_size, 1))
        return {**self.source.layout(batch_size), DISCOUNT: one}

    def complete(self, rows: Rows, block: Block) -> None:
        """Writes the leaves of `layout(len(rows))` that these rows, and what follows them, make."""
        dataset, runs = self.source.dataset, self.source.runs()
        steps = np.minimum(self.n, runs.stop[runs.of(rows)] - rows)
        n = int(steps.max(initial=1))
        arrays = block.arrays
        self.source.read(rows, self._now, [arrays[key] for key in self._now])
        self.source.read(rows + steps - 1, self._later, [arrays[key] for key in self._later])
        column = self._reward
        window = np.zeros((len(rows) * n, *column.shape), column.numpy)
        at = np.arange(len(rows), dtype=np.int64) * n
        dataset.read_runs(rows, steps, at, (REWARD,), [window])
        window = window.reshape(len(rows), n, *column.shape)
        powers = self.gamma ** np.arange(n)
        arrays[REWARD][:] = np.einsum("bk...,k->b...", window, powers, dtype=np.float64, casting="unsafe")
        arrays[DISCOUNT][:, 0] = self.gamma**steps


class NStep(DatasetSampler[Config]):
    """Rows t drawn uniformly, each with m = min(n, steps to the end of its episode as far as it is known).

    What is under `next` is that of row t + m - 1, its `terminated` too; `("next", "reward")` is the sum of
    gamma^k r over the m steps, and `("next", "discount")` float32 `[B, 1]` is gamma^m. So a target is
    `reward + discount * ~terminated * value`. A truncated episode is bootstrapped from like one that goes on.
    """

    NAME = "n-step"
    STREAM = 6
    CONFIG = Config

    def prepare(self) -> None:
        self.steps = Steps(self.source, self.config.n, self.config.gamma)

    def layout(self, batch_size: int) -> Layout:
        return self.steps.layout(batch_size)

    def fill(self, block: Block, batch_size: int) -> None:
        rows = uniform_rows(self, batch_size)
        self.batches += 1
        self.steps.complete(rows, block)
