"""Training from datasets: every round is one update on a batch of the mixture."""

from __future__ import annotations

from rlcli.pipeline.inputs import Inputs
from rlcli.pipeline.session import Loop, Position, Session
from rlcli.replay.mixture import Mixture
from rlcli.replay.sampler import Sampler
from rlcli.replay.uniform import Uniform


class Offline(Loop):
    """Batches from one dataset or a weighted mixture; each source draws from the run's seed for itself."""

    def __init__(self, session: Session, inputs: Inputs, position: Position | None) -> None:
        self.session = session
        seed = session.settings.seed
        sources = [
            Uniform(dataset, session.algorithm.COLUMNS, seed=seed + (number << 32))
            for number, dataset in enumerate(inputs.datasets)
        ]
        self.sampler: Sampler = (
            sources[0] if len(sources) == 1 else Mixture(sources, inputs.weights, seed=seed)
        )
        if position is not None:
            self.sampler.load_state(position.facts["sampler"])

    def advance(self) -> None:
        session = self.session
        session.update(self.sampler.sample(session.config.batch_size))
        session.step += 1

    def position(self) -> Position:
        return Position({"sampler": self.sampler.state()}, {})
