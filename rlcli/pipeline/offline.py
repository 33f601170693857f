"""Training from datasets: every round is one update on a batch of the mixture.

A dataset that is followed grows meanwhile: batches come from what is committed when they are drawn.
"""

from __future__ import annotations

import time

from rlcli import console
from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.pipeline.inputs import Inputs
from rlcli.pipeline.sampling import columns, join_state, split_state
from rlcli.pipeline.session import Loop, Position, Session
from rlcli.replay.follow import Config as FollowConfig
from rlcli.replay.follow import Follow
from rlcli.replay.mixture import Mixture
from rlcli.replay.sampler import Sampler
from rlcli.transforms.transform import NEWEST

POLL_SECONDS = 0.02


class Offline(Loop):
    """Batches from one dataset or a weighted mixture; each source draws from the run's seed for itself."""

    def __init__(self, session: Session, inputs: Inputs, position: Position | None) -> None:
        self.session = session
        self.live = list(inputs.datasets) if session.settings.follow else []
        seed = session.settings.seed
        sources = [self._source(dataset, seed + (n << 32)) for n, dataset in enumerate(inputs.datasets)]
        self.sampler: Sampler = (
            sources[0] if len(sources) == 1 else Mixture(sources, inputs.weights, seed=seed)
        )
        if position is not None:
            arrays = position.arrays.get("sampler", {})
            self.sampler.load_state(join_state(position.facts["sampler"], arrays))

    def advance(self) -> None:
        """One update; none if a signal came while it waited for rows."""
        session = self.session
        try:
            while self.live:  # only before the first batch
                self._wait_for_rows(self.live[0])
                del self.live[0]
            session.learn(self.sampler)
        except _Stopped:
            return
        session.step += 1

    def position(self) -> Position:
        facts, arrays = split_state(self.sampler.state())
        return Position({"sampler": facts}, {"sampler": arrays})

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.sampler.close()

    def _source(self, dataset: Dataset, seed: int) -> Sampler:
        session = self.session
        keys = columns(dataset, session.algorithm, session.config, session.sampler)
        sampler = session.sampler.make(
            dataset, keys, None, seed, getattr(session.algorithm, "episodic", NEWEST)
        )
        settings = session.settings
        if sampler.source.to_go is not None and (lost := len(sampler.source.to_go.unknown())):
            console.log(f"{dataset.path}: {lost:,} rows of episodes that are not whole are left out")
        if not settings.follow:
            return sampler
        config = FollowConfig(
            settings.samples_per_insert, settings.min_rows, POLL_SECONDS, settings.wait_seconds
        )
        return Follow(sampler, config, sleep=self._sleep)

    def _wait_for_rows(self, dataset: Dataset) -> None:
        """Until there are `min_rows`, whether a writer is at work by now or not."""
        settings = self.session.settings
        until = time.monotonic() + settings.wait_seconds
        while sum(dataset.stream_rows) < settings.min_rows:
            if time.monotonic() > until:
                raise IncompatibleError(
                    f"{dataset.path} has {sum(dataset.stream_rows):,} rows after "
                    f"{settings.wait_seconds:g} s, fewer than --min-rows {settings.min_rows:,}"
                )
            self._sleep(POLL_SECONDS)
            dataset.refresh()

    def _sleep(self, seconds: float) -> None:
        if self.session.stop.requested:
            raise _Stopped
        time.sleep(seconds)


class _Stopped(Exception):
    """A signal came while there was nothing to do but wait."""
