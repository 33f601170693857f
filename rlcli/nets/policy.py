"""A stochastic actor for discrete or continuous actions: what PPO, BC and IQL share.

SAC is not here: its actor squashes samples and its standard deviation depends on the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rlcli.lazy import lazy_import
from rlcli.nets.distributions import Categorical, DiagonalNormal
from rlcli.nets.mlp import MLP, Activation
from rlcli.nets.spaces import Actions, BoxActions, DiscreteActions, Features

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0  # of the noise in half ranges; IQL's authors clip it likewise


@dataclass(frozen=True, eq=False)
class Policy:
    """pi(. | s): a categorical, or a normal with one free standard deviation per action dimension.

    With `squash` the normal's mean (not its samples) is kept within the action bounds by tanh, so dataset
    actions on a bound have a finite likelihood. Its parameter vector is `[mlp | log_std]`.
    """

    actions: Actions
    mlp: MLP
    squash: bool

    @property
    def num_params(self) -> int:
        return self.mlp.num_params + self.num_log_std

    @property
    def num_log_std(self) -> int:
        return self.actions.size if isinstance(self.actions, BoxActions) else 0

    def init(
        self, generator: torch.Generator, *, orthogonal: bool = False, output_gain: float = 1.0
    ) -> Tensor:
        """A parameter vector `[num_params]`; the standard deviation starts at half the action range."""
        weights = self.mlp.init(generator, orthogonal=orthogonal, output_gain=output_gain)
        return torch.cat([weights, torch.zeros(self.num_log_std)])

    def __call__(self, params: Tensor, state_features: Tensor) -> Categorical | DiagonalNormal:
        """The distribution; continuous actions are in the environment's units and not bounded."""
        weights, log_std = torch.split(params, [self.mlp.num_params, self.num_log_std])
        outputs = self.mlp(weights, state_features)
        if isinstance(self.actions, DiscreteActions):
            return Categorical(outputs)
        if self.squash and self.actions.bounded:
            outputs = torch.tanh(outputs)
        mean = self.actions.center + self.actions.half_range * outputs
        log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        return DiagonalNormal(mean, log_std + self.actions.half_range.log())

    def act(self, params: Tensor, state_features: Tensor, noise: Mapping[str, Tensor] | None) -> Tensor:
        """Environment actions `[B, …]` within the bounds: the mode, or drawn with `noise`."""
        distribution = self(params, state_features)
        action = distribution.mode() if noise is None else distribution.sample(noise["action"])
        return self.actions.shaped(self.actions.clip(action))

    def noise(self, batch_size: int) -> dict[str, tuple[Literal["normal", "uniform"], tuple[int, ...]]]:
        """What `act` and `sample` turn into actions: kinds and shapes of random numbers."""
        if isinstance(self.actions, DiscreteActions):
            return {"action": ("uniform", (batch_size, self.actions.n))}
        return {"action": ("normal", (batch_size, self.actions.size))}


def policy(
    features: Features,
    actions: Actions,
    hidden: tuple[int, ...],
    *,
    activation: Activation = "relu",
    squash: bool = True,
) -> Policy:
    """An actor from features to a distribution over `actions`."""
    num_outputs = actions.n if isinstance(actions, DiscreteActions) else actions.size
    return Policy(actions, MLP((features.size, *hidden, num_outputs), activation), squash)
