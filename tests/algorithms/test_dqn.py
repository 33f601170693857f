"""DQN on tables: a linear critic over one-hot observations is a table of Q-values."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rlcli.algorithms import dqn
from rlcli.format.specs import Discrete

TABLE = dqn.Config(hidden=())  # no hidden layer


def tables(
    *rows: tuple[float, ...], start: int = 0, config: dqn.Config = TABLE
) -> tuple[dqn.Nets, torch.Tensor]:
    """Nets over as many states as `rows`, and the critic whose Q-values they are."""
    nets = dqn.build(Discrete(len(rows)), Discrete(len(rows[0]), start), config)
    weight = torch.tensor(rows).T  # [actions, states]
    return nets, torch.cat([weight.reshape(-1), torch.zeros(len(rows[0]))])


def transition(state: int, action: int, reward: float, after: int, *, terminated: bool) -> dict:  # type: ignore[type-arg]
    return {
        "observation": torch.tensor([state]),
        "action": torch.tensor([action]),
        "next": {
            "observation": torch.tensor([after]),
            "reward": torch.tensor([[reward]]),
            "terminated": torch.tensor([[terminated]]),
        },
    }


def loss_of(critic, target, batch, nets, config=TABLE):  # type: ignore[no-untyped-def]
    loss, metrics = dqn.critic_loss(critic, target, batch, nets, config)
    return loss.item(), metrics["target_q"].item()


def test_double_target_takes_the_online_argmax_and_the_target_value() -> None:
    nets, online = tables((0.0, 0.0), (1.0, 2.0))
    _, target = tables((0.0, 0.0), (5.0, 3.0))
    batch = transition(0, 0, 1.0, 1, terminated=False)
    assert loss_of(online, target, batch, nets)[1] == pytest.approx(1 + 0.99 * 3.0)
    plain = dataclasses.replace(TABLE, double=False)
    assert loss_of(online, target, batch, nets, plain)[1] == pytest.approx(1 + 0.99 * 5.0)


def test_terminated_step_does_not_bootstrap_and_any_other_does() -> None:
    # A truncated step is one that is not terminated: the update does not even read `truncated`.
    nets, critic = tables((0.0, 0.0), (7.0, 4.0))
    assert loss_of(critic, critic, transition(0, 1, 2.0, 1, terminated=True), nets)[1] == 2.0
    value = loss_of(critic, critic, transition(0, 1, 2.0, 1, terminated=False), nets)[1]
    assert value == pytest.approx(2 + 0.99 * 7)
    assert ("next", "truncated") not in dqn.COLUMNS


def test_endless_reward_of_one_is_worth_ten_at_discount_nine_tenths() -> None:
    config = dataclasses.replace(TABLE, gamma=0.9, lr=0.05, target_every=20)
    nets, _ = tables((0.0, 0.0))
    state = dqn.init(nets, config, torch.Generator().manual_seed(0))
    batch = transition(0, 0, 1.0, 0, terminated=False)
    both = {name: torch.cat([batch[name], batch[name]]) for name in ("observation",)}
    both["action"] = torch.tensor([0, 1])
    both["next"] = {name: torch.cat([x, x]) for name, x in batch["next"].items()}
    for _ in range(3000):
        state, _ = dqn.update(state, both, nets, config)
    q = nets.critic(state["critic"], nets.features(torch.tensor([0])))
    torch.testing.assert_close(q, torch.full((1, 2), 10.0), atol=0.05, rtol=0)


@pytest.mark.parametrize(("target", "expected"), [(0.5, 0.125), (3.0, 2.5)])
def test_huber_loss_is_half_the_square_below_one_and_linear_above(target: float, expected: float) -> None:
    nets, critic = tables((0.0, 0.0))
    assert loss_of(critic, critic, transition(0, 0, target, 0, terminated=True), nets)[0] == pytest.approx(
        expected
    )


def test_target_mixes_after_the_step_and_only_when_due() -> None:
    config = dataclasses.replace(TABLE, tau=0.25, target_every=2)
    nets, _ = tables((1.0, 0.0), (0.0, 1.0))
    first = dqn.init(nets, config, torch.Generator().manual_seed(0))
    batch = transition(0, 0, 1.0, 1, terminated=False)
    second, _ = dqn.update(first, batch, nets, config)
    assert torch.equal(second["target_critic"], first["target_critic"])
    third, _ = dqn.update(second, batch, nets, config)
    theta = first["critic"]
    torch.testing.assert_close(third["target_critic"], theta + 0.25 * (third["critic"] - theta))


def test_actions_are_greedy_and_count_from_the_specs_start() -> None:
    nets, critic = tables((0.0, 1.0), (3.0, 2.0), start=5)
    assert dqn.act({"critic": critic}, torch.tensor([0, 1]), nets, TABLE).tolist() == [6, 5]
    batch = transition(0, 6, 2.0, 0, terminated=True)
    assert loss_of(critic, critic, batch, nets)[0] == pytest.approx(0.5)  # Q(s0, second action) = 1


def test_epsilon_is_the_share_of_arbitrary_actions() -> None:
    nets, critic = tables((0.0, 1.0, 0.0))
    generator = torch.Generator().manual_seed(0)
    noise = {
        "explore": torch.rand(60_000, generator=generator),
        "action": torch.rand(60_000, generator=generator),
    }
    observation = torch.zeros(60_000, dtype=torch.int64)
    for epsilon in (0.0, 0.3, 1.0):
        drawn = dqn.act({"critic": critic}, observation, nets, TABLE, noise={**noise, "epsilon": epsilon})
        frequencies = torch.bincount(drawn, minlength=3) / 60_000
        expected = torch.tensor([epsilon / 3, 1 - 2 * epsilon / 3, epsilon / 3])
        torch.testing.assert_close(frequencies, expected, atol=0.01, rtol=0)


def test_epsilon_falls_linearly_and_then_stays() -> None:
    config = dqn.Config(exploration_initial=1.0, exploration_final=0.1, exploration_fraction=0.5)
    assert [round(dqn.epsilon(config, p), 6) for p in (0.0, 0.25, 0.5, 1.0)] == [1.0, 0.55, 0.1, 0.1]
