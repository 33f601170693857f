"""Hindsight experience replay (Andrychowicz et al., 2017): goals that were reached, not those asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlcli.config import opt
from rlcli.errors import IncompatibleError, UsageError
from rlcli.format.specs import Key
from rlcli.plugins import foreign, is_reference, load_reference
from rlcli.replay.block import Block
from rlcli.replay.sampler import DatasetSampler, below
from rlcli.replay.source import Source
from rlcli.replay.streams import Rows
from rlcli.replay.uniform import uniform_rows

Values = NDArray[Any]
Units = NDArray[np.float64]
ACHIEVED: Key = ("observation", "achieved_goal")
DESIRED: Key = ("observation", "desired_goal")


@dataclass(frozen=True)
class Config:
    """Uniform rows, some of them with a goal that their episode reached."""

    strategy: Literal["future", "final", "episode", "random"] = opt(
        "future", "Which state's goal: at or after the row, the last, any of the episode, any of all."
    )
    share: float = opt(0.8, "Of the rows, how many get a new goal, in [0, 1].", ge=0, le=1, source="k = 4")
    reward: str = opt(
        "sparse", "`sparse`: 0 within the threshold, else -1; `distance`: its negative; or module:attribute."
    )
    threshold: float = opt(0.05, "Distance within which a goal is reached.", gt=0)
    terminate: bool = opt(False, "A reached goal ends the MDP: `terminated` is worked out anew.")


class Relabelling:
    """Gives some rows of a source the goals that a `Config` asks for.

    A new goal is the *next* achieved goal of a row of the same episode (`random`: of any row): the state that
    the action led to. It replaces the desired goal of the observation and of the next one, and the reward is
    that of the next achieved goal. `reward` as `module:attribute` names `f(achieved, desired) -> [B]`, both
    `[B, G]`. With `terminate`, `terminated` becomes whether the goal is reached; `truncated` stays.

    Raises `IncompatibleError` if the source has no goals, `UsageError` for a reward that is none,
    `InputError` with what one's own raised.
    """

    def __init__(self, source: Source, config: Config) -> None:
        for key in (DESIRED, ("next", *ACHIEVED), ("next", *DESIRED), ("next", "reward")):
            if key not in source.keys:
                raise IncompatibleError(f"{source.dataset.path}: hindsight needs the column {'/'.join(key)}")
        self.source, self.config = source, config
        self._reward = _reward(config)

    def complete(self, rows: Rows, block: Block, units: tuple[Units, Units]) -> None:
        """Writes the source's columns at `rows` `[B]`, some with a new goal.

        `units`, in [0, 1) and `[B]` each, decide which rows get one, and which.
        """
        self.source.gather(rows, block)
        chosen = np.flatnonzero(units[0] < self.config.share)
        if len(chosen):
            self._relabel(block, chosen, self.goal_rows(rows[chosen], units[1][chosen]))

    def goal_rows(self, rows: Rows, unit: Units) -> Rows:
        """For each row the one whose next achieved goal becomes its goal; `unit` in [0, 1) decides."""
        strategy = self.config.strategy
        if strategy == "random":
            eligible = self.source.some()
            return eligible.row(below(unit, eligible.count))
        runs = self.source.runs()
        run = runs.of(rows)
        stop = runs.stop[run]
        if strategy == "final":
            return stop - 1
        first = rows if strategy == "future" else runs.start[run]
        return first + below(unit, stop - first)

    def _relabel(self, block: Block, chosen: Rows, goals: Rows) -> None:
        arrays = block.arrays
        key = ("next", *ACHIEVED)
        goal = np.empty((len(goals), *arrays[key].shape[1:]), arrays[key].dtype)
        self.source.dataset.gather_into(goals, (key,), [goal])
        achieved = arrays[key][chosen]
        arrays[DESIRED][chosen] = goal
        arrays["next", *DESIRED][chosen] = goal
        arrays["next", "reward"][chosen, 0] = self._reward(achieved, goal)
        if self.config.terminate:
            terminated = _distance(achieved, goal) <= self.config.threshold
            for name, value in (("terminated", terminated), ("done", terminated)):
                if ("next", name) in arrays:
                    arrays["next", name][chosen, 0] = value
            if ("next", "done") in arrays and ("next", "truncated") in arrays:
                arrays["next", "done"][chosen] |= arrays["next", "truncated"][chosen]


class Hindsight(DatasetSampler[Config]):
    """Uniformly drawn rows, a share of them with new goals: see `Relabelling`."""

    NAME = "hindsight"
    STREAM = 7
    CONFIG = Config
    PLAIN = True

    def prepare(self) -> None:
        self.goals = Relabelling(self.source, self.config)

    def fill(self, block: Block, batch_size: int) -> None:
        rows = uniform_rows(self, batch_size)
        units = self.units(batch_size), self.units(batch_size, 1)
        self.batches += 1
        self.goals.complete(rows, block, units)


def _distance(achieved: Values, desired: Values) -> Values:
    difference = achieved.astype(np.float64) - desired
    distance: Values = np.sqrt((difference.reshape(len(difference), -1) ** 2).sum(axis=1))
    return distance


def _reward(config: Config) -> Callable[[Values, Values], Values]:
    if config.reward == "sparse":
        return lambda achieved, desired: -(_distance(achieved, desired) > config.threshold).astype(np.float32)
    if config.reward == "distance":
        return lambda achieved, desired: -_distance(achieved, desired)
    if not is_reference(config.reward):
        raise UsageError(f"reward {config.reward!r} is none of sparse, distance, module:attribute")
    function = load_reference(config.reward)

    def checked(achieved: Values, desired: Values) -> Values:
        with foreign(config.reward):
            reward = np.asarray(function(achieved, desired), np.float64)
        if reward.shape != (len(achieved),):
            raise UsageError(
                f"{config.reward} gave rewards of shape {reward.shape}, expected ({len(achieved)},)"
            )
        return reward

    return checked
