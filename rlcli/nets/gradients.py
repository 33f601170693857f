"""The gradient of a loss with respect to one parameter vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rlcli.lazy import lazy_import

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

Metrics = dict[str, "Tensor"]


def gradient(
    loss: Callable[..., tuple[Tensor, Metrics]], params: Tensor, *args: Any
) -> tuple[Tensor, Metrics]:
    """`(d loss / d params, metrics)` for `loss(params, *args) -> (scalar, metrics)`; nothing is mutated."""
    leaf = params.detach().requires_grad_()
    with torch.enable_grad():
        value, metrics = loss(leaf, *args)
        (grad,) = torch.autograd.grad(value, leaf)
    return grad, {name: metric.detach() for name, metric in metrics.items()}
