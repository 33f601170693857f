"""A training session: what lies between the run directory and the loop, how it is saved and restored."""

from __future__ import annotations

from collections.abc import Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from rlcli import console
from rlcli.config import from_dict, to_dict, to_toml
from rlcli.errors import IncompatibleError, InputError, UsageError
from rlcli.pipeline import checkpoint, provenance
from rlcli.pipeline.checkpoint import Checkpoint
from rlcli.pipeline.execution import Execution, choose_execution
from rlcli.pipeline.inputs import Inputs
from rlcli.pipeline.run import Run, create_run, execution_text, unique_path
from rlcli.pipeline.sampling import Choice, Updated, check_unchanged, tell
from rlcli.pipeline.settings import Settings
from rlcli.pipeline.updates import UpdateRunner, tensors
from rlcli.replay.sampler import Sampler

RECENT_SCORES = 20
# Options that a resumed run may be given anew: they do not shape what is learned.
FREE_ON_RESUME = frozenset({"keep_last", "keep_best", "tensorboard", "wait_seconds"})


@dataclass(frozen=True)
class Position:
    """Where a loop stands between two rounds: `facts` is JSON, `arrays` nested dicts of NumPy arrays."""

    facts: Mapping[str, Any]
    arrays: Mapping[str, Any]


class Loop(AbstractContextManager["Loop"]):
    """A source of batches. Leaving the context without an exception means that the budget is used up."""

    def advance(self) -> None:
        """Run one round: some steps, and the updates that follow them."""
        raise NotImplementedError

    def position(self) -> Position:
        """Where the loop stands between two rounds, durably."""
        return Position({}, {})

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Release what is held."""


@dataclass
class Session:
    """What a loop works with. `state` is the algorithm's, `sampler` what batches are drawn with."""

    run: Run
    algorithm: ModuleType
    config: Any
    settings: Settings
    sampler: Choice
    nets: Any
    runner: UpdateRunner
    state: dict[str, Any]
    total: int
    stop: console.Stop
    step: int = 0
    updates: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    scores: list[float] = field(default_factory=list)

    def learn(self, sampler: Sampler) -> None:
        """One update of the state on the sampler's next batch; rows of a weighted one get new priorities."""
        batch = sampler.sample(self.config.batch_size)
        self.state, metrics = self.runner.update(self.state, batch)
        priority = metrics.pop("priority", None)
        if priority is not None and isinstance(sampler, Updated):
            tell(sampler, batch["row"], priority.numpy())
        self.metrics = metrics
        self.updates += 1

    def finished(self, score: float) -> None:
        """Remember the score of a training episode that ended."""
        self.scores = [*self.scores[1 - RECENT_SCORES :], score]

    def summary(self) -> dict[str, float]:
        """The newest metrics, and the mean score of the last training episodes as `score`."""
        report = {name: float(value) for name, value in self.metrics.items()}
        return {"score": float(np.mean(self.scores)), **report} if self.scores else report

    def save(self, loop: Loop, score: float | None) -> None:
        """Write a checkpoint of this moment and remove those that are not to be kept."""
        position = loop.position()
        progress = {
            "updates": self.updates,
            "scores": self.scores,
            "loop": dict(position.facts),
        }
        saved = {"state": self.state, "runner": self.runner.state_dict(), "loop": tensors(position.arrays)}
        checkpoint.save(self.run.checkpoints, self.step, saved, progress, score)
        checkpoint.prune(
            self.run.checkpoints, keep_last=self.settings.keep_last, keep_best=self.settings.keep_best
        )


def start_session(
    name: str,
    algorithm: ModuleType,
    settings: Settings,
    config: Any,
    sampler: Choice,
    inputs: Inputs,
    stop: console.Stop,
    out: Path | None,
) -> Session:
    """A new run directory and the session at its beginning. Nothing is written if the specs do not fit."""
    nets = algorithm.build(inputs.observation, inputs.action, config)
    execution = choose_execution(
        algorithm,
        nets,
        config,
        inputs.planned_updates,
        compile=settings.compile,
        matmul=settings.matmul,
        threads=settings.threads,
    )
    generator = torch.Generator().manual_seed(settings.seed)
    state = algorithm.init(nets, config, generator)
    path = out or unique_path(Path("runs") / f"{name}-{inputs.label}-s{settings.seed}")
    info = {
        "algorithm": name,
        "source": inputs.source,
        "config": to_dict(config),
        "settings": to_dict(settings),
        "sampler": sampler.to_json(),
        "spec": inputs.spec,
        "parents": inputs.parents,
        "execution": execution.to_json(),
        "seed": settings.seed,
        "command": provenance.command_line(),
        "created": provenance.now(),
        "versions": provenance.versions(),
        "git": provenance.git_state(),
    }
    toml = f"[run]\n{to_toml(settings)}\n[{name}]\n{to_toml(config)}"
    if sampler.to_json():
        toml += f"\n[sampler]\n{to_toml(sampler.config)}"
    run = create_run(path, info, toml)
    console.log(f"{run.path}: {execution_text(run.info['execution'])}")
    runner = UpdateRunner(algorithm, nets, config, execution, generator)
    return Session(run, algorithm, config, settings, sampler, nets, runner, state, inputs.total, stop)


