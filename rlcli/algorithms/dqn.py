"""Deep Q-learning (Mnih et al., 2015) with double Q-learning targets (van Hasselt et al., 2016).

Discrete actions, off-policy, one critic; exploration is epsilon-greedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rlcli.algorithms.transitions import DISCOUNT, WEIGHT, discounted, weighted_mean, with_priority
from rlcli.config import opt
from rlcli.lazy import lazy_import
from rlcli.nets.adam import adam, clip_norm, init_adam
from rlcli.nets.gradients import Metrics, gradient
from rlcli.nets.mlp import MLP
from rlcli.nets.spaces import DiscreteActions, Features, discrete_actions, features

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from rlcli.format.specs import Spec
else:
    torch = lazy_import("torch")
    F = lazy_import("torch.nn.functional")

SOURCES = ("online", "dataset")
ON_POLICY = False

COLUMNS = (
    ("observation",),
    ("action",),
    ("next", "observation"),
    ("next", "reward"),
    ("next", "terminated"),
)
OPTIONAL = (DISCOUNT, WEIGHT)

State = dict[str, Any]
Noise = dict[str, tuple[Literal["normal", "uniform"], tuple[int, ...]]]


@dataclass(frozen=True)
class Config:
    """Deep Q-learning with double targets (Mnih et al., 2015; van Hasselt et al., 2016)."""

    lr: float = opt(1e-3, "Adam step size.", gt=0, source="measured on CartPole, 5 seeds")
    gamma: float = opt(0.99, "Discount per step.", ge=0, le=1, source="paper")
    hidden: tuple[int, ...] = opt(
        (128, 128), "Hidden layer widths of the critic.", ge=1, source="measured on CartPole, 5 seeds"
    )
    batch_size: int = opt(128, "Transitions per update.", ge=1, source="measured on CartPole, 5 seeds")
    double: bool = opt(
        True, "Choose the target's action by the online critic.", source="van Hasselt et al., 2016"
    )
    tau: float = opt(
        1.0, "Share of the critic that a target update mixes in; 1 copies.", gt=0, le=1, source="paper"
    )
    target_every: int = opt(
        128, "Updates between target updates.", ge=1, source="SB3-zoo, CartPole: once per round of 128"
    )
    max_grad_norm: float = opt(
        10.0, "Largest norm of the gradient; longer ones are scaled down.", gt=0, source="SB3"
    )
    buffer_size: int = opt(100_000, "Transitions kept for replay.", ge=1, source="SB3-zoo, CartPole")
    learning_starts: int = opt(
        1_000, "Environment steps before the first update.", ge=0, source="SB3-zoo, CartPole"
    )
    train_freq: int = opt(4, "Environment steps between rounds of updates.", ge=1, source="paper")
    updates_per_round: int = opt(
        2,
        "Updates per round; 0 means as many as train_freq.",
        ge=0,
        source="SB3-zoo, CartPole: one per 2 steps",
    )
    exploration_initial: float = opt(
        1.0, "Probability of a random action at the start.", ge=0, le=1, source="paper"
    )
    exploration_final: float = opt(
        0.04, "Probability of a random action in the end.", ge=0, le=1, source="SB3-zoo, CartPole"
    )
    exploration_fraction: float = opt(
        0.16, "Share of training over which it falls linearly.", gt=0, le=1, source="SB3-zoo, CartPole"
    )


@dataclass(frozen=True, eq=False)
class Nets:
    """`critic`: features to one Q-value per action."""

    features: Features
    actions: DiscreteActions
    critic: MLP


def build(observation: Spec, action: Spec, config: Config) -> Nets:
    """Networks sized from the specs. Raises `IncompatibleError` unless actions are Discrete."""
    head = discrete_actions(action, "dqn")
    inputs = features(observation)
    return Nets(inputs, head, MLP((inputs.size, *config.hidden, head.n)))


def init(nets: Nets, config: Config, generator: torch.Generator) -> State:
    """All there is to save: critic, target critic, Adam's moments and step counter."""
    critic = nets.critic.init(generator)
    return {"critic": critic, "target_critic": critic.clone(), "adam": init_adam(critic)}


def noise(nets: Nets, config: Config, batch_size: int) -> Noise:
    """An update needs no randomness."""
    return {}


def critic_loss(
    critic: Tensor, target_critic: Tensor, batch: Mapping[str, Any], nets: Nets, config: Config
) -> tuple[Tensor, Metrics]:
    """Huber loss of Q(s, a) against the target, weighted. `batch` rows are transitions, flags `[B, 1]`."""
    with torch.no_grad():
        next_features = nets.features(batch["next"]["observation"])
        next_q = nets.critic(target_critic, next_features)  # [B, n]
        if config.double:
            best = nets.critic(critic.detach(), next_features).argmax(-1, keepdim=True)
            next_value = next_q.gather(-1, best)  # [B, 1], van Hasselt et al., eq. 4
        else:
            next_value = next_q.max(-1, keepdim=True).values
        alive = (~batch["next"]["terminated"]).to(next_value.dtype)  # a truncated step bootstraps
        target = batch["next"]["reward"] + discounted(alive * next_value, batch, config.gamma)
    index = nets.actions.flat(batch["action"]).unsqueeze(-1)
    q = nets.critic(critic, nets.features(batch["observation"])).gather(-1, index)  # [B, 1]
    losses = F.smooth_l1_loss(q, target, reduction="none").squeeze(-1)  # [B]
    loss = weighted_mean(losses, batch.get("weight"))
    metrics = {"critic_loss": loss, "q": q.mean(), "target_q": target.mean()}
    return loss, with_priority(metrics, batch, (target - q).squeeze(-1))


def update(state: State, batch: Mapping[str, Any], nets: Nets, config: Config) -> tuple[State, Metrics]:
    """One gradient step on the critic and, every `target_every` steps, one target update after it."""
    grad, metrics = gradient(critic_loss, state["critic"], state["target_critic"], batch, nets, config)
    critic, moments = adam(state["critic"], clip_norm(grad, config.max_grad_norm), state["adam"], config.lr)
    mixed = torch.lerp(state["target_critic"], critic, config.tau)
    is_due = moments["step"] % config.target_every == 0
    target_critic = torch.where(is_due, mixed, state["target_critic"])
    return {"critic": critic, "target_critic": target_critic, "adam": moments}, metrics


def act(
    state: State, observation: Any, nets: Nets, config: Config, *, noise: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Actions `[B]`: greedy, or epsilon-greedy with `noise`.

    `noise` is what `act_noise` asks for and, optionally, a 0-d `epsilon`; its default is the final one.
    """
    greedy = nets.critic(state["critic"], nets.features(observation)).argmax(-1)
    if noise is not None:
        arbitrary = (noise["action"] * nets.actions.n).to(torch.int64).clamp(max=nets.actions.n - 1)
        chance = noise.get("epsilon", config.exploration_final)
        greedy = torch.where(noise["explore"] < chance, arbitrary, greedy)
    return nets.actions.shaped(greedy)


def act_noise(nets: Nets, config: Config, batch_size: int) -> Noise:
    """Uniform numbers for the coin and for the random action; the caller may add `epsilon`."""
    return {"explore": ("uniform", (batch_size,)), "action": ("uniform", (batch_size,))}


def epsilon(config: Config, progress: float) -> float:
    """Probability of a random action after the share `progress` of training, in [0, 1]."""
    share = min(1.0, progress / config.exploration_fraction)
    return config.exploration_initial + share * (config.exploration_final - config.exploration_initial)
