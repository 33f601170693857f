"""A trained run as a policy: batches of observations in, batches of actions out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rlcli.algorithms import load
from rlcli.algorithms.transformed import Transformed
from rlcli.collectors.history import History
from rlcli.config import from_dict
from rlcli.format.specs import spec_from_json
from rlcli.pipeline import checkpoint
from rlcli.pipeline.run import open_run
from rlcli.pipeline.updates import draw, tensors
from rlcli.transforms.transform import NEWEST, parse_transform


class NetworkPolicy:
    """`algorithm.act` over a fixed state: the mode, or samples drawn with `generator`."""

    def __init__(
        self, algorithm: Any, nets: Any, state: Any, config: Any, generator: torch.Generator | None = None
    ) -> None:
        self.algorithm, self.nets, self.state, self.config = algorithm, nets, state, config
        self.generator = generator
        self._history = History(getattr(algorithm, "episodic", NEWEST))

    def begin(self, env: int) -> None:
        """The next observation of environment `env` is the first of an episode."""
        self._history.begin(env)

    def earned(self, env: int, reward: float) -> None:
        """What the last step of environment `env` gave."""
        self._history.earned(env, reward)

    @torch.no_grad()
    def __call__(self, observation: Any) -> Any:
        """Actions `[B, ...]` for observations `[B, ...]` (nested dicts of arrays, or one array)."""
        inputs = tensors(self._history.see(observation))
        noise = None
        if self.generator is not None:
            first = inputs
            while isinstance(first, dict):
                first = next(iter(first.values()))
            noise = draw(self.algorithm.act_noise(self.nets, self.config, len(first)), self.generator)
            if hasattr(self.algorithm, "epsilon"):  # acts as it explored when training ended
                noise["epsilon"] = torch.tensor(self.algorithm.epsilon(self.config, 1.0))
        return self.algorithm.act(self.state, inputs, self.nets, self.config, noise=noise).numpy()


def policy_from_run(
    path: Path, *, which: str = "best", deterministic: bool = True, seed: int = 0
) -> tuple[NetworkPolicy, dict[str, Any]]:
    """The policy of a run's checkpoint `which` (`best`, `last` or a step), and what it is as JSON.

    Raises `InputError` if there is no such run or checkpoint, `CorruptError` if it is damaged.
    """
    run = open_run(path)
    algorithm = load(run.info["algorithm"])
    config = from_dict(algorithm.Config, run.info["config"])
    observation, action = (spec_from_json(run.info["spec"][name]) for name in ("observation", "action"))
    if words := run.info["settings"].get("transform"):
        algorithm = Transformed(algorithm, [parse_transform(word) for word in words], observation)
    nets = algorithm.build(observation, action, config)
    chosen = checkpoint.select(run.checkpoints, which)
    state = checkpoint.load_tensors(chosen)["state"]
    generator = None if deterministic else torch.Generator().manual_seed(seed)
    identity = {
        "run": str(path),
        "algorithm": run.info["algorithm"],
        "step": chosen.step,
        "digest": chosen.digest,
    }
    return NetworkPolicy(algorithm, nets, state, config, generator), identity
