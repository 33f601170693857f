"""Behavioural cloning: the likelihood by hand, bounds, and what it converges to."""

from __future__ import annotations

import math

import pytest
import torch

from rlcli.algorithms import bc
from rlcli.format.specs import Box, Discrete

TABLE = bc.Config(hidden=(), lr=0.05)


def test_loss_is_the_negative_log_likelihood_of_discrete_actions() -> None:
    nets = bc.build(Discrete(2), Discrete(2, start=1), TABLE)
    logits = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()  # [states, actions]
    params = torch.cat([logits.T.reshape(-1), torch.zeros(2)])
    batch = {"observation": torch.tensor([0, 1]), "action": torch.tensor([2, 1])}
    loss, _ = bc.actor_loss(params, batch, nets)
    assert loss.item() == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2, rel=1e-5)


def test_loss_of_box_actions_counts_the_units_of_the_environment() -> None:
    nets = bc.build(Box((1,)), Box((1,), "float32", -2.0, 2.0), TABLE)
    params = torch.zeros(3)  # weight, bias, log_std: mean 0, deviation 2
    batch = {"observation": torch.zeros(1, 1), "action": torch.tensor([[2.0]])}
    loss, _ = bc.actor_loss(params, batch, nets)
    assert loss.item() == pytest.approx(0.5 + math.log(2.0) + 0.5 * math.log(2 * math.pi), rel=1e-5)


def test_actions_on_the_bounds_have_finite_loss_and_gradient() -> None:
    nets = bc.build(Box((1,)), Box((2,), "float32", -1.0, 1.0), TABLE)
    state = bc.init(nets, TABLE, torch.Generator().manual_seed(0))
    batch = {"observation": torch.zeros(2, 1), "action": torch.tensor([[1.0, -1.0], [1.0, -1.0]])}
    for _ in range(2000):
        state, metrics = bc.update(state, batch, nets, TABLE)
    assert math.isfinite(metrics["actor_loss"].item())
    action = bc.act(state, torch.zeros(1, 1), nets, TABLE)
    torch.testing.assert_close(action, torch.tensor([[1.0, -1.0]]), atol=0.02, rtol=0)


def test_cloning_recovers_the_frequencies_of_the_data() -> None:
    nets = bc.build(Discrete(2), Discrete(3), TABLE)
    state = bc.init(nets, TABLE, torch.Generator().manual_seed(0))
    batch = {
        "observation": torch.zeros(10, dtype=torch.int64),
        "action": torch.tensor([0] * 1 + [1] * 2 + [2] * 7),
    }
    for _ in range(2000):
        state, _ = bc.update(state, batch, nets, TABLE)
    logits = nets.actor(state["actor"], nets.features(torch.tensor([0]))).logits
    torch.testing.assert_close(logits.softmax(-1), torch.tensor([[0.1, 0.2, 0.7]]), atol=0.01, rtol=0)
