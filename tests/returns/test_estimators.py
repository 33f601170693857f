"""Lambda-returns, V-trace and n-step against slow references, hand-worked numbers and laws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from rlcli.returns.gae import gae, gae_torch
from rlcli.returns.n_step import n_step, n_step_torch
from rlcli.returns.td_lambda import discounted_return, reward_to_go, td_lambda, td_lambda_torch
from rlcli.returns.vtrace import vtrace, vtrace_torch

Rollout = dict[str, Tensor]
Array = NDArray[np.float64]
LAMBDA = pytest.mark.parametrize("estimate", [td_lambda, td_lambda_torch], ids=["native", "torch"])
TRACE = pytest.mark.parametrize("estimate", [vtrace, vtrace_torch], ids=["native", "torch"])
STEPS = pytest.mark.parametrize("estimate", [n_step, n_step_torch], ids=["native", "torch"])
SHAPES = {
    "seed": st.integers(0, 2**31),
    "num_steps": st.integers(1, 12),
    "num_envs": st.integers(1, 4),
    "gamma": st.floats(0, 1),
}


def rollout(seed: int, num_steps: int, num_envs: int, ends: float = 0.2) -> Rollout:
    """A consistent one: inside an episode V(s') of a row is V(s) of the row after."""
    rng = np.random.default_rng(seed)
    reward, value, final = rng.normal(size=(3, num_steps, num_envs))
    terminated, truncated = rng.random((2, num_steps, num_envs)) < ends
    done = terminated | truncated
    next_value = np.where(done, final, np.concatenate([value[1:], final[-1:]]))
    arrays = {
        "reward": reward, "value": value, "next_value": next_value,
        "terminated": terminated, "truncated": truncated,
    }  # fmt: skip
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def every_pattern(num_steps: int) -> Rollout:
    """One column `[T]` for each way in which steps may terminate, be truncated, or both: 4^T of them."""
    ways = torch.cartesian_prod(*[torch.arange(4)] * num_steps).view(-1, num_steps).T.contiguous()
    generator = torch.Generator().manual_seed(0)
    reward, value, final = torch.randn(3, *ways.shape, generator=generator, dtype=torch.float64)
    following = torch.cat([value[1:], final[-1:]])
    next_value = torch.where(ways > 0, final, following)
    flags = {"terminated": ways % 2 == 1, "truncated": ways >= 2}
    return {"reward": reward, "value": value, "next_value": next_value, **flags}


def without(given: Rollout, *names: str) -> Rollout:
    return {name: tensor for name, tensor in given.items() if name not in names}


def numbers(given: Rollout) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in given.items()}


def slow_lambda_return(x: dict[str, Any], gamma: float, lam: float) -> Array:
    """Eq. 12.18 forwards: the mixture of all n-step returns with weights (1 - lam) lam^(n-1)."""
    num_steps, num_envs = x["reward"].shape
    found = np.zeros((num_steps, num_envs))
    for e in range(num_envs):
        for t in range(num_steps):
            total, weight, rewards = 0.0, 1.0, 0.0
            for k in range(t, num_steps):
                rewards += gamma ** (k - t) * x["reward"][k, e]
                alive = not x["terminated"][k, e]
                n_step_return = rewards + gamma ** (k - t + 1) * (x["next_value"][k, e] if alive else 0.0)
                if x["terminated"][k, e] or x["truncated"][k, e] or k == num_steps - 1:
                    total += weight * n_step_return
                    break
                total += weight * (1 - lam) * n_step_return
                weight *= lam
            found[t, e] = total
    return found


def slow_vtrace(
    x: dict[str, Any], ratio: Array, gamma: float, lam: float, rho_bar: float, c_bar: float
) -> tuple[Array, Array]:
    """Eq. 1 as the double sum it is, and section 4.2 with it."""
    num_steps, num_envs = x["reward"].shape
    target, advantage = x["value"].copy(), np.zeros((num_steps, num_envs))
    for e in range(num_envs):
        for t in range(num_steps):
            trace = 1.0
            for k in range(t, num_steps):
                bootstrap = 0.0 if x["terminated"][k, e] else x["next_value"][k, e]
                difference = x["reward"][k, e] + gamma * bootstrap - x["value"][k, e]
                target[t, e] += gamma ** (k - t) * trace * min(rho_bar, ratio[k, e]) * difference
                if x["terminated"][k, e] or x["truncated"][k, e]:
                    break
                trace *= lam * min(c_bar, ratio[k, e])
        for t in range(num_steps):
            is_last = x["truncated"][t, e] or t == num_steps - 1
            following = x["next_value"][t, e] if is_last else target[t + 1, e]
            following = 0.0 if x["terminated"][t, e] else following
            rho = min(rho_bar, ratio[t, e])
            advantage[t, e] = rho * (x["reward"][t, e] + gamma * following - x["value"][t, e])
    return target, advantage


