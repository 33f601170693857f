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
from rlcli.pipeline.run import Run, create_run, unique_path
from rlcli.pipeline.settings import Settings
from rlcli.pipeline.updates import UpdateRunner, tensors

RECENT_SCORES = 20
# Options that a resumed run may be given anew: they do not shape what is learned.
FREE_ON_RESUME = frozenset({"keep_last", "keep_best", "tensorboard"})


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
    """What a loop works with. `state` is the algorithm's."""

    run: Run
    algorithm: ModuleType
    config: Any
    settings: Settings
    nets: Any
    runner: UpdateRunner
    state: dict[str, Any]
    total: int
    step: int = 0
    updates: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    scores: list[float] = field(default_factory=list)

    def update(self, batch: Mapping[str, Any]) -> None:
        """One update of the state."""
        self.state, self.metrics = self.runner.update(self.state, batch)
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
    name: str, algorithm: ModuleType, settings: Settings, config: Any, inputs: Inputs, out: Path | None
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
    path = out or unique_path(Path("runs") / f"{name}-{inputs.label}-s{settings.seed}")
    info = {
        "algorithm": name,
        "source": inputs.source,
        "config": to_dict(config),
        "settings": to_dict(settings),
        "spec": inputs.spec,
        "parents": inputs.parents,
        "execution": execution.to_json(),
        "seed": settings.seed,
        "command": provenance.command_line(),
        "created": provenance.now(),
        "versions": provenance.versions(),
        "git": provenance.git_state(),
    }
    run = create_run(path, info, f"[run]\n{to_toml(settings)}\n[{name}]\n{to_toml(config)}")
    console.log(f"{run.path}: {execution.reason}; matmul {execution.matmul}, threads {execution.threads}")
    generator = torch.Generator().manual_seed(settings.seed)
    state = algorithm.init(nets, config, generator)
    runner = UpdateRunner(algorithm, nets, config, execution, generator)
    return Session(
        run,
        algorithm,
        config,
        settings,
        nets,
        runner,
        state,
        inputs.total,
    )


def continue_session(
    run: Run, algorithm: ModuleType, settings: Settings, config: Any, inputs: Inputs
) -> tuple[Session, Position | None]:
    """The session of `run` at its last checkpoint, and where its loop stood; None if there was none yet."""
    _check_parents(run, inputs)
    nets = algorithm.build(inputs.observation, inputs.action, config)
    execution = Execution.from_json(run.info["execution"])
    generator = torch.Generator().manual_seed(settings.seed)
    state = algorithm.init(nets, config, generator)
    runner = UpdateRunner(algorithm, nets, config, execution, generator)
    session = Session(run, algorithm, config, settings, nets, runner, state, inputs.total)
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
    run: Run, name: str, settings: Settings, config: Any, given: Set[str]
) -> tuple[Settings, Any]:
    """The options `run` was started with.

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
    return from_dict(Settings, {**run.info["settings"], **kept}), from_dict(type(config), run.info["config"])


def _check_parents(run: Run, inputs: Inputs) -> None:
    for recorded, found in zip(run.info["parents"], inputs.parents, strict=True):
        if recorded["digest"] != found["digest"]:
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
