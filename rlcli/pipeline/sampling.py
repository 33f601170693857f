"""Which sampler a run draws its batches with: named by the user, fitted to the algorithm, kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rlcli.algorithms.transitions import DISCOUNT, WEIGHT
from rlcli.config import from_dict, from_options, options, to_dict
from rlcli.errors import IncompatibleError, UsageError, nearest
from rlcli.format.dataset import Dataset
from rlcli.format.specs import Key
from rlcli.replay import SAMPLERS
from rlcli.replay.choice import load_sampler
from rlcli.replay.sampler import Sampler, State
from rlcli.transforms.transform import NEWEST, Episodic, Transform

REWARD: Key = ("next", "reward")
# What a sampler adds to a row's columns, and the algorithm must read for the batch to mean what it says.
ADDED: dict[str, tuple[Key, ...]] = {
    "prioritized": (WEIGHT,),
    "n-step": (DISCOUNT,),
    "prioritized-n-step": (WEIGHT, DISCOUNT),
    "prioritized-hindsight": (WEIGHT,),
}
UNFIT = {
    "slices": "it draws sequences, not transitions",
    "prioritized-slices": "it draws sequences, not transitions",
    "consuming": "it gives every row once and then no more",
}
WHOLE_EPISODES = "top-return"  # needs episodes that have ended before there is a first batch


@dataclass(frozen=True)
class Choice:
    """A sampler by name, and the options it is made with: one of its `CONFIG`."""

    name: str
    config: Any

    def to_json(self) -> dict[str, Any]:
        """The options; the name is one of the run's settings."""
        return to_dict(self.config)

    @classmethod
    def recorded(cls, name: str, options: Mapping[str, Any]) -> Choice:
        """The inverse of `to_json`."""
        return cls(name, from_dict(load_sampler(name).CONFIG, options))

    def make(
        self,
        dataset: Dataset,
        keys: Sequence[Key],
        capacity: int | None,
        seed: int,
        episodic: Episodic = NEWEST,
    ) -> Sampler:
        """The sampler over the newest `capacity` rows of a dataset, with what is needed of their episodes."""
        kind = load_sampler(self.name)
        return kind(dataset, keys, capacity, config=self.config, seed=seed, episodic=episodic)

    @property
    def sums_rewards(self) -> bool:
        """Whether the rewards of its batches are sums over several steps."""
        return DISCOUNT in ADDED.get(self.name, ())


def fitting(algorithm: ModuleType, source: str) -> list[str]:
    """The samplers that an algorithm can learn from; `source` is `online` or `dataset`."""
    if algorithm.ON_POLICY:
        return []
    reads = getattr(algorithm, "OPTIONAL", ())
    names = [n for n in SAMPLERS if n not in UNFIT and set(ADDED.get(n, ())) <= set(reads)]
    return [name for name in names if name != WHOLE_EPISODES or source == "dataset"]


def choose(
    name: str,
    given: Mapping[str, Any],
    *,
    label: str,
    algorithm: ModuleType,
    config: Any,
    source: str,
    updates: int,
) -> Choice:
    """The sampler `name` with the options `given`, for a run of algorithm `label`.

    What is not given follows the run: n steps are discounted by the algorithm's gamma, and beta of
    prioritised sampling rises to 1 over the planned number of updates. Raises `UsageError` for an unknown
    name or option, or a sampler that does not fit the algorithm.
    """
    kind = load_sampler(name)
    if algorithm.ON_POLICY:
        if name != "uniform" or given:
            raise UsageError(f"{label} learns from its newest steps only; it takes no --sampler")
        return Choice(name, kind.CONFIG())
    fit = fitting(algorithm, source)
    if name in SAMPLERS and name not in fit:
        reason = UNFIT.get(name)
        if reason is None:
            reason = f"{label} does not read what it adds to a batch"
            if name == WHOLE_EPISODES:
                reason = "it needs whole episodes before the first batch: use it with --from-dataset"
        raise UsageError(f"--sampler {name} does not fit {label}: {reason}; {nearest(name, fit)}")
    values = dict(given)
    taken = {option.name for option in options(kind.CONFIG)}
    if "beta_batches" in taken:
        values.setdefault("beta_batches", updates)
    if "gamma" in taken:
        values.setdefault("gamma", config.gamma)
    chosen = from_options(kind.CONFIG, values, "sampler")
    if "gamma" in taken and chosen.gamma != config.gamma:
        raise UsageError(
            f"--set sampler.gamma={chosen.gamma:g} is not the algorithm's --gamma {config.gamma:g}",
            hint="leave sampler.gamma out: it follows --gamma",
        )
    return Choice(name, chosen)


