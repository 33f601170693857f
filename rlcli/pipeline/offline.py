"""Training from datasets: every round is one update on a batch of the mixture."""

from __future__ import annotations

from rlcli.pipeline.inputs import Inputs
from rlcli.pipeline.session import Loop, Position, Session
from rlcli.replay.uniform import Mixture, Uniform


class Offline(Loop):
    """Batches from one dataset or a weighted mixture, drawn with the session's generator."""

    def __init__(self, session: Session, inputs: Inputs, position: Position | None) -> None:
        self.session = session
        sources = [Uniform(dataset, session.algorithm.COLUMNS) for dataset in inputs.datasets]
        self.sampler = sources[0] if len(sources) == 1 else Mixture(sources, inputs.weights)

    def advance(self) -> None:
        session = self.session
        session.update(self.sampler.sample(session.config.batch_size, session.rng))
        session.step += 1
