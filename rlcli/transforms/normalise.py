"""Observations of mean 0 and deviation 1, by statistics that are learned on the way or given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcli.config import opt
from rlcli.errors import IncompatibleError
from rlcli.format.dataset import Dataset
from rlcli.format.specs import Box, Leaf, Spec, leaves
from rlcli.lazy import lazy_import
from rlcli.transforms.transform import Memory, Transform, map_leaves, map_spec

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")


@dataclass(frozen=True)
class Normalise(Transform):
    """Box observations as (x − mean) / std, float32; an element that never varied becomes 0.

    Running statistics are those of all observations that updates have seen, each batch merged exactly (Chan,
    Golub & LeVeque, 1979). An update uses those from before it; evaluation changes nothing.
    """

    statistics: str = opt(
        "running", "`running`, or a dataset that `rl buffer map --normalise` made: its recorded statistics."
    )
    clip: float = opt(10.0, "Largest absolute value that comes out.", gt=0)

    MEMORY = ("mean", "square", "count")

    def output(self, spec: Spec) -> Spec:
        if not _boxes(spec):
            raise IncompatibleError("normalise: the observation has no numbers to normalise")
        return map_spec(
            lambda leaf: Box(leaf.shape, "float32", -self.clip, self.clip) if isinstance(leaf, Box) else leaf,
            spec,
        )

    def init(self, spec: Spec) -> Memory:
        size = sum(math.prod(leaf.shape) for leaf in _boxes(spec).values())
        zeros = torch.zeros(size, dtype=torch.float64)
        if self.statistics == "running":
            return {"mean": zeros, "square": zeros.clone(), "count": torch.zeros((), dtype=torch.float64)}
        mean, std = self._recorded(spec)
        one = torch.ones((), dtype=torch.float64)
        return {"mean": torch.cat(mean), "square": torch.cat(std).square(), "count": one}

    def learn(self, memory: Memory, spec: Spec, observation: Any) -> Memory:
        if self.statistics != "running":
            return memory
        found: list[torch.Tensor] = []

        def collect(leaf: Leaf, value: torch.Tensor) -> None:
            if isinstance(leaf, Box):
                found.append(_rows(leaf, value))

        map_leaves(collect, spec, observation)
        values = torch.cat(found, dim=-1)  # [B, size]
        count, mean = memory["count"], values.mean(0)
        total, difference = count + len(values), mean - memory["mean"]
        return {
            "mean": memory["mean"] + difference * len(values) / total,
            "square": memory["square"]
            + (values - mean).square().sum(0)
            + difference.square() * count * len(values) / total,
            "count": total,
        }

    def observation(self, memory: Memory, spec: Spec, observation: Any) -> Any:
        std = (memory["square"] / memory["count"].clamp(min=1)).sqrt()
        std = torch.where(std > 0, std, 1.0)
        start = 0

        def scaled(leaf: Leaf, value: torch.Tensor) -> torch.Tensor:
            nonlocal start
            if not isinstance(leaf, Box):
                return value
            part = slice(start, start + math.prod(leaf.shape))
            start = part.stop
            found = (_rows(leaf, value) - memory["mean"][part]) / std[part]
            return found.clamp(-self.clip, self.clip).to(torch.float32).reshape(-1, *leaf.shape)

        return map_leaves(scaled, spec, observation)

    def _recorded(self, spec: Spec) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        with Dataset.open(Path(self.statistics)) as dataset:
            recorded = dataset.extra.get("normalise", {})
        mean: list[torch.Tensor] = []
        std: list[torch.Tensor] = []
        for path, leaf in _boxes(spec).items():
            name = "/".join(("observation", *path))
            found = recorded.get(name)
            if found is None:
                raise IncompatibleError(f"{self.statistics} has no recorded statistics of {name}")
            for parts, key in ((mean, "mean"), (std, "std")):
                values = torch.tensor(found[key], dtype=torch.float64).reshape(-1)
                if len(values) != math.prod(leaf.shape):
                    raise IncompatibleError(
                        f"{self.statistics} has statistics of {len(values)} elements of {name}, "
                        f"expected {math.prod(leaf.shape)}"
                    )
                parts.append(values)
        return mean, std


def _boxes(spec: Spec) -> dict[tuple[str, ...], Box]:
    """In the order in which leaves are visited."""
    return {path: leaf for path, leaf in leaves(spec).items() if isinstance(leaf, Box)}


def _rows(leaf: Box, value: torch.Tensor) -> torch.Tensor:
    """`[B, size]` float64."""
    return value.reshape(-1, math.prod(leaf.shape)).to(torch.float64)
