"""`rl bench returns`: advantages, lambda-returns and V-trace of whole rollouts.

Limit: for GAE the same recursion as a plain C loop, compiled here with the system's compiler if there is one;
for the others a copy of the inputs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rlcli.benchmarks import Setting
from rlcli.benchmarks.c_loop import compiled
from rlcli.pipeline.benchmark import Arm, Goal, Item, LocalArm
from rlcli.returns.gae import gae, gae_torch
from rlcli.returns.td_lambda import td_lambda, td_lambda_torch
from rlcli.returns.vtrace import vtrace, vtrace_torch

TITLE = "GAE, TD(lambda) and V-trace of rollouts [2048, 8] and [128, 4096]"
GAMMA, LAM = 0.99, 0.95
_C_LOOP = """
#include <stddef.h>
typedef const float *floats;
typedef const unsigned char *flags;
void gae(floats reward, floats value, floats next_value, flags terminated, flags truncated,
         float *advantage, size_t steps, size_t envs, float gamma, float lam) {
  for (size_t t = steps; t-- > 0;)
    for (size_t e = 0; e < envs; e++) {
      size_t i = t * envs + e;
      float delta = reward[i] + gamma * (terminated[i] ? 0 : next_value[i]) - value[i];
      float carry = t + 1 == steps || terminated[i] || truncated[i] ? 0 : advantage[i + envs];
      advantage[i] = delta + gamma * lam * carry;
    }
}
"""


def items(setting: Setting) -> Iterator[Item]:
    """`returns/gae`, `returns/gae-wide`, `returns/td-lambda`, `returns/v-trace`."""
    torch.set_num_threads(setting.threads)
    long = setting.pick(small=64, full=2048), 8
    wide = setting.pick(small=16, full=128), setting.pick(small=64, full=4096)
    yield _gae("returns/gae", long, setting, (Goal("plain C loop", 1 / 1.3), Goal("torchrl", 60.0)))
    yield _gae("returns/gae-wide", wide, setting, (Goal("SB3", 3.0),))
    rollout = _rollout(*long)
    count = float(long[0] * long[1])
    inputs = {name: tensor for name, tensor in rollout.items() if name != "value"}

    def target(estimate: Callable[..., Tensor]) -> Tensor:
        return estimate(**inputs, gamma=GAMMA, lam=LAM)

    arms: list[Arm] = [
        LocalArm("rl", "ours", lambda: target(td_lambda), count),
        LocalArm("rl, plain PyTorch", "ours", lambda: target(td_lambda_torch), count),
        _copying(inputs, count),
    ]
    yield _with_peers(
        Item(
            "returns/td-lambda",
            "steps/s",
            arms,
            (),
            lambda: _agree(target(td_lambda), target(td_lambda_torch)),
        ),
        setting,
    )
    log_ratio = 0.1 * torch.randn(long, generator=torch.Generator().manual_seed(1))

    def trace(estimate: Callable[..., tuple[Tensor, Tensor]]) -> Tensor:
        return estimate(log_ratio, **rollout, gamma=GAMMA, lam=LAM)[1]

    arms = [
        LocalArm("rl", "ours", lambda: trace(vtrace), count),
        LocalArm("rl, plain PyTorch", "ours", lambda: trace(vtrace_torch), count),
        _copying(rollout, count),
    ]
    item = Item("returns/v-trace", "steps/s", arms)
    item.check = lambda: _agree(trace(vtrace), trace(vtrace_torch))
    yield _with_peers(item, setting)


def _gae(name: str, shape: tuple[int, int], setting: Setting, goals: tuple[Goal, ...]) -> Item:
    rollout = _rollout(*shape)
    count = float(shape[0] * shape[1])

    def advantage(estimate: Callable[..., Tensor]) -> Tensor:
        return estimate(**rollout, gamma=GAMMA, lam=LAM)

    arms: list[Arm] = [
        LocalArm("rl", "ours", lambda: advantage(gae), count),
        LocalArm("rl, plain PyTorch", "ours", lambda: advantage(gae_torch), count),
    ]
    loop = compiled(_C_LOOP, "gae", setting.folder)
    if loop is not None:
        out = torch.empty(shape)
        pointers = [ctypes.c_void_p(x.data_ptr()) for x in (*rollout.values(), out)]
        sizes = [ctypes.c_size_t(n) for n in shape]
        factors = [ctypes.c_float(GAMMA), ctypes.c_float(LAM)]
        arms.append(LocalArm("plain C loop", "limit", lambda: loop(*pointers, *sizes, *factors), count))

    def check() -> str:
        if loop is not None:
            loop(*pointers, *sizes, *factors)
            _agree(advantage(gae), out)
        return _agree(advantage(gae), advantage(gae_torch))

    return _with_peers(Item(name, "steps/s", arms, goals, check), setting)


def _copying(inputs: dict[str, Tensor], count: float) -> Arm:
    """Reading every input once and writing as many bytes."""
    pairs = [(tensor, torch.empty_like(tensor)) for tensor in inputs.values()]

    def copy() -> None:
        for tensor, out in pairs:
            out.copy_(tensor)

    return LocalArm("memcpy of the inputs", "limit", copy, count)


def _rollout(num_steps: int, num_envs: int) -> dict[str, Tensor]:
    """Noise, with an end in every hundred steps."""
    generator = torch.Generator().manual_seed(0)
    reward, value, next_value = torch.randn(3, num_steps, num_envs, generator=generator)
    terminated, truncated = torch.rand(2, num_steps, num_envs, generator=generator) < 0.005
    return {
        "reward": reward, "value": value, "next_value": next_value,
        "terminated": terminated.contiguous(), "truncated": truncated.contiguous(),
    }  # fmt: skip


def _agree(ours: Tensor, theirs: Tensor) -> str:
    error = float((ours - theirs).abs().max())
    assert error < 1e-3, f"results differ by {error:.2g}"
    return f"equals the plain recursion to {error:.1g}"


def _with_peers(item: Item, setting: Setting) -> Item:
    if setting.peer is not None:
        item.arms += setting.peer.arms(item.name, setting.size, setting.folder / "peers")
    return item
