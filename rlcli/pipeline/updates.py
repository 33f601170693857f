"""Runs an algorithm's updates: draws their noise, compiles them, and does on-policy iterations.

It knows tensors only: no buffer, no environment, no files but the compilation cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlcli.algorithms.transformed import Transformed
from rlcli.pipeline.execution import Execution, cache_dir, compiled_marker, mark_compiled
from rlcli.returns.gae import gae

State = dict[str, Any]
Metrics = dict[str, Tensor]
Draws = Mapping[str, tuple[str, tuple[int, ...]]]


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
        self._update = self._compile() if execution.compiled else self._eager
        torch.set_num_threads(execution.threads)

    def update(self, state: State, batch: Mapping[str, Any]) -> tuple[State, Metrics]:
        """One update on `batch`: nested mappings of arrays or tensors `[B, …]`.

        Only `COLUMNS` are read, and those of `OPTIONAL` that it has. Returns the new state, the old one
        untouched, and 0-d metrics; those of a weighted batch with `priority` `[B]` among them.
        """
        columns = self.algorithm.COLUMNS
        if optional := getattr(self.algorithm, "OPTIONAL", ()):
            columns = (*columns, *(path for path in optional if has(batch, path)))
        inputs = select(batch, columns)
        batch_size = len(inputs["action"])
        inputs["noise"] = draw(self.algorithm.noise(self.nets, self.config, batch_size), self.generator)
        with _matmul(self.execution.matmul):
            state, metrics = self._update(state, inputs)
        return state, metrics

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

    def _eager(self, state: State, batch: Mapping[str, Any]) -> tuple[State, Metrics]:
        new_state, metrics = self.algorithm.update(state, batch, self.nets, self.config)
        return new_state, metrics

    def _compile(self) -> Any:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "inductor"))
        marker = compiled_marker(self.algorithm, self.nets, self.config)

        def step(state: State, batch: Mapping[str, Any]) -> tuple[State, Metrics]:
            new_state, metrics = self.algorithm.update(state, batch, self.nets, self.config)
            return new_state, metrics

        # torch caches compilations by code object and re-checks everything Python on each call, a seventh of
        # a small update. A code object of its own makes networks and config constants that need no check.
        step.__code__ = step.__code__.replace()
        options: dict[str, Any] = {
            "cpp_wrapper": True,  # the Python wrapper costs 30 us more per update
            "guard_filter_fn": lambda guards: [guard.guard_type == "TENSOR_MATCH" for guard in guards],
        }
        compiled = torch.compile(step, fullgraph=True, dynamic=False, options=options)

        def first(state: State, batch: Mapping[str, Any]) -> tuple[State, Metrics]:
            result = compiled(state, batch)
            mark_compiled(marker)
            self._update = compiled
            return result

        return first

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
    kinds = {"normal": torch.randn, "uniform": torch.rand}
    return {name: kinds[kind](shape, generator=generator) for name, (kind, shape) in shapes.items()}


def tensors(batch: Any) -> Any:
    """Nested mappings with every NumPy array as a tensor that shares its memory."""
    return _map(batch, lambda x: torch.from_numpy(x) if isinstance(x, np.ndarray) else x)


def select(batch: Mapping[str, Any], columns: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    """The named columns of a nested batch as nested dicts of tensors: extra columns never recompile."""
    chosen: dict[str, Any] = {}
    for path in columns:
        source: Any = batch
        target = chosen
        for name in path[:-1]:
            source = source[name]
            target = target.setdefault(name, {})
        target[path[-1]] = tensors(source[path[-1]])
    return chosen


def has(batch: Any, path: tuple[str, ...]) -> bool:
    """Whether a nested batch has something at `path`."""
    for name in path:
        if not isinstance(batch, Mapping) or name not in batch:
            return False
        batch = batch[name]
    return True


def _map(tree: Any, function: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _map(branch, function) for name, branch in tree.items()}
    return function(tree)


@contextmanager
def _matmul(precision: str) -> Iterator[None]:
    """torch's float32 matrix-product route for one update only: acting and evaluating stay exact."""
    if precision == "highest":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