@runtime_checkable
class Updated(Protocol):
    """A sampler that is told the priorities of what it drew."""

    def update(self, rows: NDArray[np.int64], priorities: Any) -> None: ...


def tell(sampler: Updated, rows: NDArray[np.int64], errors: NDArray[Any]) -> None:
    """The sizes of errors `[B]` become the priorities of a batch's `row` `[B]`.

    One that is not finite tells nothing: its row keeps the priority it has.
    """
    known = np.isfinite(errors)
    sampler.update(np.where(known, rows, -1), np.where(known, errors, 0))


def check_unchanged(choice: Choice, given: Mapping[str, Any]) -> None:
    """Raise `UsageError` if an option given to a resumed run is not the recorded one."""
    recorded = choice.to_json()
    asked = to_dict(from_options(type(choice.config), given, "sampler"))
    for key in given:
        option = key.replace("-", "_")
        if asked[option] != recorded[option]:
            raise UsageError(
                f"sampler.{option} is {asked[option]!r}, but the run was started with {recorded[option]!r}",
                hint="an exact resume keeps its options; start a new run to change them",
            )


def columns(dataset: Dataset, algorithm: ModuleType, config: Any, choice: Choice) -> tuple[Key, ...]:
    """What is drawn from a dataset. One of n-step transitions also gives its discounts, gamma^m.

    Raises `IncompatibleError` where n-step rewards would be taken for those of one step.
    """
    made = dataset.extra.get("n_step")
    if made is None or REWARD not in algorithm.COLUMNS:
        return tuple(algorithm.COLUMNS)
    holds = f"{dataset.path} holds {made['n']}-step rewards"
    if DISCOUNT not in getattr(algorithm, "OPTIONAL", ()):
        raise IncompatibleError(f"{holds}, which this algorithm cannot learn from")
    if made["gamma"] != config.gamma:
        raise IncompatibleError(
            f"{holds} made with gamma {made['gamma']:g}, but --gamma is {config.gamma:g}",
            hint=f"train with --gamma {made['gamma']:g}, or make the dataset again",
        )
    if choice.sums_rewards or choice.name.endswith("hindsight"):
        raise IncompatibleError(f"{holds} already; --sampler {choice.name} needs those of one step")
    return (*algorithm.COLUMNS, DISCOUNT)


def check_rewards(transforms: Sequence[Transform], choice: Choice, datasets: Sequence[Dataset]) -> None:
    """Raise `UsageError` if rewards of several steps would be changed as only those of one step may be."""
    several = choice.sums_rewards or any("n_step" in dataset.extra for dataset in datasets)
    for transform in transforms:
        if several and not transform.is_linear:
            raise UsageError(
                f"--transform {type(transform).__name__} is for rewards of one step, not for sums of several"
            )


def split_state(state: State) -> tuple[Any, dict[str, Any]]:
    """A sampler's state as JSON and, at the same places, nested dicts of its arrays."""
    arrays: dict[str, Any] = {}

    def walk(node: Any, place: tuple[str, ...]) -> Any:
        if isinstance(node, np.ndarray):
            parent = arrays
            for name in place[:-1]:
                parent = parent.setdefault(name, {})
            parent[place[-1]] = node
            return None
        if isinstance(node, Mapping):
            return {name: walk(value, (*place, name)) for name, value in node.items()}
        if isinstance(node, list):
            return [walk(value, (*place, str(index))) for index, value in enumerate(node)]
        return node

    return walk(state, ()), arrays


def join_state(facts: Any, arrays: Mapping[str, Any]) -> Any:
    """The inverse of `split_state`."""
    if isinstance(facts, Mapping):
        return {name: _joined(value, arrays.get(name)) for name, value in facts.items()}
    return [_joined(value, arrays.get(str(index))) for index, value in enumerate(facts)]


def _joined(facts: Any, arrays: Any) -> Any:
    if arrays is None:
        return facts
    return join_state(facts, arrays) if isinstance(arrays, Mapping) else arrays
