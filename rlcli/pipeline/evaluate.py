"""Evaluation: seeded episodes in environments of their own, scores, intervals, gates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rlcli import console
from rlcli.collectors.nested import Batch, allocate, put, row, singles
from rlcli.collectors.policy import Remembers
from rlcli.datasets.d4rl_envs import normalized_score
from rlcli.envs.contract import Env, check_score, foreign
from rlcli.errors import ConditionFalse, IncompatibleError, UsageError, nearest
from rlcli.format.specs import spec_from_json
from rlcli.pipeline import statistics

Policy = Callable[[Any], Any]
Outcome = tuple[Any, float, bool, bool]  # what `env.step` returns
GATES = ("iqm", "mean", "median", "min", "max", "normalised", "length")


@dataclass(frozen=True)
class Episode:
    """One evaluation episode: its reset seed, undiscounted reward sum and length in steps."""

    seed: int
    score: float
    length: int
    terminated: bool
    truncated: bool


def evaluation_seeds(seed: int, count: int, *, purpose: str) -> list[int]:
    """`count` distinct reset seeds. Different purposes (`"training"`, `"eval"`) never share episodes."""
    entropy = [seed, *purpose.encode()]
    return [int(n) for n in np.random.SeedSequence(entropy).generate_state(count, np.uint32)]


class Recorder(AbstractContextManager["Recorder"]):
    """What wants to see every step of the rollouts; the base class ignores them.

    Leaving the context completes what was recorded, or drops it all if an exception passes or completing
    fails. Files are in temporary places: their owner names or removes them.
    """

    def begin(self, slot: int, index: int, seed: int) -> None:
        """Episode number `index` starts in environment `slot`."""

    def step(self, slot: int, env: Env, observation: Any, action: Any, outcome: Outcome) -> None:
        """One step in `slot`. `observation` and the outcome's are only valid during the call."""

    def complete(self) -> None:
        """All episodes are over: write what is left to write."""

    def drop(self) -> None:
        """The record is not wanted: let go of what is open."""

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with ExitStack() as unless_complete:
            unless_complete.callback(self.drop)
            if kind is None:
                self.complete()
                unless_complete.pop_all()


def rollouts(
    policy: Policy,
    envs: Sequence[Env],
    seeds: Sequence[int],
    recorder: Recorder | None = None,
    stop: console.Stop | None = None,
) -> list[Episode]:
    """One episode per seed, in the order of `seeds`; environments run in lock step.

    The policy always sees `len(envs)` observations, so an episode's numbers do not depend on when others end.
    A stop request ends the rollouts early; only whole episodes are returned.
    """
    recorder = recorder or Recorder()
    episodes: dict[int, Episode] = {}
    waiting = iter(range(len(seeds)))
    current: list[int | None] = [None] * len(envs)
    observations: Batch = allocate(envs[0].observation_spec, len(envs))
    scores, lengths = [0.0] * len(envs), [0] * len(envs)

    def begin(slot: int) -> None:
        current[slot] = index = next(waiting, None)
        scores[slot], lengths[slot] = 0.0, 0
        if index is not None:
            if isinstance(policy, Remembers):
                policy.begin(slot)
            with foreign(envs[slot]):
                put(observations, slot, envs[slot].reset(seeds[index]))
            recorder.begin(slot, index, seeds[index])

    for slot in range(len(envs)):
        begin(slot)
    while any(index is not None for index in current) and not (stop is not None and stop.requested):
        actions = singles(policy(observations))
        for slot, env in enumerate(envs):
            index = current[slot]
            if index is None:
                continue
            with foreign(env):
                outcome = env.step(actions[slot])
            recorder.step(slot, env, row(observations, slot), actions[slot], outcome)
            observation, reward, terminated, truncated = outcome
            if isinstance(policy, Remembers):
                policy.earned(slot, reward)
            with foreign(env):
                put(observations, slot, observation)
                scores[slot] += float(np.float32(reward))
            lengths[slot] += 1
            if terminated or truncated:
                check_score(scores[slot], env)
                episodes[index] = Episode(
                    seeds[index], scores[slot], lengths[slot], bool(terminated), bool(truncated)
                )
                begin(slot)
    return [episodes[index] for index in sorted(episodes)]


