"""The update runner: exact resume, on-policy iterations, and how the execution is chosen."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
import xxhash

from rlcli import _native
from rlcli.algorithms import bc, dqn, ppo, sac
from rlcli.errors import InputError, UsageError
from rlcli.format.specs import Box, Discrete
from rlcli.pipeline import execution, products
from rlcli.pipeline.compilation import CompiledUpdate
from rlcli.pipeline.execution import Execution, choose_execution
from rlcli.pipeline.updates import UpdateRunner, draw

EAGER = Execution(compiled=False, matmul="highest", threads=1, reason="test")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def runner(algorithm: Any, action: Any, config: Any, seed: int = 0) -> tuple[UpdateRunner, Any]:
    nets = algorithm.build(Box((3,)), action, config)
    state = algorithm.init(nets, config, torch.Generator().manual_seed(0))
    return UpdateRunner(algorithm, nets, config, EAGER, torch.Generator().manual_seed(seed)), state


def transitions(seed: int, size: int = 16) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "observation": rng.normal(size=(size, 3)),
        "action": rng.uniform(-1, 1, size=(size, 2)).astype(np.float32),
        "episode": np.arange(size),
        "next": {
            "observation": rng.normal(size=(size, 3)),
            "reward": rng.normal(size=(size, 1)).astype(np.float32),
            "terminated": rng.random((size, 1)) < 0.2,
            "truncated": rng.random((size, 1)) < 0.2,
        },
    }


def test_saved_generator_and_state_continue_with_the_same_bits() -> None:
    config = sac.Config(hidden=(16,))
    whole, state = runner(sac, Box((2,), "float32", -1.0, 1.0), config)
    for index in range(4):
        if index == 2:
            half_state, half_generator = state, whole.state_dict()["generator"].clone()
        state, _ = whole.update(state, transitions(index))
    resumed, _ = runner(sac, Box((2,), "float32", -1.0, 1.0), config, seed=99)
    resumed.load_state_dict({"generator": half_generator})
    for index in (2, 3):
        half_state, _ = resumed.update(half_state, transitions(index))
    for name in ("actor", "critic", "target_critic", "log_alpha"):
        assert torch.equal(state[name], half_state[name])


def test_compiled_updates_match_eager_ones_and_never_those_of_another_config() -> None:
    data = transitions(0) | {"action": np.arange(16) % 2}
    for gamma in (0.9, 0.1):
        eager, state = runner(dqn, Discrete(2), dqn.Config(hidden=(8,), gamma=gamma))
        chosen = Execution(compiled=True, matmul="highest", threads=1, reason="test")
        compiled = UpdateRunner(dqn, eager.nets, eager.config, chosen, torch.Generator())
        marker = execution.compiled_marker(dqn, eager.nets, eager.config)
        assert not marker.exists()
        one, other = state, state
        start = {name: state[name].clone() for name in ("critic", "target_critic")}
        for _ in range(3):
            one, metrics = eager.update(one, data)
            other, compiled_metrics = compiled.update(other, data)
        assert all(torch.equal(state[name], value) for name, value in start.items())  # ours was copied
        torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(compiled_metrics, metrics, atol=1e-6, rtol=1e-5)
        assert marker.exists()
    smaller = transitions(0, size=8) | {"action": np.arange(8) % 2}
    torch.testing.assert_close(compiled.update(state, smaller), eager.update(state, smaller))


def test_a_damaged_program_in_the_cache_is_made_anew(tmp_path: Path) -> None:
    def update(state: Any, batch: Any) -> Any:
        return {"weight": state["weight"] + batch["x"]}, {"sum": batch["x"].sum()}

    for damage in (
        lambda data: data,
        lambda data: data[:1000],
        lambda data: data[:-5000] + b"damage" + data[-4994:],
    ):
        for file in tmp_path.glob("rlcli/compiled/*.pt2"):
            file.write_bytes(damage(file.read_bytes()))
        compiled = CompiledUpdate(update, lambda: None)
        state, metrics = compiled({"weight": torch.ones(2)}, [("x",)], [torch.tensor([1.0, 2.0])])
        assert state["weight"].tolist() == [2.0, 3.0]
        assert metrics["sum"] == 3.0
        (file,) = tmp_path.glob("rlcli/compiled/*.pt2")
        digest = xxhash.xxh3_64_hexdigest(file.read_bytes())
        assert file.stem.endswith(digest)


def test_update_that_cannot_be_traced_is_refused_in_one_line() -> None:
    def update(state: Any, batch: Any) -> Any:
        return (state if batch["x"].sum() > 0 else batch), {}

    compiled = CompiledUpdate(update, lambda: None)
    with pytest.raises(InputError, match="the update cannot be compiled: "):
        compiled({"weight": torch.ones(2)}, [("x",)], [torch.ones(2)])


def rollout(nets: Any, state: Any, config: ppo.Config, num_steps: int, num_envs: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    observation = torch.randn(num_steps, num_envs, 3, generator=generator)
    flat = observation.flatten(0, 1)
    noise = draw(ppo.act_noise(nets, config, len(flat)), generator)
    drawn = ppo.sample(state, flat, nets, config, noise)
    action, log_prob, value = (x.unflatten(0, (num_steps, num_envs)) for x in drawn)
    ends = torch.zeros(num_steps, num_envs, dtype=torch.bool)
    return {
        "observation": observation,
        "action": action,
        "log_prob": log_prob,
        "value": value,
        "next": {
            "observation": torch.randn(num_steps, num_envs, 3, generator=generator),
            "reward": torch.ones(num_steps, num_envs),
            "terminated": ends,
            "truncated": ends.clone(),
        },
    }


def test_rollout_becomes_advantages_with_true_next_values() -> None:
    config = ppo.Config(hidden=(8,), gamma=0.9, lam=0.0)
    run, state = runner(ppo, Discrete(2), config)
    data = rollout(run.nets, state, config, 4, 2)
    data["next"]["terminated"][1, 0] = True
    data["next"]["truncated"][2, 1] = True
    rows = run._rollout_rows(state, data)
    next_value = ppo.value(state, data["next"]["observation"].flatten(0, 1), run.nets, config).view(4, 2)
    expected = (
        1 + 0.9 * next_value * ~data["next"]["terminated"] - data["value"]
    )  # lambda 0: the one-step error
    torch.testing.assert_close(rows["advantage"].view(4, 2), expected)
    torch.testing.assert_close(rows["return_"].view(4, 2), expected + data["value"])


def test_iteration_runs_whole_minibatches_over_all_epochs() -> None:
    config = ppo.Config(hidden=(8,), minibatch_size=4, num_epochs=3)
    run, state = runner(ppo, Discrete(2), config)
    new, metrics = run.iterate(state, rollout(run.nets, state, config, 5, 2))  # 10 rows: 2 minibatches of 4
    assert new["adam"]["step"].item() == 3 * 2
    assert set(metrics) == {"policy_loss", "value_loss", "entropy", "kl", "clip_fraction"}


def test_a_rollout_smaller_than_a_minibatch_is_one_minibatch() -> None:
    config = ppo.Config(hidden=(8,), minibatch_size=64, num_epochs=2)
    run, state = runner(ppo, Discrete(2), config)
    new, _ = run.iterate(state, rollout(run.nets, state, config, 3, 2))
    assert new["adam"]["step"].item() == 2


def test_target_kl_ends_the_iteration_early() -> None:
    config = ppo.Config(hidden=(8,), minibatch_size=8, num_epochs=10, lr=0.1, target_kl=0.01)
    run, state = runner(ppo, Discrete(2), config)
    new, _ = run.iterate(state, rollout(run.nets, state, config, 8, 4))
    assert 1 < new["adam"]["step"].item() < 10 * 4


def test_medium_products_leave_torchs_setting_as_it_was() -> None:
    config = bc.Config(hidden=(8,))
    run, state = runner(bc, Box((2,), "float32", -1.0, 1.0), config)
    medium = Execution(compiled=False, matmul="medium", threads=1, reason="test")
    other = UpdateRunner(bc, run.nets, config, medium, torch.Generator())
    before = torch.get_float32_matmul_precision()
    other.update(state, transitions(0))
    assert torch.get_float32_matmul_precision() == before


def choose(num_updates: int, algorithm: Any = dqn, **options: Any) -> Execution:
    config = algorithm.Config(**options.pop("config", {}))
    action = Box((2,), "float32", -1.0, 1.0) if algorithm is sac else Discrete(2)
    return choose_execution(
        algorithm, algorithm.build(Box((3,)), action, config), config, num_updates, **options
    )


def test_long_runs_are_compiled_and_short_ones_are_not() -> None:
    assert not choose(execution.COLD_UPDATES - 1).compiled
    assert choose(execution.COLD_UPDATES).compiled
    assert not choose(execution.COLD_UPDATES_LARGE - 1, sac).compiled
    assert choose(execution.COLD_UPDATES_LARGE, sac).compiled
    assert choose(1, compile="on").compiled
    assert not choose(10**9, compile="off").compiled


def test_a_cached_compilation_pays_earlier_but_only_for_the_same_update() -> None:
    config = dqn.Config()
    nets = dqn.build(Box((3,)), Discrete(2), config)
    execution.mark_compiled(execution.compiled_marker(dqn, nets, config))
    assert choose(execution.WARM_UPDATES).compiled
    assert not choose(execution.WARM_UPDATES, config={"lr": 0.5}).compiled


def test_without_a_compiler_auto_is_eager_and_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    chosen = choose(10**9)
    assert not chosen.compiled
    assert "no-such-compiler" in chosen.reason
    with pytest.raises(UsageError, match="needs a C\\+\\+ compiler"):
        choose(1, compile="on")


def test_small_networks_get_one_thread_and_exact_products() -> None:
    chosen = choose(1)
    assert (chosen.threads, chosen.matmul) == (1, "highest")
    assert choose(1, threads=2).threads == 2


@pytest.mark.parametrize(
    ("medium", "bf16x6", "compile", "matmul"),
    [
        ((2.0, 1e-6), None, "off", "medium"),
        ((2.0, 3e-3), None, "off", "highest"),
        ((1.0, 1e-7), None, "off", "highest"),
        ((4.0, 3e-3), (1.4, 2e-7), "on", "bf16x6"),
        ((4.0, 3e-3), (1.4, 2e-7), "off", "highest"),
        ((2.0, 1e-6), (1.4, 2e-7), "on", "medium"),
        ((1.2, 1e-6), (1.4, 2e-7), "on", "bf16x6"),
    ],
)
def test_wide_networks_take_the_calibrated_route(
    medium: tuple[float, float],
    bf16x6: tuple[float, float] | None,
    compile: Literal["on", "off"],
    matmul: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = {"medium": medium} | ({"bf16x6": bf16x6} if bf16x6 else {})
    facts = {route: {"speedup": speedup, "error": error} for route, (speedup, error) in measured.items()}
    monkeypatch.setattr(execution, "_measure_matmul", lambda *size: facts)
    monkeypatch.setattr(execution, "_native", SimpleNamespace(can_multiply=lambda: True))
    assert choose(1, sac, threads=1, compile=compile).matmul == matmul
    monkeypatch.setattr(execution, "_measure_matmul", None)  # from now on only the cache can answer
    assert choose(1, sac, threads=1, compile=compile).matmul == matmul


def test_bf16x6_is_refused_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="needs a compiled update: compilation is switched off"):
        choose(1, sac, compile="off", matmul="bf16x6")
    monkeypatch.setattr(execution, "_native", SimpleNamespace(can_multiply=lambda: False))
    with pytest.raises(UsageError, match="needs a CPU with AMX"):
        choose(1, sac, compile="on", matmul="bf16x6")


def test_calibration_is_measured_once_and_survives_a_broken_cache(tmp_path: Path) -> None:
    cache = tmp_path / "rlcli" / "products.json"
    cache.parent.mkdir()
    cache.write_text("{")
    execution.calibrated_matmul(128, 128, 1, compiled=True)
    (facts,) = json.loads(cache.read_text()).values()
    for fact in facts.values():
        assert fact["speedup"] > 0
        assert 0 < fact["error"] < 0.1


@pytest.mark.skipif(not _native.can_multiply(), reason="this CPU has no AMX units")
def test_compiled_wide_products_are_those_of_bfloat16_units() -> None:
    x, weight, goal = (torch.randn(96, 96, generator=torch.Generator().manual_seed(i)) for i in range(3))

    def update(state: Any, batch: Any) -> Any:
        error = batch["x"] @ state["weight"].T - goal
        return {"weight": error.T @ batch["x"]}, {"narrow": (batch["x"] @ state["weight"][:, :3]).sum()}

    compiled = CompiledUpdate(update, lambda: None, bf16x6=True)
    state, metrics = compiled({"weight": weight}, [("x",)], [x])
    error = products.product(x, weight.T) - goal
    assert torch.equal(state["weight"], products.product(error.T, x))
    exact = (x.double() @ weight.double().T - goal.double()).T @ x.double()
    torch.testing.assert_close(state["weight"].double(), exact, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(metrics["narrow"], (x @ weight[:, :3]).sum())


def test_execution_survives_json() -> None:
    chosen = choose(1)
    assert Execution.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen


def test_drawn_noise_has_the_asked_kind_and_shape() -> None:
    noise = draw(
        {"a": ("normal", (50_000,)), "b": ("uniform", (50_000, 1))}, torch.Generator().manual_seed(0)
    )
    assert noise["a"].std().item() == pytest.approx(1.0, abs=0.02)
    assert noise["b"].shape == (50_000, 1)
    assert noise["b"].min() >= 0
    assert noise["b"].max() < 1
