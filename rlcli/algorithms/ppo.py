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
from rlcli.nets.gradients import Metrics, gradient
from rlcli.nets.mlp import MLP
from rlcli.nets.policy import Policy, policy
from rlcli.nets.spaces import Features, actions, features

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

    lr: float = opt(3e-4, "Adam step size.", gt=0, source="paper, MuJoCo")
    gamma: float = opt(0.99, "Discount per step.", ge=0, le=1, source="paper")
    lam: float = opt(0.95, "Weight of longer returns in the advantage (GAE).", ge=0, le=1, source="paper")
    hidden: tuple[int, ...] = opt(
        (64, 64), "Hidden layer widths of actor and critic, tanh.", ge=1, source="paper"
    )
    num_envs: int = opt(8, "Environments stepped together.", ge=1, source="SB3-zoo, CartPole")
    num_steps: int = opt(
        256, "Steps of each environment per iteration.", ge=1, source="paper: 2048 rows in all"
    )
    num_epochs: int = opt(10, "Passes over the rollout per iteration.", ge=1, source="paper, MuJoCo")
    minibatch_size: int = opt(64, "Rows per update.", ge=1, source="paper, MuJoCo")
    clip: float = opt(
        0.2, "How far the probability ratio may profit from leaving 1.", gt=0, source="paper, MuJoCo"
    )
    value_clip: float | None = opt(
        None, "How far values may move from the old ones; unlimited if none.", gt=0, source="SB3"
    )
    normalize_advantage: bool = opt(
        True, "Scale each minibatch's advantages to mean 0 and deviation 1.", source="SB3"
    )
    value_coef: float = opt(0.5, "Weight of the value loss.", ge=0, source="SB3")
    entropy_coef: float = opt(0.0, "Weight of the entropy bonus.", ge=0, source="paper, MuJoCo")
    max_grad_norm: float = opt(
        0.5, "Largest norm of the gradient; longer ones are scaled down.", gt=0, source="SB3"
    )
    target_kl: float | None = opt(
        None, "End an iteration once an update's KL exceeds 1.5 times this.", gt=0, source="SB3"
    )


@dataclass(frozen=True, eq=False)
class Nets:
    """`actor`: features to a distribution over actions. `critic`: features to V. One vector holds both."""

    features: Features
    actor: Policy
    critic: MLP

    def split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of the vector: actor, critic."""
        actor, critic = torch.split(params, [self.actor.num_params, self.critic.num_params])
        return actor, critic


def build(observation: Spec, action: Spec, config: Config) -> Nets:
    """Networks sized from the specs. Raises `IncompatibleError` unless actions are Discrete or Box."""
    inputs = features(observation)
    actor = policy(inputs, actions(action, "ppo"), config.hidden, activation="tanh", squash=False)
    return Nets(inputs, actor, MLP((inputs.size, *config.hidden, 1), "tanh"))


def init(nets: Nets, config: Config, generator: torch.Generator) -> State:
    """All there is to save: parameters and Adam's moments. Orthogonal: a near-uniform first policy."""
    actor = nets.actor.init(generator, orthogonal=True, output_gain=0.01)
    critic = nets.critic.init(generator, orthogonal=True, output_gain=1.0)
    params = torch.cat([actor, critic])
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
    actor, critic = nets.split(params)
    state_features = nets.features(batch["observation"])
    distribution = nets.actor(actor, state_features)
    log_ratio = distribution.log_prob(nets.actor.actions.flat(batch["action"])) - batch["log_prob"]
    ratio = log_ratio.exp()
    advantage = normalized(batch["advantage"]) if config.normalize_advantage else batch["advantage"]

    of_policy = policy_loss(ratio, advantage, config.clip)
    new_value = nets.critic(critic, state_features).squeeze(-1)
    of_value = value_loss(new_value, batch["value"], batch["return_"], config.value_clip)
    entropy = distribution.entropy().mean()
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
    _, critic = nets.split(state["params"])
    return nets.critic(critic, nets.features(observation)).squeeze(-1)


def sample(
    state: State, observation: Any, nets: Nets, config: Config, noise: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """`(action [B, …], log_prob [B], value [B])` with `noise` (see `act_noise`).

    Box actions are what the policy drew, not clipped to the bounds: that is what `log_prob` belongs to.
    """
    actor, critic = nets.split(state["params"])
    state_features = nets.features(observation)
    distribution = nets.actor(actor, state_features)
    action = nets.actor.actions.shaped(distribution.sample(noise["action"]))
    log_prob = distribution.log_prob(nets.actor.actions.flat(action))
    return action, log_prob, nets.critic(critic, state_features).squeeze(-1)


def act(
    state: State, observation: Any, nets: Nets, config: Config, *, noise: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Actions `[B, …]` within the bounds: the mode, or drawn with `noise` (see `act_noise`)."""
    actor, _ = nets.split(state["params"])
    return nets.actor.act(actor, nets.features(observation), noise)


def act_noise(nets: Nets, config: Config, batch_size: int) -> Noise:
    """Uniforms, one per discrete action, or standard normals, one per action dimension."""
    return nets.actor.noise(batch_size)
