"""Uniform rows of the episodes with the highest returns (as in 10 % behaviour cloning; Chen et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlcli.config import opt
from rlcli.errors import IncompatibleError
from rlcli.replay.runs import Runs
from rlcli.replay.sampler import RowSampler
from rlcli.replay.streams import Rows


@dataclass(frozen=True)
class Config:
    """Rows of the best episodes."""

    share: float = opt(0.1, "Of the episodes, how many, best first, in (0, 1]; at least one.", gt=0, le=1)
    episodes: int = opt(0, "How many episodes, best first; 0 goes by share.", ge=0)


class TopReturn(RowSampler[Config]):
    """Rows drawn uniformly with replacement from whole episodes; of equal returns the earlier is better."""

    NAME = "top-return"
    STREAM = 8
    CONFIG = Config

    def prepare(self) -> None:
        self._found: tuple[int, Runs, Rows] | None = None

    def __len__(self) -> int:
        return int(self.best()[1][-1])

    def best(self) -> tuple[Runs, Rows]:
        """The episodes, in the dataset's order, and their rows added up."""
        if self._found is None or self._found[0] != self.source.snapshot:
            runs = self.source.runs()
            whole = runs.select(~np.isnan(runs.return_))
            if not len(whole):
                raise IncompatibleError(f"{self.source.dataset.path} has no whole episode")
            count = self.config.episodes or max(1, round(self.config.share * len(whole)))
            order = np.argsort(-whole.return_, kind="stable")[:count]
            chosen = whole.select(np.sort(order))
            self._found = (self.source.snapshot, chosen, np.cumsum(chosen.length))
        return self._found[1], self._found[2]

    def rows(self, batch_size: int) -> Rows:
        runs, sums = self.best()
        drawn = self.below(int(sums[-1]), batch_size)
        self.batches += 1
        chosen = np.searchsorted(sums, drawn, side="right")
        return runs.stop[chosen] - (sums[chosen] - drawn)
