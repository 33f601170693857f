"""Multi-layer perceptrons over one flat parameter vector.

All weights and biases of a network (or of an ensemble) lie in one float32 vector, so that Adam, target
averaging and checkpoints each touch one tensor instead of one per layer: measured on a 2x64 DQN update,
1.2x as fast compiled and 2x as fast eager as one tensor per layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rlcli.lazy import lazy_import

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:
    torch = lazy_import("torch")
    F = lazy_import("torch.nn.functional")

Activation = Literal["relu", "tanh"]


@dataclass(frozen=True)
class MLP:
    """A perceptron `sizes[0] -> … -> sizes[-1]`, linear at the end; call it as `mlp(params, x)`.

    `num_members` > 0 makes it an ensemble of networks of these sizes that share nothing.
    """

    sizes: tuple[int, ...]
    activation: Activation = "relu"
    num_members: int = 0

    @property
    def num_params(self) -> int:
        """Length of the parameter vector."""
        return sum(math.prod(shape) for shape in self._shapes())

    def init(
        self,
        generator: torch.Generator,
        *,
        orthogonal: bool = False,
        output_gain: float = 1.0,
    ) -> Tensor:
        """A parameter vector `[num_params]`, float32.

        Default: weights and biases uniform in ±1/sqrt(fan_in), as `torch.nn.Linear` draws them.
        `orthogonal`: orthogonal weights of gain sqrt(2), `output_gain` in the last layer, zero biases
        (what PPO's reference implementations use).
        """
        parts: list[Tensor] = []
        shapes = self._shapes()
        for weight_shape, bias_shape in zip(shapes[::2], shapes[1::2], strict=True):
            fan_in = weight_shape[-1]
            if orthogonal:
                gain = output_gain if len(parts) == len(shapes) - 2 else math.sqrt(2)
                weight = torch.empty(weight_shape)
                for member in weight.view(-1, *weight_shape[-2:]):
                    torch.nn.init.orthogonal_(member, gain, generator)
                parts += [weight, torch.zeros(bias_shape)]
            else:
                bound = 1 / math.sqrt(fan_in)
                parts += [
                    (torch.rand(shape, generator=generator) * 2 - 1) * bound
                    for shape in (weight_shape, bias_shape)
                ]
        return torch.cat([part.reshape(-1) for part in parts])

    def layers(self, params: Tensor) -> list[tuple[Tensor, Tensor]]:
        """`(weight [out, in], bias [out])` of each layer, views into `params`; ensembles lead with one."""
        shapes = self._shapes()
        parts = torch.split(params, [math.prod(shape) for shape in shapes])
        views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        return list(zip(views[::2], views[1::2], strict=True))

    def __call__(self, params: Tensor, x: Tensor) -> Tensor:
        """Outputs `[B, sizes[-1]]` for inputs `[B, sizes[0]]`; an ensemble's are `[num_members, B, …]`."""
        layers = self.layers(params)
        if not self.num_members:
            return self._forward(layers, x)
        # One product per member: measured 7 % faster than batched products in a compiled SAC update.
        members = [[(weight[i], bias[i]) for weight, bias in layers] for i in range(self.num_members)]
        return torch.stack([self._forward(member, x) for member in members])

    def _forward(self, layers: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
        activation: Callable[[Tensor], Tensor] = torch.relu if self.activation == "relu" else torch.tanh
        for weight, bias in layers[:-1]:
            x = activation(F.linear(x, weight, bias))
        return F.linear(x, *layers[-1])

    def _shapes(self) -> list[tuple[int, ...]]:
        lead = (self.num_members,) if self.num_members else ()
        shapes: list[tuple[int, ...]] = []
        for num_in, num_out in zip(self.sizes, self.sizes[1:], strict=False):
            shapes += [(*lead, num_out, num_in), (*lead, num_out)]
        return shapes