def slow_n_step(x: dict[str, Any], gamma: float, n: int) -> tuple[Array, Array, Array]:
    num_steps, num_envs = x["reward"].shape
    found, discount, last = np.zeros((3, num_steps, num_envs))
    for e in range(num_envs):
        for t in range(num_steps):
            for m, k in enumerate(range(t, min(t + n, num_steps)), 1):
                found[t, e] += gamma ** (m - 1) * x["reward"][k, e]
                discount[t, e] = 0.0 if x["terminated"][k, e] else gamma**m
                last[t, e] = k * num_envs + e
                if x["terminated"][k, e] or x["truncated"][k, e]:
                    break
    return found, discount, last


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_every_pattern_of_ends(num_steps: int, dtype: torch.dtype) -> None:
    """Native and plain versions against the slow references, whatever ends where, in both dtypes."""
    exact = every_pattern(num_steps)
    assert exact["reward"].shape == (num_steps, 4**num_steps)
    given = {name: x if x.dtype == torch.bool else x.to(dtype) for name, x in exact.items()}
    log_ratio = torch.linspace(-1, 1, exact["reward"].numel(), dtype=torch.float64).view_as(exact["reward"])
    plain, gamma, lam, n = numbers(exact), 0.9, 0.8, 3
    target = slow_lambda_return(plain, gamma, lam)
    trace = slow_vtrace(plain, log_ratio.exp().numpy(), gamma, lam, 1.0, 1.0)
    steps = slow_n_step(plain, gamma, n)
    ends = {"gamma": gamma, "lam": lam}
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5

    def same(found: Tensor, wanted: Array) -> None:
        np.testing.assert_allclose(found.double().numpy(), wanted, atol=tolerance)

    for advantage in (gae, gae_torch):
        same(advantage(**given, **ends), target - plain["value"])
    for estimate in (td_lambda, td_lambda_torch):
        same(estimate(**without(given, "value"), **ends), target)
    for estimate in (vtrace, vtrace_torch):
        for found, wanted in zip(estimate(log_ratio.to(dtype), **given, **ends), trace, strict=True):
            same(found, wanted)
    for estimate in (n_step, n_step_torch):
        found = estimate(**without(given, "value", "next_value"), gamma=gamma, n=n)
        for part, wanted in zip(found, steps, strict=True):
            same(part, wanted)


@LAMBDA
@settings(max_examples=25, deadline=None)
@given(**SHAPES, lam=st.floats(0, 1))
def test_lambda_return_is_the_mixture_of_n_step_returns(  # type: ignore[no-untyped-def]
    estimate, seed, num_steps, num_envs, gamma, lam
) -> None:
    given = rollout(seed, num_steps, num_envs)
    found = estimate(**without(given, "value"), gamma=gamma, lam=lam)
    np.testing.assert_allclose(found.numpy(), slow_lambda_return(numbers(given), gamma, lam), atol=1e-9)


@LAMBDA
def test_lambda_zero_is_one_step_and_one_is_monte_carlo(estimate) -> None:  # type: ignore[no-untyped-def]
    reward, flags = torch.tensor([1.0, 2.0, 4.0]), torch.zeros(3, dtype=torch.bool)
    ends = torch.tensor([False, False, True])
    next_value = torch.tensor([10.0, 20.0, 40.0])
    one_step = estimate(reward, next_value, flags, ends, gamma=0.5, lam=0.0)
    assert one_step.tolist() == [6.0, 12.0, 24.0]
    truncated = estimate(reward, next_value, flags, ends, gamma=0.5, lam=1.0)
    assert truncated.tolist() == [1 + 1 + 1 + 5.0, 2 + 2 + 10.0, 24.0]
    terminated = estimate(reward, next_value * torch.nan, ends | True, flags, gamma=0.5, lam=1.0)
    assert terminated.tolist() == [1.0, 2.0, 4.0]


@settings(max_examples=25, deadline=None)
@given(**SHAPES, lam=st.floats(0, 1))
def test_gae_is_the_lambda_return_minus_the_value(  # type: ignore[no-untyped-def]
    seed, num_steps, num_envs, gamma, lam
) -> None:
    given = rollout(seed, num_steps, num_envs)
    advantage = gae(**given, gamma=gamma, lam=lam)
    target = td_lambda(**without(given, "value"), gamma=gamma, lam=lam)
    torch.testing.assert_close(advantage, target - given["value"], atol=1e-9, rtol=0)


