"""Multi-layer perceptrons over one flat parameter vector.

All weights and biases of a network (or of an ensemble) lie in one float32 vector, so that Adam, target
averaging and checkpoints each touch one tensor instead of one per layer: measured on a 2x64 DQN update,
1.2x as fast compiled and 2x as fast eager as one tensor per layer.
"""

from __future__ import annotations

import itertools
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

    `num_members` > 0 makes it an ensemble of networks of these sizes that share nothing; their parameters
    follow one another.
    """

    sizes: tuple[int, ...]
    activation: Activation = "relu"
    num_members: int = 0

    @property
    def num_params(self) -> int:
        """Length of the parameter vector."""
        return max(self.num_members, 1) * sum(math.prod(shape) for shape in self._shapes())

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
        for _ in range(max(self.num_members, 1)):
            for layer, (num_in, num_out) in enumerate(itertools.pairwise(self.sizes)):
                if orthogonal:
                    gain = output_gain if layer == len(self.sizes) - 2 else math.sqrt(2)
                    weight = torch.empty(num_out, num_in)
                    torch.nn.init.orthogonal_(weight, gain, generator)
                    parts += [weight.reshape(-1), torch.zeros(num_out)]
                else:
                    bound = 1 / math.sqrt(num_in)
                    drawn = torch.rand(num_out * (num_in + 1), generator=generator)
                    parts.append((drawn * 2 - 1) * bound)
        return torch.cat(parts)

    def layers(self, params: Tensor) -> list[list[tuple[Tensor, Tensor]]]:
        """`(weight [out, in], bias [out])` of each layer of each member, views into `params`."""
        shapes = self._shapes() * max(self.num_members, 1)
        parts = torch.split(params, [math.prod(shape) for shape in shapes])
        views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        layers = list(zip(views[::2], views[1::2], strict=True))
        depth = len(self.sizes) - 1
        return [layers[first : first + depth] for first in range(0, len(layers), depth)]

    def __call__(self, params: Tensor, x: Tensor) -> Tensor:
        """Outputs `[B, sizes[-1]]` for inputs `[B, sizes[0]]`; an ensemble's are `[num_members, B, …]`."""
        # One product per member: measured 7 % faster than batched products in a compiled SAC update.
        outputs = [self._forward(layers, x) for layers in self.layers(params)]
        return torch.stack(outputs) if self.num_members else outputs[0]

    def _forward(self, layers: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
        activation: Callable[[Tensor], Tensor] = torch.relu if self.activation == "relu" else torch.tanh
        for weight, bias in layers[:-1]:
            x = activation(F.linear(x, weight, bias))
        return F.linear(x, *layers[-1])

    def _shapes(self) -> list[tuple[int, ...]]:
        pairs = itertools.pairwise(self.sizes)
        return [shape for num_in, num_out in pairs for shape in ((num_out, num_in), (num_out,))]
