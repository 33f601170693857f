"""What the rest of the toolchain may expect of an environment, whatever library it comes from.

The contract has no automatic reset, no vectorisation and no info dictionary. `terminated` and
`truncated` stay apart, and the observation that `step` returns at an episode's end is the true final
one. Whoever steps an environment resets it, each time with a seed of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rlcli import plugins
from rlcli.errors import IncompatibleError, InputError
from rlcli.format.specs import Composite, Spec

SEED_BITS = 31  # a seed of at most 31 bits is accepted by every library, int32 ones included


@runtime_checkable
class Env(Protocol):
    """One environment. `check_env` in `rlcli.testing.envs` tests all that is said here.

    Observations are arrays of the spec's shape and dtype, or nested dictionaries of them; a discrete
    observation is an integer. They may be views of memory that the next `step` overwrites: copy to keep.
    """

    @property
    def observation_spec(self) -> Spec:
        """What `reset` and `step` return as observations."""
        ...

    @property
    def action_spec(self) -> Spec:
        """What `step` takes."""
        ...

    @property
    def spec_json(self) -> dict[str, Any]:
        """`library`, `id`, `kwargs`, `max_episode_steps`: strict JSON, enough to make it again."""
        ...

    def reset(self, seed: int) -> Any:
        """Start an episode and return its first observation; the same seed gives the same episode."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool]:
        """`(observation, reward, terminated, truncated)` after one step.

        `action` is a NumPy integer for a discrete spec, as Gymnasium's `sample` gives it, else an array of
        the spec's shape and dtype (or a dictionary of these). A `Box` action outside its bounds is clipped by
        the environment, not by the caller.
        """
        ...

    def render(self) -> Any:
        """One RGB image `[H, W, 3]` uint8, or None if the environment was made without a render mode."""

    def close(self) -> None:
        """Release what the environment holds; calling it twice does nothing."""


def explain(err: BaseException, env: Env) -> InputError:
    """One line for what foreign code raised, and where; `env` is the environment it came from."""
    return plugins.explain(err, _origin(env))


def foreign(env: Env) -> AbstractContextManager[None]:
    """Whatever `env` raises inside is an `InputError` of one line; our own errors pass."""
    return plugins.foreign(partial(_origin, env))


def _origin(env: Env) -> str:
    return f"{env.spec_json['id']} or its policy"


def check_score(score: float, env: Env) -> None:
    """Raise `InputError` if an episode's rewards do not sum to a finite number."""
    if not math.isfinite(score):
        raise InputError(f"{env.spec_json['id']}: the rewards of an episode sum to {score}")


def check_fits(value: Any, spec: Spec, where: str) -> None:
    """Raise `IncompatibleError` unless `value` has the nesting and the shapes of `spec`.

    Integers must also be in the range of their dtype; bounds and other dtypes are not compared. Meant
    for the first and the last observation of an episode, not for each step.
    """
    if isinstance(spec, Composite):
        if not isinstance(value, Mapping) or set(value) != set(spec.fields):
            found = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            raise IncompatibleError(f"{where} is {found}, its spec has the keys {sorted(spec.fields)}")
        for name, child in spec.fields.items():
            check_fits(value[name], child, f"{where}/{name}")
        return
    shape = getattr(value, "shape", None)
    if shape is None:
        shape = () if isinstance(value, int | float) else None
    if shape != spec.shape:
        found = f"of shape {tuple(shape)}" if shape is not None else f"a {type(value).__name__}"
        raise IncompatibleError(f"{where} is {found}, its spec says shape {spec.shape}")
    if np.dtype(spec.dtype).kind in "iu":
        array = np.asarray(value)
        with np.errstate(invalid="ignore"):
            fits = np.array_equal(array.astype(spec.dtype), array)
        if not fits:
            raise IncompatibleError(f"{where} has values that its dtype {spec.dtype} cannot hold")
