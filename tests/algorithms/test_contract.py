"""What every algorithm promises to the runner, whatever it learns."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from rlcli.algorithms import ALGORITHMS, SUMMARIES, load
from rlcli.config import options
from rlcli.errors import IncompatibleError
from rlcli.format.specs import Box, Composite, Discrete, Spec
from rlcli.pipeline.execution import Execution
from rlcli.pipeline.updates import UpdateRunner, draw

DICT = Composite({"position": Box((2,), "float64"), "mode": Discrete(3)})
DISCRETE = Discrete(3, start=1)
BOX = Box((2,), "float32", (-2.0, 0.0), (2.0, 1.0))
DEEP = Box((1, 2), "float64", -1.0, 1.0)
FREE = Box((2,))  # no bounds
CASES: list[tuple[str, Spec]] = [
    *((name, DISCRETE) for name in ("dqn", "ppo", "bc", "iql")),
    *((name, BOX) for name in ("sac", "ppo", "bc", "iql")),
    *((name, DEEP) for name in ("sac", "ppo", "bc", "iql")),
    *((name, FREE) for name in ("ppo", "bc", "iql")),
]
each = pytest.mark.parametrize(
    ("name", "action"), CASES, ids=lambda x: x if isinstance(x, str) else f"{type(x).__name__}{x.shape}"
)


def make(name: str, action: Spec, observation: Spec = DICT) -> tuple[ModuleType, Any, Any, Any]:
    algorithm = load(name)
    config = algorithm.Config(hidden=(16, 16))
    nets = algorithm.build(observation, action, config)
    return algorithm, nets, config, algorithm.init(nets, config, torch.Generator().manual_seed(0))


def random_batch(
    algorithm: ModuleType, nets: Any, config: Any, action: Spec, size: int = 8
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)

    def observation() -> dict[str, Any]:
        position = torch.randn(size, 2, generator=generator, dtype=torch.float64)
        return {"position": position, "mode": torch.randint(0, 3, (size,), generator=generator)}

    if isinstance(action, Discrete):
        actions = torch.randint(0, action.n, (size,), generator=generator) + action.start
    else:
        actions = torch.rand(size, *action.shape, generator=generator).to(getattr(torch, action.dtype))
    batch = {
        "observation": observation(),
        "action": actions,
        "next": {
            "observation": observation(),
            "reward": torch.randn(size, 1, generator=generator),
            "terminated": torch.rand(size, 1, generator=generator) < 0.3,
        },
        "noise": draw(algorithm.noise(nets, config, size), generator),
    }
    if algorithm.ON_POLICY:
        rows = torch.randn(4, size, generator=generator)
        batch |= dict(zip(("log_prob", "value", "advantage", "return_"), rows, strict=True))
    return batch


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, branch in tree.items():
        if isinstance(branch, dict):
            yield from flat(branch, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", branch


def updated(name: str, action: Spec, num_updates: int) -> tuple[Any, Any]:
    algorithm, nets, config, state = make(name, action)
    batch = random_batch(algorithm, nets, config, action)
    metrics: Any = {}
    for _ in range(num_updates):
        state, metrics = algorithm.update(state, batch, nets, config)
    return state, metrics


@each
def test_update_is_pure_and_keeps_the_states_shape(name: str, action: Spec) -> None:
    algorithm, nets, config, state = make(name, action)
    before = {key: value.clone() for key, value in flat(state)}
    new, metrics = algorithm.update(state, random_batch(algorithm, nets, config, action), nets, config)
    assert all(torch.equal(value, before[key]) for key, value in flat(state))
    shapes = {key: (value.shape, value.dtype) for key, value in flat(state)}
    assert {key: (value.shape, value.dtype) for key, value in flat(new)} == shapes
    assert any(not torch.equal(value, before[key]) for key, value in flat(new))
    for value in metrics.values():
        assert value.shape == ()
        assert not value.requires_grad
        assert math.isfinite(value.item())


@each
def test_two_runs_of_updates_are_bit_equal(name: str, action: Spec) -> None:
    first, second = (dict(flat(updated(name, action, 5)[0])) for _ in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@each
def test_actions_fit_the_spec(name: str, action: Spec) -> None:
    algorithm, nets, config, state = make(name, action)
    observation = random_batch(algorithm, nets, config, action)["observation"]
    noise = draw(algorithm.act_noise(nets, config, 8), torch.Generator().manual_seed(2))
    noise = {key: value * 5 if not isinstance(action, Discrete) else value for key, value in noise.items()}
    for given in (None, noise):
        chosen = algorithm.act(state, observation, nets, config, noise=given)
        assert chosen.shape == (8, *action.shape)  # type: ignore[union-attr]
        assert chosen.dtype == getattr(torch, action.dtype)  # type: ignore[union-attr]
        assert action.contains(chosen.numpy()).all()  # type: ignore[union-attr]
    assert torch.equal(
        algorithm.act(state, observation, nets, config), algorithm.act(state, observation, nets, config)
    )


@pytest.mark.parametrize(
    ("name", "action"), [("dqn", BOX), ("sac", DISCRETE), ("sac", FREE), ("ppo", Box((2,), "int64", 0, 5))]
)
def test_specs_that_do_not_fit_are_refused_by_name(name: str, action: Spec) -> None:
    with pytest.raises(IncompatibleError, match=f"^{name} "):
        make(name, action)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_option_has_help_and_a_source(name: str) -> None:
    config = load(name).Config
    assert config.__doc__
    assert "(" in config.__doc__
    assert all(option.help and option.source for option in options(config))


def test_every_algorithm_has_a_summary() -> None:
    assert ALGORITHMS.keys() == SUMMARIES.keys()


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_importing_an_algorithm_loads_neither_torch_nor_numpy(name: str) -> None:
    code = (
        f"import sys; from rlcli.algorithms import load; load({name!r}).Config(); "
        "sys.exit(any(module in sys.modules for module in ('torch', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow  # one compilation each; `tests/pipeline/test_updates.py` has the one that always runs
@pytest.mark.parametrize(
    ("name", "action"),
    [(name, action) for name, action in CASES if action not in (DEEP, FREE)],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_compiled_update_matches_eager(name: str, action: Spec) -> None:
    algorithm, nets, config, state = make(name, action)
    batch = random_batch(algorithm, nets, config, action)
    chosen = Execution(compiled=True, matmul="highest", threads=1, reason="test")
    generators = torch.Generator(), torch.Generator()
    eager = UpdateRunner(algorithm, nets, config, replace(chosen, compiled=False), generators[0])
    compiled = UpdateRunner(algorithm, nets, config, chosen, generators[1])
    eager_state, compiled_state = state, state
    for _ in range(3):
        eager_state, eager_metrics = eager.update(eager_state, batch)
        compiled_state, compiled_metrics = compiled.update(compiled_state, batch)
    torch.testing.assert_close(compiled_state, eager_state, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(compiled_metrics, eager_metrics, atol=1e-5, rtol=1e-4)
