"""Proximal Policy Optimization with a clipped ratio (Schulman et al., 2017, arXiv 1707.06347).

Discrete or continuous actions, on-policy; separate actor and critic networks in one parameter vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rlcli.config import opt
from rlcli.lazy import lazy_import
from rlcli.nets.adam import adam, clip_norm, init_adam
from rlcli.nets.distributions import Categorical, DiagonalNormal
from rlcli.nets.gradients import Metrics, gradient
from rlcli.nets.mlp import MLP
from rlcli.nets.spaces import Actions, BoxActions, DiscreteActions, Features, actions, features

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rlcli.format.specs import Spec
else:
    torch = lazy_import("torch")

SOURCES = ("online",)
ON_POLICY = True
COLUMNS = (("observation",), ("action",), ("log_prob",), ("value",), ("advantage",), ("return_",))

State = dict[str, Any]
Noise = dict[str, tuple[Literal["normal", "uniform"], tuple[int, ...]]]


@dataclass(frozen=True)
class Config:
    """Proximal Policy Optimization with a clipped ratio (Schulman et al., 2017)."""

    lr: float = opt(3e-4, "Adam step size.", gt=0)
    gamma: float = opt(0.99, "Discount per step.", ge=0, le=1)
    lam: float = opt(0.95, "Weight of longer returns in the advantage (GAE).", ge=0, le=1)
    hidden: tuple[int, ...] = opt((64, 64), "Hidden layer widths of actor and critic, tanh.")
    num_envs: int = opt(8, "Environments stepped together.", ge=1)
    num_steps: int = opt(256, "Steps of each environment per iteration.", ge=1)
    num_epochs: int = opt(10, "Passes over the rollout per iteration.", ge=1)
    minibatch_size: int = opt(64, "Rows per update.", ge=1)
    clip: float = opt(0.2, "How far the probability ratio may profit from leaving 1.", gt=0)
    value_clip: float | None = opt(
        None, "How far values may move from the old ones; unlimited if none.", gt=0
    )
    normalize_advantage: bool = opt(True, "Scale each minibatch's advantages to mean 0 and deviation 1.")
    value_coef: float = opt(0.5, "Weight of the value loss.", ge=0)
    entropy_coef: float = opt(0.0, "Weight of the entropy bonus.", ge=0)
    max_grad_norm: float = opt(0.5, "Largest norm of the gradient; longer ones are scaled down.", gt=0)
    target_kl: float | None = opt(None, "End an iteration once an update's KL exceeds 1.5 times this.", gt=0)


@dataclass(frozen=True, eq=False)
class Nets:
    """`actor`: features to logits or means. `critic`: features to V. `log_std` is free, one per action."""

    features: Features
    actions: Actions
    actor: MLP
    critic: MLP

    def policy(self, params: Tensor, state_features: Tensor) -> Categorical | DiagonalNormal:
        """pi(. | s); box actions in the environment's units, not bounded."""
        actor, log_std, _ = self.split(params)
        outputs = self.actor(actor, state_features)
        if isinstance(self.actions, DiscreteActions):
            return Categorical(outputs)
        mean = self.actions.center + self.actions.half_range * outputs
        return DiagonalNormal(mean, log_std + self.actions.half_range.log())

    def value(self, params: Tensor, state_features: Tensor) -> Tensor:
        """V(s), `[B]`."""
        return self.critic(self.split(params)[2], state_features).squeeze(-1)

    def split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The parts of the vector: actor, log_std (empty for discrete actions), critic."""
        num_log_std = self.actions.size if isinstance(self.actions, BoxActions) else 0
        actor, log_std, critic = torch.split(
            params, [self.actor.num_params, num_log_std, self.critic.num_params]
        )
        return actor, log_std, critic


def build(observation: Spec, action: Spec, config: Config) -> Nets:
    """Networks sized from the specs. Raises `IncompatibleError` unless actions are Discrete or Box."""
    head = actions(action, "ppo")
    inputs = features(observation)
    num_outputs = head.n if isinstance(head, DiscreteActions) else head.size
    return Nets(
        inputs,
        head,
        actor=MLP((inputs.size, *config.hidden, num_outputs), "tanh"),
        critic=MLP((inputs.size, *config.hidden, 1), "tanh"),
    )


def init(nets: Nets, config: Config, generator: torch.Generator) -> State:
    """All there is to save: parameters and Adam's moments. Orthogonal: a near-uniform first policy."""
    actor = nets.actor.init(generator, orthogonal=True, output_gain=0.01)
    log_std = torch.zeros(nets.actions.size if isinstance(nets.actions, BoxActions) else 0)
    critic = nets.critic.init(generator, orthogonal=True, output_gain=1.0)
    params = torch.cat([actor, log_std, critic])
    return {"params": params, "adam": init_adam(params)}


