"""What a training session learns from: environments, or datasets with weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from rlcli import console
from rlcli.envs import make, name_of
from rlcli.envs.contract import Env
from rlcli.errors import IncompatibleError, MissingExtraError, RLError, UsageError
from rlcli.format.dataset import Dataset
from rlcli.format.location import Location, local, locate
from rlcli.format.specs import Spec, spec_from_json
from rlcli.pipeline.arguments import parse_arguments
from rlcli.pipeline.settings import Settings

WEIGHTED = re.compile(r":[0-9.eE+-]+$")


@dataclass
class Inputs:
    """Opened inputs. `unit` is what the budget counts; `eval_env` is None where nothing can be evaluated."""

    source: str
    label: str
    unit: str
    total: int
    planned_updates: int
    observation: Spec
    action: Spec
    spec: dict[str, Any]
    eval_env: str | None
    eval_env_args: dict[str, Any]
    envs: list[Env] = field(default_factory=list)
    datasets: list[Dataset] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    parents: list[dict[str, Any]] = field(default_factory=list)


def source_of(name: str, algorithm: ModuleType, settings: Settings) -> str:
    """`online` or `dataset`. Raises `UsageError` if the options name neither, both or the wrong one."""
    if settings.env is not None and settings.from_dataset:
        raise UsageError("--env and --from-dataset exclude each other")
    if settings.env is None and not settings.from_dataset:
        ways = {"online": "--env ENV", "dataset": "--from-dataset DS"}
        raise UsageError(f"{name} needs {' or '.join(ways[source] for source in algorithm.SOURCES)}")
    source = "online" if settings.env is not None else "dataset"
    if source not in algorithm.SOURCES:
        other = "--from-dataset" if source == "online" else "--env"
        refused = "an environment" if source == "online" else "a dataset"
        raise UsageError(f"{name} cannot learn from {refused}; use {other}")
    if source == "online" and settings.steps is None:
        raise UsageError(
            "--steps is missing: how many environment steps in all", hint="for example --steps 50k"
        )
    if source == "dataset" and settings.updates is None:
        raise UsageError("--updates is missing: how many updates in all", hint="for example --updates 10k")
    if (settings.updates if source == "online" else settings.steps) is not None:
        wrong, right = ("--updates", "--steps") if source == "online" else ("--steps", "--updates")
        raise UsageError(f"{wrong} does not apply here; the budget is {right}")
    default = Settings()
    for name in ("follow", "min_rows", "samples_per_insert", "wait_seconds"):
        if getattr(settings, name) == getattr(default, name):
            continue
        if source == "online":
            raise UsageError(f"--{name.replace('_', '-')} is for training with --from-dataset")
        if not settings.follow:
            raise UsageError(
                f"--{name.replace('_', '-')} is for a dataset that is being written: add --follow"
            )
    return source


@contextmanager
def open_inputs(
    source: str,
    algorithm: ModuleType,
    settings: Settings,
    config: Any,
    parents: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Inputs]:
    """The inputs that the options name, open while the context lasts.

    `parents` are a resumed run's: datasets are opened at the snapshots it was started on, whatever was
    appended since, unless they are followed.
    """
    if source == "online":
        inputs = _environments(algorithm, settings, config)
    else:
        inputs = _datasets(settings, parents)
    try:
        yield inputs
    finally:
        for env in inputs.envs:
            env.close()


def _environments(algorithm: ModuleType, settings: Settings, config: Any) -> Inputs:
    assert settings.env is not None
    assert settings.steps is not None
    arguments = parse_arguments(settings.env_arg)
    count = config.num_envs if algorithm.ON_POLICY else 1
    envs = [make(settings.env, **arguments) for _ in range(count)]
    first = envs[0]
    spec = {
        "env": first.spec_json,
        "observation": first.observation_spec.to_json(),
        "action": first.action_spec.to_json(),
    }
    return Inputs(
        source="online",
        label=settings.env.replace("/", "-").replace(":", "-"),
        unit="steps",
        total=settings.steps,
        planned_updates=planned_updates("online", algorithm, settings, config),
        observation=first.observation_spec,
        action=first.action_spec,
        spec=spec,
        eval_env=settings.eval_env or settings.env,
        eval_env_args={} if settings.eval_env else arguments,
        envs=envs,
    )


def planned_updates(source: str, algorithm: ModuleType, settings: Settings, config: Any) -> int:
    """How many updates a run makes if nothing stops it."""
    if source == "dataset":
        return settings.updates or 0
    steps = settings.steps or 0
    if algorithm.ON_POLICY:
        per_iteration = config.num_envs * config.num_steps
        return int(steps // per_iteration * config.num_epochs * (per_iteration // config.minibatch_size))
    rounds = max(0, steps - config.learning_starts) // config.train_freq
    return int(rounds * (config.updates_per_round or config.train_freq))


def _datasets(settings: Settings, recorded: Sequence[Mapping[str, Any]]) -> Inputs:
    assert settings.updates is not None
    named = [split_weight(part) for text in settings.from_dataset for part in _parts(text)]
    for path, _ in named:
        if settings.follow:
            local(path, "--follow")
    snapshots = [None if settings.follow else parent.get("snapshot") for parent in recorded]
    datasets = [
        Dataset.open(path, at=snapshot)
        for (path, _), snapshot in zip(named, snapshots or [None] * len(named), strict=True)
    ]
    first = datasets[0]
    for other in datasets[1:]:
        for part in ("observation", "action"):
            if other.spec[part] != first.spec[part]:
                raise IncompatibleError(f"{other.path} has another {part} spec than {first.path}")
    parents = [
        {
            "path": str(dataset.path),
            "digest": dataset.digest,
            "uuid": dataset.uuid,
            "rows": dataset.num_rows,
            "snapshot": dataset.snapshot,
            "weight": weight,
        }
        for dataset, (_, weight) in zip(datasets, named, strict=True)
    ]
    eval_env, arguments = _recorded_env(first, settings)
    return Inputs(
        source="dataset",
        label="+".join(dataset.path.name for dataset in datasets),
        unit="updates",
        total=settings.updates,
        planned_updates=settings.updates,
        observation=spec_from_json(first.spec["observation"]),
        action=spec_from_json(first.spec["action"]),
        spec=dict(first.spec),
        eval_env=eval_env,
        eval_env_args=arguments,
        datasets=datasets,
        weights=[weight for _, weight in named],
        parents=parents,
    )


def _parts(text: str) -> list[str]:
    """The words of `a:0.7 b:0.3`; a path with spaces, where a word has no weight, is one."""
    words = text.split()
    return words if all(WEIGHTED.search(word) for word in words) and not Path(text).exists() else [text]


def split_weight(text: str) -> tuple[Location, float]:
    """`data/a:0.7` as path or URL and weight; that is 1 if absent. Raises `UsageError` for one ≤ 0."""
    path, separator, weight = text.rpartition(":")
    is_port = "://" in text and "/" not in path.partition("://")[2]
    if not separator or is_port or Path(text).exists():
        return locate(text), 1.0
    try:
        value = float(weight)
    except ValueError:
        return locate(text), 1.0
    if not 0 < value < float("inf"):
        raise UsageError(f"--from-dataset {text}: the weight must be a number above 0")
    return locate(path), value


def _recorded_env(dataset: Dataset, settings: Settings) -> tuple[str | None, dict[str, Any]]:
    """The environment to evaluate in: the one asked for, or the recorded one if it can be made here."""
    if settings.eval_env is not None:
        return settings.eval_env, parse_arguments(settings.env_arg)
    recorded = dataset.spec.get("env")
    if recorded is None or settings.eval_every == 0:
        return None, {}
    name, arguments = name_of(recorded), dict(recorded["kwargs"])
    try:
        make(name, **arguments).close()
    except RLError as err:
        hint = err.hint if isinstance(err, MissingExtraError) else "name one that is here: --eval-env ENV"
        console.warn(f"no evaluation during training: {err.message} ({hint})")
        return None, {}
    return name, arguments
