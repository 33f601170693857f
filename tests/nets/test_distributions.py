"""Log-probabilities against closed forms, where rounding and bounds are at their worst."""

from __future__ import annotations

import math

import pytest
import torch

from rlcli.nets.distributions import Categorical, DiagonalNormal, TanhNormal


def tanh_normal(
    mean: float, std: float, low: float = -1.0, high: float = 1.0, dtype=torch.float32
) -> TanhNormal:
    center, half_range = (high + low) / 2, (high - low) / 2
    return TanhNormal(
        torch.tensor([[mean]], dtype=dtype),
        torch.tensor([[math.log(std)]], dtype=dtype),
        torch.tensor([center], dtype=dtype),
        torch.tensor([half_range], dtype=dtype),
    )


@pytest.mark.parametrize("loc", range(0, 21))
def test_joint_log_prob_is_exact_however_saturated_tanh_is(loc: int) -> None:
    noise = torch.tensor([[0.3]])
    _, log_prob = tanh_normal(float(loc), 0.1).sample(noise)
    u = loc + 0.1 * 0.3
    log_normal = -0.5 * 0.3**2 - math.log(0.1) - 0.5 * math.log(2 * math.pi)
    # 1 - tanh(u)^2 = 4 e^(-2u) / (1 + e^(-2u))^2, evaluated in float64
    log_jacobian = math.log(4) - 2 * u - 2 * math.log1p(math.exp(-2 * u))
    assert log_prob.item() == pytest.approx(log_normal - log_jacobian, abs=1e-4)


def test_density_over_action_bounds_integrates_to_one() -> None:
    grid = torch.linspace(-2 + 1e-4, 2 - 1e-4, 40_001, dtype=torch.float64)
    distribution = tanh_normal(0.4, 0.7, low=-2.0, high=2.0, dtype=torch.float64)
    density = distribution.log_prob(grid.unsqueeze(-1)).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1.0, abs=1e-3)


def test_log_prob_of_a_sample_equals_the_joint_one_away_from_saturation() -> None:
    distribution = tanh_normal(0.2, 0.5, low=-2.0, high=2.0, dtype=torch.float64)
    action, joint = distribution.sample(torch.tensor([[0.7]], dtype=torch.float64))
    assert distribution.log_prob(action).item() == pytest.approx(joint.item(), abs=1e-9)


@pytest.mark.parametrize("action", [-1.0, 1.0])
def test_dataset_action_on_a_bound_has_finite_log_prob_and_gradient(action: float) -> None:
    mean = torch.tensor([[0.1]], requires_grad=True)
    distribution = TanhNormal(mean, torch.zeros(1, 1), torch.zeros(1), torch.ones(1))
    log_prob = distribution.log_prob(torch.tensor([[action]]))
    (grad,) = torch.autograd.grad(log_prob.sum(), mean)
    assert math.isfinite(log_prob.item())
    assert math.isfinite(grad.item())


def test_pendulum_bounds_are_reached() -> None:
    action, _ = tanh_normal(30.0, 0.1, low=-2.0, high=2.0).sample(torch.zeros(1, 1))
    assert action.item() == 2.0


def test_diagonal_normal_sums_over_action_dimensions() -> None:
    distribution = DiagonalNormal(torch.zeros(1, 3), torch.log(torch.tensor([1.0, 2.0, 0.5])))
    log_prob = distribution.log_prob(torch.tensor([[1.0, 2.0, 0.5]]))  # one deviation away in each
    expected = 3 * (-0.5 - 0.5 * math.log(2 * math.pi)) - math.log(1.0 * 2.0 * 0.5)
    assert log_prob.item() == pytest.approx(expected, abs=1e-6)
    entropy = 3 * 0.5 * math.log(2 * math.pi * math.e) + math.log(1.0 * 2.0 * 0.5)
    assert distribution.entropy().item() == pytest.approx(entropy, abs=1e-6)


def test_diagonal_normal_samples_shift_and_scale_the_noise() -> None:
    distribution = DiagonalNormal(torch.tensor([[1.0, -1.0]]), torch.log(torch.tensor([2.0, 0.5])))
    assert distribution.sample(torch.tensor([[1.0, -2.0]])).tolist() == [[3.0, -2.0]]


def test_categorical_samples_with_its_probabilities() -> None:
    probabilities = torch.tensor([0.1, 0.2, 0.7])
    noise = torch.rand(100_000, 3, generator=torch.Generator().manual_seed(0))
    sampled = Categorical(probabilities.log().expand(100_000, 3)).sample(noise)
    frequencies = torch.bincount(sampled, minlength=3) / 100_000
    assert torch.allclose(frequencies, probabilities, atol=0.005)


def test_categorical_survives_noise_of_exactly_zero() -> None:
    sampled = Categorical(torch.tensor([[0.0, 0.0]])).sample(torch.tensor([[0.0, 0.5]]))
    assert sampled.tolist() == [1]


def test_categorical_log_prob_and_entropy() -> None:
    distribution = Categorical(torch.tensor([[0.25, 0.75]]).log() + 5.0)
    assert distribution.log_prob(torch.tensor([1])).item() == pytest.approx(math.log(0.75), abs=1e-6)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert distribution.entropy().item() == pytest.approx(entropy, abs=1e-6)
    assert distribution.mode().tolist() == [1]
