"""The gradient of a loss with respect to one parameter vector, eager and compiled."""

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
    """`(d loss / d params, metrics)` for `loss(params, *args) -> (scalar, metrics)`; nothing is mutated.

    `torch.func` traces into one graph but costs 2x in eager dispatch, `torch.autograd.grad` the other way
    round, so each mode uses its own; both run the same derivative formulas.
    """
    if torch.compiler.is_compiling():
        grad, (_, metrics) = torch.func.grad_and_value(loss, has_aux=True)(params, *args)
        return grad, metrics
    leaf = params.detach().requires_grad_()
    with torch.enable_grad():
        value, metrics = loss(leaf, *args)
        (grad,) = torch.autograd.grad(value, leaf)
    return grad, {name: metric.detach() for name, metric in metrics.items()}
