"""Generalised advantage estimation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlcli._native import gae_float32, gae_float64

_KERNELS: dict[torch.dtype, Callable[..., Any]] = {torch.float32: gae_float32, torch.float64: gae_float64}


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    lam: float,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al., 2016, eq. 16).

    Tensors are `[T, E]`; `terminated` and `truncated` are bool and belong to the transition of their row.
    `next_value` is the value of the true next observation, so truncated steps bootstrap and terminated
    ones do not. The sum over later steps stops at either, and after the last row.

    Returns advantages `[T, E]` in `reward`'s dtype, not normalised; no gradient flows through them. Float32
    and float64 on the CPU use the native kernel, anything else `gae_torch`.
    Raises `ValueError` if `gamma` or `lam` is outside [0, 1] or the shapes differ.
    """
    _check(reward, (value, next_value, terminated, truncated), gamma, lam)
    kernel = _KERNELS.get(reward.dtype)
    if kernel is None or reward.device.type != "cpu":
        return gae_torch(reward, value, next_value, terminated, truncated, gamma=gamma, lam=lam)
    floats = [x.detach().to(reward.dtype).contiguous().numpy() for x in (reward, value, next_value)]
    flags = [x.contiguous().numpy() for x in (terminated, terminated | truncated)]
    return torch.from_numpy(kernel(*floats, *flags, gamma=gamma, lam=lam))


def gae_torch(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    lam: float,
) -> Tensor:
    """`gae` in plain PyTorch, for any device and dtype; same arguments, result and errors."""
    _check(reward, (value, next_value, terminated, truncated), gamma, lam)
    bootstrap = torch.where(terminated, torch.zeros_like(next_value), next_value)
    delta = (reward + gamma * bootstrap - value).detach()  # eq. 11, V of a terminal state is 0
    decay = (
        gamma * lam * (~(terminated | truncated)).to(delta.dtype)
    )  # what is carried never crosses episodes
    advantage = torch.empty_like(delta)
    carry = torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        carry = delta[t] + decay[t] * carry  # eq. 16
        advantage[t] = carry
    return advantage


def _check(reward: Tensor, others: tuple[Tensor, ...], gamma: float, lam: float) -> None:
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise ValueError(f"gamma {gamma} and lam {lam} must lie in [0, 1]")
    if reward.ndim != 2 or any(other.shape != reward.shape for other in others):
        shapes = [list(x.shape) for x in (reward, *others)]
        raise ValueError(f"all tensors must be [T, E] of one shape, got {shapes}")