@settings(max_examples=25, deadline=None)
@given(**SHAPES)
def test_reward_to_go_is_the_return_of_worthless_ends(seed, num_steps, num_envs, gamma) -> None:  # type: ignore[no-untyped-def]
    given = without(rollout(seed, num_steps, num_envs), "value")
    given["next_value"] = torch.zeros_like(given["next_value"])
    found = reward_to_go(**without(given, "next_value"), gamma=gamma)
    torch.testing.assert_close(found, discounted_return(**given, gamma=gamma), atol=1e-9, rtol=0)


def test_reward_to_go_keeps_bootstraps_out_and_the_return_has_them() -> None:
    reward, ends = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([False, False, True])
    never = torch.zeros(3, dtype=torch.bool)
    assert reward_to_go(reward, never, ends).tolist() == [7.0, 6.0, 4.0]
    found = discounted_return(reward, torch.full((3,), 10.0), never, ends, gamma=1.0)
    assert found.tolist() == [17.0, 16.0, 14.0]


@TRACE
@settings(max_examples=25, deadline=None)
@given(**SHAPES, lam=st.floats(0, 1), rho_bar=st.floats(0.1, 3), c_bar=st.floats(0.1, 3))
def test_vtrace_is_the_double_sum_of_the_paper(  # type: ignore[no-untyped-def]
    estimate, seed, num_steps, num_envs, gamma, lam, rho_bar, c_bar
) -> None:
    given = rollout(seed, num_steps, num_envs)
    log_ratio = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(num_steps, num_envs)))
    found = estimate(log_ratio, **given, gamma=gamma, lam=lam, rho_bar=rho_bar, c_bar=c_bar)
    wanted = slow_vtrace(numbers(given), log_ratio.exp().numpy(), gamma, lam, rho_bar, c_bar)
    np.testing.assert_allclose(found.target.numpy(), wanted[0], atol=1e-9)
    np.testing.assert_allclose(found.advantage.numpy(), wanted[1], atol=1e-9)


@TRACE
def test_vtrace_on_policy_is_the_n_step_target(estimate) -> None:  # type: ignore[no-untyped-def]
    given = rollout(3, 9, 2)
    found = estimate(torch.zeros(9, 2, dtype=torch.float64), **given, gamma=0.9)
    target = discounted_return(**without(given, "value"), gamma=0.9)
    torch.testing.assert_close(found.target, target, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.advantage, target - given["value"], atol=1e-9, rtol=0)


@TRACE
def test_vtrace_never_looks_into_the_next_episode(estimate) -> None:  # type: ignore[no-untyped-def]
    given = rollout(0, 4, 1, ends=0.0)
    given["truncated"][1] = True
    log_ratio = torch.full((4, 1), 0.5, dtype=torch.float64)
    before = estimate(log_ratio, **given, gamma=0.9)
    given["reward"][2:] += 100.0
    given["value"][2:] -= 50.0
    after = estimate(log_ratio, **given, gamma=0.9)
    assert torch.equal(before.target[:2], after.target[:2])
    assert torch.equal(before.advantage[:2], after.advantage[:2])


@STEPS
@settings(max_examples=40, deadline=None)
@given(**SHAPES, n=st.integers(1, 15))
def test_n_step_sums_what_there_is(estimate, seed, num_steps, num_envs, gamma, n) -> None:  # type: ignore[no-untyped-def]
    given = without(rollout(seed, num_steps, num_envs), "value", "next_value")
    found = estimate(**given, gamma=gamma, n=n)
    for got, wanted in zip(found, slow_n_step(numbers(given), gamma, n), strict=True):
        np.testing.assert_allclose(got.numpy(), wanted, atol=1e-9)


@STEPS
def test_n_step_takes_the_last_steps_termination_and_gamma_to_the_m(estimate) -> None:  # type: ignore[no-untyped-def]
    reward = torch.tensor([1.0, 1.0, 1.0, 1.0])
    ends, never = torch.tensor([False, False, False, True]), torch.zeros(4, dtype=torch.bool)
    terminated = estimate(reward, ends, never, gamma=0.5, n=3)
    assert terminated.return_.tolist() == [1.75, 1.75, 1.5, 1.0]
    assert terminated.discount.tolist() == [0.125, 0.0, 0.0, 0.0]
    assert terminated.last.tolist() == [2, 3, 3, 3]
    truncated = estimate(reward, never, ends, gamma=0.5, n=3)
    assert truncated.discount.tolist() == [0.125, 0.125, 0.25, 0.5]


