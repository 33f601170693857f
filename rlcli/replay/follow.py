"""Sampling from a dataset that is being written, no faster than it grows (Cassirer et al., 2021)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.config import opt
from rlcli.errors import IncompatibleError
from rlcli.replay.block import Block, Layout
from rlcli.replay.sampler import Sampler, State


@dataclass(frozen=True)
class Config:
    """Waits for the data."""

    samples_per_insert: float = opt(
        0.0, "Rows drawn per row written, at most; 0 draws without waiting.", ge=0, source="Reverb"
    )
    min_rows: int = opt(1, "Rows that must be there before the first batch.", ge=1)
    poll_seconds: float = opt(0.01, "How often to look while waiting.", gt=0)
    timeout_seconds: float = opt(600.0, "How long to wait for a batch.", gt=0)


class Follow(Sampler):
    """Another sampler's batches, on the newest rows, held back until the limit allows them.

    A batch of B is allowed when `drawn + B <= samples_per_insert * (written - min_rows) + B`, with all rows
    counted that were ever written. A dataset that is finished (sealed) holds back nothing. While it is not,
    what the sampler lacks for a batch, such as an episode as long as a slice, is waited for as well.
    """

    NAME = "follow"
    STREAM = 10

    def __init__(
        self,
        sampler: Sampler,
        config: Config | None = None,
        *,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(sampler.source, sampler.seed)
        self.sampler = sampler
        self.config = config or Config()
        self.drawn = 0
        self._sleep = sleep

    def layout(self, batch_size: int) -> Layout:
        return self.sampler.layout(batch_size)

    def allowed(self) -> bool:
        """Whether the next batch may be drawn from the present snapshot."""
        dataset, config = self.source.dataset, self.config
        written = sum(dataset.stream_rows)
        if written < config.min_rows or self.source.eligible().count < 1:
            return False
        if not config.samples_per_insert or dataset.state == "sealed":
            return True
        return self.drawn <= config.samples_per_insert * (written - config.min_rows)

    def fill(self, block: Block, batch_size: int) -> None:
        """Waits until the batch can be drawn; `IncompatibleError` when it never will be, or not in time."""
        dataset = self.source.dataset
        waited = 0.0
        dataset.refresh()
        while (lacking := self._fill(block, batch_size)) is not None:
            if dataset.state == "sealed":
                raise lacking
            if waited >= self.config.timeout_seconds:
                raise IncompatibleError(
                    f"{dataset.path} has not grown enough in {self.config.timeout_seconds:g} s"
                ) from lacking
            self._sleep(self.config.poll_seconds)
            waited += self.config.poll_seconds
            dataset.refresh()
        self.drawn += batch_size
        self.batches += 1

    def _fill(self, block: Block, batch_size: int) -> IncompatibleError | None:
        """Draws from the present snapshot; returns what is lacking if that cannot be."""
        if not self.allowed():
            path, least = self.source.dataset.path, self.config.min_rows
            return IncompatibleError(f"{path} is finished and has fewer rows than {least}")
        try:
            self.sampler.fill(block, batch_size)
        except IncompatibleError as err:
            return err
        return None

    def update(self, rows: NDArray[np.int64], priorities: Any) -> None:
        """Gives rows new priorities, if the followed sampler has any."""
        told: Any = self.sampler
        told.update(rows, priorities)

    def close(self) -> None:
        self.sampler.close()

    def position(self) -> State:
        return {**super().state(), "drawn": self.drawn, "followed": self.sampler.position()}

    def seek(self, position: State) -> None:
        super().load_state(position)
        self.drawn = int(position["drawn"])
        self.sampler.seek(position["followed"])

    def state(self) -> State:
        return {**super().state(), "drawn": self.drawn, "followed": self.sampler.state()}

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self.drawn = int(state["drawn"])
        self.sampler.load_state(state["followed"])
