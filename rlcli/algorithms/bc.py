"""Behavioural cloning: maximum likelihood of a dataset's actions (Pomerleau, 1989).

Discrete or continuous actions, from datasets only, no reward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rlcli.config import opt
from rlcli.nets.adam import adam, init_adam
from rlcli.nets.gradients import Metrics, gradient
from rlcli.nets.policy import Policy, policy
from rlcli.nets.spaces import Features, actions, features

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rlcli.format.specs import Spec

SOURCES = ("dataset",)
ON_POLICY = False
COLUMNS = (("observation",), ("action",))

State = dict[str, Any]
Noise = dict[str, tuple[Literal["normal", "uniform"], tuple[int, ...]]]


@dataclass(frozen=True)
class Config:
    """Behavioural cloning: maximum likelihood of a dataset's actions (Pomerleau, 1989)."""

    lr: float = opt(1e-3, "Adam step size.", gt=0, source="measured on CartPole and Pendulum")
    hidden: tuple[int, ...] = opt((256, 256), "Hidden layer widths of the actor.", ge=1, source="IQL paper")
    batch_size: int = opt(256, "Rows per update.", ge=1, source="IQL paper")


@dataclass(frozen=True, eq=False)
class Nets:
    """`actor`: features to a distribution over actions."""

    features: Features
    actor: Policy


def build(observation: Spec, action: Spec, config: Config) -> Nets:
    """Networks sized from the specs. Raises `IncompatibleError` unless actions are Discrete or Box."""
    inputs = features(observation)
    return Nets(inputs, policy(inputs, actions(action, "bc"), config.hidden))


def init(nets: Nets, config: Config, generator: torch.Generator) -> State:
    """All there is to save: the actor and Adam's moments."""
    actor = nets.actor.init(generator)
    return {"actor": actor, "adam": init_adam(actor)}


def noise(nets: Nets, config: Config, batch_size: int) -> Noise:
    """An update needs no randomness."""
    return {}


def actor_loss(actor: Tensor, batch: Mapping[str, Any], nets: Nets) -> tuple[Tensor, Metrics]:
    """Mean negative log-likelihood of the batch's actions, in nats."""
    distribution = nets.actor(actor, nets.features(batch["observation"]))
    log_prob = distribution.log_prob(nets.actor.actions.flat(batch["action"]))
    loss = -log_prob.mean()
    return loss, {"actor_loss": loss, "entropy": distribution.entropy().mean()}


def update(state: State, batch: Mapping[str, Any], nets: Nets, config: Config) -> tuple[State, Metrics]:
    """One gradient step on the actor."""
    grad, metrics = gradient(actor_loss, state["actor"], batch, nets)
    actor, moments = adam(state["actor"], grad, state["adam"], config.lr)
    return {"actor": actor, "adam": moments}, metrics


def act(
    state: State, observation: Any, nets: Nets, config: Config, *, noise: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Actions `[B, …]` within the bounds: the mode, or drawn with `noise` (see `act_noise`)."""
    return nets.actor.act(state["actor"], nets.features(observation), noise)


def act_noise(nets: Nets, config: Config, batch_size: int) -> Noise:
    """Uniforms, one per discrete action, or standard normals, one per action dimension."""
    return nets.actor.noise(batch_size)
