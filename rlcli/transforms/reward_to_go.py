"""What is still to be earned, as an observation: behaviour that can be asked for a return."""

from __future__ import annotations

from dataclasses import dataclass

from rlcli.config import opt
from rlcli.errors import UsageError
from rlcli.format.specs import Box, Composite, Spec
from rlcli.transforms.transform import Episodic, Transform

NAME = "reward_to_go"


@dataclass(frozen=True)
class RewardToGo(Transform):
    """The observation, and beside it the discounted sum of the rewards from here to the episode's end.

    In data that is what was earned, so it is for learners from observations and actions alone, as in RvS
    (Emmons et al., 2022). In an environment it begins at `target`, and what is earned is taken off.
    """

    target: float | None = opt(None, "What is asked for at the beginning of an episode.")
    gamma: float = opt(1.0, "Discount per step.", gt=0, le=1)

    @property
    def episodic(self) -> Episodic:
        return Episodic(to_go=(self.gamma, self._target()))

    def output(self, spec: Spec) -> Spec:
        return Composite({"observation": spec, NAME: Box((1,))})

    def _target(self) -> float:
        if self.target is None:
            raise UsageError(
                "--transform reward-to-go needs a target: what is asked for in an environment",
                hint="for example reward-to-go:target=500",
            )
        return self.target
