"""`rl bench collect`: CartPole-v1 under a random policy into a dataset, from the command's Python call.

Limit: the bare loop over one environment, which keeps nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import gymnasium
import numpy as np

from rlcli.benchmarks import Setting
from rlcli.format.dataset import Dataset
from rlcli.pipeline.benchmark import Arm, Item, LocalArm
from rlcli.pipeline.collect import Options, collect

TITLE = "CartPole-v1 steps under a random policy into a dataset"
ENV = "CartPole-v1"


def items(setting: Setting) -> Iterator[Item]:
    """`collect/cartpole`."""
    steps = setting.pick(small=1_000, full=50_000)
    path = setting.folder / "dataset"

    def clear() -> None:
        shutil.rmtree(path, ignore_errors=True)

    def rl(num_envs: int) -> None:
        collect(path, Options(env=ENV, steps=steps, num_envs=num_envs, seed=0))

    env = gymnasium.make(ENV)
    rng = np.random.default_rng(0)

    def bare() -> None:
        env.reset(seed=0)
        actions = rng.integers(0, 2, steps)
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    def check() -> str:
        clear()
        rl(1)
        with Dataset.open(path) as dataset:
            assert dataset.num_rows == steps
            digest = dataset.digest
        clear()
        rl(1)
        with Dataset.open(path) as dataset:
            assert dataset.digest == digest
        clear()
        return f"{steps} steps are {steps} rows, and the same seed gives the same digest"

    arms: list[Arm] = [
        LocalArm("rl, one environment", "ours", lambda: rl(1), steps, clear),
        LocalArm("rl, 8 environments", "ours", lambda: rl(8), steps, clear),
        LocalArm("bare environment loop, nothing kept", "limit", bare, steps),
    ]
    item = Item("collect/cartpole", "steps/s", arms, check=check)
    if setting.peer is not None:
        item.arms += setting.peer.arms(item.name, setting.size, setting.folder / "peers")
    yield item
    env.close()
