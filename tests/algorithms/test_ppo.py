"""PPO's three losses on hand-worked numbers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from rlcli.algorithms import ppo
from rlcli.format.specs import Box, Discrete

CONFIG = ppo.Config(hidden=(8,))
BOX = Box((2,), "float32", -2.0, 2.0)


def collected(action_spec, num_rows: int = 32):  # type: ignore[no-untyped-def]
    nets = ppo.build(Box((3,)), action_spec, CONFIG)
    generator = torch.Generator().manual_seed(0)
    state = ppo.init(nets, CONFIG, generator)
    observation = torch.randn(num_rows, 3, generator=generator)
    shape = (num_rows, 2)
    discrete = isinstance(action_spec, Discrete)
    noise = {"action": (torch.rand if discrete else torch.randn)(shape, generator=generator)}
    action, log_prob, value = ppo.sample(state, observation, nets, CONFIG, noise)
    advantage = torch.randn(num_rows, generator=generator)
    batch = {
        "observation": observation,
        "action": action,
        "log_prob": log_prob,
        "value": value,
        "advantage": advantage,
        "return_": value + advantage,
    }
    return nets, state, batch


@pytest.mark.parametrize("action_spec", [Discrete(2, start=3), BOX], ids=["discrete", "box"])
def test_first_minibatch_has_ratio_one_and_kl_zero(action_spec) -> None:  # type: ignore[no-untyped-def]
    nets, state, batch = collected(action_spec)
    _, metrics = ppo.loss(state["params"], batch, nets, CONFIG)
    assert metrics["kl"].item() == pytest.approx(0.0, abs=1e-6)
    assert metrics["clip_fraction"].item() == 0.0
    assert metrics["policy_loss"].item() == pytest.approx(
        0.0, abs=1e-5
    )  # minus the mean of normalised advantages
    assert metrics["value_loss"].item() == pytest.approx(batch["advantage"].square().mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [(1.5, 1.0, -1.2), (0.5, 1.0, -0.5), (1.5, -1.0, 1.5), (0.5, -1.0, 0.8), (1.1, 2.0, -2.2)],
)
def test_policy_loss_takes_the_pessimistic_side(ratio: float, advantage: float, loss: float) -> None:
    assert ppo.policy_loss(torch.tensor([ratio]), torch.tensor([advantage]), 0.2).item() == pytest.approx(
        loss
    )


def test_value_clipping_takes_the_larger_squared_error() -> None:
    args = (torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([2.0]))
    assert ppo.value_loss(*args, None).item() == pytest.approx(1.0)
    assert ppo.value_loss(*args, 0.2).item() == pytest.approx((0.2 - 2.0) ** 2)


def test_normalised_advantages() -> None:
    assert ppo.normalized(torch.tensor([1.0, 3.0])).tolist() == pytest.approx([-1.0, 1.0])
    assert ppo.normalized(torch.full((4,), 2.5)).tolist() == [0.0] * 4
    assert ppo.normalized(torch.tensor([7.0])).tolist() == [0.0]


def test_advantages_are_left_alone_when_told_so() -> None:
    nets, state, batch = collected(Discrete(2))
    config = dataclasses.replace(CONFIG, normalize_advantage=False)
    _, metrics = ppo.loss(state["params"], batch, nets, config)
    assert metrics["policy_loss"].item() == pytest.approx(-batch["advantage"].mean().item(), abs=1e-6)


def test_kl_estimate_is_that_of_two_normals() -> None:
    # KL(N(0, 1) | N(0.3, 1)) = 0.3^2 / 2, estimated from the old policy's samples.
    nets = ppo.build(Box((1,)), Box((1,)), ppo.Config(hidden=()))
    params = torch.tensor([0.0, 0.3, 0.0, 0.0, 0.0])  # actor weight, bias; log_std; critic weight, bias
    action = torch.randn(100_000, 1, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros(100_000)
    batch = {
        "observation": torch.zeros(100_000, 1),
        "action": action,
        "log_prob": (-0.5 * action.square() - 0.5 * math.log(2 * math.pi)).squeeze(-1),
        "value": zeros,
        "advantage": zeros,
        "return_": zeros,
    }
    _, metrics = ppo.loss(params, batch, nets, ppo.Config(hidden=()))
    assert metrics["kl"].item() == pytest.approx(0.045, rel=0.05)


def test_entropy_bonus_lowers_the_loss_by_its_coefficient() -> None:
    nets, state, batch = collected(BOX)
    without, metrics = ppo.loss(state["params"], batch, nets, CONFIG)
    rewarded, _ = ppo.loss(state["params"], batch, nets, dataclasses.replace(CONFIG, entropy_coef=0.1))
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(2.0))  # deviation: half the range of 4
    assert metrics["entropy"].item() == pytest.approx(entropy, rel=1e-5)
    assert (without - rewarded).item() == pytest.approx(0.1 * entropy, rel=1e-4)


def test_actor_and_critic_do_not_share_gradients() -> None:
    nets, state, batch = collected(Discrete(2))
    params = state["params"].clone().requires_grad_()
    loss, metrics = ppo.loss(params, batch, nets, CONFIG)
    of_policy = torch.autograd.grad(metrics["policy_loss"], params, retain_graph=True)[0]
    of_value = torch.autograd.grad(metrics["value_loss"], params)[0]
    actor_size = nets.actor.num_params
    assert not of_policy[actor_size:].any()
    assert not of_value[:actor_size].any()
    assert of_policy[:actor_size].any()
    assert of_value[actor_size:].any()
    assert loss.requires_grad


def test_sampled_box_actions_are_not_clipped_and_acted_ones_are() -> None:
    nets, state, _ = collected(BOX)
    observation, noise = torch.zeros(1, 3), {"action": torch.tensor([[4.0, -4.0]])}
    drawn, _, _ = ppo.sample(state, observation, nets, CONFIG, noise)
    assert drawn.tolist() == [[8.0, -8.0]]
    assert ppo.act(state, observation, nets, CONFIG, noise=noise).tolist() == [[2.0, -2.0]]
