"""V-trace: off-policy corrected value targets and advantages."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlcli import _native
from rlcli.returns import native


class VTrace(NamedTuple):
    """`target` is what the value regresses on, `advantage` the weight of the policy gradient."""

    target: Tensor
    advantage: Tensor


def vtrace(
    log_ratio: Tensor,
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    lam: float = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> VTrace:
    """V-trace targets (Espeholt et al., 2018, eq. 1) and policy-gradient advantages (section 4.2).

    Tensors are `[T, E]` or `[T]`. `log_ratio` is log pi(a|s) - log mu(a|s). `rho_bar` clips the ratio in the
    temporal difference, `c_bar` in the trace. `next_value` is the value of the true next observation: at a
    truncation, and after the last row, it stands for the target of the next row; at a termination 0 does.

    No gradient flows through the result: it is a target. Native on the CPU for float32 and float64.
    Raises `ValueError` if `gamma` or `lam` is outside [0, 1], a clip is negative or the shapes differ.
    """
    _check(reward, (log_ratio, value, next_value, terminated, truncated), gamma, lam, rho_bar, c_bar)
    with torch.no_grad():
        clips: dict[str, Any] = {"gamma": gamma, "lam": lam, "rho_bar": rho_bar, "c_bar": c_bar}
        inputs = (log_ratio.exp(), value, next_value, terminated, truncated)
        found = native.run(_native.vtrace, reward, *inputs, **clips)
        if found is None:
            return vtrace_torch(log_ratio, reward, value, next_value, terminated, truncated, **clips)
        return VTrace(*map(torch.from_numpy, found))


@torch.no_grad()
def vtrace_torch(
    log_ratio: Tensor,
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    lam: float = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> VTrace:
    """`vtrace` in plain PyTorch, for any device and dtype; same arguments, result and errors."""
    _check(reward, (log_ratio, value, next_value, terminated, truncated), gamma, lam, rho_bar, c_bar)
    ratio = log_ratio.exp()
    rho, trace = ratio.clamp(max=rho_bar), lam * ratio.clamp(max=c_bar)
    difference = reward + gamma * native.bootstraps(next_value, terminated) - value
    goes_on = ~(terminated | truncated)
    target, advantage = torch.empty_like(reward), torch.empty_like(reward)
    carry = torch.zeros_like(reward[0])  # vs - V of the row after
    for t in reversed(range(len(reward))):
        following = torch.where(goes_on[t], carry, 0.0)
        advantage[t] = rho[t] * (difference[t] + gamma * following)
        carry = rho[t] * difference[t] + gamma * trace[t] * following  # remark 1
        target[t] = value[t] + carry
    return VTrace(target, advantage)


def _check(
    reward: Tensor, others: tuple[Tensor, ...], gamma: float, lam: float, rho_bar: float, c_bar: float
) -> None:
    native.check(reward, others, gamma=gamma, lam=lam)
    if rho_bar < 0 or c_bar < 0:
        raise ValueError(f"rho_bar {rho_bar} and c_bar {c_bar} must not be negative")
