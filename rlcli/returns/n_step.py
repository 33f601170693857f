"""N-step returns: a few rewards, then a value."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlcli import _native
from rlcli.returns import native


class NStep(NamedTuple):
    """`return_` is the discounted sum of m rewards, `discount` the factor of the value that follows them.

    `discount` is gamma^m, or 0 where the m-th transition terminated. `last` is the flat row (`t * E + e`) of
    that transition: the observation to bootstrap from is its next one.
    """

    return_: Tensor
    discount: Tensor
    last: Tensor


def n_step(reward: Tensor, terminated: Tensor, truncated: Tensor, *, gamma: float, n: int) -> NStep:
    """n-step returns (Sutton & Barto, 2018, eq. 7.1): m = n rewards, fewer where an episode or the data end.

    Tensors are `[T, E]` or `[T]`. A truncated window bootstraps with the gamma^m of the m steps it has, from
    the true observation after its last one. Native on the CPU for float32 and float64.
    Raises `ValueError` if `gamma` is outside [0, 1], `n` below 1 or the shapes differ.
    """
    _check(reward, terminated, truncated, gamma, n)
    found = native.run(_native.n_step, reward, terminated, truncated, gamma=gamma, n=n)
    if found is None:
        return n_step_torch(reward, terminated, truncated, gamma=gamma, n=n)
    return NStep(*map(torch.from_numpy, found))


def n_step_torch(reward: Tensor, terminated: Tensor, truncated: Tensor, *, gamma: float, n: int) -> NStep:
    """`n_step` in plain PyTorch, for any device and dtype and for gradients; same arguments and errors."""
    _check(reward, terminated, truncated, gamma, n)
    done = terminated | truncated
    last = torch.arange(reward.numel(), device=reward.device).view(reward.shape)
    return_, discount = torch.zeros_like(reward), torch.ones_like(reward)
    goes_on = torch.ones_like(done)
    width = reward[0].numel()
    for k in range(min(n, len(reward))):
        rows = slice(0, len(reward) - k)  # those with a k-th step in the data
        now = goes_on[rows]
        return_ = _set(return_, rows, return_[rows] + torch.where(now, discount[rows] * reward[k:], 0.0))
        factor = torch.where(terminated[k:], torch.zeros_like(reward[k:]), gamma)
        discount = _set(discount, rows, torch.where(now, discount[rows] * factor, discount[rows]))
        if k:
            last = _set(last, rows, torch.where(now, last[rows] + width, last[rows]))
        goes_on = _set(goes_on, rows, now & ~done[k:])
    return NStep(return_, discount, last)


def _set(whole: Tensor, rows: slice, part: Tensor) -> Tensor:
    return torch.cat([part, whole[rows.stop :]])


def _check(reward: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, n: int) -> None:
    native.check(reward, (terminated, truncated), gamma=gamma)
    if n < 1:
        raise ValueError(f"n is {n}, it must be at least 1")
