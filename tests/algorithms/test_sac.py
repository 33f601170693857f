"""SAC with one-dimensional linear networks, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rlcli.algorithms import sac
from rlcli.format.specs import Box

CONFIG = sac.Config(hidden=(), gamma=0.9, lr=1e-2)
SPEC = Box((1,)), Box((1,), "float32", -2.0, 2.0)
LOG_STD = math.log(0.5)


def linear() -> tuple[sac.Nets, sac.State]:
    """mean = 0.3 s, std = 0.5, Q1 = s + 2b + 1, Q2 = s - b with b = a / 2; target critics are twice that."""
    nets = sac.build(*SPEC, CONFIG)
    state = sac.init(nets, CONFIG, torch.Generator().manual_seed(0))
    state["actor"] = torch.tensor([0.3, 0.0, 0.0, LOG_STD])  # weights [2, 1], biases [2]
    state["critic"] = torch.tensor([1.0, 2.0, 1.0, 1.0, -1.0, 0.0])  # weights and bias of each member
    state["target_critic"] = 2 * state["critic"]
    state["log_alpha"] = torch.tensor([math.log(0.2)])
    return nets, state


def batch(*, terminated: bool) -> dict:  # type: ignore[type-arg]
    return {
        "observation": torch.tensor([[1.0]]),
        "action": torch.tensor([[1.0]]),  # scaled: 0.5
        "next": {
            "observation": torch.tensor([[2.0]]),
            "reward": torch.tensor([[3.0]]),
            "terminated": torch.tensor([[terminated]]),
        },
        "noise": {"action": torch.tensor([[0.4]]), "next_action": torch.tensor([[-1.0]])},
    }


def drawn(mean: float, noise: float) -> tuple[float, float]:
    """`(tanh(u), log pi(a))` of the action 2 tanh(u)."""
    u = mean + 0.5 * noise
    log_normal = -0.5 * noise**2 - LOG_STD - 0.5 * math.log(2 * math.pi)
    return math.tanh(u), log_normal - math.log(2 * (1 - math.tanh(u) ** 2))


@pytest.mark.parametrize("terminated", [False, True])
def test_critic_loss_is_the_soft_bellman_error(terminated: bool) -> None:
    nets, state = linear()
    squashed, log_prob = drawn(0.6, -1.0)
    next_q = min(2 * (2 + 2 * squashed + 1), 2 * (2 - squashed))
    target = 3 + (0.0 if terminated else 0.9 * (next_q - 0.2 * log_prob))
    q1, q2 = 1 + 2 * 0.5 + 1, 1 - 0.5
    loss, metrics = sac.critic_loss(state["critic"], state, batch(terminated=terminated), nets, CONFIG)
    assert metrics["target_q"].item() == pytest.approx(target, rel=1e-5)
    assert loss.item() == pytest.approx(0.5 * ((q1 - target) ** 2 + (q2 - target) ** 2), rel=1e-5)


def test_actor_loss_is_the_scaled_log_prob_minus_the_smaller_q() -> None:
    nets, state = linear()
    squashed, log_prob = drawn(0.3, 0.4)
    q = min(1 + 2 * squashed + 1, 1 - squashed)
    loss, metrics = sac.actor_loss(state["actor"], state["critic"], state, batch(terminated=False), nets)
    assert loss.item() == pytest.approx(0.2 * log_prob - q, rel=1e-5)
    assert metrics["entropy"].item() == pytest.approx(-log_prob, rel=1e-5)


@pytest.mark.parametrize(("entropy", "rises"), [(-3.0, True), (-1.0, False)])
def test_alpha_rises_while_entropy_is_below_its_target(entropy: float, rises: bool) -> None:
    log_alpha = torch.zeros(1, requires_grad=True)
    loss, _ = sac.alpha_loss(log_alpha, torch.tensor(entropy), -2.0)
    (grad,) = torch.autograd.grad(loss, log_alpha)
    assert (grad.item() < 0) == rises
    assert grad.item() == pytest.approx(entropy + 2.0)


def test_target_entropy_is_minus_the_action_size_whatever_the_batch() -> None:
    nets = sac.build(Box((3,)), Box((2,), "float32", -1.0, 1.0), CONFIG)
    assert sac.target_entropy(nets, CONFIG) == -2.0
    assert sac.target_entropy(nets, sac.Config(target_entropy=-0.5)) == -0.5


def test_targets_move_by_tau_towards_the_new_critics() -> None:
    nets, state = linear()
    state["target_critic"] = state["critic"].clone()
    new, _ = sac.update(state, batch(terminated=False), nets, CONFIG)
    theta = state["critic"]
    torch.testing.assert_close(new["target_critic"], theta + CONFIG.tau * (new["critic"] - theta))
    assert not torch.equal(new["critic"], theta)


def test_each_loss_moves_only_its_own_network() -> None:
    nets, state = linear()
    data = batch(terminated=False)
    new, _ = sac.update(state, data, nets, CONFIG)
    other_draw = {**data, "noise": {**data["noise"], "action": torch.tensor([[-2.0]])}}
    other, _ = sac.update(state, other_draw, nets, CONFIG)
    assert torch.equal(new["critic"], other["critic"])  # the actor's draw does not reach the critics
    assert not torch.equal(new["actor"], other["actor"])


def test_actions_reach_the_bounds_and_not_beyond() -> None:
    nets, state = linear()
    state["actor"] = torch.tensor([50.0, 0.0, 0.0, 0.0])
    observation = torch.tensor([[1.0], [-1.0]])
    assert sac.act(state, observation, nets, CONFIG).tolist() == [[2.0], [-2.0]]
    noise = {"action": torch.tensor([[3.0], [-3.0]])}
    assert sac.act(state, observation, nets, CONFIG, noise=noise).abs().max().item() == 2.0


def test_a_saturated_policy_still_learns_from_finite_numbers() -> None:
    nets, state = linear()
    state["actor"] = torch.tensor([30.0, 0.0, 0.0, -20.0])
    new, metrics = sac.update(state, batch(terminated=False), nets, CONFIG)
    assert all(torch.isfinite(value).all() for value in metrics.values())
    assert torch.isfinite(new["actor"]).all()
