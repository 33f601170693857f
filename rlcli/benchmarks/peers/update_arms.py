"""Whole updates of SB3 and torchrl on a batch in memory, one thread, each with its own defaults but sizes.

SB3's replay sampling is replaced by the batch, so that updates are compared with updates.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def _space(num_observations: int, num_actions: int | None) -> Any:
    """An environment that only has spaces; it is never stepped."""
    import gymnasium
    import numpy as np

    class Idle(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (num_observations,), np.float32)
        action_space: Any = (
            gymnasium.spaces.Discrete(2)
            if num_actions is None
            else gymnasium.spaces.Box(-1, 1, (num_actions,), np.float32)
        )

    return Idle()


def _batch(size: int, num_observations: int, num_actions: int | None) -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    action = (
        torch.randint(0, 2, (size, 1)) if num_actions is None else torch.rand(size, num_actions) * 1.98 - 0.99
    )
    return {
        "observations": torch.randn(size, num_observations),
        "actions": action,
        "next_observations": torch.randn(size, num_observations),
        "rewards": torch.randn(size, 1),
        "dones": (torch.rand(size, 1) < 0.1).float(),
    }


def _sb3(model: Any, batch: dict[str, Any], size: int) -> dict[str, Any]:
    from stable_baselines3.common.logger import Logger

    model.set_logger(Logger(folder=None, output_formats=[]))
    sample = SimpleNamespace(**batch, discounts=None)
    model.replay_buffer.sample = lambda *arguments, **options: sample
    return {"call": lambda: model.train(gradient_steps=10, batch_size=size), "units": 10.0}


def sb3_dqn(folder: Path, size: str) -> dict[str, Any]:
    """`DQN.train` with a 2x64 Q-network."""
    import torch
    from stable_baselines3 import DQN

    torch.set_num_threads(1)
    model = DQN("MlpPolicy", _space(4, None), batch_size=128, buffer_size=1000, device="cpu")
    return _sb3(model, _batch(128, 4, None), 128)


def sb3_sac(folder: Path, size: str) -> dict[str, Any]:
    """`SAC.train` with 2x256 networks."""
    import torch
    from stable_baselines3 import SAC

    torch.set_num_threads(1)
    model = SAC("MlpPolicy", _space(17, 6), batch_size=256, buffer_size=1000, device="cpu")
    return _sb3(model, _batch(256, 17, 6), 256)


def _torchrl_batch(batch: dict[str, Any], size: int, action: Any) -> Any:
    from tensordict import TensorDict

    done = batch["dones"].bool()
    following = {
        "observation": batch["next_observations"],
        "reward": batch["rewards"],
        "terminated": done,
        "done": done,
    }
    content = {"observation": batch["observations"], "action": action, "next": TensorDict(following, [size])}
    return TensorDict(content, [size])


def _torchrl_step(loss: Any, names: list[str], batch: Any, updater: Any) -> dict[str, Any]:
    import torch

    optimiser = torch.optim.Adam([p for p in loss.parameters() if p.requires_grad], lr=1e-3, fused=True)

    def step() -> None:
        losses = loss(batch)
        total = sum(losses[name] for name in names)
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        optimiser.step()
        updater.step()

    return {"call": step}


def torchrl_dqn(folder: Path, size: str) -> dict[str, Any]:
    """`DQNLoss` eager with fused Adam."""
    import torch
    from torchrl.modules import MLP, QValueActor
    from torchrl.objectives import DQNLoss, HardUpdate

    torch.set_num_threads(1)
    network = MLP(in_features=4, out_features=2, num_cells=[64, 64], activation_class=torch.nn.ReLU)
    actor = QValueActor(network, in_keys=["observation"], action_space="categorical")
    batch = _batch(128, 4, None)
    data = _torchrl_batch(batch, 128, batch["actions"].squeeze(-1))
    loss = DQNLoss(actor, loss_function="smooth_l1", delay_value=True, action_space="categorical")
    loss.make_value_estimator(gamma=0.99)
    return _torchrl_step(loss, ["loss"], data, HardUpdate(loss, value_network_update_interval=500))


def torchrl_sac(folder: Path, size: str) -> dict[str, Any]:
    """`SACLoss` eager with one fused Adam over all parameters."""
    import torch
    from tensordict.nn import NormalParamExtractor, TensorDictModule
    from torchrl.data import Bounded
    from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
    from torchrl.objectives import SACLoss, SoftUpdate

    torch.set_num_threads(1)
    relu = torch.nn.ReLU
    network = torch.nn.Sequential(
        MLP(in_features=17, out_features=12, num_cells=[256, 256], activation_class=relu),
        NormalParamExtractor(),
    )
    module = TensorDictModule(network, in_keys=["observation"], out_keys=["loc", "scale"])
    actor = ProbabilisticActor(
        module,
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        spec=Bounded(-1, 1, (6,)),
        return_log_prob=True,
    )
    critic = ValueOperator(
        MLP(in_features=23, out_features=1, num_cells=[256, 256], activation_class=relu),
        in_keys=["observation", "action"],
    )
    batch = _batch(256, 17, 6)
    loss = SACLoss(actor, critic, num_qvalue_nets=2, action_spec=Bounded(-1, 1, (6,)))
    loss.make_value_estimator(gamma=0.99)
    data = _torchrl_batch(batch, 256, batch["actions"])
    return _torchrl_step(loss, ["loss_actor", "loss_qvalue", "loss_alpha"], data, SoftUpdate(loss, tau=0.005))


ARMS: dict[str, dict[str, Callable[[Path, str], dict[str, Any]]]] = {
    "dqn": {"SB3": sb3_dqn, "torchrl, eager, fused Adam": torchrl_dqn},
    "sac": {"SB3": sb3_sac, "torchrl, eager, fused Adam": torchrl_sac},
}
