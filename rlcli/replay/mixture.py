"""Batches from several samplers in fixed proportion (Ball et al., 2023, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlcli.errors import IncompatibleError
from rlcli.replay.block import Block, Layout
from rlcli.replay.sampler import Sampler, State


class Mixture(Sampler):
    """Of B rows, source k gives `B * weight_k`, rounded down or up at random: its expectation is exact.

    Rows of one source come after those of another. All sources must give the same leaves. Raises `ValueError`
    without a source, or if a weight is not a positive number.
    """

    NAME = "mixture"
    STREAM = 2

    def __init__(self, sources: Sequence[Sampler], weights: Sequence[float], *, seed: int = 0) -> None:
        shares = np.asarray(weights, np.float64)
        if (
            not len(sources)
            or shares.shape != (len(sources),)
            or not (np.isfinite(shares) & (shares > 0)).all()
        ):
            raise ValueError("a mixture needs a source at least, and a positive weight for each")
        super().__init__(sources[0].source, seed)
        self.sources = list(sources)
        self.weights = shares / shares.sum()
        self._counts: list[int] = []  # of the last batch

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def layout(self, batch_size: int) -> Layout:
        layouts = [dict(source.layout(batch_size)) for source in self.sources]
        for other in layouts[1:]:
            if other != layouts[0]:
                raise IncompatibleError("the datasets of a mixture differ in their columns")
        return layouts[0]

    def counts(self, batch_size: int) -> list[int]:
        """How many rows each source gives to this batch: systematic sampling."""
        edges = np.floor(np.cumsum(self.weights * batch_size) + self.units(1)[0])
        edges[-1] = batch_size
        counts: list[int] = np.diff(edges, prepend=0.0).astype(int).tolist()
        return counts

    def fill(self, block: Block, batch_size: int) -> None:
        start = 0
        self._counts = self.counts(batch_size)
        for source, count in zip(self.sources, self._counts, strict=True):
            if count:
                part = block.part(start, start + count)
                source.fill(part, count)
                start += count
        self.batches += 1

    def update(self, rows: NDArray[np.int64], priorities: Any) -> None:
        """Gives the rows of the last batch new priorities, each in its own source."""
        start = 0
        for source, count in zip(self.sources, self._counts, strict=True):
            told: Any = source
            if count:
                told.update(rows[start : start + count], priorities[start : start + count])
            start += count

    def close(self) -> None:
        for source in self.sources:
            source.close()

    def position(self) -> State:
        return {**super().state(), "sources": [source.position() for source in self.sources]}

    def seek(self, position: State) -> None:
        super().load_state(position)
        for source, part in zip(self.sources, position["sources"], strict=True):
            source.seek(part)

    def state(self) -> State:
        return {**super().state(), "sources": [source.state() for source in self.sources]}

    def load_state(self, state: State) -> None:
        super().load_state(state)
        for source, part in zip(self.sources, state["sources"], strict=True):
            source.load_state(part)
