"""Runs an algorithm's updates: draws their noise, compiles them, and does on-policy iterations.

It knows tensors only: no buffer, no environment, no files but the compilation cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlcli.algorithms.transformed import Transformed
from rlcli.pipeline.compilation import CompiledUpdate, Key, Metrics, State, nested
from rlcli.pipeline.execution import Execution, compiled_marker, mark_compiled
from rlcli.returns.gae import gae

Draws = Mapping[str, tuple[str, tuple[int, ...]]]
Columns = tuple[Key, ...]
RANDOM: dict[str, Any] = {"normal": torch.randn, "uniform": torch.rand}


class UpdateRunner:
    """Executes `algorithm.update` as `execution` says; all randomness comes from `generator`.

    Sets torch's thread count for the process. Same state, batches, generator state and execution give
    the same bits, in this process or a later one.
    """

    def __init__(
        self, algorithm: ModuleType, nets: Any, config: Any, execution: Execution, generator: torch.Generator
    ) -> None:
        self.algorithm = algorithm
        self.nets = nets
        self.config = config
        self.execution = execution
        self.generator = generator
        self._optional: Columns = getattr(algorithm, "OPTIONAL", ())
        self._noise: dict[int, list[tuple[str, Any, tuple[int, ...]]]] = {}
        self._compiled: CompiledUpdate | None = None
        if execution.compiled:
            marker = compiled_marker(algorithm, nets, config)
            bf16x6 = execution.matmul == "bf16x6"
            self._compiled = CompiledUpdate(self._update, lambda: mark_compiled(marker), bf16x6=bf16x6)
        torch.set_num_threads(execution.threads)

    def update(self, state: State, batch: Mapping[str, Any]) -> tuple[State, Metrics]:
        """One update on `batch`: nested mappings of arrays or tensors `[B, …]`.

        Only `COLUMNS` are read, and those of `OPTIONAL` that it has: extra columns never recompile. Returns
        the new state and 0-d metrics; those of a weighted batch with `priority` `[B]` among them. A state
        that a compiled update returned is overwritten by the next one; any other stays as it was.
        """
        columns: Columns = self.algorithm.COLUMNS
        if self._optional:
            columns = (*columns, *[path for path in self._optional if has(batch, path)])
        paths: list[Key] = []
        leaves: list[Tensor] = []
        for path in columns:
            value: Any = batch
            for name in path:
                value = value[name]
            _gather(value, path, paths, leaves)
        for name, random, shape in self._draws(len(batch["action"])):
            paths.append(("noise", name))
            leaves.append(random(shape, generator=self.generator))
        if self.execution.matmul != "medium":
            return self._run(state, paths, leaves)
        with _matmul(self.execution.matmul):
            return self._run(state, paths, leaves)

    def iterate(self, state: State, rollout: Mapping[str, Any]) -> tuple[State, Metrics]:
        """One on-policy iteration: advantages, then epochs of shuffled minibatches.

        `rollout` is `[T, E, …]`: `observation`, `action`, `log_prob` and `value` as `sample` gave them, and
        `next` with `observation` (the true one, also where an episode ends), `reward`, `terminated`,
        `truncated`, each `[T, E]`. Its `T * E` rows are cut into minibatches; a remainder smaller than one is
        left out, another one each epoch. Returns the state and the metrics' means.
        """
        state, metrics = self._epochs(state, rollout)
        if isinstance(self.algorithm, Transformed):
            seen = _map(tensors(rollout["observation"]), lambda x: x.flatten(0, 1))
            state = self.algorithm.learn(state, seen)
        return state, metrics

    def _epochs(self, state: State, rollout: Mapping[str, Any]) -> tuple[State, Metrics]:
        rows = self._rollout_rows(state, rollout)
        num_rows = len(rows["advantage"])
        size = min(self.config.minibatch_size, num_rows)
        sums: Metrics = {}
        num_updates = 0
        for _ in range(self.config.num_epochs):
            order = torch.randperm(num_rows, generator=self.generator)
            for chosen in torch.split(order[: num_rows - num_rows % size], size):
                state, metrics = self.update(state, _map(rows, lambda x, chosen=chosen: x[chosen]))
                num_updates += 1
                sums = {name: sums.get(name, 0) + value for name, value in metrics.items()}
                if self._has_moved_too_far(metrics):
                    return state, {name: value / num_updates for name, value in sums.items()}
        return state, {name: value / num_updates for name, value in sums.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """What must be saved, besides the algorithm's state, to go on with the same bits."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Go on where `state_dict` was called."""
        self.generator.set_state(saved["generator"])

    def _run(self, state: State, paths: list[Key], leaves: list[Tensor]) -> tuple[State, Metrics]:
        if self._compiled is not None:
            return self._compiled(state, paths, leaves)
        return self._update(state, nested(paths, leaves))

    def _update(self, state: State, batch: Mapping[str, Any]) -> tuple[State, Metrics]:
        new_state, metrics = self.algorithm.update(state, batch, self.nets, self.config)
        return new_state, metrics

    def _draws(self, batch_size: int) -> list[tuple[str, Any, tuple[int, ...]]]:
        draws = self._noise.get(batch_size)
        if draws is None:
            shapes: Draws = self.algorithm.noise(self.nets, self.config, batch_size)
            draws = [(name, RANDOM[kind], shape) for name, (kind, shape) in shapes.items()]
            self._noise[batch_size] = draws
        return draws

    def _rollout_rows(self, state: State, rollout: Mapping[str, Any]) -> dict[str, Any]:
        rollout = tensors(rollout)
        after = rollout["next"]
        num_steps, num_envs = rollout["value"].shape
        flat_next = _map(after["observation"], lambda x: x.flatten(0, 1))
        with torch.no_grad(), _matmul(self.execution.matmul):
            next_value = self.algorithm.value(state, flat_next, self.nets, self.config)
        reward = after["reward"]
        if isinstance(self.algorithm, Transformed):
            reward = self.algorithm.reward(reward)
        advantage = gae(
            reward,
            rollout["value"],
            next_value.view(num_steps, num_envs),
            after["terminated"],
            after["truncated"],
            gamma=self.config.gamma,
            lam=self.config.lam,
        )
        columns = {name: rollout[name] for name in ("observation", "action", "log_prob", "value")}
        columns |= {"advantage": advantage, "return_": advantage + rollout["value"]}
        return {name: _map(column, lambda x: x.flatten(0, 1)) for name, column in columns.items()}

    def _has_moved_too_far(self, metrics: Metrics) -> bool:
        limit = getattr(self.config, "target_kl", None)
        return limit is not None and float(metrics["kl"]) > 1.5 * limit


