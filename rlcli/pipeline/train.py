"""Training: options to a run directory. Owns the schedule of evaluations, checkpoints and reports.

Where batches come from is a *loop* (`off_policy.py`, `on_policy.py`, `offline.py`): it advances by a round
and can say and restore where it stands. A run that is stopped after a checkpoint and resumed is, on the CPU,
bit-identical to one that was not.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Set
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlcli import console
from rlcli.algorithms import load
from rlcli.algorithms.transformed import Transformed
from rlcli.envs import make_many
from rlcli.errors import UsageError
from rlcli.pipeline import checkpoint
from rlcli.pipeline.evaluate import evaluation_seeds, rollouts
from rlcli.pipeline.inputs import Inputs, open_inputs, planned_updates, source_of
from rlcli.pipeline.outputs import refuse_inside
from rlcli.pipeline.policy import NetworkPolicy
from rlcli.pipeline.reports import Reporter
from rlcli.pipeline.run import Run, open_run
from rlcli.pipeline.sampling import check_rewards, choose
from rlcli.pipeline.session import Loop, Session, continue_session, recorded_options, start_session
from rlcli.pipeline.settings import Settings
from rlcli.transforms.transform import parse_transform

REPORTS_PER_RUN = 200
EVALUATIONS_PER_RUN = 20
MAX_EVALUATION_ENVS = 10


def train(
    name: str,
    settings: Settings,
    config: Any,
    *,
    out: Path | None,
    sampler: Mapping[str, Any] | None = None,
    resume: bool = False,
    given: Set[str] = frozenset(),
) -> dict[str, Any]:
    """Train algorithm `name`; returns the run's path, steps or updates, scores and the last digest.

    `sampler` has options of the sampler that the settings name, as text or parsed. With `resume`, a run at
    `out` goes on with its recorded options; those in `given` must agree with them.
    Raises `UsageError` for options that contradict each other, `IncompatibleError` for an algorithm that does
    not fit the specs, `BusyError` for a run that is being trained, `Interrupted` after a signal, when a
    checkpoint is on disk.
    """
    algorithm = load(name)
    if resume and out is None:
        raise UsageError("--resume needs the run directory: -o RUN")
    if out is not None:
        refuse_inside(out)
    run = open_run(out) if resume and out is not None and out.exists() else None
    choice = None
    if run is not None:
        settings, config, choice = recorded_options(run, name, settings, config, sampler or {}, given)
    source = source_of(name, algorithm, settings)
    if choice is None:
        choice = choose(
            settings.sampler, sampler or {}, label=name, algorithm=algorithm, config=config, source=source,
            updates=planned_updates(source, algorithm, settings, config),
        )  # fmt: skip
    transforms = [parse_transform(word) for word in settings.transform]
    with ExitStack() as opened:
        stop = opened.enter_context(console.interruptible())
        parents = () if run is None else run.info["parents"]
        inputs = opened.enter_context(open_inputs(source, algorithm, settings, config, parents))
        if transforms:
            check_rewards(transforms, choice, inputs.datasets)
            algorithm = Transformed(algorithm, transforms, inputs.observation)
        if run is None:
            session = start_session(name, algorithm, settings, config, choice, inputs, stop, out)
            restored = None
            opened.enter_context(session.run.held())
            opened.push(partial(_drop_if_empty, session.run))
        else:
            opened.enter_context(run.held())
            session, restored = continue_session(run, algorithm, settings, config, choice, inputs, stop)
        if session.step >= session.total:
            return _outcome(session, inputs, 0.0)
        with _loop_type(source, algorithm)(session, inputs, restored) as loop:
            return _train(session, loop, inputs)


def _drop_if_empty(run: Run, kind: type[BaseException] | None, *error: object) -> None:
    """A new run that failed before its first checkpoint leaves nothing that would block its name."""
    if kind is not None and not checkpoint.find(run.checkpoints):
        shutil.rmtree(run.path)


def _loop_type(source: str, algorithm: Any) -> Any:
    if source == "dataset":
        from rlcli.pipeline.offline import Offline

        return Offline
    if algorithm.ON_POLICY:
        from rlcli.pipeline.on_policy import OnPolicy

        return OnPolicy
    from rlcli.pipeline.off_policy import OffPolicy

    return OffPolicy


def _train(session: Session, loop: Loop, inputs: Inputs) -> dict[str, Any]:
    settings, run, total, stop = session.settings, session.run, session.total, session.stop
    eval_every = (
        settings.eval_every if settings.eval_every is not None else max(1, total // EVALUATIONS_PER_RUN)
    )
    if inputs.eval_env is None:
        eval_every = 0
    report_every = max(1, total // REPORTS_PER_RUN)
    started = time.monotonic()
    title = f"{run.info['algorithm']} {inputs.label}"
    with Reporter(run, title, session.step, total, inputs.unit, settings.tensorboard) as reporter:
        while session.step < total and not stop.requested:
            before = session.step
            loop.advance()
            is_last = session.step >= total
            report: dict[str, float] = {}
            score = None
            if eval_every and (_passed(before, session.step, eval_every) or is_last):
                report = evaluate(session, inputs)
                score = report["eval/score_mean"]
            if report or is_last or _passed(before, session.step, report_every):
                report = {**session.summary(), **report}
                reporter.report(session.step, session.updates, time.monotonic() - started, report)
            if score is not None or is_last or _passed(before, session.step, settings.checkpoint_every or 0):
                session.save(loop, score)
            reporter.advance(session.step)
    if stop.requested and session.step < total:
        session.save(loop, None)
        command = f"rl train {run.info['algorithm']} --resume -o {run.path}"
        stop.raise_if_requested(
            f"stopped at {session.step:,} of {total:,} {inputs.unit}; resumable",
            hint=f"go on with: {command}",
        )
    return _outcome(session, inputs, time.monotonic() - started)


def _outcome(session: Session, inputs: Inputs, seconds: float) -> dict[str, Any]:
    run = session.run
    best = checkpoint.select(run.checkpoints, "best")
    last = checkpoint.select(run.checkpoints, "last")
    return {
        "path": run.path,
        "algorithm": run.info["algorithm"],
        inputs.unit: session.step,
        "best": {"step": best.step, "score": best.score},
        "last": {"step": last.step, "score": last.score, "digest": last.digest},
        "seconds": round(seconds, 3),
    }


def evaluate(session: Session, inputs: Inputs) -> dict[str, float]:
    """Scores of the current policy's mode, on the same seeds each time, in environments of its own.

    Draws no randomness of the training's: a run with evaluations equals one without.
    """
    assert inputs.eval_env is not None
    seeds = evaluation_seeds(session.settings.seed, session.settings.eval_episodes, purpose="training")
    policy = NetworkPolicy(session.algorithm, session.nets, session.state, session.config)
    count = min(len(seeds), MAX_EVALUATION_ENVS)
    with make_many(count, inputs.eval_env, **inputs.eval_env_args) as envs:
        episodes = rollouts(policy, envs, seeds)
    scores = [episode.score for episode in episodes]
    return {
        "eval/score_mean": float(np.mean(scores)),
        "eval/score_min": float(np.min(scores)),
        "eval/score_max": float(np.max(scores)),
        "eval/length_mean": float(np.mean([episode.length for episode in episodes])),
    }


def _passed(before: int, now: int, every: int) -> bool:
    return every > 0 and now // every > before // every
