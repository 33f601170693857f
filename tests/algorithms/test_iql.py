"""IQL: expectiles of known samples, clamped weights, and one update worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rlcli.algorithms import iql
from rlcli.format.specs import Box, Discrete

TABLE = iql.Config(hidden=(), gamma=0.9, lr=1e-3, expectile=0.8, beta=2.0)


def expectile_of(sample: torch.Tensor, expectile: float) -> float:
    value = sample.mean().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([value], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = iql.expectile_loss(sample - value, expectile)
        loss.backward()
        return loss

    optimizer.step(closure)
    return value.item()


def test_expectile_one_half_is_the_mean_and_near_one_the_maximum() -> None:
    sample = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    assert expectile_of(sample, 0.5) == pytest.approx(2.0, abs=1e-6)
    # 0.9 (5 - v) = 0.1 (v + v - 1): v = 4.6 / 1.1
    assert expectile_of(sample, 0.9) == pytest.approx(4.6 / 1.1, abs=1e-6)
    assert expectile_of(sample, 0.9999) == pytest.approx(5.0, abs=1e-2)


def test_expectile_loss_weighs_both_signs() -> None:
    assert iql.expectile_loss(torch.tensor([2.0, -1.0]), 0.7).item() == pytest.approx((0.7 * 4 + 0.3 * 1) / 2)


def test_advantage_weight_is_clamped_at_one_hundred() -> None:
    weights = iql.advantage_weight(torch.tensor([10.0, 0.0, -1.0]), 3.0)
    assert weights.tolist() == pytest.approx([100.0, 1.0, math.exp(-3.0)])


def tabular() -> tuple[iql.Nets, iql.State]:
    """Two states, two actions; target Q1 and Q2 as tables, V = (1, 2)."""
    nets = iql.build(Discrete(2), Discrete(2), TABLE)
    state = iql.init(nets, TABLE, torch.Generator().manual_seed(0))
    q1, q2 = (
        torch.tensor([[3.0, 5.0], [0.0, 0.0]]),
        torch.tensor([[4.0, 2.0], [0.0, 0.0]]),
    )  # [states, actions]
    state["target_critic"] = torch.cat(
        [q1.T.reshape(-1), torch.zeros(2), q2.T.reshape(-1), torch.zeros(2)]  # member by member
    )
    state["critic"] = torch.zeros_like(state["critic"])
    state["value"] = torch.tensor([1.0, 2.0, 0.0])
    state["actor"] = torch.zeros_like(state["actor"])
    return nets, state


def batch(action: int, *, terminated: bool) -> dict:  # type: ignore[type-arg]
    return {
        "observation": torch.tensor([0]),
        "action": torch.tensor([action]),
        "next": {
            "observation": torch.tensor([1]),
            "reward": torch.tensor([[1.0]]),
            "terminated": torch.tensor([[terminated]]),
        },
    }


@pytest.mark.parametrize(("action", "smaller_q"), [(0, 3.0), (1, 2.0)])
def test_value_moves_towards_the_smaller_target_q_of_the_datasets_action(
    action: int, smaller_q: float
) -> None:
    nets, state = tabular()
    _, metrics = iql.update(state, batch(action, terminated=False), nets, TABLE)
    assert metrics["value_loss"].item() == pytest.approx(0.8 * (smaller_q - 1.0) ** 2, rel=1e-5)
    assert metrics["value"].item() == 1.0


@pytest.mark.parametrize(("terminated", "bootstrap"), [(False, 0.9), (True, 0.0)])
def test_critics_regress_on_reward_and_the_value_of_the_next_state(
    terminated: bool, bootstrap: float
) -> None:
    nets, state = tabular()
    new, metrics = iql.update(state, batch(0, terminated=terminated), nets, TABLE)
    next_value = nets.value(new["value"], nets.features(torch.tensor([1]))).item()
    target = 1.0 + bootstrap * next_value
    assert metrics["critic_loss"].item() == pytest.approx(2 * target**2, rel=1e-5)  # both critics are 0


def test_actor_loss_weighs_the_log_likelihood_and_does_not_reach_the_value() -> None:
    nets, state = tabular()
    new, metrics = iql.update(state, batch(0, terminated=False), nets, TABLE)
    new_value = nets.value(new["value"], nets.features(torch.tensor([0]))).item()
    weight = math.exp(2.0 * (3.0 - new_value))
    assert metrics["weight"].item() == pytest.approx(weight, rel=1e-4)
    assert metrics["actor_loss"].item() == pytest.approx(weight * math.log(2), rel=1e-4)
    unweighted, _ = iql.update(
        state, batch(0, terminated=False), nets, iql.Config(**{**vars(TABLE), "beta": 0.0})
    )
    assert torch.equal(new["value"], unweighted["value"])
    assert torch.equal(new["critic"], unweighted["critic"])


def test_targets_move_by_tau_towards_the_new_critics() -> None:
    nets, state = tabular()
    old = state["target_critic"]
    new, _ = iql.update(state, batch(0, terminated=False), nets, TABLE)
    torch.testing.assert_close(new["target_critic"], old + TABLE.tau * (new["critic"] - old))


def test_box_actions_on_the_bounds_give_finite_losses() -> None:
    nets = iql.build(Box((1,)), Box((2,), "float32", -1.0, 1.0), TABLE)
    state = iql.init(nets, TABLE, torch.Generator().manual_seed(0))
    data = {
        "observation": torch.zeros(2, 1),
        "action": torch.tensor([[1.0, -1.0], [1.0, 1.0]]),
        "next": {
            "observation": torch.ones(2, 1),
            "reward": torch.ones(2, 1),
            "terminated": torch.zeros(2, 1, dtype=torch.bool),
        },
    }
    state, metrics = iql.update(state, data, nets, TABLE)
    assert all(math.isfinite(value.item()) for value in metrics.values())
    assert all(torch.isfinite(state[name]).all() for name in ("actor", "critic", "value"))