def draw(shapes: Draws, generator: torch.Generator) -> dict[str, Tensor]:
    """Standard normals and uniforms in [0, 1), float32, as an algorithm's `noise` or `act_noise` asks for."""
    return {name: RANDOM[kind](shape, generator=generator) for name, (kind, shape) in shapes.items()}


def tensors(batch: Any) -> Any:
    """Nested mappings with every NumPy array as a tensor that shares its memory."""
    return _map(batch, lambda x: torch.from_numpy(x) if isinstance(x, np.ndarray) else x)


def has(batch: Any, path: tuple[str, ...]) -> bool:
    """Whether a nested batch has something at `path`."""
    for name in path:
        if not isinstance(batch, Mapping) or name not in batch:
            return False
        batch = batch[name]
    return True


def _gather(value: Any, path: Key, paths: list[Key], leaves: list[Tensor]) -> None:
    """Append the arrays and tensors of `value`, which is or lies at `path`, sorted by name."""
    if isinstance(value, Tensor):
        paths.append(path)
        leaves.append(value)
    elif isinstance(value, np.ndarray):
        paths.append(path)
        leaves.append(torch.from_numpy(value))
    else:
        for name in sorted(value):
            _gather(value[name], (*path, name), paths, leaves)


def _map(tree: Any, function: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _map(branch, function) for name, branch in tree.items()}
    return function(tree)


@contextmanager
def _matmul(route: str) -> Iterator[None]:
    """torch's float32 matrix-product route for one update only: acting and evaluating stay exact."""
    if route != "medium":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(route)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
