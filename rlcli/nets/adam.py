"""Adam as a pure function of (parameters, gradient, moments)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlcli.lazy import lazy_import

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

BETA1, BETA2 = 0.9, 0.999  # Kingma & Ba (2015), the defaults of every paper implemented here

AdamState = dict[str, "Tensor"]


def init_adam(params: Tensor) -> AdamState:
    """Zero moments for the vector `params`, the number of steps taken, and what corrects the next one's bias.

    `beta1_power`, `beta2_power`: the betas to the power of the next step's number t, float64.
    `first_scale` = 1 / (1 - beta1^t) and `second_scale` = 1 / sqrt(1 - beta2^t), in the type of `params`.
    """
    return {
        "first_moment": torch.zeros_like(params),
        "second_moment": torch.zeros_like(params),
        "step": torch.zeros((), dtype=torch.float64),
        **_corrections(
            torch.full((), BETA1, dtype=torch.float64), torch.full((), BETA2, dtype=torch.float64), params
        ),
    }


def adam(
    params: Tensor, grad: Tensor, state: AdamState, lr: float | Tensor, *, eps: float = 1e-8
) -> tuple[Tensor, AdamState]:
    """`(params, state)` after one step of Adam (Kingma & Ba, 2015, algorithm 1).

    The corrections come from the step before: what a step computes of single numbers, a compiler fuses into
    the loop over the parameters and computes anew for every 16 of them.
    """
    first = torch.lerp(state["first_moment"], grad, 1 - BETA1)
    second = torch.lerp(state["second_moment"], grad * grad, 1 - BETA2)
    params = params - lr * state["first_scale"] * first / (second.sqrt() * state["second_scale"] + eps)
    return params, {
        "first_moment": first,
        "second_moment": second,
        "step": state["step"] + 1,
        **_corrections(state["beta1_power"] * BETA1, state["beta2_power"] * BETA2, params),
    }


def _corrections(beta1_power: Tensor, beta2_power: Tensor, params: Tensor) -> AdamState:
    return {
        "beta1_power": beta1_power,
        "beta2_power": beta2_power,
        "first_scale": (1 / (1 - beta1_power)).to(params.dtype),
        "second_scale": (1 - beta2_power).rsqrt().to(params.dtype),
    }


def clip_norm(grad: Tensor, max_norm: float) -> Tensor:
    """`grad` scaled down so that its Euclidean norm is at most `max_norm` (Pascanu et al., 2013)."""
    norm = torch.linalg.vector_norm(grad)
    scale: Tensor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return grad * scale
