"""Implicit Q-learning (Kostrikov et al., 2021, arXiv 2110.06169).

Discrete or continuous actions, from datasets: an expectile of Q stands for the best action the data holds,
so no action outside the data is ever evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rlcli.algorithms.transitions import DISCOUNT, WEIGHT, discounted, weighted_mean, with_priority
from rlcli.config import opt
from rlcli.lazy import lazy_import
from rlcli.nets.adam import adam, init_adam
from rlcli.nets.gradients import Metrics, gradient
from rlcli.nets.mlp import MLP
from rlcli.nets.policy import Policy, policy
from rlcli.nets.spaces import DiscreteActions, Features, actions, features

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rlcli.format.specs import Spec
else:
    torch = lazy_import("torch")

SOURCES = ("dataset",)
ON_POLICY = False
COLUMNS = (
    ("observation",),
    ("action",),
    ("next", "observation"),
    ("next", "reward"),
    ("next", "terminated"),
)
OPTIONAL = (DISCOUNT, WEIGHT)
MAX_WEIGHT = 100.0  # the authors' code

State = dict[str, Any]
Noise = dict[str, tuple[Literal["normal", "uniform"], tuple[int, ...]]]


@dataclass(frozen=True)
class Config:
    """Implicit Q-learning (Kostrikov et al., 2021)."""

    lr: float = opt(3e-4, "Adam step size of actor, critics and value.", gt=0, source="paper")
    gamma: float = opt(0.99, "Discount per step.", ge=0, le=1, source="paper")
    hidden: tuple[int, ...] = opt(
        (256, 256), "Hidden layer widths of actor, critics and value.", ge=1, source="paper"
    )
    batch_size: int = opt(256, "Transitions per update.", ge=1, source="paper")
    tau: float = opt(
        0.005, "Share of the critics that each update mixes into the targets.", gt=0, le=1, source="paper"
    )
    expectile: float = opt(
        0.7, "Which expectile of Q the value is; 0.5 is the mean.", gt=0, lt=1, source="paper, MuJoCo"
    )
    beta: float = opt(
        3.0, "How strongly the actor prefers actions with advantage.", ge=0, source="paper, MuJoCo"
    )


@dataclass(frozen=True, eq=False)
class Nets:
    """`actor`: a distribution over actions. `critic`: Q, two members. `value`: V.

    For discrete actions the critic gives one Q per action, else it takes the scaled action as input.
    """

    features: Features
    actor: Policy
    critic: MLP
    value: MLP

    def q(self, critic: Tensor, state_features: Tensor, action: Tensor) -> Tensor:
        """Q of both critics, `[2, B]`, for actions as datasets hold them."""
        head = self.actor.actions
        chosen = head.flat(action)
        if isinstance(head, DiscreteActions):
            q = self.critic(critic, state_features)  # [2, B, n]
            return q.gather(-1, chosen.expand(2, -1).unsqueeze(-1)).squeeze(-1)
        scaled = (chosen - head.center) / head.half_range
        return self.critic(critic, torch.cat([state_features, scaled], dim=-1)).squeeze(-1)


def build(observation: Spec, action: Spec, config: Config) -> Nets:
    """Networks sized from the specs. Raises `IncompatibleError` unless actions are Discrete or Box."""
    inputs = features(observation)
    head = actions(action, "iql")
    if isinstance(head, DiscreteActions):
        critic = MLP((inputs.size, *config.hidden, head.n), num_members=2)
    else:
        critic = MLP((inputs.size + head.size, *config.hidden, 1), num_members=2)
    return Nets(inputs, policy(inputs, head, config.hidden), critic, MLP((inputs.size, *config.hidden, 1)))


def init(nets: Nets, config: Config, generator: torch.Generator) -> State:
    """All there is to save: actor, critics, target critics, value and Adam's moments of each."""
    actor, critic, value = (net.init(generator) for net in (nets.actor, nets.critic, nets.value))
    return {
        "actor": actor,
        "critic": critic,
        "target_critic": critic.clone(),
        "value": value,
        "adam": {"actor": init_adam(actor), "critic": init_adam(critic), "value": init_adam(value)},
    }


def noise(nets: Nets, config: Config, batch_size: int) -> Noise:
    """An update needs no randomness."""
    return {}


