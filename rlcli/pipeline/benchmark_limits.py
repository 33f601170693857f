"""Figures of `rl bench` that no arm measures: they follow from what arms took in the same round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Role = Literal["ours", "reference", "peer", "limit"]


class Measured(NamedTuple):
    """Of an arm in a round: units per second, and processor seconds per unit, NaN where nobody knows."""

    rate: float
    cpu_seconds: float


@dataclass(frozen=True)
class Slowest:
    """What the arms `of` take that work at the same time without disturbing each other."""

    name: str
    of: tuple[str, ...]
    role: Role = "reference"

    def rate(self, arms: Mapping[str, Measured]) -> float:
        """Units per second."""
        return min(arms[name].rate for name in self.of)


@dataclass(frozen=True)
class Spread:
    """What the arms `of` take where `cores` share their processor time without loss, and do nothing else.

    `alone` is the share of an arm's time that is one core's, since nobody can help with it.
    """

    name: str
    of: tuple[str, ...]
    cores: int
    alone: Mapping[str, float] = field(default_factory=dict)
    role: Role = "limit"

    def rate(self, arms: Mapping[str, Measured]) -> float:
        """Units per second."""
        shared = sum(arms[name].cpu_seconds for name in self.of) / self.cores
        return 1 / max(shared, *(arms[name].cpu_seconds * share for name, share in self.alone.items()), 1e-12)
