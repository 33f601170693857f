"""Soft Actor-Critic with a learned temperature (Haarnoja et al., 2018b, arXiv 1812.05905).

Bounded continuous actions, off-policy; two critics whose smaller target value is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rlcli.algorithms.transitions import DISCOUNT, WEIGHT, discounted, weighted_mean, with_priority
from rlcli.config import opt
from rlcli.lazy import lazy_import
from rlcli.nets.adam import adam, init_adam
from rlcli.nets.distributions import TanhNormal
from rlcli.nets.gradients import Metrics, gradient
from rlcli.nets.mlp import MLP
from rlcli.nets.spaces import BoxActions, Features, bounded_actions, features

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rlcli.format.specs import Spec
else:
    torch = lazy_import("torch")

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
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # the authors' code

State = dict[str, Any]
Noise = dict[str, tuple[Literal["normal", "uniform"], tuple[int, ...]]]


@dataclass(frozen=True)
class Config:
    """Soft Actor-Critic with a learned temperature (Haarnoja et al., 2018b)."""

    lr: float = opt(
        1e-3, "Adam step size of actor, critics and temperature.", gt=0, source="SB3-zoo, Pendulum"
    )
    gamma: float = opt(0.99, "Discount per step.", ge=0, le=1, source="paper")
    hidden: tuple[int, ...] = opt(
        (256, 256), "Hidden layer widths of actor and critics.", ge=1, source="paper"
    )
    batch_size: int = opt(256, "Transitions per update.", ge=1, source="paper")
    tau: float = opt(
        0.005, "Share of the critics that each update mixes into the targets.", gt=0, le=1, source="paper"
    )
    initial_alpha: float = opt(1.0, "Entropy temperature at the start.", gt=0, source="authors' code")
    target_entropy: float | None = opt(
        None, "Entropy to aim at, in nats; minus the action size if none.", source="paper"
    )
    buffer_size: int = opt(1_000_000, "Transitions kept for replay.", ge=1, source="paper")
    learning_starts: int = opt(
        1_000,
        "Environment steps, with random actions, before the first update.",
        ge=0,
        source="measured on Pendulum",
    )
    train_freq: int = opt(1, "Environment steps between rounds of updates.", ge=1, source="paper")
    updates_per_round: int = opt(
        0, "Updates per round; 0 means as many as train_freq.", ge=0, source="paper: one per step"
    )


@dataclass(frozen=True, eq=False)
class Nets:
    """`actor`: features to mean and log-std. `critic`: features and scaled action to Q, two members."""

    features: Features
    actions: BoxActions
    actor: MLP
    critic: MLP

    def policy(self, actor: Tensor, state_features: Tensor) -> TanhNormal:
        """pi(. | s), in the environment's action units."""
        mean, log_std = self.actor(actor, state_features).chunk(2, dim=-1)
        log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        return TanhNormal(mean, log_std, self.actions.center, self.actions.half_range)

    def q(self, critic: Tensor, state_features: Tensor, action: Tensor) -> Tensor:
        """Q of both critics, `[2, B]`, for actions `[B, A]` in the environment's units."""
        scaled = (action - self.actions.center) / self.actions.half_range
        return self.critic(critic, torch.cat([state_features, scaled], dim=-1)).squeeze(-1)


def build(observation: Spec, action: Spec, config: Config) -> Nets:
    """Networks sized from the specs. Raises `IncompatibleError` unless actions are a bounded float Box."""
    head = bounded_actions(action, "sac")
    inputs = features(observation)
    return Nets(
        inputs,
        head,
        actor=MLP((inputs.size, *config.hidden, 2 * head.size)),
        critic=MLP((inputs.size + head.size, *config.hidden, 1), num_members=2),
    )


def init(nets: Nets, config: Config, generator: torch.Generator) -> State:
    """All there is to save: actor, critics, target critics, log-temperature and Adam's moments of each."""
    actor, critic = nets.actor.init(generator), nets.critic.init(generator)
    log_alpha = torch.tensor([config.initial_alpha]).log()
    return {
        "actor": actor,
        "critic": critic,
        "target_critic": critic.clone(),
        "log_alpha": log_alpha,
        "adam": {
            "actor": init_adam(actor),
            "critic": init_adam(critic),
            "log_alpha": init_adam(log_alpha),
        },
    }


def noise(nets: Nets, config: Config, batch_size: int) -> Noise:
    """Standard normals for the actions drawn at s and at s'."""
    shape = (batch_size, nets.actions.size)
    return {"action": ("normal", shape), "next_action": ("normal", shape)}


