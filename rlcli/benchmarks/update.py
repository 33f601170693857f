"""`rl bench update`: whole updates per second, from a batch in memory to new parameters.

Limit: the update's matrix products alone, through `torch.mm` into buffers that exist, on the same route.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlcli import _native
from rlcli.algorithms import dqn, sac
from rlcli.benchmarks import Setting
from rlcli.benchmarks.plain import PlainDQN, PlainSAC
from rlcli.format.specs import Box, Discrete
from rlcli.pipeline.benchmark import Arm, Goal, Item, LocalArm, torch_threads
from rlcli.pipeline.execution import Execution, Route, choose_execution
from rlcli.pipeline.products import is_wide
from rlcli.pipeline.updates import UpdateRunner, draw, tensors

TITLE = "one whole update of dqn (2x64, batch 128) and sac (2x256, batch 256)"
PLAIN = "plain PyTorch, fused Adam"
MANY = 10**9  # updates a run would make: enough for any compilation to pay


def items(setting: Setting) -> Iterator[Item]:
    """`update/dqn` with CartPole's sizes, `update/sac` with HalfCheetah's."""
    with torch_threads(setting.threads):
        yield _dqn(setting)
        yield _sac(setting)


def _dqn(setting: Setting) -> Item:
    sizes = (4, 64, 64, 2)
    config = dqn.Config(  # double=False as SB3 and torchrl have it: equal work
        double=False, hidden=(64, 64), batch_size=128, lr=1e-3, tau=1.0, target_every=500, max_grad_norm=10.0
    )
    nets = dqn.build(Box((4,)), Discrete(2), config)
    batch = _batch(np.random.default_rng(0), config.batch_size, 4, None)
    plain = PlainDQN(sizes, double=False, max_grad_norm=config.max_grad_norm)
    unclipped = PlainDQN(sizes, double=False, max_grad_norm=None)
    tensor_batch = tensors(batch)

    def check() -> str:
        with _same_parameters():
            reference = PlainDQN(sizes, double=False, max_grad_norm=config.max_grad_norm)
        state = dqn.init(nets, config, torch.Generator())
        state["critic"] = state["target_critic"] = _flat(reference.critic)
        runner = UpdateRunner(dqn, nets, config, _as_trained(setting, dqn, nets, config), torch.Generator())
        for _ in range(3):
            state, _ = runner.update(state, batch)
            reference.update(tensor_batch)
        return _agree(state["critic"], _flat(reference.critic))

    forward = _products(sizes, config.batch_size)
    backward = _products(sizes, config.batch_size, weights=True)
    arms: list[Arm] = [
        *_our_arms(setting, dqn, nets, config, batch),
        LocalArm(PLAIN, "reference", lambda: plain.update(tensor_batch)),
        LocalArm(f"{PLAIN}, no gradient clipping", "reference", lambda: unclipped.update(tensor_batch)),
        LocalArm("matrix products alone", "limit", _multiply(2 * forward + backward)),
    ]
    goals = (Goal(PLAIN, 2.0), Goal("SB3", 5.0))
    return _with_peers(Item("update/dqn", "updates/s", arms, goals, check), setting)


def _sac(setting: Setting) -> Item:
    num_observations, num_actions, hidden = 17, 6, (256, 256)
    config = sac.Config(hidden=hidden, batch_size=256, lr=1e-3)
    box = Box((num_actions,), low=-1.0, high=1.0)
    nets = sac.build(Box((num_observations,)), box, config)
    batch = _batch(np.random.default_rng(0), 256, num_observations, num_actions)
    tensor_batch = tensors(batch)
    plain = PlainSAC(num_observations, num_actions, hidden)

    def check() -> str:
        with _same_parameters():
            reference = PlainSAC(num_observations, num_actions, hidden)
        state = sac.init(nets, config, torch.Generator())
        state["actor"] = _flat(reference.actor)
        state["critic"] = state["target_critic"] = _flat(*reference.critics)
        generators = [torch.Generator().manual_seed(0) for _ in range(2)]
        runner = UpdateRunner(sac, nets, config, _as_trained(setting, sac, nets, config), generators[0])
        for _ in range(3):
            state, _ = runner.update(state, batch)
            reference.update(tensor_batch, draw(sac.noise(nets, config, 256), generators[1]))
        _agree(state["actor"], _flat(reference.actor))
        return _agree(state["critic"], _flat(*reference.critics))

    actor = (num_observations, *hidden, 2 * num_actions)
    critic = (num_observations + num_actions, *hidden, 1)
    products = [
        *_products(actor, 256),  # a' at s'
        *_products(critic, 256) * 2,  # target critics
        *(_products(critic, 256) + _products(critic, 256, weights=True)) * 2,
        *_products(actor, 256) + _products(actor, 256, weights=True),
        *(_products(critic, 256) + _products(critic, 256, inputs=True)) * 2,
    ]
    route = _as_trained(setting, sac, nets, config).matmul
    arms: list[Arm] = _our_arms(setting, sac, nets, config, batch)
    remark = f"matmul route that calibration chose here: {route}"
    if route != "medium":
        bold = choose_execution(sac, nets, config, MANY, matmul="medium", threads=setting.threads)
        arms.append(LocalArm("rl, --matmul medium", "ours", _stepper(sac, nets, config, batch, bold)))
        remark += f" (the other has a relative error of {_medium_error():.0e}, so it is for you to choose)"
    arms += [
        LocalArm(PLAIN, "reference", lambda: plain.update(tensor_batch)),
        LocalArm(
            f"{PLAIN}, matmul precision medium",
            "reference",
            _on_route("medium", lambda: plain.update(tensor_batch)),
        ),
        LocalArm("matrix products alone", "limit", _on_route(route, _multiply(products, route))),
    ]
    return _with_peers(Item("update/sac", "updates/s", arms, (Goal(PLAIN, 1.7),), check, (remark,)), setting)


def _with_peers(item: Item, setting: Setting) -> Item:
    if setting.peer is not None:
        item.arms += setting.peer.arms(item.name, setting.size, setting.folder / "peers")
    return item


def _our_arms(setting: Setting, algorithm: Any, nets: Any, config: Any, batch: dict[str, Any]) -> list[Arm]:
    """The update as `rl train` runs it: compiled whole where a compiler is at hand, and eager."""
    executions = {
        "rl, compiled": _as_trained(setting, algorithm, nets, config),
        "rl, eager": choose_execution(algorithm, nets, config, MANY, compile="off", threads=setting.threads),
    }
    if not executions["rl, compiled"].compiled:
        del executions["rl, compiled"]
    return [
        LocalArm(name, "ours", _stepper(algorithm, nets, config, batch, execution))
        for name, execution in executions.items()
    ]


def _as_trained(setting: Setting, algorithm: Any, nets: Any, config: Any) -> Execution:
    return choose_execution(algorithm, nets, config, MANY, threads=setting.threads)


def _stepper(
    algorithm: Any, nets: Any, config: Any, batch: dict[str, Any], execution: Execution
) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    runner = UpdateRunner(algorithm, nets, config, execution, generator)
    state = algorithm.init(nets, config, torch.Generator().manual_seed(0))

    def step() -> None:
        nonlocal state
        state, _ = runner.update(state, batch)

    return step


def _batch(
    rng: np.random.Generator, size: int, num_observations: int, num_actions: int | None
) -> dict[str, Any]:
    """A batch of noise in the layout of `Dataset.gather`; actions Discrete(2) or Box in ±1."""
    action: Any = rng.integers(0, 2, size)
    if num_actions is not None:
        action = rng.uniform(-0.99, 0.99, (size, num_actions)).astype(np.float32)
    observation, following = rng.standard_normal((2, size, num_observations)).astype(np.float32)
    reward = rng.standard_normal((size, 1)).astype(np.float32)
    after = {"observation": following, "reward": reward, "terminated": rng.random((size, 1)) < 0.1}
    return {"observation": observation, "action": action, "next": after}


def _products(
    sizes: tuple[int, ...], batch: int, *, weights: bool = False, inputs: bool = False
) -> list[tuple[int, int, int]]:
    """`(m, k, n)` of each matrix product of one pass: forward, or backward to `weights` or `inputs`."""
    pairs = list(itertools.pairwise(sizes))
    if weights:
        to_weights = [(num_out, batch, num_in) for num_in, num_out in pairs]
        return to_weights + [(batch, num_out, num_in) for num_in, num_out in pairs[1:]]
    if inputs:
        return [(batch, num_out, num_in) for num_in, num_out in pairs]
    return [(batch, num_in, num_out) for num_in, num_out in pairs]


def _multiply(products: list[tuple[int, int, int]], route: Route = "highest") -> Callable[[], None]:
    calls: list[Callable[[], object]] = []
    for m, k, n in products:
        left, right = torch.randn(m, k), torch.randn(k, n)
        if route == "bf16x6" and is_wide(left, right):
            calls.append(partial(_native.multiply, left.numpy(), right.numpy()))
        else:
            calls.append(partial(torch.mm, left, right, out=torch.empty(m, n)))

    def multiply() -> None:
        for call in calls:
            call()

    return multiply


def _on_route(route: Route, call: Callable[[], None]) -> Callable[[], None]:
    if route != "medium":
        return call

    def routed() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(route)
        try:
            call()
        finally:
            torch.set_float32_matmul_precision(before)

    return routed


def _medium_error() -> float:
    """Largest error of a 256-wide product on the route `medium`, relative to its largest entry."""
    left, right = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0))
    exact = left.double() @ right.double()
    found: list[Tensor] = []
    _on_route("medium", lambda: found.append(left @ right))()
    return float((found[0] - exact).abs().max() / exact.abs().max())


def _flat(*modules: torch.nn.Module) -> Tensor:
    """Parameters in the order of `rlcli.nets.mlp`: member by member, layer by layer."""
    return torch.cat([p.detach().reshape(-1) for module in modules for p in module.parameters()])


@contextmanager
def _same_parameters() -> Iterator[None]:
    """Modules begin alike each time: a gradient that is nothing but rounding moves Adam by a whole step."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _agree(ours: Tensor, theirs: Tensor) -> str:
    error = float((ours - theirs).abs().max())
    assert error < 1e-4, f"our update differs from plain PyTorch's by {error:.2g}"
    return f"3 updates from equal parameters agree with {PLAIN} to {error:.1g}"
