"""On-policy training: rollouts of E environments, then epochs of minibatches over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rlcli.collectors.history import History
from rlcli.collectors.loop import Collector
from rlcli.collectors.nested import Batch
from rlcli.pipeline.inputs import Inputs
from rlcli.pipeline.session import Loop, Position, Session
from rlcli.pipeline.updates import draw, tensors
from rlcli.transforms.transform import NEWEST


class OnPolicy(Loop):
    """A round is one iteration: `num_steps` steps of each environment and the updates on them."""

    def __init__(self, session: Session, inputs: Inputs, position: Position | None) -> None:
        self.session = session
        self.collector = Collector(inputs.envs, session.settings.seed)
        self.history = History(getattr(session.algorithm, "episodic", NEWEST))
        if position is not None:
            self.collector.load_state_dict(position.arrays["collector"])
            self.history.load_state_dict(position.arrays.get("history", {}))

    def advance(self) -> None:
        session, config = self.session, self.session.config
        rollout = self._rollout(config.num_steps)
        session.state, session.metrics = session.runner.iterate(session.state, rollout)
        num_rows = config.num_steps * self.collector.num_envs
        session.step = min(session.total, session.step + num_rows)
        session.updates += config.num_epochs * (num_rows // min(config.minibatch_size, num_rows))

    def position(self) -> Position:
        seen = self.history.state_dict()
        kept = {"collector": self.collector.state_dict()}
        return Position({}, {**kept, "history": seen} if seen else kept)

    @torch.no_grad()
    def _rollout(self, num_steps: int) -> dict[str, Any]:
        """`[T, E, …]` columns as `UpdateRunner.iterate` reads them."""
        session, collector = self.session, self.collector
        algorithm, generator = session.algorithm, session.runner.generator
        shapes = algorithm.act_noise(session.nets, session.config, collector.num_envs)
        rows: list[dict[str, Any]] = []
        for _ in range(num_steps):
            noise = draw(shapes, generator)
            observation = self.history.see(collector.observation)
            action, log_prob, value = algorithm.sample(
                session.state, tensors(observation), session.nets, session.config, noise
            )
            moved = collector.step(action.numpy())
            after = {
                "observation": self.history.following(moved.next_observation),
                "reward": moved.reward,
                "terminated": moved.terminated,
                "truncated": moved.truncated,
            }
            rows.append(
                {
                    "observation": observation,
                    "action": moved.action,
                    "log_prob": log_prob.numpy(),
                    "value": value.numpy(),
                    "next": after,
                }
            )
            for episode in moved.ended:
                session.finished(episode.score)
                self.history.begin(episode.env)
        return stack_steps(rows)


def stack_steps(rows: Sequence[Mapping[str, Any]]) -> dict[str, Batch]:
    """T nested dicts of arrays `[E, …]` as one of arrays `[T, E, …]`."""
    stacked: dict[str, Batch] = {}
    for name, first in rows[0].items():
        values = [step[name] for step in rows]
        stacked[name] = stack_steps(values) if isinstance(first, Mapping) else np.stack(values)
    return stacked
