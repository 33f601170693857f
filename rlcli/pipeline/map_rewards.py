"""Steps of `rl buffer map` that compute rewards: scale, relabel, reward-to-go, n-step returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlcli import _native
from rlcli.errors import InputError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.keys import Key
from rlcli.format.schema import Column
from rlcli.format.spans import Chunk, Spans
from rlcli.format.values import as_numbers
from rlcli.pipeline.expressions import Expression
from rlcli.pipeline.map_block import Block, Layout, Mask
from rlcli.pipeline.map_columns import Step, cast
from rlcli.pipeline.map_functions import Function, call, load
from rlcli.plugins import is_reference

REWARD = ("next", "reward")
TERMINATED = ("next", "terminated")
FLAGS = (TERMINATED, ("next", "truncated"), ("next", "done"))
DISCOUNT = ("next", "discount")
TO_GO = ("reward_to_go",)


@dataclass
class ScaleReward(Step):
    """`next/reward` times a factor."""

    factor: float

    def plan(self, layout: Layout) -> None:
        self._column = _reward(layout, "--scale-reward")
        _check_finite(self.factor, "--scale-reward")

    def apply(self, block: Block) -> None:
        values = as_numbers(self._column, block.columns[REWARD]).astype(np.float64) * self.factor
        block.columns[REWARD] = cast(values, self._column.dtype, "next/reward")


@dataclass
class RelabelReward(Step):
    """`next/reward` becomes an expression over the columns of the source, or what a function says.

    A function `module:attribute` is given the columns of one episode, nested, and returns `[rows]`.
    """

    text: str
    dataset: Dataset
    advance: Callable[[int], None]

    def plan(self, layout: Layout) -> None:
        self._column = _reward(layout, "--relabel-reward")
        self._function: Function | None = None
        if is_reference(self.text):
            self._function = load(self.text, "--relabel-reward")
            return
        expression = Expression(
            self.text, self.dataset.schema, per="step", kind="number", flag="--relabel-reward"
        )
        self._spans = Spans(self.dataset)
        self._values = expression.on(self.dataset, self._spans, lambda rows: self.advance(0))

    def apply(self, block: Block) -> None:
        if self._function is None:
            first, stop = int(block.rows[0]), int(block.rows[-1]) + 1
            found = self._values.steps(Chunk(self.dataset, self._spans, first, stop))[block.rows - first]
        else:
            parts = []
            for columns, length in zip(block.episodes(), block.length.tolist(), strict=True):
                part = np.asarray(call(self._function, self.text, columns), np.float64)
                if part.size != length:
                    raise InputError(f"{self.text} returned {part.size} rewards for {length} rows")
                parts.append(part.reshape(length))
            found = np.concatenate(parts)
        odd = ~np.isfinite(np.asarray(found, np.float64))
        if odd.any():
            row = int(block.rows[np.flatnonzero(odd)[0]])
            raise InputError(f"--relabel-reward: the reward of row {row:,} is {found[odd][0]}")
        shape = block.columns[REWARD].shape
        block.columns[REWARD] = cast(np.asarray(found).reshape(shape), self._column.dtype, "next/reward")


@dataclass
class RewardToGo(Step):
    """Adds `reward_to_go`: the discounted sum of this and all later rewards of the episode.

    Nothing is added for what would follow a truncation.
    """

    gamma: float

    def plan(self, layout: Layout) -> None:
        self._column = _reward(layout, "--reward-to-go")
        _check_gamma(self.gamma, "--reward-to-go")
        if TO_GO in layout.columns:
            raise UsageError("--reward-to-go: there is a column 'reward_to_go' already")
        layout.columns[TO_GO] = Column(TO_GO, self._column.dtype, self._column.shape)

    def apply(self, block: Block) -> None:
        reward, nowhere, at_ends = _rewards(self._column, block)
        found = _native.td_lambda(reward, None, nowhere, at_ends, gamma=self.gamma, lam=1.0, threads=1)
        shape = block.columns[REWARD].shape
        block.columns[TO_GO] = cast(found.reshape(shape), self._column.dtype, "reward_to_go")


@dataclass
class NStep(Step):
    """n-step transitions (Sutton, 1988): what follows row t is what follows row t + m − 1.

    m is n, or as many rows as the episode has from t on. `next/reward` becomes Σ γᵏ r, k < m; every other
    next value, `terminated` and `truncated` too, is that of row t + m − 1; `next/discount` is γᵐ, the factor
    of what is bootstrapped from there. n = 1 only adds γ.
    """

    n: int
    gamma: float

    def plan(self, layout: Layout) -> None:
        self._column = _reward(layout, "--n-step")
        _check_gamma(self.gamma, "--gamma")
        if self.n < 1:
            raise UsageError(f"--n-step must be at least 1, got {self.n}")
        if DISCOUNT in layout.columns:
            raise UsageError("--n-step: the dataset has a column 'next/discount', so it has n-step rewards")
        self._following: list[Key] = []
        if self.n > 1:
            for key, column in list(layout.columns.items()):
                if column.encoding in ("derived", "stack") or (key[0] == "next" and key != REWARD):
                    if column.encoding == "derived" or (column.of or ())[:1] == ("next",):
                        layout.store(key)
                    if layout.columns[key].encoding in ("plain", "heap"):
                        self._following.append(key)
            layout.extra = {**layout.extra, "n_step": {"n": self.n, "gamma": self.gamma}}
        layout.columns[DISCOUNT] = Column(DISCOUNT, "float32", (1,))

    def apply(self, block: Block) -> None:
        reward, nowhere, at_ends = _rewards(self._column, block)
        found, discount, last = _native.n_step(
            reward, nowhere, at_ends, gamma=self.gamma, n=min(self.n, len(block)), threads=1
        )
        if self.n > 1:
            shape = block.columns[REWARD].shape
            block.columns[REWARD] = cast(found.reshape(shape), self._column.dtype, "next/reward")
        for key in self._following:
            block.columns[key] = block.columns[key][last[:, 0] // reward.shape[1]]
        block.columns[DISCOUNT] = discount[:, :1].astype(np.float32)


def _reward(layout: Layout, flag: str) -> Column:
    column = layout.columns.get(REWARD)
    if column is None or column.encoding != "plain":
        raise UsageError(f"{flag}: there is no column 'next/reward'")
    return column


def _rewards(column: Column, block: Block) -> tuple[NDArray[np.float64], Mask, Mask]:
    """Rewards `[rows, size]`, and flags for a scan over them: none terminates, episodes end at last rows."""
    reward = as_numbers(column, block.columns[REWARD]).astype(np.float64).reshape(len(block), -1)
    at_ends = np.zeros(reward.shape, np.bool_)
    at_ends[block.stop - 1] = True
    return reward, np.zeros_like(at_ends), at_ends


def _check_gamma(gamma: float, flag: str) -> None:
    if not 0 <= gamma <= 1:
        raise UsageError(f"{flag} must be in [0, 1], got {gamma}")


def _check_finite(value: float, flag: str) -> None:
    if not math.isfinite(value):
        raise UsageError(f"{flag} must be a finite number, got {value}")
