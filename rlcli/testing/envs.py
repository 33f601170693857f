"""The contract test of environments. A plugin's own tests call `check_env`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rlcli.collectors.nested import Batch, allocate, put, same_bits, singles
from rlcli.collectors.policy import RandomPolicy
from rlcli.collectors.seeds import episode_seed
from rlcli.envs.contract import Env, check_fits
from rlcli.format.specs import Composite, Spec, leaves, spec_from_json

Trajectory = list[tuple[Batch, float, bool, bool]]


def check_env(make: Callable[[], Env], *, steps: int = 500, seed: int = 0, replayable: bool = True) -> None:
    """Raise `AssertionError` with one sentence if what `make` returns breaks the contract of `Env`.

    Two environments are made and stepped `steps` times with the same random actions. Checked are: specs that
    survive JSON; observations of the right nesting, shape, dtype and range; plain rewards and flags; episodes
    that end within `max_episode_steps`; a reset that starts anew; and that seed and actions alone decide what
    happens, in one environment, in another, and in the first again. `replayable=False` skips this last one,
    for environments that are known not to allow it (their runs cannot be resumed exactly).
    """
    first, second = make(), make()
    try:
        _check_specs(first)
        trajectory = _play(first, steps, seed)
        if replayable:
            for env, which in ((second, "another instance"), (first, "the same instance, reset")):
                _compare(trajectory, _play(env, steps, seed), which)
    finally:
        for env in (first, second):
            env.close()
            env.close()


def _check_specs(env: Env) -> None:
    for name, spec in (("observation_spec", env.observation_spec), ("action_spec", env.action_spec)):
        found = leaves(spec)
        _require(bool(found), f"{name} has no leaf")
        back = spec_from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False)))
        _require(back.to_json() == spec.to_json(), f"{name} does not survive JSON")
    description = env.spec_json
    needed = {"library", "id", "kwargs", "max_episode_steps"}
    _require(needed <= set(description), f"spec_json has no {sorted(needed - set(description))}")
    _require(
        json.loads(json.dumps(description, allow_nan=False)) == description, "spec_json is not plain JSON"
    )


def _play(env: Env, steps: int, seed: int) -> Trajectory:
    """The first `steps` steps, with resets, and everything about them that can be checked alone."""
    policy = RandomPolicy(env.action_spec, seed)
    limit = env.spec_json["max_episode_steps"]
    blank = allocate(env.observation_spec, 1)
    episode, length = 0, 0
    history: Trajectory = [(_observed(env.reset(episode_seed(seed, 0, 0)), env, "reset"), 0.0, False, False)]
    for _ in range(steps):
        outcome: Any = env.step(singles(policy(blank))[0])
        _require(isinstance(outcome, tuple) and len(outcome) == 4, "step must return four values")
        value, reward, terminated, truncated = outcome
        _require(isinstance(reward, float | int | np.floating | np.integer), f"reward is {type(reward)}")
        _require(math.isfinite(float(reward)), f"reward is {reward}")
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            _require(isinstance(flag, bool | np.bool_), f"{name} is {type(flag)}, expected a bool")
        length += 1
        history.append((_observed(value, env, "step"), float(reward), bool(terminated), bool(truncated)))
        if terminated or truncated:
            episode, length = episode + 1, 0
            value = env.reset(episode_seed(seed, 0, episode))
            history.append((_observed(value, env, "reset"), 0.0, False, False))
        _require(limit is None or length < limit, f"an episode goes on after its limit of {limit} steps")
    return history


def _observed(value: Any, env: Env, where: str) -> Batch:
    """A copy of one observation, checked."""
    spec = env.observation_spec
    check_fits(value, spec, f"the observation of {where}")
    _check_dtype(value, spec, where)
    batch = allocate(spec, 1)
    put(batch, 0, value)
    _check_range(batch, spec, where)
    return batch


def _check_dtype(value: Any, spec: Spec, where: str) -> None:
    if isinstance(spec, Composite):
        for name, child in spec.fields.items():
            _check_dtype(value[name], child, f"{where}/{name}")
    elif spec.shape:
        found = str(np.asarray(value).dtype)
        _require(found == spec.dtype, f"the observation of {where} is {found}, its spec says {spec.dtype}")


def _check_range(batch: Batch, spec: Spec, where: str) -> None:
    if isinstance(spec, Composite):
        for name, child in spec.fields.items():
            _check_range(batch[name], child, f"{where}/{name}")
    else:
        _require(
            bool(spec.contains(batch).all()), f"the observation of {where} is outside its spec: {batch[0]}"
        )


def _compare(expected: Trajectory, found: Trajectory, which: str) -> None:
    for step, (before, after) in enumerate(zip(expected, found, strict=False)):
        equal = before[1:] == after[1:] and same_bits(before[0], after[0])
        _require(equal, f"seed and actions do not decide what happens: {which} differs after {step} calls")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
