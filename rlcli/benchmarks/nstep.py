"""`rl bench nstep`: three-step transitions, made of single steps when they are drawn, and n-step returns.

Limit: memcpy of as many bytes from one place to another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlcli.benchmarks import Setting
from rlcli.benchmarks.rows import BATCH_KEYS, write_dataset
from rlcli.format.dataset import Dataset
from rlcli.pipeline.benchmark import Arm, Item, LocalArm
from rlcli.replay.batches import Batches
from rlcli.replay.n_step import Config, NStep
from rlcli.replay.streams import Rows
from rlcli.replay.uniform import uniform_rows
from rlcli.returns.n_step import n_step, n_step_torch

TITLE = "batches of 256 three-step transitions from a million, and n-step returns of rollouts [2048, 8]"
BATCH, N, GAMMA = 256, 3, 0.99


def items(setting: Setting) -> Iterator[Item]:
    """`nstep/batches`, `nstep/returns`."""
    torch.set_num_threads(setting.threads)
    path = setting.folder / "dataset"
    write_dataset(path, setting.pick(small=20_000, full=1_000_000))
    with Dataset.open(path) as dataset:
        item = _batches(dataset)
        if setting.peer is not None:
            item.arms += setting.peer.arms(item.name, setting.size, setting.folder / "peers")
        yield item
    yield _returns(setting.pick(small=64, full=2048), 8)


def _batches(dataset: Dataset) -> Item:
    config = Config(N, GAMMA)
    ring = Batches(NStep(dataset, BATCH_KEYS, config=config), BATCH, form="tensordict")
    whole = dataset.read_rows(keys=[*BATCH_KEYS, ("episode",)])
    following, episode = whole["next"], whole["episode"]
    rng = np.random.default_rng(0)

    def plain(rows: Rows) -> dict[str, NDArray[Any]]:
        last, going = rows, np.ones(len(rows), np.bool_)
        reward = following["reward"][rows, 0].astype(np.float64)
        for k in range(1, N):
            further = np.minimum(rows + k, len(episode) - 1)
            going = going & (rows + k < len(episode)) & (episode[further] == episode[rows])
            reward = reward + np.where(going, GAMMA**k * following["reward"][further, 0], 0)
            last = np.where(going, further, last)
        return {
            "observation": whole["observation"][rows],
            "action": whole["action"][rows],
            "next": following["observation"][last],
            "terminated": following["terminated"][last],
            "reward": reward.astype(np.float32),
            "discount": (GAMMA ** (last - rows + 1)).astype(np.float32),
        }

    row_bytes = sum(dataset.schema.column(key).row_bytes for key in BATCH_KEYS) + 4
    source, copy = np.ones(BATCH * row_bytes, np.uint8), np.empty(BATCH * row_bytes, np.uint8)

    def check() -> str:
        sampler = NStep(dataset, BATCH_KEYS, config=config, seed=3)
        expected = plain(uniform_rows(sampler, 2000))
        batch = sampler.sample(2000)
        assert np.array_equal(batch["observation"], expected["observation"])
        assert np.array_equal(batch["next"]["observation"], expected["next"])
        assert np.array_equal(batch["next"]["terminated"], expected["terminated"])
        assert np.allclose(batch["next"]["reward"][:, 0], expected["reward"], atol=1e-5)
        assert np.allclose(batch["next"]["discount"][:, 0], expected["discount"])
        return "batches equal a NumPy loop over the steps"

    arms: list[Arm] = [
        LocalArm("rl, TensorDicts in turn", "ours", lambda: next(ring), BATCH),
        LocalArm(
            "numpy, columns in memory",
            "reference",
            lambda: plain(rng.integers(0, len(episode), BATCH)),
            BATCH,
        ),
        LocalArm("memcpy of the same bytes", "limit", lambda: np.copyto(copy, source), BATCH),
    ]
    return Item("nstep/batches", "transitions/s", arms, check=check)


def _returns(num_steps: int, num_envs: int) -> Item:
    generator = torch.Generator().manual_seed(0)
    reward = torch.randn(num_steps, num_envs, generator=generator)
    ends = torch.rand(2, num_steps, num_envs, generator=generator) < 0.005
    inputs = (reward, ends[0].contiguous(), ends[1].contiguous())
    pairs = [(tensor, torch.empty_like(tensor)) for tensor in inputs]

    def copy() -> None:
        for tensor, out in pairs:
            out.copy_(tensor)

    def check() -> str:
        ours, theirs = (estimate(*inputs, gamma=GAMMA, n=N) for estimate in (n_step, n_step_torch))
        assert all(
            torch.allclose(a.double(), b.double(), atol=1e-5) for a, b in zip(ours, theirs, strict=True)
        )
        return "equals the plain recursion"

    count = float(num_steps * num_envs)
    arms: list[Arm] = [
        LocalArm("rl", "ours", lambda: n_step(*inputs, gamma=GAMMA, n=N), count),
        LocalArm("rl, plain PyTorch", "ours", lambda: n_step_torch(*inputs, gamma=GAMMA, n=N), count),
        LocalArm("memcpy of the inputs", "limit", copy, count),
    ]
    return Item("nstep/returns", "steps/s", arms, check=check)
