"""The learning algorithms, one file each, and the table that names them.

Every file has `Config`, `SOURCES`, `ON_POLICY`, `COLUMNS`, `build`, `init`, `noise`, `update`, `act` and
`act_noise`; on-policy files also have `sample` and `value`, off-policy ones may have `OPTIONAL`: columns
that they read if a batch has them (`transitions.py` says what these mean). `update` is a pure function: state
and batch in, new state and metrics out, which are 0-d but for the `priority` `[B]` of a weighted batch. An
algorithm sees batches, never a buffer, an environment, a file or a logger. Importing this module or an
algorithm's file imports no torch.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from types import ModuleType

from rlcli.errors import UsageError, nearest
from rlcli.plugins import load_module

ALGORITHMS: dict[str, str] = {
    "bc": "rlcli.algorithms.bc",
    "dqn": "rlcli.algorithms.dqn",
    "iql": "rlcli.algorithms.iql",
    "ppo": "rlcli.algorithms.ppo",
    "sac": "rlcli.algorithms.sac",
}

SUMMARIES: dict[str, str] = {
    "bc": "Behavioural cloning: dataset, discrete or continuous actions",
    "dqn": "Deep Q-learning with double targets: online or dataset, discrete actions",
    "iql": "Implicit Q-learning: dataset, discrete or continuous actions",
    "ppo": "Proximal policy optimisation: online, discrete or continuous actions",
    "sac": "Soft actor-critic with a learned temperature: online or dataset, continuous actions",
}


CONTRACT = (
    "Config",
    "SOURCES",
    "ON_POLICY",
    "COLUMNS",
    "build",
    "init",
    "noise",
    "update",
    "act",
    "act_noise",
)


def load(name: str) -> ModuleType:
    """The module of an algorithm: built in, of an installed plugin, or the user's own module of this name.

    Plugins are entry points of the group `rlcli.algorithms`. Raises `UsageError` for an unknown name or a
    module that lacks a part of the contract, `InputError` if it fails to import.
    """
    if name in ALGORITHMS:
        return importlib.import_module(ALGORITHMS[name])
    plugins = {entry.name: entry.value for entry in entry_points(group="rlcli.algorithms")}
    module_name = plugins.get(name, name)
    try:
        module = load_module(module_name)
    except UsageError as err:
        known = nearest(name, [*ALGORITHMS, *plugins])
        raise UsageError(f"there is no algorithm {name!r}, nor a module of that name; {known}") from err
    if missing := [part for part in CONTRACT if not hasattr(module, part)]:
        raise UsageError(f"the module {module_name!r} is no algorithm: it has no {missing[0]}")
    return module
