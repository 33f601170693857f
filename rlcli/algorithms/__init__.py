"""The learning algorithms, one file each, and the table that names them.

Every file has `Config`, `SOURCES`, `ON_POLICY`, `COLUMNS`, `build`, `init`, `noise`, `update`, `act` and
`act_noise`; on-policy files also have `sample` and `value`. An algorithm sees batches, never a buffer, an
environment, a file or a logger. Importing this module or an algorithm's file imports no torch.
"""

from __future__ import annotations

import importlib
from types import ModuleType

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


def load(name: str) -> ModuleType:
    """The module of a built-in algorithm. Raises `KeyError` for an unknown name."""
    return importlib.import_module(ALGORITHMS[name])
