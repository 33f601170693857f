"""Observations as features, actions as heads, and what is refused in one line."""

from __future__ import annotations

import pytest
import torch

from rlcli.errors import IncompatibleError
from rlcli.format.specs import Box, Composite, Discrete, MultiBinary, MultiDiscrete
from rlcli.nets.spaces import BoxActions, actions, bounded_actions, discrete_actions, features


def test_dict_observations_are_concatenated_in_key_order() -> None:
    spec = Composite({"b": Box((2,)), "a": Composite({"y": Box((1, 2)), "x": Discrete(3, start=5)})})
    encode = features(spec)
    batch = {
        "b": torch.tensor([[7.0, 8.0]]),
        "a": {"y": torch.tensor([[[3.0, 4.0]]]), "x": torch.tensor([6])},
    }
    assert encode(batch).tolist() == [[0.0, 1.0, 0.0, 3.0, 4.0, 7.0, 8.0]]
    assert encode.size == 7


def test_integers_become_one_hot_and_flags_numbers() -> None:
    assert features(Discrete(3))(torch.tensor([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert features(MultiDiscrete((2, 3)))(torch.tensor([[1, 2]])).tolist() == [[0, 1, 0, 0, 1]]
    assert features(MultiBinary(2))(torch.tensor([[1, 0]], dtype=torch.int8)).tolist() == [[1.0, 0.0]]


def test_float64_observations_are_cast_once_to_float32() -> None:
    assert features(Box((2,), "float64"))(torch.zeros(3, 2, dtype=torch.float64)).dtype == torch.float32


def test_a_scalar_observation_is_one_feature() -> None:
    assert features(Box(()))(torch.zeros(3)).shape == (3, 1)


def test_images_are_refused() -> None:
    with pytest.raises(IncompatibleError, match=r"observation/pixels is an image \[84, 84, 3\]"):
        features(Composite({"pixels": Box((84, 84, 3), "uint8", 0, 255), "speed": Box((1,))}))


def test_box_actions_know_center_and_half_range() -> None:
    head = actions(Box((2, 1), "float64", low=(-2.0, 0.0), high=(2.0, 1.0)), "any")
    assert isinstance(head, BoxActions)
    assert head.bounded
    assert head.center.tolist() == [0.0, 0.5]
    assert head.half_range.tolist() == [2.0, 0.5]
    shaped = head.shaped(head.clip(torch.tensor([[3.0, -1.0]])))
    assert shaped.tolist() == [[[2.0], [0.0]]]
    assert shaped.dtype == torch.float64
    assert head.flat(shaped).dtype == torch.float32


def test_one_infinite_bound_makes_a_box_unbounded_but_still_clipped() -> None:
    head = actions(Box((2,), "float32", low=(-1.0, -1.0), high=(1.0, float("inf"))), "any")
    assert isinstance(head, BoxActions)
    assert not head.bounded
    assert head.half_range.tolist() == [1.0, 1.0]
    assert head.clip(torch.tensor([[9.0, 9.0]])).tolist() == [[1.0, 9.0]]


@pytest.mark.parametrize(
    ("find", "spec", "sentence"),
    [
        (discrete_actions, Box((2,)), "x takes Discrete actions, found a Box .*; sac, ppo, bc or iql fit it"),
        (discrete_actions, MultiDiscrete((2, 2)), "x takes Discrete actions, found MultiDiscrete"),
        (bounded_actions, Discrete(2), "x takes bounded float Box actions, found Discrete; dqn, ppo"),
        (bounded_actions, Box((1,)), "x needs finite action bounds"),
        (actions, Box((2,), "int64", 0, 3), "x takes Discrete or float Box actions, found a Box"),
        (actions, Composite({"a": Discrete(2)}), "found Composite"),
    ],
)
def test_actions_that_do_not_fit_are_refused_in_one_line(find, spec, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(IncompatibleError, match=sentence) as caught:
        find(spec, "x")
    assert "\n" not in caught.value.message