def test_long_n_with_its_bootstrap_is_the_discounted_return() -> None:
    given = rollout(5, 10, 3)
    steps = n_step(given["reward"], given["terminated"], given["truncated"], gamma=0.9, n=10)
    total = steps.return_ + steps.discount * given["next_value"].flatten()[steps.last]
    torch.testing.assert_close(
        total, discounted_return(**without(given, "value"), gamma=0.9), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_episodes_one_after_the_other_equal_columns(dtype: torch.dtype) -> None:
    given = {k: v.to(dtype) if v.dtype != torch.bool else v for k, v in rollout(7, 6, 3).items()}
    given["truncated"][-1] = True  # every column ends, so that nothing is carried to the next one
    flat = {name: tensor.T.reshape(-1) for name, tensor in given.items()}
    ratio = torch.linspace(-1, 1, 18, dtype=dtype).view(6, 3)
    pairs = [
        (gae(**flat, gamma=0.9, lam=0.8), gae(**given, gamma=0.9, lam=0.8)),
        (
            td_lambda(**without(flat, "value"), gamma=0.9, lam=0.8),
            td_lambda(**without(given, "value"), gamma=0.9, lam=0.8),
        ),
        (vtrace(ratio.T.reshape(-1), **flat, gamma=0.9).target, vtrace(ratio, **given, gamma=0.9).target),
    ]
    for rows, columns in pairs:
        assert rows.dtype == dtype
        assert torch.equal(rows.view(3, 6).T, columns)


def test_many_environments_in_two_threads_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {k: v.float() if v.dtype != torch.bool else v for k, v in rollout(1, 40, 4096).items()}
    alone = gae(**given, gamma=0.99, lam=0.95)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(gae(**given, gamma=0.99, lam=0.95), alone)
    finally:
        torch.set_num_threads(before)


def test_gradients_flow_where_they_are_wanted() -> None:
    given = rollout(2, 5, 2)
    given["next_value"].requires_grad_()
    td_lambda(**without(given, "value"), gamma=0.9, lam=0.8).sum().backward()
    assert given["next_value"].grad is not None
    assert not given["next_value"].grad[given["terminated"]].any()
    given = {name: tensor.detach() for name, tensor in given.items()}
    given["value"].requires_grad_()
    gae(**given, gamma=0.9, lam=0.8).sum().backward()
    assert given["value"].grad is not None
    with torch.no_grad():
        assert torch.equal(gae(**given, gamma=0.9, lam=0.8), gae(**given, gamma=0.9, lam=0.8))


def test_gradients_are_those_of_finite_differences() -> None:
    given = every_pattern(2)
    flags = (given["terminated"], given["truncated"])
    reward, value, next_value = (given[name].requires_grad_() for name in ("reward", "value", "next_value"))
    for advantage in (gae, gae_torch):
        assert torch.autograd.gradcheck(
            lambda *x, of=advantage: of(*x, *flags, gamma=0.9, lam=0.8), (reward, value, next_value)
        )
    for target in (td_lambda, td_lambda_torch):
        assert torch.autograd.gradcheck(
            lambda *x, of=target: of(*x, *flags, gamma=0.9, lam=0.8), (reward, next_value)
        )
    for steps in (n_step, n_step_torch):
        assert torch.autograd.gradcheck(lambda x, of=steps: of(x, *flags, gamma=0.9, n=2).return_, (reward,))


def test_no_gradient_flows_through_vtrace() -> None:
    given = rollout(2, 5, 2)
    given["value"].requires_grad_()
    found = vtrace(torch.zeros(5, 2, dtype=torch.float64), **given, gamma=0.9)
    assert not found.target.requires_grad
    assert not found.advantage.requires_grad


def test_other_dtypes_take_the_plain_version() -> None:
    given = {k: v.bfloat16() if v.dtype != torch.bool else v for k, v in rollout(4, 5, 2).items()}
    assert torch.equal(gae(**given, gamma=0.9, lam=0.8), gae_torch(**given, gamma=0.9, lam=0.8))


def test_wrong_arguments_are_refused() -> None:
    good, flag = torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"lam is -0\.1"):
        td_lambda(good, good, flag, flag, gamma=0.9, lam=-0.1)
    with pytest.raises(ValueError, match="must not be negative"):
        vtrace(good, good, good, good, flag, flag, gamma=0.9, rho_bar=-1.0)
    with pytest.raises(ValueError, match="n is 0"):
        n_step(good, flag, flag, gamma=0.9, n=0)
    with pytest.raises(ValueError, match="one shape"):
        reward_to_go(good, flag[:1], flag)
