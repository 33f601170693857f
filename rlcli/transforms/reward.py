"""Rewards as the losses see them; scores that are reported stay those of the environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlcli.config import opt
from rlcli.transforms.transform import Transform

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RewardScale(Transform):
    """Rewards times a factor."""

    factor: float = opt(1.0, "What rewards are multiplied by.")

    def reward(self, reward: Tensor) -> Tensor:
        return reward * self.factor


@dataclass(frozen=True)
class RewardClip(Transform):
    """Rewards limited to an interval (Mnih et al., 2015)."""

    low: float = opt(-1.0, "Smaller rewards become this.")
    high: float = opt(1.0, "Larger rewards become this.")

    def reward(self, reward: Tensor) -> Tensor:
        return reward.clamp(self.low, self.high)

    @property
    def is_linear(self) -> bool:
        return False
