"""Action distributions. Randomness enters as data: `sample` turns given noise into actions.

Log-probabilities are summed over action dimensions: `[B]`, one per row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlcli.lazy import lazy_import

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:
    torch = lazy_import("torch")
    F = lazy_import("torch.nn.functional")

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
BOUNDARY = 1 - 1e-6  # dataset actions on a bound have no finite pre-image under tanh


@dataclass(frozen=True, eq=False)
class Categorical:
    """`logits` `[B, n]` over actions `0, …, n - 1`."""

    logits: Tensor

    def log_prob(self, action: Tensor) -> Tensor:
        """`[B]` for int64 actions `[B]`."""
        log_probs = F.log_softmax(self.logits, dim=-1)
        return log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """`[B]`, in nats."""
        log_probs = F.log_softmax(self.logits, dim=-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    def sample(self, uniform: Tensor) -> Tensor:
        """Actions `[B]` from `uniform` noise `[B, n]` in [0, 1), by the Gumbel-max trick."""
        exponential = -torch.log(uniform.clamp(min=1e-20))
        return (self.logits - torch.log(exponential)).argmax(-1)


@dataclass(frozen=True, eq=False)
class DiagonalNormal:
    """Independent normals, `mean` `[B, A]`, `log_std` broadcastable to it. Not bounded."""

    mean: Tensor
    log_std: Tensor

    def log_prob(self, action: Tensor) -> Tensor:
        """`[B]` for actions `[B, A]`."""
        z = (action - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * z.square() - self.log_std - HALF_LOG_TWO_PI).sum(-1)

    def entropy(self) -> Tensor:
        """`[B]`, in nats."""
        return (self.log_std + 0.5 + HALF_LOG_TWO_PI).expand_as(self.mean).sum(-1)

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, normal: Tensor) -> Tensor:
        """Actions `[B, A]` from standard normal noise of that shape."""
        return self.mean + torch.exp(self.log_std) * normal


@dataclass(frozen=True, eq=False)
class TanhNormal:
    """`center + half_range * tanh(u)` with `u` normal: bounded actions (Haarnoja et al., 2018b, appendix C).

    `mean`, `log_std` `[B, A]` describe u; `center`, `half_range` `[A]` the bounds.
    """

    mean: Tensor
    log_std: Tensor
    center: Tensor
    half_range: Tensor

    def mode(self) -> Tensor:
        """The image of u's mean `[B, A]`, the usual deterministic action (not the density's peak)."""
        return self.center + self.half_range * torch.tanh(self.mean)

    def sample(self, normal: Tensor) -> tuple[Tensor, Tensor]:
        """`(action [B, A], log_prob [B])` from standard normal noise, both from the same u.

        Never recovers u from a rounded action, so the log-probability stays finite and exact however
        saturated tanh is.
        """
        u = self.mean + torch.exp(self.log_std) * normal
        log_normal = -0.5 * normal.square() - self.log_std - HALF_LOG_TWO_PI
        action = self.center + self.half_range * torch.tanh(u)
        return action, (log_normal - self._log_jacobian(u)).sum(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """`[B]` for given actions `[B, A]`; actions on a bound are moved inside by 1e-6 of half the range."""
        squashed = ((action - self.center) / self.half_range).clamp(-BOUNDARY, BOUNDARY)
        u = torch.atanh(squashed)
        z = (u - self.mean) * torch.exp(-self.log_std)
        log_normal = -0.5 * z.square() - self.log_std - HALF_LOG_TWO_PI
        return (log_normal - self._log_jacobian(u)).sum(-1)

    def _log_jacobian(self, u: Tensor) -> Tensor:
        """log d action / du; log(1 - tanh(u)^2) is written so that it neither overflows nor cancels."""
        return 2 * (math.log(2) - u - F.softplus(-2 * u)) + self.half_range.log()
