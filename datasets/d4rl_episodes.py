"""Where the episodes of a D4RL file end, slice by slice.

The rules (D4RL's own `sequence_dataset` for the flags, its `register` calls for time limits, its
`scripts/check_antmaze_datasets.py` for jumps), every flag kept as stored:

* with `timeouts`: at `terminals` or `timeouts`. In maze2d a timeout means that the goal was changed; it
  still ends a run of consistent rows.
* a demonstration index (`infos` as an integer dataset, kitchen): also where it changes.
* neither: at `terminals`, and when an episode reaches the environment's time limit, if that is known.
* `split="jump"` instead of all these: where the position `observations[:2]` moves more than 5 m in a step
  (antmaze, whose flags are out of step with its resets).

An end without a flag in the source is truncated. What remains after the last end is an unfinished episode:
it is kept, marked truncated (nothing says that it terminated) and cut (the file stops before its end).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
JUMP_METRES = 5.0


@dataclass(frozen=True)
class SliceEnds:
    """For n rows: where an episode ends and how. `cut`: the last one is only the file's end."""

    rows: NDArray[np.int64]  # indices of rows that end an episode
    terminated: Flags  # [n]
    truncated: Flags  # [n]
    cut: bool


@dataclass(frozen=True)
class Rule:
    """Which of a file's columns say where episodes end."""

    timeouts: bool
    index: bool
    max_episode_steps: int | None
    jump: bool

    @staticmethod
    def choose(*, timeouts: bool, index: bool, max_episode_steps: int | None, jump: bool) -> Rule:
        """The rule of this module's docstring for a file with these columns."""
        if jump:
            return Rule(False, False, None, True)
        return Rule(timeouts, index, None if timeouts or index else max_episode_steps, False)

    def names(self) -> list[str]:
        """For reports: what ends an episode."""
        if self.jump:
            return ["jump"]
        used = [self.timeouts, self.index, self.max_episode_steps is not None]
        names = ["timeouts", "infos", "max_episode_steps"]
        return ["terminals", *(name for name, is_used in zip(names, used, strict=True) if is_used)]


class Splitter:
    """Applies a rule to consecutive slices; carries the length of the episode that is open."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._open_rows = 0

    def __call__(
        self, terminals: Flags, timeouts: Flags | None, changes: Flags | None, *, last: bool
    ) -> SliceEnds:
        """Ends within the next n rows, all `[n]`.

        `changes[i]`: the demonstration index differs, or the position jumps, between rows i and i + 1.
        `last`: the file ends after these rows.
        """
        size = len(terminals)
        ended = np.zeros(size, np.bool_) if self.rule.jump else terminals.copy()
        if self.rule.timeouts and timeouts is not None:
            ended |= timeouts
        if changes is not None:
            ended |= changes
        if self.rule.max_episode_steps is not None:
            self._apply_limit(ended, self.rule.max_episode_steps)
        cut = bool(last and size and not ended[-1])
        if cut:
            ended[-1] = True
        rows = np.flatnonzero(ended)
        self._open_rows = size - 1 - int(rows[-1]) if len(rows) else self._open_rows + size
        terminated = terminals & ended
        truncated = ended & ~terminals
        if self.rule.timeouts and timeouts is not None:
            truncated |= timeouts
        return SliceEnds(rows, terminated, truncated, cut)

    def _apply_limit(self, ended: Flags, limit: int) -> None:
        first = -self._open_rows
        for row in [*np.flatnonzero(ended).tolist(), len(ended)]:
            ended[first + limit - 1 : row : limit] = True
            first = row + 1


def jumps(position: NDArray[np.floating], following: NDArray[np.floating]) -> Flags:
    """Whether `[n, 2]` positions and those of the next rows are more than 5 m apart."""
    distance = np.linalg.norm(following.astype(np.float64) - position.astype(np.float64), axis=1)
    return np.asarray(distance > JUMP_METRES)
