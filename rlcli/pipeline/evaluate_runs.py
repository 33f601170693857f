"""`rl eval`: one or several runs, each over the same seeded episodes, to one report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlcli import console
from rlcli.envs import make_many, name_of
from rlcli.errors import IncompatibleError, UsageError
from rlcli.pipeline import provenance
from rlcli.pipeline.evaluate import (
    Recorder,
    check_same_specs,
    evaluation_seeds,
    rollouts,
    summary,
)
from rlcli.pipeline.outputs import publish_all, refuse_inside, unfinished
from rlcli.pipeline.policy import policy_from_run
from rlcli.pipeline.rollout_files import DatasetRecorder, Recorders, VideoRecorder
from rlcli.pipeline.run import open_run, write_atomically

MAX_ENVS = 16
FRAMES_PER_SECOND = 30


@dataclass(frozen=True)
class Options:
    """How runs are evaluated; the same for each of them, so that they can be compared."""

    episodes: int = 20
    seed: int = 0
    deterministic: bool = True
    checkpoint: str = "best"
    env: str | None = None
    env_args: dict[str, Any] | None = None
    record: Path | None = None
    video: Path | None = None
    video_episodes: int = 1


def evaluate_runs(runs: Sequence[Path], options: Options, *, report: Path | None = None) -> dict[str, Any]:
    """Evaluate each run on the same reset seeds; returns the report, written to `report` as well if given.

    Raises what `policy_from_run` and `make_many` raise, and `UsageError` for outputs that exist or for
    several runs with one output.
    """
    if len(runs) > 1 and (options.record or options.video):
        raise UsageError("--record and --video take one run")
    for path in (options.record, options.video, report):
        if path is not None and path.exists():
            raise UsageError(f"{path} exists already", hint="choose another path")
        if path is not None and not path.absolute().parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.parent}")
        if path is not None:
            refuse_inside(path)
    if options.video is not None and options.video.suffix != ".mp4":
        raise UsageError(f"--video {options.video}: the name must end in .mp4")
    content: dict[str, Any] = {
        "created": provenance.now(),
        "command": provenance.command_line(),
        "versions": provenance.versions(),
        "seed": options.seed,
        "runs": [_evaluate(run, options) for run in runs],
    }
    if len(runs) == 1:  # so that `rl eval RUN --json | jq .iqm` works
        content = {**content["runs"][0], **content}
    if report is not None:
        document = {"rl": console.JSON_VERSION, "kind": "evaluation", **content}
        write_atomically(report, json.dumps(json.loads(console.to_json(document)), indent=1).encode())
    return content


def _evaluate(path: Path, options: Options) -> dict[str, Any]:
    policy, identity = policy_from_run(
        path, which=options.checkpoint, deterministic=options.deterministic, seed=options.seed
    )
    spec = open_run(path).info["spec"]
    name, arguments = _environment(path, spec, options)
    seeds = evaluation_seeds(options.seed, options.episodes, purpose="eval")
    count = min(options.episodes, MAX_ENVS)
    if options.video is not None:
        arguments["render_mode"] = "rgb_array"
    reference = spec.get("reference_scores")
    with console.interruptible() as stop, ExitStack() as opened:
        envs = opened.enter_context(make_many(count, name, **arguments))
        check_same_specs(spec, envs[0], f"{path}")
        outputs = {
            out: opened.enter_context(unfinished(out))
            for out in (options.record, options.video)
            if out is not None
        }
        with (
            console.progress(options.episodes, f"eval {path}", "episodes") as bar,
            Recorders(*_recorders(options, outputs, count, spec, identity), _Bar(bar)) as recorder,
        ):
            episodes = rollouts(policy, envs, seeds, recorder, stop)
            stop.raise_if_requested(
                f"stopped after {len(episodes)} of {options.episodes} episodes, nothing is kept"
            )
        publish_all([(temporary, out) for out, temporary in outputs.items()])
    scores = summary(episodes, None if reference is None else (reference["min"], reference["max"]))
    mode = "mode" if options.deterministic else "sample"
    return {
        **identity,
        "env": name,
        "actions": mode,
        **scores,
        "record": options.record,
        "video": options.video,
    }


def _environment(path: Path, spec: dict[str, Any], options: Options) -> tuple[str, dict[str, Any]]:
    recorded = spec.get("env")
    if options.env is not None:
        return options.env, dict(options.env_args or {})
    if recorded is None:
        raise IncompatibleError(f"{path} records no environment", hint="name one with --env")
    return name_of(recorded), {**recorded["kwargs"], **(options.env_args or {})}


def _recorders(
    options: Options, outputs: Mapping[Path, Path], count: int, spec: dict[str, Any], identity: dict[str, Any]
) -> list[Recorder]:
    """What `options` want, each at its temporary place in `outputs`."""
    parts: list[Recorder] = []
    if options.video is not None:
        parts.append(VideoRecorder(outputs[options.video], options.video_episodes, FRAMES_PER_SECOND))
    if options.record is not None:
        lineage = {
            "op": "eval",
            "command": provenance.command_line(),
            "versions": provenance.versions(),
            "time": provenance.now(),
            "seed": options.seed,
            "parents": [{"run": identity["run"], "digest": identity["digest"]}],
        }
        parts.append(DatasetRecorder(outputs[options.record], count, spec, lineage))
    return parts


class _Bar(Recorder):
    """Moves a progress bar when an episode ends."""

    def __init__(self, bar: console.Progress) -> None:
        self._bar = bar

    def step(
        self, slot: int, env: Any, observation: Any, action: Any, outcome: tuple[Any, float, bool, bool]
    ) -> None:
        if outcome[2] or outcome[3]:
            self._bar.advance()
