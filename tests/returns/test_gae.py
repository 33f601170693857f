"""GAE's laws: two masks, true final values, no leak between episodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rlcli.returns.gae import gae, gae_torch

BOTH = pytest.mark.parametrize("estimate", [gae, gae_torch], ids=["native", "torch"])


def reference(reward, value, next_value, terminated, truncated, gamma, lam) -> NDArray[np.float64]:  # type: ignore[no-untyped-def]
    """Eq. 16 as the sum it is: every delta of the same episode at or after t, discounted."""
    num_steps, num_envs = reward.shape
    advantage = np.zeros((num_steps, num_envs))
    for t in range(num_steps):
        for e in range(num_envs):
            for later in range(t, num_steps):
                bootstrap = 0.0 if terminated[later, e] else next_value[later, e]
                delta = reward[later, e] + gamma * bootstrap - value[later, e]
                advantage[t, e] += (gamma * lam) ** (later - t) * delta
                if terminated[later, e] or truncated[later, e]:
                    break
    return advantage


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def flags(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool).unsqueeze(1)


@BOTH
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    num_steps=st.integers(1, 12),
    num_envs=st.sampled_from([1, 2, 3, 4, 7, 8, 13]),
    gamma=st.floats(0, 1),
    lam=st.floats(0, 1),
)
def test_equals_the_plain_sum(estimate, seed, num_steps, num_envs, gamma, lam) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, num_steps, num_envs))
    terminated, truncated = rng.random((2, num_steps, num_envs)) < 0.25
    arrays = (reward, value, next_value, terminated, truncated)
    result = estimate(*map(torch.from_numpy, arrays), gamma=gamma, lam=lam)
    np.testing.assert_allclose(result.numpy(), reference(*arrays, gamma, lam), atol=1e-9)


@BOTH
def test_truncated_step_bootstraps_and_terminated_does_not(estimate) -> None:  # type: ignore[no-untyped-def]
    args = (column(1.0), column(0.5), column(10.0))
    truncated = estimate(*args, flags(0), flags(1), gamma=0.9, lam=1.0)
    terminated = estimate(*args, flags(1), flags(0), gamma=0.9, lam=1.0)
    assert truncated.item() == pytest.approx(1 + 9 - 0.5)
    assert terminated.item() == pytest.approx(1 - 0.5)


@BOTH
def test_internal_truncation_uses_the_value_of_the_true_final_observation(estimate) -> None:  # type: ignore[no-untyped-def]
    # Row 0 ends its episode by a time limit: V(final) = 5, while the next row's observation has V = 0.
    result = estimate(
        column(0.0, 0.0), column(0.0, 0.0), column(5.0, 0.0), flags(0, 0), flags(1, 0), gamma=1.0, lam=1.0
    )
    assert result.flatten().tolist() == [5.0, 0.0]


@BOTH
def test_two_episodes_in_a_row_equal_each_alone(estimate) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)
    parts = []
    for length, ends_by_termination in ((4, True), (3, False)):
        floats = torch.randn(3, length, 1, generator=generator, dtype=torch.float64)
        last = torch.zeros(length, 1, dtype=torch.bool)
        last[-1] = True
        never = torch.zeros_like(last)
        parts.append(
            (*floats, last if ends_by_termination else never, never if ends_by_termination else last)
        )
    joined = [torch.cat(columns) for columns in zip(*parts, strict=True)]
    together = estimate(*joined, gamma=0.9, lam=0.8)
    alone = torch.cat([estimate(*part, gamma=0.9, lam=0.8) for part in parts])
    torch.testing.assert_close(together, alone)


@BOTH
def test_lambda_one_is_the_bootstrapped_return_minus_the_value(estimate) -> None:  # type: ignore[no-untyped-def]
    # No end inside: the last row bootstraps once, from its next value.
    result = estimate(
        column(1.0, 2.0), column(3.0, 4.0), column(4.0, 10.0), flags(0, 0), flags(0, 0), gamma=0.5, lam=1.0
    )
    assert result.flatten().tolist() == [1 + 0.5 * 2 + 0.25 * 10 - 3, 2 + 0.5 * 10 - 4]


def test_native_and_torch_agree_in_float32_on_strided_input() -> None:
    generator = torch.Generator().manual_seed(0)
    reward, value, next_value = torch.randn(3, 5, 40, generator=generator).transpose(1, 2)
    terminated, truncated = (torch.rand(2, 5, 40, generator=generator) < 0.2).transpose(1, 2)
    args = (reward, value, next_value, terminated, truncated)
    native, plain = (function(*args, gamma=0.99, lam=0.95) for function in (gae, gae_torch))
    assert native.dtype == torch.float32
    torch.testing.assert_close(native, plain, atol=1e-5, rtol=1e-5)


@BOTH
def test_wrong_arguments_are_refused(estimate) -> None:  # type: ignore[no-untyped-def]
    good, flag = torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"gamma is 1\.5"):
        estimate(good, good, good, flag, flag, gamma=1.5, lam=0.9)
    with pytest.raises(ValueError, match=r"\[T, E\]"):
        estimate(good, good[:1], good, flag, flag, gamma=0.9, lam=0.9)
