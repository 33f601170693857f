"""Off-policy online training: one environment, a replay that is a dataset, updates on batches of it."""

from __future__ import annotations

import shutil
from typing import Any

import torch

from rlcli.collectors.history import History
from rlcli.collectors.loop import Collector
from rlcli.collectors.nested import row
from rlcli.collectors.policy import RandomPolicy
from rlcli.format.dataset import Dataset
from rlcli.format.episodes import EpisodeWriter
from rlcli.format.schema import ted_schema
from rlcli.format.writer import Writer
from rlcli.pipeline import provenance
from rlcli.pipeline.inputs import Inputs
from rlcli.pipeline.sampling import join_state, split_state
from rlcli.pipeline.session import Loop, Position, Session
from rlcli.pipeline.updates import draw, tensors
from rlcli.transforms.transform import NEWEST


class OffPolicy(Loop):
    """A round is `train_freq` environment steps, committed to the replay, and then the updates they earn."""

    def __init__(self, session: Session, inputs: Inputs, position: Position | None) -> None:
        self.session = session
        config, settings = session.config, session.settings
        self.updates_per_round = config.updates_per_round or config.train_freq
        self.collector = Collector(inputs.envs, settings.seed)
        needed = getattr(session.algorithm, "episodic", NEWEST)
        self.history = History(needed)
        self.random = RandomPolicy(inputs.action, (settings.seed, 1))
        self.writer = EpisodeWriter(self._open_replay(inputs, position))
        self.replay = Dataset.open(session.run.replay, check="none")
        self.sampler = session.sampler.make(
            self.replay,
            session.algorithm.COLUMNS,
            config.buffer_size,
            settings.seed,
            needed,
        )
        if position is not None:
            self.collector.load_state_dict(position.arrays["collector"])
            self.history.load_state_dict(position.arrays.get("history", {}))
            self.random.load_state_dict(position.facts["random"])
            arrays = position.arrays.get("sampler", {})
            self.sampler.load_state(join_state(position.facts["sampler"], arrays))
        self.writer.begin(0, self.collector.episode_seeds[0])

    def advance(self) -> None:
        session = self.session
        for _ in range(self.session.config.train_freq):
            if session.step == session.total:
                break
            self._step()
        self.writer.flush()
        self.replay.refresh()
        if session.step >= session.config.learning_starts and len(self.sampler):
            for _ in range(self.updates_per_round):
                session.learn(self.sampler)

    def position(self) -> Position:
        self.writer.flush(sync=True)
        state, arrays = split_state(self.sampler.state())
        facts = {
            "random": self.random.state_dict(),
            "replay_rows": self.writer.writer.stream_rows,
            "sampler": state,
        }
        seen = self.history.state_dict()
        kept = {"collector": self.collector.state_dict(), "sampler": arrays}
        return Position(facts, {**kept, "history": seen} if seen else kept)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """The replay is sealed at the end of the budget; before it stays as committed, for a resumed run."""
        self.sampler.close()
        self.replay.close()
        if kind is None:
            self.writer.close({0: row(self.collector.observation, 0)})
        else:
            self.writer.writer.abort()

    def _step(self) -> None:
        moved = self.collector.step(self._act(self.collector.observation))
        self.writer.add(
            0,
            observation=row(moved.observation, 0),
            action=row(moved.action, 0),
            reward=moved.reward[0],
            terminated=moved.terminated[0],
            truncated=moved.truncated[0],
            next_observation=row(moved.next_observation, 0),
        )
        self.session.step += 1
        for episode in moved.ended:
            self.session.finished(episode.score)
            self.history.begin(episode.env)
            self.writer.begin(0, self.collector.episode_seeds[0])

    @torch.no_grad()
    def _act(self, observation: Any) -> Any:
        session = self.session
        seen = self.history.see(observation)
        if session.step < session.config.learning_starts:
            return self.random(observation)
        algorithm, generator = session.algorithm, session.runner.generator
        noise = draw(algorithm.act_noise(session.nets, session.config, 1), generator)
        if hasattr(algorithm, "epsilon"):
            noise["epsilon"] = torch.tensor(algorithm.epsilon(session.config, session.step / session.total))
        action = algorithm.act(session.state, tensors(seen), session.nets, session.config, noise=noise)
        return action.numpy()

    def _open_replay(self, inputs: Inputs, position: Position | None) -> Writer:
        run = self.session.run
        lineage = {
            "op": "train",
            "run": run.digest,
            "command": provenance.command_line(),
            "time": provenance.now(),
        }
        if position is not None:
            rewind = position.facts["replay_rows"]
            return Writer.append(run.replay, lineage=lineage, durability="process", rewind=rewind)
        if run.replay.exists():  # of a run that was killed before its first checkpoint
            shutil.rmtree(run.replay)
        schema = ted_schema(inputs.observation, inputs.action)
        return Writer.create(run.replay, schema, spec=inputs.spec, lineage=lineage, durability="process")
