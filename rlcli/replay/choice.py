"""Samplers by name, with their options as text: for commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlcli.config import resolve
from rlcli.errors import UsageError, nearest
from rlcli.format.dataset import Dataset
from rlcli.format.specs import Key
from rlcli.plugins import is_reference, load_reference
from rlcli.replay import SAMPLERS
from rlcli.replay.sampler import Sampler


def load_sampler(name: str) -> tuple[type[Sampler], type[Any]]:
    """The class of a sampler and its config's, by its name in the table or as `module:Class`.

    A class of one's own derives from `Sampler` and lies beside its `Config`. Raises `UsageError` if there
    is none.
    """
    if name not in SAMPLERS and not is_reference(name):
        raise UsageError(f"there is no sampler {name!r}; {nearest(name, SAMPLERS)}")
    reference = SAMPLERS.get(name, name)
    found = load_reference(reference)
    if not (isinstance(found, type) and issubclass(found, Sampler)):
        raise UsageError(f"{reference} does not derive from rlcli.replay.sampler.Sampler")
    return found, load_reference(f"{reference.partition(':')[0]}:Config")


def make_sampler(
    name: str,
    dataset: Dataset,
    *,
    sets: Sequence[str] = (),
    keys: Sequence[Key] | None = None,
    capacity: int | None = None,
    seed: int = 0,
) -> Sampler:
    """A sampler of `dataset`; `sets` are `option=value`, or `sampler.option=value`.

    Raises `UsageError` for an unknown name or option, `IncompatibleError` if the dataset lacks a column.
    """
    kind, config = load_sampler(name)
    options = resolve(config, sets=[item.removeprefix("sampler.") for item in sets])
    make: Any = kind
    sampler: Sampler = make(dataset, keys, capacity, config=options, seed=seed)
    return sampler
