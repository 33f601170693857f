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
    """Zero moments for the vector `params`, the step counter 0 and the powers of the betas at it, float64."""
    return {
        "first_moment": torch.zeros_like(params),
        "second_moment": torch.zeros_like(params),
        "step": torch.zeros((), dtype=torch.float64),
        "beta1_power": torch.ones((), dtype=torch.float64),
        "beta2_power": torch.ones((), dtype=torch.float64),
    }


def adam(
    params: Tensor, grad: Tensor, state: AdamState, lr: float | Tensor, *, eps: float = 1e-8
) -> tuple[Tensor, AdamState]:
    """`(params, state)` after one step of Adam (Kingma & Ba, 2015, algorithm 1).

    The powers of the betas are products carried along: `beta ** step` would be fused into the loop over the
    parameters and taken anew for every 16 of them, which was a tenth of a compiled SAC update.
    """
    beta1_power, beta2_power = state["beta1_power"] * BETA1, state["beta2_power"] * BETA2
    first = torch.lerp(state["first_moment"], grad, 1 - BETA1)
    second = torch.lerp(state["second_moment"], grad * grad, 1 - BETA2)
    step_size = (lr / (1 - beta1_power)).to(params.dtype)
    correction = (1 - beta2_power).sqrt().to(params.dtype)
    params = params - step_size * first / (second.sqrt() / correction + eps)
    return params, {
        "first_moment": first,
        "second_moment": second,
        "step": state["step"] + 1,
        "beta1_power": beta1_power,
        "beta2_power": beta2_power,
    }


def clip_norm(grad: Tensor, max_norm: float) -> Tensor:
    """`grad` scaled down so that its Euclidean norm is at most `max_norm` (Pascanu et al., 2013)."""
    norm = torch.linalg.vector_norm(grad)
    scale: Tensor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return grad * scale
