"""Who chooses the actions: uniform random numbers, or the user's own `module:attribute`.

Policies from training runs are loaded by `rlcli.pipeline.evaluate`; nothing here imports torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rlcli.collectors.nested import Batch, conform, row, singles
from rlcli.errors import IncompatibleError, UsageError
from rlcli.format.specs import Box, Composite, Discrete, MultiBinary, Spec
from rlcli.plugins import load_reference

_BLOCK_ROUNDS, _BLOCK_ELEMENTS = 1024, 1 << 16


class Policy(Protocol):
    """Actions for E environments at once."""

    def __call__(self, observation: Batch) -> Batch:
        """Actions `[E, …]` for observations `[E, …]` (dictionaries of arrays for nested specs).

        The caller owns neither: the observation is overwritten by the next step, and so may the action be.
        """


@runtime_checkable
class Remembers(Policy, Protocol):
    """A policy whose actions depend on what it saw earlier in the episode."""

    def begin(self, env: int) -> None:
        """The next observation of environment `env` is the first of an episode."""

    def earned(self, env: int, reward: float) -> None:
        """What the last step of environment `env` gave."""


class RandomPolicy:
    """Independent actions, uniform over the bounds of `action_spec`.

    An unbounded side of a `Box` is drawn as Gymnasium does it: normal without bounds, bound ± exponential
    with one. Equal seeds give equal actions, whatever is observed; E is read off the observations.
    """

    def __init__(self, action_spec: Spec, seed: int | Sequence[int]) -> None:
        self._spec = action_spec
        self._rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        self._envs = 0
        self._rounds = 0
        self._next = 0
        self._block: Batch = None
        self._before: dict[str, Any] = {}

    def __call__(self, observation: Batch) -> Batch:
        envs = _length(observation)
        if self._next == self._rounds or envs != self._envs:
            self._fill(envs)
        index = self._next
        self._next = index + 1
        return self._block[index] if isinstance(self._block, np.ndarray) else row(self._block, index)

    def rounds(self, envs: int) -> Iterator[list[Any]]:
        """Without end what calls with `envs` observations would return, as lists of single actions."""
        while True:
            if self._next == self._rounds or envs != self._envs:
                self._fill(envs)
            start, self._next = self._next, self._rounds
            if isinstance(
                self._spec, Discrete
            ):  # all at once: this is the fast case of the fastest environments
                flat = list(self._block[start:].reshape(-1))
                yield from (flat[index : index + envs] for index in range(0, len(flat), envs))
            else:
                yield from (singles(row(self._block, index)) for index in range(start, self._rounds))

    def state_dict(self) -> dict[str, Any]:
        """All that later actions depend on; JSON-able."""
        return {"generator": self._before, "envs": self._envs, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken."""
        if state["envs"]:
            self._rng.bit_generator.state = state["generator"]
            self._fill(state["envs"])
        self._next = state["next"]

    def _fill(self, envs: int) -> None:
        elements = max(1, envs * _num_elements(self._spec))
        self._envs = envs
        self._rounds = max(1, min(_BLOCK_ROUNDS, _BLOCK_ELEMENTS // elements))
        self._before = dict(self._rng.bit_generator.state)
        self._block = _draw(self._spec, (self._rounds, envs), self._rng)
        self._next = 0


class CheckedPolicy:
    """Foreign code as a `Policy`: an answer that does not fit the action spec is an `IncompatibleError`."""

    def __init__(self, policy: Callable[[Batch], Any], action_spec: Spec, name: str) -> None:
        self._policy = policy
        self._spec = action_spec
        self._where = f"the action of {name}"

    def __call__(self, observation: Batch) -> Batch:
        return conform(self._policy(observation), self._spec, _length(observation), self._where)


def load_policy(name: str, observation_spec: Spec, action_spec: Spec, *, seed: int | Sequence[int]) -> Policy:
    """`random`, or the user's own `module:attribute`.

    A class is called with `observation_spec`, `action_spec` and `seed` by keyword and its instance is the
    policy; anything else that can be called is the policy itself.
    Raises `UsageError` for an unknown name, `InputError` if the module fails to import.
    """
    if name == "random":
        return RandomPolicy(action_spec, seed)
    found: Any = load_reference(name)
    if inspect.isclass(found):
        try:
            make = cast("Callable[..., Any]", found)
            found = make(observation_spec=observation_spec, action_spec=action_spec, seed=seed)
        except TypeError as err:
            takes = "observation_spec, action_spec and seed by keyword"
            raise UsageError(f"the policy class {name} cannot be called with {takes}: {err}") from err
    if not callable(found):
        raise UsageError(f"{name} is a {type(found).__name__}, not a policy: it cannot be called")
    return CheckedPolicy(found, action_spec, name)


def _length(observation: Batch) -> int:
    while isinstance(observation, dict):
        observation = next(iter(observation.values()))
    return len(observation)


def _num_elements(spec: Spec) -> int:
    if isinstance(spec, Composite):
        return sum(map(_num_elements, spec.fields.values()))
    return int(np.prod(spec.shape, dtype=np.int64))


def _draw(spec: Spec, lead: tuple[int, ...], rng: np.random.Generator) -> Batch:
    """Values `[*lead, *shape]` of `spec`, C order, so that the same generator gives the same numbers."""
    if isinstance(spec, Composite):
        return {name: _draw(child, lead, rng) for name, child in spec.fields.items()}
    if isinstance(spec, Discrete):
        return rng.integers(spec.start, spec.start + spec.n, lead, np.int64)
    if isinstance(spec, Box):
        return _draw_box(spec, (*lead, *spec.shape), rng)
    high = np.full(spec.shape, 2) if isinstance(spec, MultiBinary) else np.asarray(spec.nvec)
    return rng.integers(0, high, (*lead, *spec.shape), np.int64).astype(spec.dtype)


def _draw_box(spec: Box, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    low, high = spec.bounds()
    kind = np.dtype(spec.dtype).kind
    if kind == "b":
        return rng.integers(0, 2, shape, np.int8).astype(np.bool_)
    if kind in "iu":
        return rng.integers(low, high, shape, np.dtype(spec.dtype).type, endpoint=True)
    if kind != "f":
        raise IncompatibleError(f"there is no random action of dtype {spec.dtype}")
    below, above = np.isfinite(low), np.isfinite(high)
    values = rng.random(shape)
    if np.all(below & above):
        values = low + values * (high.astype(np.float64) - low)
    else:
        tail = -np.log1p(-values)  # exponential
        values = np.select(
            [below & above, below, above],
            [low + values * np.where(below & above, high - low, 0.0), low + tail, high - tail],
            rng.standard_normal(shape),
        )
    return values.astype(spec.dtype)
