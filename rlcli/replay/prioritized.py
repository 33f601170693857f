"""Prioritised sampling with replacement (Schaul et al., 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from rlcli import _native
from rlcli.config import opt
from rlcli.errors import IncompatibleError
from rlcli.replay.block import Block, Layout
from rlcli.replay.priority_sampler import KEPT, PrioritySampler
from rlcli.replay.streams import Rows


@dataclass(frozen=True)
class Config:
    """Rows drawn in proportion to (priority + epsilon)^alpha, with importance weights."""

    alpha: float = opt(
        0.6, "How much priorities count; 0 is uniform.", ge=0, le=2, source="Schaul et al., table 3"
    )
    beta: float = opt(0.4, "How far weights undo the bias at the beginning, in [0, 1].", ge=0, le=1)
    beta_batches: int = opt(0, "Batches over which beta rises linearly to 1; 0 keeps it.", ge=0)
    epsilon: float = opt(1e-6, "Added to a priority, so that none is 0.", gt=0)
    persist: str | None = opt(None, KEPT)
    stratified: bool = opt(True, "One row from each of B equal parts of the sum, as in the paper's appendix.")
    distinct: bool = opt(False, "No row twice in a batch.")


P = TypeVar("P", bound=Config)


class Proportional(PrioritySampler[P]):
    """Row i is drawn with P(i) proportional to (p_i + epsilon)^alpha.

    `weight` is (P(i) / least P of all rows)^-beta: the paper's weights over the largest in the buffer.
    New rows get the greatest priority of any row so far, as in the paper: the first ones 1, later ones the
    greatest given, if that is more.
    """

    @property
    def beta(self) -> float:
        """The exponent of the next batch's weights."""
        config = self.config
        if not config.beta_batches:
            return config.beta
        return min(1.0, config.beta + (1.0 - config.beta) * self.batches / config.beta_batches)

    def draw(self, block: Block) -> Rows:
        """Draws rows into the block's `row` and `weight`; returns their logical rows."""
        self.draw_into(block, None)
        return self.table.take(self.drawn(block)[0])

    def draw_into(self, block: Block, into: _native.Target | None) -> bool:
        """Draws rows as `draw`, and copies them `into` the block at once. Returns whether it copied them."""
        ids, weights = self.drawn(block)
        table, config = self.table, self.config
        table.refresh()
        at = (self.seed, self.STREAM, self.batches)
        filled = False
        if config.distinct:
            found = table.tree.sample_distinct(*at, self.beta, ids, weights)
            if found < len(ids):
                raise self.source.too_few(found, len(ids))
        else:
            drawn, filled = table.tree.sample(*at, config.stratified, self.beta, ids, weights, into)
            if not drawn:
                self.source.some()
                raise IncompatibleError(f"{self.source.dataset.path} has no row to draw")
        self.batches += 1
        return filled


class Prioritized(Proportional[Config]):
    """Rows drawn by priority, as they are."""

    NAME = "prioritized"
    STREAM = 3
    CONFIG = Config

    def layout(self, batch_size: int) -> Layout:
        return self.weighted(super().layout(batch_size), batch_size)

    def fill(self, block: Block, batch_size: int) -> None:
        if not self.draw_into(block, self.source.target(block)):
            self.source.gather(self.table.take(self.drawn(block)[0]), block)
