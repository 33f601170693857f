"""Updates as one writes them in plain PyTorch, with fused Adam: the reference of `rl bench update`.

Modules, `.backward()` and in-place optimisers, tuned as far as that style goes: no gradient that is thrown
away, foreach target averaging, no `.item()`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def perceptron(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for num_in, num_out in itertools.pairwise(sizes):
        layers += [nn.Linear(num_in, num_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class PlainDQN:
    """Deep Q-learning on Discrete actions; `double` and gradient clipping as in `rlcli.algorithms.dqn`."""

    def __init__(self, sizes: tuple[int, ...], *, double: bool, max_grad_norm: float | None) -> None:
        self.critic, self.target = perceptron(*sizes), perceptron(*sizes)
        self.target.load_state_dict(self.critic.state_dict())
        self.parameters = list(self.critic.parameters())
        self.adam = torch.optim.Adam(self.parameters, lr=1e-3, fused=True)
        self.double, self.max_grad_norm = double, max_grad_norm
        self.updates = 0

    def update(self, batch: Mapping[str, Any]) -> None:
        """One gradient step; the target is copied every 500."""
        after = batch["next"]
        with torch.no_grad():
            next_q = self.target(after["observation"])
            if self.double:
                best = self.critic(after["observation"]).argmax(-1, keepdim=True)
                next_value = next_q.gather(-1, best)
            else:
                next_value = next_q.max(-1, keepdim=True).values
            target = after["reward"] + 0.99 * (~after["terminated"]) * next_value
        q = self.critic(batch["observation"]).gather(-1, batch["action"].unsqueeze(-1))
        loss = F.smooth_l1_loss(q, target)
        self.adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm, foreach=True)
        self.adam.step()
        self.updates += 1
        if self.updates % 500 == 0:
            self.target.load_state_dict(self.critic.state_dict())


class PlainSAC:
    """Soft Actor-Critic with two critics and a learned temperature, actions within ±1."""

    def __init__(self, num_observations: int, num_actions: int, hidden: tuple[int, ...]) -> None:
        self.actor = perceptron(num_observations, *hidden, 2 * num_actions)
        sizes = (num_observations + num_actions, *hidden, 1)
        self.critics = nn.ModuleList([perceptron(*sizes) for _ in range(2)])
        self.targets = nn.ModuleList([perceptron(*sizes) for _ in range(2)])
        self.targets.load_state_dict(self.critics.state_dict())
        self.log_alpha = torch.zeros(1, requires_grad=True)
        self.actor_parameters: list[Tensor] = list(self.actor.parameters())
        self.critic_parameters: list[Tensor] = list(self.critics.parameters())
        self.target_parameters = [parameter.detach() for parameter in self.targets.parameters()]
        self.actor_adam = torch.optim.Adam(self.actor_parameters, lr=1e-3, fused=True)
        self.critic_adam = torch.optim.Adam(self.critic_parameters, lr=1e-3, fused=True)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], lr=1e-3, fused=True)
        self.target_entropy = -float(num_actions)

    def sample(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions `[B, A]` and their log-probabilities `[B, 1]`."""
        mean, log_std = self.actor(observation).chunk(2, dim=-1)
        log_std = log_std.clamp(-20, 2)
        u = mean + log_std.exp() * noise
        log_prob = -0.5 * noise.square() - log_std - 0.9189385332046727
        log_prob = log_prob - 2 * (0.6931471805599453 - u - F.softplus(-2 * u))
        return torch.tanh(u), log_prob.sum(-1, keepdim=True)

    def update(self, batch: Mapping[str, Any], noise: Mapping[str, Tensor] | None = None) -> None:
        """One step of critics, actor and temperature, then of the targets; noise is drawn unless given."""
        observation, action, after = batch["observation"], batch["action"], batch["next"]
        noise = noise or {name: torch.randn_like(action) for name in ("action", "next_action")}
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            next_action, next_log_prob = self.sample(after["observation"], noise["next_action"])
            next_input = torch.cat([after["observation"], next_action], -1)
            next_q = torch.min(*[target(next_input) for target in self.targets]) - alpha * next_log_prob
            target_q = after["reward"] + 0.99 * (~after["terminated"]) * next_q
        inputs = torch.cat([observation, action], -1)
        first, second = (critic(inputs) for critic in self.critics)
        critic_loss = 0.5 * (F.mse_loss(first, target_q) + F.mse_loss(second, target_q))
        self.critic_adam.zero_grad(set_to_none=True)
        critic_loss.backward()  # type: ignore[no-untyped-call]
        self.critic_adam.step()

        sampled, log_prob = self.sample(observation, noise["action"])
        inputs = torch.cat([observation, sampled], -1)
        q = torch.min(*[critic(inputs) for critic in self.critics])
        actor_loss = (alpha * log_prob - q).mean()
        self.actor_adam.zero_grad(set_to_none=True)
        actor_loss.backward(inputs=self.actor_parameters)
        self.actor_adam.step()

        alpha_loss = -(self.log_alpha * (log_prob.detach() + self.target_entropy)).mean()
        self.alpha_adam.zero_grad(set_to_none=True)
        alpha_loss.backward()  # type: ignore[no-untyped-call]
        self.alpha_adam.step()
        torch._foreach_lerp_(self.target_parameters, self.critic_parameters, 0.005)