def critic_loss(
    critic: Tensor, state: State, batch: Mapping[str, Any], nets: Nets, config: Config
) -> tuple[Tensor, Metrics]:
    """Squared soft Bellman error of both critics (eq. 5), weighted, summed over critics."""
    after = batch["next"]
    with torch.no_grad():
        next_features = nets.features(after["observation"])
        policy = nets.policy(state["actor"], next_features)
        next_action, next_log_prob = policy.sample(batch["noise"]["next_action"])
        next_q = nets.q(state["target_critic"], next_features, next_action).min(0).values
        soft_value = next_q - state["log_alpha"].exp() * next_log_prob  # eq. 3
        alive = (~after["terminated"].squeeze(-1)).to(soft_value.dtype)  # a truncated step bootstraps
        bootstrapped = discounted(alive * soft_value, batch, config.gamma)
        target = after["reward"].squeeze(-1) + bootstrapped  # eq. 2
    q = nets.q(critic, nets.features(batch["observation"]), nets.actions.flat(batch["action"]))  # [2, B]
    loss = 0.5 * weighted_mean((q - target).square(), batch.get("weight")).sum()
    metrics = {"critic_loss": loss, "q": q.mean(), "target_q": target.mean()}
    return loss, with_priority(metrics, batch, q - target)


def actor_loss(
    actor: Tensor, critic: Tensor, state: State, batch: Mapping[str, Any], nets: Nets
) -> tuple[Tensor, Metrics]:
    """alpha * log pi(a | s) - min Q(s, a) with a drawn from pi (eq. 7), weighted; the entropy is not."""
    state_features = nets.features(batch["observation"])
    action, log_prob = nets.policy(actor, state_features).sample(batch["noise"]["action"])
    q = nets.q(critic, state_features, action).min(0).values
    loss = weighted_mean(state["log_alpha"].detach().exp() * log_prob - q, batch.get("weight"))
    return loss, {"actor_loss": loss, "entropy": -log_prob.mean()}


def alpha_loss(log_alpha: Tensor, entropy: Tensor, target_entropy: float) -> tuple[Tensor, Metrics]:
    """Raises log alpha while the policy's entropy is below its target (eq. 18, with log alpha for alpha)."""
    loss = (log_alpha * (entropy.detach() - target_entropy)).sum()
    return loss, {"alpha_loss": loss}


def update(state: State, batch: Mapping[str, Any], nets: Nets, config: Config) -> tuple[State, Metrics]:
    """One step each of critics, actor (against the new critics) and temperature, then of the targets."""
    moments = state["adam"]
    grad, metrics = gradient(critic_loss, state["critic"], state, batch, nets, config)
    critic, critic_moments = adam(state["critic"], grad, moments["critic"], config.lr)

    grad, actor_metrics = gradient(actor_loss, state["actor"], critic, state, batch, nets)
    actor, actor_moments = adam(state["actor"], grad, moments["actor"], config.lr)

    entropy = actor_metrics["entropy"]
    grad, alpha_metrics = gradient(alpha_loss, state["log_alpha"], entropy, target_entropy(nets, config))
    log_alpha, alpha_moments = adam(state["log_alpha"], grad, moments["log_alpha"], config.lr)

    new_state = {
        "actor": actor,
        "critic": critic,
        "target_critic": torch.lerp(state["target_critic"], critic, config.tau),
        "log_alpha": log_alpha,
        "adam": {"actor": actor_moments, "critic": critic_moments, "log_alpha": alpha_moments},
    }
    alpha = state["log_alpha"].exp().squeeze(0)
    return new_state, {**metrics, **actor_metrics, **alpha_metrics, "alpha": alpha}


def target_entropy(nets: Nets, config: Config) -> float:
    """Minus the number of action dimensions (Haarnoja et al., 2018b, table 1) unless configured."""
    return -float(nets.actions.size) if config.target_entropy is None else config.target_entropy


def act(
    state: State, observation: Any, nets: Nets, config: Config, *, noise: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Actions `[B, *shape]` within the bounds: tanh of the mean, or drawn with `noise` (see `act_noise`)."""
    policy = nets.policy(state["actor"], nets.features(observation))
    action = policy.mode() if noise is None else policy.sample(noise["action"])[0]
    return nets.actions.shaped(nets.actions.clip(action))


def act_noise(nets: Nets, config: Config, batch_size: int) -> Noise:
    """Standard normals, one per action dimension."""
    return {"action": ("normal", (batch_size, nets.actions.size))}