def noise(nets: Nets, config: Config, batch_size: int) -> Noise:
    """An update needs no randomness."""
    return {}


def policy_loss(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Negative clipped surrogate objective (eq. 7), averaged; `ratio` is pi_new / pi_old."""
    unclipped = ratio * advantage
    clipped = ratio.clamp(1 - clip, 1 + clip) * advantage
    return -torch.minimum(unclipped, clipped).mean()


def value_loss(value: Tensor, old_value: Tensor, return_: Tensor, value_clip: float | None) -> Tensor:
    """Squared error of V, averaged; with `value_clip` the larger of the errors before and after clipping."""
    error = (value - return_).square()
    if value_clip is not None:
        near = old_value + (value - old_value).clamp(-value_clip, value_clip)
        error = torch.maximum(error, (near - return_).square())
    return error.mean()


def normalized(advantage: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the minibatch; all zero when they are all equal."""
    centered = advantage - advantage.mean()
    return centered / (centered.square().mean().sqrt() + 1e-8)


def loss(params: Tensor, batch: Mapping[str, Any], nets: Nets, config: Config) -> tuple[Tensor, Metrics]:
    """Clipped policy loss, value loss and entropy bonus (eq. 9) on one minibatch, columns `[B, …]`."""
    state_features = nets.features(batch["observation"])
    policy = nets.policy(params, state_features)
    log_ratio = policy.log_prob(nets.actions.flat(batch["action"])) - batch["log_prob"]
    ratio = log_ratio.exp()
    advantage = normalized(batch["advantage"]) if config.normalize_advantage else batch["advantage"]

    of_policy = policy_loss(ratio, advantage, config.clip)
    of_value = value_loss(
        nets.value(params, state_features), batch["value"], batch["return_"], config.value_clip
    )
    entropy = policy.entropy().mean()
    total = of_policy + config.value_coef * of_value - config.entropy_coef * entropy
    return total, {
        "policy_loss": of_policy,
        "value_loss": of_value,
        "entropy": entropy,
        "kl": (ratio - 1 - log_ratio).mean(),  # Schulman's k3 estimate, never negative
        "clip_fraction": ((ratio - 1).abs() > config.clip).to(ratio.dtype).mean(),
    }


def update(state: State, batch: Mapping[str, Any], nets: Nets, config: Config) -> tuple[State, Metrics]:
    """One gradient step on one minibatch."""
    grad, metrics = gradient(loss, state["params"], batch, nets, config)
    params, moments = adam(
        state["params"], clip_norm(grad, config.max_grad_norm), state["adam"], config.lr, eps=1e-5
    )
    return {"params": params, "adam": moments}, metrics


def value(state: State, observation: Any, nets: Nets, config: Config) -> Tensor:
    """V(s), `[B]`."""
    return nets.value(state["params"], nets.features(observation))


def sample(
    state: State, observation: Any, nets: Nets, config: Config, noise: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """`(action [B, …], log_prob [B], value [B])` with `noise` (see `act_noise`).

    Box actions are what the policy drew, not clipped to the bounds: that is what `log_prob` belongs to.
    """
    state_features = nets.features(observation)
    policy = nets.policy(state["params"], state_features)
    action = nets.actions.shaped(policy.sample(noise["action"]))
    log_prob = policy.log_prob(nets.actions.flat(action))
    return action, log_prob, nets.value(state["params"], state_features)


def act(
    state: State, observation: Any, nets: Nets, config: Config, *, noise: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Actions `[B, …]` within the bounds: the mode, or drawn with `noise` (see `act_noise`)."""
    policy = nets.policy(state["params"], nets.features(observation))
    action = policy.mode() if noise is None else policy.sample(noise["action"])
    return nets.actions.shaped(nets.actions.clip(action))


def act_noise(nets: Nets, config: Config, batch_size: int) -> Noise:
    """Uniforms, one per discrete action, or standard normals, one per action dimension."""
    if isinstance(nets.actions, DiscreteActions):
        return {"action": ("uniform", (batch_size, nets.actions.n))}
    return {"action": ("normal", (batch_size, nets.actions.size))}
