"""Several observations at once, so that a network without a memory sees how things move."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlcli.config import opt
from rlcli.errors import IncompatibleError
from rlcli.format.specs import Bound, Box, Leaf, Spec
from rlcli.transforms.transform import Episodic, Transform, map_spec


@dataclass(frozen=True)
class FrameStack(Transform):
    """The last observations of the episode, oldest first (Mnih et al., 2015); Box leaves `[frames, …]`.

    What would lie before an episode's first observation is that one again. The frames come from whoever has
    the episode: data keeps each observation once.
    """

    frames: int = opt(4, "Observations in a stack.", ge=1)

    @property
    def episodic(self) -> Episodic:
        return Episodic(frames=self.frames)

    def output(self, spec: Spec) -> Spec:
        return map_spec(self._leaf, spec)

    def _leaf(self, leaf: Leaf) -> Leaf:
        if not isinstance(leaf, Box):
            raise IncompatibleError(f"frame-stack: numbers can be stacked, the observation has a {leaf}")
        low, high = self._bound(leaf.low), self._bound(leaf.high)
        return replace(leaf, shape=(self.frames, *leaf.shape), low=low, high=high)

    def _bound(self, bound: Bound) -> Bound:
        return bound * self.frames if isinstance(bound, tuple) else bound
