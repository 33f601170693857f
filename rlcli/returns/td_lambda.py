"""Lambda-returns, discounted returns and rewards to go: one recursion."""

from __future__ import annotations

import torch
from torch import Tensor

from rlcli import _native
from rlcli.returns import native


def td_lambda(
    reward: Tensor, next_value: Tensor, terminated: Tensor, truncated: Tensor, *, gamma: float, lam: float
) -> Tensor:
    """Lambda-returns, the targets of TD(lambda) (Sutton & Barto, 2018, eq. 12.18).

    `G[t] = r[t] + gamma * ((1 - lam) * V(s[t+1]) + lam * G[t+1])`. Tensors are `[T, E]` or `[T]`;
    `next_value` is the value of the true next observation. A truncated transition and the last row take it
    alone, a terminated one neither. `lam=0` is the one-step target, `lam=1` the discounted return.

    Returns targets in `reward`'s shape and dtype; native on the CPU unless a gradient is wanted.
    Raises `ValueError` if `gamma` or `lam` is outside [0, 1] or the shapes differ.
    """
    native.check(reward, (next_value, terminated, truncated), gamma=gamma, lam=lam)
    found = native.run(_native.td_lambda, reward, next_value, terminated, truncated, gamma=gamma, lam=lam)
    if found is None:
        return td_lambda_torch(reward, next_value, terminated, truncated, gamma=gamma, lam=lam)
    return torch.from_numpy(found)


def td_lambda_torch(
    reward: Tensor, next_value: Tensor, terminated: Tensor, truncated: Tensor, *, gamma: float, lam: float
) -> Tensor:
    """`td_lambda` in plain PyTorch, for any device and dtype and for gradients; same arguments and errors."""
    native.check(reward, (next_value, terminated, truncated), gamma=gamma, lam=lam)
    bootstrap = native.bootstraps(next_value, terminated)
    goes_on = ~(terminated | truncated)
    following = torch.zeros_like(reward[0])
    targets = []
    for t in reversed(range(len(reward))):
        is_followed = goes_on[t] & (t + 1 < len(reward))
        mixed = torch.where(is_followed, (1 - lam) * bootstrap[t] + lam * following, bootstrap[t])
        following = reward[t] + gamma * mixed
        targets.append(following)
    return torch.stack(targets[::-1])


def discounted_return(
    reward: Tensor, next_value: Tensor, terminated: Tensor, truncated: Tensor, *, gamma: float
) -> Tensor:
    """Discounted sums of rewards to the episode's end, with the value of what follows where it was cut.

    The arguments, result and errors are those of `td_lambda` with `lam=1` (Sutton & Barto, 2018, eq. 3.8).
    """
    return td_lambda(reward, next_value, terminated, truncated, gamma=gamma, lam=1.0)


def reward_to_go(reward: Tensor, terminated: Tensor, truncated: Tensor, *, gamma: float = 1.0) -> Tensor:
    """Discounted sums of the rewards that were seen, to the episode's end; nothing is bootstrapped.

    Tensors are `[T, E]` or `[T]`. What a truncated episode, or the last row, would still have earned is not
    in it: do not compare it with `discounted_return`. Raises `ValueError` as `td_lambda` does.
    """
    native.check(reward, (terminated, truncated), gamma=gamma)
    found = native.run(_native.td_lambda, reward, None, terminated, truncated, gamma=gamma, lam=1.0)
    if found is None:
        nothing = torch.zeros_like(reward)
        return td_lambda_torch(reward, nothing, terminated, truncated, gamma=gamma, lam=1.0)
    return torch.from_numpy(found)
