"""Transitions over several steps, drawn by priority (as in Rainbow; Hessel et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from rlcli.replay import n_step, prioritized
from rlcli.replay.block import Block, Layout


@dataclass(frozen=True)
class Config(prioritized.Config, n_step.Config):
    """Transitions of up to `n` steps, drawn by the priority of their first row."""


class PrioritizedNStep(prioritized.Proportional[Config]):
    """Rows drawn as `Prioritized` does, each with the steps that follow it, as of `NStep`.

    The priority of a row is that of the transition which begins there.
    """

    NAME = "prioritized-n-step"
    STREAM = 11
    CONFIG = Config

    def prepare(self) -> None:
        super().prepare()
        self.steps = n_step.Steps(self.source, self.config.n, self.config.gamma)

    def layout(self, batch_size: int) -> Layout:
        return self.weighted(self.steps.layout(batch_size), batch_size)

    def fill(self, block: Block, batch_size: int) -> None:
        self.steps.complete(self.draw(block), block)
