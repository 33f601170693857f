"""What the optional columns of a batch of transitions mean; an algorithm lists those it reads in `OPTIONAL`.

`("next", "discount")` `[B, 1]`: the factor of what is bootstrapped, gamma^m behind m steps; absent: gamma.
`("weight",)` `[B, 1]`: the weight of each row in the losses; absent: 1. Where it is present, `update` puts
`priority` `[B]`, each row's absolute TD error, beside its metrics; it is not one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

DISCOUNT = ("next", "discount")
WEIGHT = ("weight",)


def discounted(value: Tensor, batch: Mapping[str, Any], gamma: float) -> Tensor:
    """`value` `[B]` or `[B, 1]`, of what follows, as it is worth now: times gamma^m after m steps."""
    discount: Tensor | None = batch["next"].get("discount")
    return gamma * value if discount is None else discount.view_as(value) * value


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """The mean over rows of `values` `[…, B]`, each times its `weight` `[B, 1]`; `[…]`.

    Not divided by the sum of the weights: importance weights are at most 1 and only damp (Schaul et al.,
    2016, algorithm 1, line 13).
    """
    return values.mean(-1) if weight is None else (values * weight.squeeze(-1)).mean(-1)


def with_priority(metrics: dict[str, Tensor], batch: Mapping[str, Any], error: Tensor) -> dict[str, Tensor]:
    """`metrics`, and a weighted batch's `priority` `[B]`: |TD error|, of C critics the mean over `[C, B]`."""
    if WEIGHT[0] not in batch:
        return metrics
    size = error.detach().abs()
    return {**metrics, "priority": size if size.ndim == 1 else size.mean(0)}