def continue_session(
    run: Run,
    algorithm: ModuleType,
    settings: Settings,
    config: Any,
    sampler: Choice,
    inputs: Inputs,
    stop: console.Stop,
) -> tuple[Session, Position | None]:
    """The session of `run` at its last checkpoint, and where its loop stood; None if there was none yet."""
    _check_parents(run, inputs, follow=settings.follow)
    nets = algorithm.build(inputs.observation, inputs.action, config)
    execution = Execution.from_json(run.info["execution"])
    execution.check()
    generator = torch.Generator().manual_seed(settings.seed)
    state = algorithm.init(nets, config, generator)
    runner = UpdateRunner(algorithm, nets, config, execution, generator)
    session = Session(run, algorithm, config, settings, sampler, nets, runner, state, inputs.total, stop)
    found = checkpoint.find(run.checkpoints)
    if not found:
        run.cut_metrics(0)
        return session, None
    return session, _restore(session, found[-1])


def _restore(session: Session, saved: Checkpoint) -> Position:
    loaded = checkpoint.load_tensors(saved)
    session.state = loaded["state"]
    session.runner.load_state_dict(loaded["runner"])
    session.scores = list(saved.progress["scores"])
    session.step, session.updates = saved.step, saved.progress["updates"]
    session.run.cut_metrics(saved.step)
    console.log(f"{session.run.path}: resuming at {saved.step:,}")
    return Position(saved.progress["loop"], _arrays(loaded.get("loop", {})))


def recorded_options(
    run: Run, name: str, settings: Settings, config: Any, options: Mapping[str, Any], given: Set[str]
) -> tuple[Settings, Any, Choice]:
    """The settings, config and sampler `run` was started with; `options` are given ones of the sampler.

    Raises `UsageError` if one in `given` differs, or if the run is another algorithm's.
    """
    if run.info["algorithm"] != name:
        raise UsageError(f"{run.path} is a run of {run.info['algorithm']}, not of {name}")
    for wanted, recorded in (
        (to_dict(settings), run.info["settings"]),
        (to_dict(config), run.info["config"]),
    ):
        for key, value in wanted.items():
            if key in given and key not in FREE_ON_RESUME and value != recorded[key]:
                flag = "--" + key.replace("_", "-")
                raise UsageError(
                    f"{flag} is {value!r}, but {run.path} was started with {recorded[key]!r}",
                    hint="an exact resume keeps its options; start a new run to change them",
                )
    kept = {key: value for key, value in to_dict(settings).items() if key in given & FREE_ON_RESUME}
    settings = from_dict(Settings, {**run.info["settings"], **kept})
    sampler = Choice.recorded(settings.sampler, run.info.get("sampler", {}))
    check_unchanged(sampler, options)
    return settings, from_dict(type(config), run.info["config"]), sampler


def _check_parents(run: Run, inputs: Inputs, *, follow: bool) -> None:
    """A followed dataset is the same while it has the same uuid, another one while its content has."""
    for recorded, found in zip(run.info["parents"], inputs.parents, strict=True):
        if follow and recorded["uuid"] != found["uuid"]:
            raise IncompatibleError(f"{found['path']} is not the dataset this run was started on")
        if not follow and recorded["digest"] != found["digest"]:
            raise IncompatibleError(
                f"{found['path']} is not the dataset this run was started on: its digest was "
                f"{recorded['digest'][:12]}…, now {found['digest'][:12]}…"
            )
    if run.info["spec"] != inputs.spec:
        raise InputError(f"{run.path} was started with other specs than {inputs.label} has now")


def _arrays(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _arrays(value) for name, value in tree.items()}
    return tree.numpy()