def summary(episodes: Sequence[Episode], reference: tuple[float, float] | None) -> dict[str, Any]:
    """Scores as JSON: IQM with a 95 % bootstrap interval, mean, median, extremes, D4RL's normalised mean."""
    scores = np.array([episode.score for episode in episodes], np.float64)
    low, high = statistics.bootstrap_interval(scores)
    centre = float(statistics.iqm(scores))
    return {
        "episodes": len(episodes),
        "iqm": centre,
        "iqm_interval": [low, high],
        "mean": float(scores.mean()),
        "std": float(scores.std()),
        "median": float(np.median(scores)),
        "min": float(scores.min()),
        "max": float(scores.max()),
        "length": float(np.mean([episode.length for episode in episodes])),
        "normalised": None if reference is None else 100 * normalized_score(float(scores.mean()), reference),
        "per_episode": [asdict(episode) for episode in episodes],
    }


def check_same_specs(spec: Mapping[str, Any], env: Env, what: str) -> None:
    """Raise `IncompatibleError` unless `env` has the specs that `what` was made with."""
    for name, own in (("observation", env.observation_spec), ("action", env.action_spec)):
        recorded = spec_from_json(spec[name])
        if recorded != own:
            raise IncompatibleError(f"{what} was made with the {name} {recorded}, the environment has {own}")


_GATE = re.compile(r"\s*([a-z_]+)\s*(>=|<=|>|<|==)\s*([-+0-9.eE_]+)\s*")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    "==": lambda a, b: a == b,
}


@dataclass(frozen=True)
class Gate:
    """A condition such as `iqm >= 400` on an evaluation's summary."""

    name: str
    operator: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Raises `UsageError` unless `text` is `NAME OPERATOR NUMBER`."""
        match = _GATE.fullmatch(text)
        if match is None:
            raise UsageError(f"--gate {text!r} is not of the form 'iqm >= 400'")
        name, operator, bound = match.groups()
        if name not in GATES:
            raise UsageError(f"--gate: there is no score {name!r}; {nearest(name, GATES)}")
        try:
            return cls(name, operator, float(bound))
        except ValueError:
            raise UsageError(f"--gate: {bound!r} is not a number") from None

    def holds(self, scores: Mapping[str, Any]) -> bool:
        """Whether the summary satisfies the condition. Raises `IncompatibleError` if it lacks the score."""
        value = scores[self.name]
        if value is None:
            raise IncompatibleError(
                "no reference scores are known for this environment, so nothing is normalised"
            )
        return _COMPARE[self.operator](float(value), self.bound)

    def __str__(self) -> str:
        return f"{self.name} {self.operator} {self.bound:g}"


def check_gates(gates: Sequence[Gate], reports: Sequence[Mapping[str, Any]]) -> None:
    """Raise `ConditionFalse` (exit 8) naming the first run and gate that does not hold."""
    for report in reports:
        for gate in gates:
            if not gate.holds(report):
                found = report[gate.name]
                raise ConditionFalse(f"{report['run']}: {gate.name} is {found:.6g}, the gate is {gate}")


def table(reports: Sequence[Mapping[str, Any]]) -> str:
    """Runs side by side, one per line."""
    columns = ["run", "step", "episodes", "IQM", "95 % interval", "mean", "std", "min", "max", "length"]
    rows: list[list[Any]] = [
        [
            report["run"],
            report["step"],
            report["episodes"],
            round(report["iqm"], 2),
            "{:,.2f} – {:,.2f}".format(*report["iqm_interval"]),
            *(round(report[name], 2) for name in ("mean", "std", "min", "max", "length")),
        ]
        for report in reports
    ]
    if any(report["normalised"] is not None for report in reports):
        columns.append("normalised")
        for row, report in zip(rows, reports, strict=True):
            row.append(None if report["normalised"] is None else round(report["normalised"], 2))
    return console.table(columns, rows)