def expectile_loss(difference: Tensor, expectile: float, importance: Tensor | None = None) -> Tensor:
    """Asymmetric squares (eq. 5): `difference` above 0 weighs `expectile`, below 0 the rest; averaged."""
    weight = torch.where(difference > 0, expectile, 1 - expectile)
    return weighted_mean(weight * difference.square(), importance)


def value_loss(
    value: Tensor,
    target_q: Tensor,
    state_features: Tensor,
    importance: Tensor | None,
    nets: Nets,
    config: Config,
) -> tuple[Tensor, Metrics]:
    """V(s) towards the expectile of the smaller target Q(s, a) over the dataset's actions (eq. 5)."""
    v = nets.value(value, state_features).squeeze(-1)
    loss = expectile_loss(target_q - v, config.expectile, importance)
    return loss, {"value_loss": loss, "value": v.mean()}


def critic_loss(
    critic: Tensor, target: Tensor, state_features: Tensor, batch: Mapping[str, Any], nets: Nets
) -> tuple[Tensor, Metrics]:
    """Squared error of both critics against r + gamma V(s') (eq. 6), weighted, summed over critics."""
    q = nets.q(critic, state_features, batch["action"])  # [2, B]
    loss = weighted_mean((q - target).square(), batch.get("weight")).sum()
    return loss, with_priority({"critic_loss": loss, "q": q.mean()}, batch, q - target)


def actor_loss(
    actor: Tensor, weight: Tensor, state_features: Tensor, batch: Mapping[str, Any], nets: Nets
) -> tuple[Tensor, Metrics]:
    """Log-likelihood of the dataset's actions weighted by their advantage (eq. 7); `weight` `[B]`."""
    log_prob = nets.actor(actor, state_features).log_prob(nets.actor.actions.flat(batch["action"]))
    loss = -weighted_mean(weight * log_prob, batch.get("weight"))
    return loss, {"actor_loss": loss, "log_prob": log_prob.mean()}


def advantage_weight(advantage: Tensor, beta: float) -> Tensor:
    """exp(beta * A), at most 100."""
    return (beta * advantage).exp().clamp(max=MAX_WEIGHT)


def update(state: State, batch: Mapping[str, Any], nets: Nets, config: Config) -> tuple[State, Metrics]:
    """One step each of value, actor and critics, then of the targets."""
    moments = state["adam"]
    after, importance = batch["next"], batch.get("weight")
    state_features = nets.features(batch["observation"])
    target_q = nets.q(state["target_critic"], state_features, batch["action"]).min(0).values

    grad, value_metrics = gradient(
        value_loss, state["value"], target_q, state_features, importance, nets, config
    )
    value, value_moments = adam(state["value"], grad, moments["value"], config.lr)

    v = nets.value(value, state_features).squeeze(-1)
    weight = advantage_weight(target_q - v, config.beta)
    grad, actor_metrics = gradient(actor_loss, state["actor"], weight, state_features, batch, nets)
    actor, actor_moments = adam(state["actor"], grad, moments["actor"], config.lr)

    next_v = nets.value(value, nets.features(after["observation"])).squeeze(-1)
    alive = (~after["terminated"].squeeze(-1)).to(next_v.dtype)  # a truncated step bootstraps
    target = after["reward"].squeeze(-1) + discounted(alive * next_v, batch, config.gamma)
    grad, critic_metrics = gradient(critic_loss, state["critic"], target, state_features, batch, nets)
    critic, critic_moments = adam(state["critic"], grad, moments["critic"], config.lr)

    new_state = {
        "actor": actor,
        "critic": critic,
        "target_critic": torch.lerp(state["target_critic"], critic, config.tau),
        "value": value,
        "adam": {"actor": actor_moments, "critic": critic_moments, "value": value_moments},
    }
    return new_state, {**value_metrics, **actor_metrics, **critic_metrics, "weight": weight.mean()}


def act(
    state: State, observation: Any, nets: Nets, config: Config, *, noise: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Actions `[B, …]` within the bounds: the mode, or drawn with `noise` (see `act_noise`)."""
    return nets.actor.act(state["actor"], nets.features(observation), noise)


def act_noise(nets: Nets, config: Config, batch_size: int) -> Noise:
    """Uniforms, one per discrete action, or standard normals, one per action dimension."""
    return nets.actor.noise(batch_size)
