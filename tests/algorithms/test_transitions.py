"""Optional columns of a batch: discounts of several steps, importance weights and the errors they ask for."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from rlcli.algorithms import dqn, iql, sac
from rlcli.algorithms.transitions import discounted, weighted_mean
from rlcli.format.specs import Box, Discrete
from rlcli.pipeline.updates import UpdateRunner, draw

BOX = Box((2,), "float32", -1.0, 1.0)
LEARNERS = pytest.mark.parametrize(
    ("algorithm", "action"), [(dqn, Discrete(3)), (sac, BOX), (iql, BOX), (iql, Discrete(3))]
)


def problem(algorithm: ModuleType, action: Any, size: int = 8) -> tuple[Any, Any, Any, dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    config = algorithm.Config(hidden=(16,), gamma=0.9)
    nets = algorithm.build(Box((4,)), action, config)
    if isinstance(action, Discrete):
        actions = torch.randint(0, 3, (size,), generator=generator)
    else:
        actions = torch.rand(size, 2, generator=generator) * 2 - 1
    batch = {
        "observation": torch.randn(size, 4, generator=generator),
        "action": actions,
        "next": {
            "observation": torch.randn(size, 4, generator=generator),
            "reward": torch.randn(size, 1, generator=generator),
            "terminated": torch.rand(size, 1, generator=generator) < 0.3,
        },
        "noise": draw(algorithm.noise(nets, config, size), generator),
    }
    return nets, config, algorithm.init(nets, config, torch.Generator().manual_seed(1)), batch


def with_next(batch: dict[str, Any], **columns: torch.Tensor) -> dict[str, Any]:
    return {**batch, "next": {**batch["next"], **columns}}


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_what_follows_m_steps_later_counts_gamma_to_the_m(shape: tuple[int, ...]) -> None:
    value = torch.tensor([1.0, 2.0, 4.0]).reshape(shape)
    discount = torch.tensor([[0.5], [0.25], [0.125]])
    assert discounted(value, {"next": {}}, 0.5).tolist() == (0.5 * value).tolist()
    assert discounted(value, {"next": {"discount": discount}}, 0.5).flatten().tolist() == [0.5, 0.5, 0.5]


@LEARNERS
def test_a_discount_of_gamma_is_the_one_step_target(algorithm: ModuleType, action: Any) -> None:
    nets, config, state, batch = problem(algorithm, action)
    plain, _ = algorithm.update(state, batch, nets, config)
    same, _ = algorithm.update(
        state, with_next(batch, discount=torch.full((8, 1), config.gamma)), nets, config
    )
    torch.testing.assert_close(plain, same)
    other, _ = algorithm.update(
        state, with_next(batch, discount=torch.full((8, 1), config.gamma**3)), nets, config
    )
    assert not torch.equal(plain["critic"], other["critic"])


@LEARNERS
def test_a_discount_of_zero_is_a_terminated_step(algorithm: ModuleType, action: Any) -> None:
    nets, config, state, batch = problem(algorithm, action)
    ended = with_next(batch, terminated=torch.ones(8, 1, dtype=torch.bool))
    first, _ = algorithm.update(state, ended, nets, config)
    second, _ = algorithm.update(state, with_next(batch, discount=torch.zeros(8, 1)), nets, config)
    torch.testing.assert_close(first["critic"], second["critic"])


@LEARNERS
def test_weights_of_one_change_nothing_but_ask_for_priorities(algorithm: ModuleType, action: Any) -> None:
    nets, config, state, batch = problem(algorithm, action)
    plain, metrics = algorithm.update(state, batch, nets, config)
    same, weighted = algorithm.update(state, {**batch, "weight": torch.ones(8, 1)}, nets, config)
    torch.testing.assert_close(plain, same)
    assert "priority" not in metrics
    priority = weighted.pop("priority")
    assert priority.shape == (8,)
    assert (priority >= 0).all()
    assert not priority.requires_grad
    assert weighted.keys() == metrics.keys()
    assert all(value.shape == () for value in weighted.values())


@LEARNERS
def test_a_row_of_weight_zero_has_no_say(algorithm: ModuleType, action: Any) -> None:
    nets, config, state, batch = problem(algorithm, action)
    weight = torch.ones(8, 1)
    weight[0] = 0
    changed = batch["next"]["reward"].clone()
    changed[0] = 100.0
    first, _ = algorithm.update(state, {**batch, "weight": weight}, nets, config)
    second, _ = algorithm.update(state, {**with_next(batch, reward=changed), "weight": weight}, nets, config)
    torch.testing.assert_close(first, second)


def test_the_weighted_mean_is_over_all_rows_and_not_over_the_weights() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 8.0]])
    weight = torch.tensor([[1.0], [0.5], [0.0], [0.25]])
    assert weighted_mean(values, weight).tolist() == [3 / 4, 2 / 4]
    assert weighted_mean(values, None).tolist() == [2.5, 2.0]


def test_the_priority_of_dqn_is_the_absolute_td_error() -> None:
    config = dqn.Config(hidden=(), gamma=0.5, double=False)
    nets = dqn.build(Discrete(2), Discrete(2), config)
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # Q of two states
    critic = torch.cat([table.T.reshape(-1), torch.zeros(2)])
    batch = {
        "observation": torch.tensor([0, 1]),
        "action": torch.tensor([0, 1]),
        "weight": torch.tensor([[1.0], [0.5]]),
        "next": {
            "observation": torch.tensor([1, 0]),
            "reward": torch.tensor([[2.0], [0.0]]),
            "terminated": torch.tensor([[False], [True]]),
        },
    }
    loss, metrics = dqn.critic_loss(critic, critic, batch, nets, config)
    # targets 2 + 0.5 * 4 = 4 and 0; errors 3 and -4; Huber losses 2.5 and 3.5
    assert metrics["priority"].tolist() == [3.0, 4.0]
    assert loss.item() == pytest.approx((2.5 + 0.5 * 3.5) / 2)


def test_the_runner_reads_optional_columns_where_they_are() -> None:
    nets, config, state, batch = problem(dqn, Discrete(3))
    from rlcli.pipeline.execution import Execution

    eager = Execution(compiled=False, matmul="highest", threads=1, reason="test")
    runner = UpdateRunner(dqn, nets, config, eager, torch.Generator())
    foreign = {**with_next(batch, info=torch.zeros(8, 1)), "row": torch.arange(8)}
    assert "priority" not in runner.update(state, foreign)[1]
    new, metrics = runner.update(
        state, {**with_next(batch, discount=torch.zeros(8, 1)), "weight": torch.ones(8, 1)}
    )
    assert metrics["priority"].shape == (8,)
    wanted, _ = dqn.update(state, with_next(batch, discount=torch.zeros(8, 1)), nets, config)
    torch.testing.assert_close(new, wanted)
