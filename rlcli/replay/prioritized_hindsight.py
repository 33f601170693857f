"""Hindsight over rows that are drawn by priority."""

from __future__ import annotations

from dataclasses import dataclass

from rlcli.replay import hindsight, prioritized
from rlcli.replay.block import Block, Layout


@dataclass(frozen=True)
class Config(prioritized.Config, hindsight.Config):
    """Rows drawn by priority, some of them with a goal that their episode reached."""


class PrioritizedHindsight(prioritized.Proportional[Config]):
    """Rows drawn as `Prioritized` does, a share of them with new goals, as `Hindsight` gives them.

    The priority of a row is that of the goal it was last seen with: which goal it gets is drawn anew each
    time, and does not depend on the priority.
    """

    NAME = "prioritized-hindsight"
    STREAM = 12
    CONFIG = Config
    PLAIN = True

    def prepare(self) -> None:
        super().prepare()
        self.goals = hindsight.Relabelling(self.source, self.config)

    def layout(self, batch_size: int) -> Layout:
        return self.weighted(super().layout(batch_size), batch_size)

    def fill(self, block: Block, batch_size: int) -> None:
        units = self.units(batch_size, 1), self.units(batch_size, 2)  # rows are drawn with part 0
        self.goals.complete(self.draw(block), block, units)
