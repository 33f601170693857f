"""Contiguous slices of episodes, for recurrent networks and sequence models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlcli.config import opt
from rlcli.errors import IncompatibleError
from rlcli.format.specs import Key
from rlcli.replay.block import Block, Layout
from rlcli.replay.runs import Runs
from rlcli.replay.sampler import DatasetSampler, below
from rlcli.replay.source import Source
from rlcli.replay.streams import Rows

MASK: Key = ("mask",)
VALID: Key = ("valid",)


@dataclass(frozen=True)
class Config:
    """Slices of `length` consecutive rows."""

    length: int = opt(32, "Steps of a slice that count.", ge=1)
    burn_in: int = opt(0, "Steps before them, to warm a recurrent state up; they do not count.", ge=0)
    short: Literal["skip", "pad"] = opt("skip", "Episodes shorter than a slice: left out, or padded.")
    across: bool = opt(False, "A slice may go over the ends of episodes; `is_init` marks the beginnings.")
    by: Literal["step", "episode"] = opt("step", "Every place in the data equally likely, or every episode.")


class Cutter:
    """Where slices may begin, and how they are copied."""

    def __init__(self, source: Source, config: Config) -> None:
        self.source = source
        self.config = config
        self._found: tuple[int, Runs, Rows] | None = None
        self._longest = 0

    @property
    def span(self) -> int:
        """Rows of a slice, burn-in included."""
        return self.config.burn_in + self.config.length

    def layout(self, batch_size: int) -> Layout:
        """The columns `[B, T, …]`, and `valid` and `mask` bool `[B, T, 1]`."""
        flags = (np.dtype(np.bool_), (batch_size, self.span, 1))
        return {**self.source.layout(batch_size, self.span), VALID: flags, MASK: flags}

    def places(self) -> tuple[Runs, Rows]:
        """The runs that slices are cut from, and in how many places of each one may begin.

        Raises `IncompatibleError` if there is none.
        """
        if self._found is None or self._found[0] != self.source.snapshot:
            config = self.config
            runs = self.source.runs(across=config.across)
            self._longest = int(runs.length.max(initial=0))
            if config.short == "skip":
                runs = runs.select(runs.length >= config.length)
            self._found = (self.source.snapshot, runs, np.maximum(runs.length - config.length + 1, 1))
        if not len(self._found[1]):
            raise IncompatibleError(
                f"{self.source.dataset.path} has no {'' if self.config.across else 'episode of '}"
                f"{self.config.length} rows; the longest has {self._longest}"
            )
        return self._found[1], self._found[2]

    def cut(self, start: Rows, run_start: Rows, run_stop: Rows, block: Block) -> None:
        """Copies the slices that count from `start` on, of the runs with these bounds."""
        config, span, keys = self.config, self.span, self.source.keys
        size = len(start) * span
        flat = block.views.get("rows")
        if flat is None:
            flat = [array.reshape(size, *array.shape[2:]) for array in block.columns[: len(keys)]]
            block.views["rows"] = flat
        at = np.arange(0, size, span)
        if config.burn_in == 0 and config.short == "skip":  # every slice is whole
            block.arrays[VALID][:] = block.arrays[MASK][:] = True
            self.source.dataset.read_runs(start, np.full(len(start), span), at, keys, flat)
            return
        first = np.maximum(start - config.burn_in, run_start)
        count = np.minimum(start + config.length, run_stop) - first
        offset = first - (start - config.burn_in)
        position = np.arange(span)
        valid = (position >= offset[:, None]) & (position < (offset + count)[:, None])
        block.arrays[VALID][..., 0] = valid
        block.arrays[MASK][..., 0] = valid & (position >= config.burn_in)
        if (count < span).any():
            padding = ~valid.reshape(-1)
            for array in flat:
                array[padding] = 0
        self.source.dataset.read_runs(first, count, at + offset, keys, flat)


class Slices(DatasetSampler[Config]):
    """Batches of slices `[B, T, …]`, T = burn_in + length, drawn with replacement.

    `valid` is True where a row is one: what lies before the episode's beginning or, padded, after its end is
    zero. `mask` is True where a row is valid and past the burn-in: where losses count. Sliced by step, each
    beginning is equally likely over all episodes; by episode, each episode is, then each beginning in it.
    A slice `across` episodes goes over their ends, but not over a row that may not be drawn.
    """

    NAME = "slices"
    STREAM = 4
    CONFIG = Config
    PLAIN = True

    def prepare(self) -> None:
        self.cutter = Cutter(self.source, self.config)
        self._sums: tuple[int, Rows] | None = None

    def __len__(self) -> int:
        """In how many places a slice may begin."""
        return int(self.cutter.places()[1].sum())

    def layout(self, batch_size: int) -> Layout:
        return self.cutter.layout(batch_size)

    def fill(self, block: Block, batch_size: int) -> None:
        runs, places = self.cutter.places()
        if self.config.by == "episode":
            chosen = self.below(len(runs), batch_size)
            start = runs.start[chosen] + below(self.units(batch_size, 1), places[chosen])
        else:
            sums = self._cumulated(places)
            drawn = self.below(int(sums[-1]), batch_size)
            chosen = sums.searchsorted(drawn, side="right")
            start = runs.start[chosen] + (drawn - sums[chosen] + places[chosen])
        self.batches += 1
        self.cutter.cut(start, runs.start[chosen], runs.stop[chosen], block)

    def _cumulated(self, places: Rows) -> Rows:
        if self._sums is None or self._sums[0] != self.source.snapshot:
            self._sums = (self.source.snapshot, np.cumsum(places))
        return self._sums[1]
