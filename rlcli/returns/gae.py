"""Generalised advantage estimation."""

from __future__ import annotations

import torch
from torch import Tensor

from rlcli import _native
from rlcli.returns import native


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

    Tensors are `[T, E]`, or `[T]`; `terminated` and `truncated` are bool and belong to the transition of
    their row. `next_value` is the value of the true next observation, so truncated steps bootstrap and
    terminated ones do not. The sum over later steps stops at either, and after the last row.

    Returns advantages in `reward`'s shape and dtype, not normalised. Float32 and float64 on the CPU use the
    native kernel unless a gradient is wanted; anything else, `gae_torch`.
    Raises `ValueError` if `gamma` or `lam` is outside [0, 1] or the shapes differ.
    """
    native.check(reward, (value, next_value, terminated, truncated), gamma=gamma, lam=lam)
    found = native.run(_native.gae, reward, value, next_value, terminated, truncated, gamma=gamma, lam=lam)
    if found is None:
        return gae_torch(reward, value, next_value, terminated, truncated, gamma=gamma, lam=lam)
    return torch.from_numpy(found)


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
    """`gae` in plain PyTorch, for any device and dtype and for gradients; same arguments and errors."""
    native.check(reward, (value, next_value, terminated, truncated), gamma=gamma, lam=lam)
    delta = reward + gamma * native.bootstraps(next_value, terminated) - value  # eq. 11
    goes_on = ~(terminated | truncated)
    carry = torch.zeros_like(delta[0])
    advantage = []
    for t in reversed(range(len(delta))):
        carry = delta[t] + gamma * lam * torch.where(goes_on[t], carry, 0.0)  # eq. 16
        advantage.append(carry)
    return torch.stack(advantage[::-1])
