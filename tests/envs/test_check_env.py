"""The contract test accepts what keeps the contract and names what is broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlcli.envs import make
from rlcli.envs.contract import Env
from rlcli.testing.counting import Counting
from rlcli.testing.envs import check_env

COUNTING = "rlcli.testing.counting:Counting"


@pytest.mark.parametrize(
    "name", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0", "FrozenLake-v1"]
)
def test_gymnasium_environments_keep_the_contract(name: str) -> None:
    check_env(lambda: make(name))


@pytest.mark.parametrize("observation", ["vector", "discrete", "dict"])
@pytest.mark.parametrize("action", ["discrete", "box", "multi_discrete", "multi_binary", "dict"])
def test_every_kind_of_space_keeps_the_contract(observation: str, action: str) -> None:
    check_env(lambda: make(COUNTING, observation=observation, action=action, spread=3, ending="alternate"))


def _broken(change: Callable[[Any], None]) -> Callable[[], Env]:
    def build() -> Env:
        env = make(COUNTING)
        change(env)
        return env

    return build


def _return(index: int, value: Any) -> Callable[[Any], None]:
    def change(env: Any) -> None:
        step = env.step

        def wrong(action: Any) -> tuple[Any, ...]:
            outcome = list(step(action))
            outcome[index] = value
            return tuple(outcome)

        env.step = wrong

    return change


def _noise(env: Any) -> None:
    reset = env.reset

    def noisy(seed: int) -> Any:
        reset(seed)
        return np.random.default_rng().random(2).astype(np.float32)

    env.reset = noisy


def _limit(env: Any) -> None:
    env.spec_json = env.spec_json | {"max_episode_steps": 3}


def _not_json(env: Any) -> None:
    env.spec_json = env.spec_json | {"kwargs": {"a": (1, 2)}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_return(0, np.zeros(3, np.float32)), "shape"),
        (_return(0, np.zeros(2)), "float64, its spec says float32"),
        (_return(0, np.full(2, -1, np.float32)), "outside its spec"),
        (_return(0, np.full(2, np.nan, np.float32)), "outside its spec"),
        (_return(1, float("nan")), "reward is nan"),
        (_return(1, np.zeros(1)), "reward is"),
        (_return(2, 1), "terminated is"),
        (_return(3, None), "truncated is"),
        (_noise, "another instance differs after 0 calls"),
        (_limit, "after its limit of 3 steps"),
        (_not_json, "not plain JSON"),
    ],
)
def test_a_broken_environment_is_named(change: Callable[[Any], None], message: str) -> None:
    with pytest.raises(Exception, match=message):
        check_env(_broken(change))


def test_an_environment_that_is_known_not_to_be_replayable_can_pass() -> None:
    class Forgetful(Counting):
        def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
            return super().reset(seed=int(np.random.default_rng().integers(1000)))

    from rlcli.envs.gymnasium import GymnasiumEnv

    def build() -> Env:
        return GymnasiumEnv(Forgetful(), library="python", id="forgetful", kwargs={})

    check_env(build, replayable=False)
    with pytest.raises(AssertionError, match="seed and actions do not decide"):
        check_env(build)
