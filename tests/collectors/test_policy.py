"""Random actions are uniform and reproducible; foreign policies are checked."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rlcli.collectors.nested import flatten, same_bits
from rlcli.collectors.policy import RandomPolicy, load_policy
from rlcli.errors import IncompatibleError, InputError, UsageError
from rlcli.format.specs import Box, Composite, Discrete, MultiBinary, MultiDiscrete, Spec, leaves

OBSERVATION = Box((2,))
SPECS: list[Spec] = [
    Discrete(3, start=-1),
    MultiDiscrete((2, 5)),
    MultiBinary(4),
    Box((2, 3), "float32", -2.0, 1.0),
    Box((3,), "float64", (-1.0, 0.0, 5.0), (1.0, 1.0, 6.0)),
    Box((2,), "uint8"),
    Box((), "int32", -2.0, 2.0),
    Box((4,), "float32", (-1.0, float("-inf"), 0.0, float("-inf")), (1.0, 0.0, float("inf"), float("inf"))),
    Composite({"a": Discrete(2), "b": Composite({"c": Box((2,), "float32", 0.0, 1.0)})}),
]


def _seen(envs: int) -> Any:
    return np.zeros((envs, 2), np.float32)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_random_actions_lie_in_the_spec(spec: Spec) -> None:
    policy = RandomPolicy(spec, 0)
    wanted = {key: leaf for key, leaf in leaves(spec, ()).items()}
    for _ in range(50):
        for key, values in flatten(policy(_seen(7)), ()):
            assert values.shape == (7, *wanted[key].shape)
            assert values.dtype == wanted[key].dtype
            assert wanted[key].contains(values).all()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_equal_seeds_give_equal_actions_asked_singly_or_ahead(spec: Spec) -> None:
    first, second, ahead = (RandomPolicy(spec, (5, 1)) for _ in range(3))
    other = RandomPolicy(spec, (5, 2))
    rounds = ahead.rounds(3)
    differ = False
    for _ in range(1500):  # longer than a block
        action = first(_seen(3))
        assert same_bits(action, second(_seen(3)))
        for index, single in enumerate(next(rounds)):
            for (_, batch), (_, value) in zip(flatten(action, ()), flatten(single, ()), strict=True):
                assert np.array_equal(batch[index], value)
        differ = differ or not same_bits(action, other(_seen(3)))
    assert differ


def test_discrete_actions_are_equally_likely() -> None:
    """Chi-square with 4 degrees of freedom: 18.5 is exceeded once in a thousand seeds."""
    policy = RandomPolicy(Discrete(5), 0)
    counts = np.bincount(np.concatenate([policy(_seen(10)) for _ in range(5000)]), minlength=5)
    assert ((counts - 10000) ** 2 / 10000).sum() < 18.5


def test_bounded_actions_reach_both_ends_evenly() -> None:
    policy = RandomPolicy(Box((1,), "float32", -2.0, 6.0), 0)
    values = np.concatenate([policy(_seen(10)) for _ in range(5000)])
    assert values.min() < -1.99
    assert values.max() > 5.99
    assert abs(values.mean() - 2.0) < 5 * (8 / 12**0.5) / values.size**0.5


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("before", [0, 1, 1024, 1500])
def test_a_random_policy_goes_on_where_its_state_was_taken(spec: Spec, before: int) -> None:
    policy = RandomPolicy(spec, 3)
    for _ in range(before):
        policy(_seen(2))
    state = json.loads(json.dumps(policy.state_dict()))
    expected = [policy(_seen(2)) for _ in range(1100)]
    resumed = RandomPolicy(spec, 3)
    resumed.load_state_dict(state)
    assert all(same_bits(resumed(_seen(2)), action) for action in expected)


class Constant:
    """A policy class as a user would write one."""

    def __init__(self, observation_spec: Spec, action_spec: Spec, seed: Any) -> None:
        self.spec = action_spec
        self.answer: Any = None

    def __call__(self, observation: Any) -> Any:
        return np.full(len(observation), 2) if self.answer is None else self.answer


def _install(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    monkeypatch.setattr("rlcli.testing.counting.mine", found, raising=False)


def _load(spec: Spec = Discrete(3)) -> Any:  # noqa: B008 - a frozen value
    return load_policy("rlcli.testing.counting:mine", OBSERVATION, spec, seed=0)


def test_a_class_is_instantiated_and_a_function_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, Constant)
    assert _load()(_seen(2)).tolist() == [2, 2]
    _install(monkeypatch, lambda observation: np.ones(len(observation), np.int32))
    assert _load()(_seen(2)).dtype == np.int64


@pytest.mark.parametrize(
    ("spec", "answer", "message"),
    [
        (Discrete(3), np.array([0, 3]), "3 is not one of 0 … 2"),
        (Discrete(3), np.array([0.5, 1.0]), "dtype float64, expected int64"),
        (Discrete(3), np.array([[0], [1]]), r"shape \(2, 1\), expected \(2,\)"),
        (Discrete(3), 1, r"shape \(\)"),
        (Box((2,)), np.zeros((2, 3)), r"shape \(2, 3\), expected \(2, 2\)"),
        (Composite({"a": Discrete(2)}), {"b": np.zeros(2, int)}, r"keys \['a'\]"),
        (Composite({"a": Discrete(2)}), np.zeros(2, int), r"keys \['a'\]"),
        (Composite({"a": Discrete(2)}), {"a": np.array([0, 9])}, "mine/a: 9 is not one of"),
    ],
)
def test_wrong_answers_are_named(
    monkeypatch: pytest.MonkeyPatch, spec: Spec, answer: Any, message: str
) -> None:
    _install(monkeypatch, lambda observation: answer)
    with pytest.raises(IncompatibleError, match=message):
        _load(spec)(_seen(2))


def test_a_policy_that_cannot_be_called_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, 5)
    with pytest.raises(UsageError, match="int, not a policy"):
        _load()
    _install(monkeypatch, type("Bare", (), {}))
    with pytest.raises(UsageError, match="observation_spec, action_spec and seed"):
        _load()
    with pytest.raises((UsageError, InputError)):
        load_policy("no_such_module_here:act", OBSERVATION, Discrete(2), seed=0)
