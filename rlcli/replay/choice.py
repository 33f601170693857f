"""Samplers by name, with their options as text: for commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlcli.config import from_options, read_scope
from rlcli.errors import UsageError, nearest
from rlcli.format.dataset import Dataset
from rlcli.format.specs import Key
from rlcli.plugins import is_reference, load_reference
from rlcli.replay import SAMPLERS
from rlcli.replay.sampler import DatasetSampler
from rlcli.transforms.transform import NEWEST, Episodic


def load_sampler(name: str) -> type[DatasetSampler[Any]]:
    """The class of a sampler, by its name in the table or as `module:Class`; `CONFIG` are its options.

    A class of one's own derives from `DatasetSampler`. Raises `UsageError` if there is none.
    """
    if name not in SAMPLERS and not is_reference(name):
        raise UsageError(f"there is no sampler {name!r}; {nearest(name, SAMPLERS)}")
    reference = SAMPLERS.get(name, name)
    found = load_reference(reference)
    if not (isinstance(found, type) and issubclass(found, DatasetSampler)):
        raise UsageError(f"{reference} does not derive from rlcli.replay.sampler.DatasetSampler")
    return found


def make_sampler(
    name: str,
    dataset: Dataset,
    *,
    sets: Sequence[str] = (),
    keys: Sequence[Key] | None = None,
    capacity: int | None = None,
    seed: int = 0,
    episodic: Episodic = NEWEST,
) -> DatasetSampler[Any]:
    """A sampler of `dataset`; `sets` are `option=value`, or `sampler.option=value`.

    Raises `UsageError` for an unknown name or option, `IncompatibleError` if the dataset lacks a column.
    """
    kind = load_sampler(name)
    for item in sets:
        if "=" not in item:
            raise UsageError(f"--set {item!r} is not of the form key=value")
    given = read_scope("sampler", sets=[f"sampler.{item.removeprefix('sampler.')}" for item in sets])
    options = from_options(kind.CONFIG, given, "sampler")
    return kind(dataset, keys, capacity, config=options, seed=seed, episodic=episodic)
