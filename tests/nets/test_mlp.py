"""Perceptrons over one vector against torch.nn, and Adam against torch.optim."""

from __future__ import annotations

import math

import pytest
import torch

from rlcli.nets.adam import adam, clip_norm, init_adam
from rlcli.nets.mlp import MLP


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("activation", "module"), [("relu", torch.nn.ReLU), ("tanh", torch.nn.Tanh)])
def test_network_equals_torch_modules_with_its_weights(activation: str, module: type) -> None:
    mlp = MLP((3, 8, 5, 2), activation)
    params = mlp.init(seeded())
    assert params.shape == (mlp.num_params,)
    modules: list[torch.nn.Module] = []
    for weight, bias in mlp.layers(params)[0]:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight.data, linear.bias.data = weight, bias
        modules += [linear, module()]
    x = torch.randn(7, 3, generator=seeded(1))
    expected = torch.nn.Sequential(*modules[:-1])(x)
    torch.testing.assert_close(mlp(params, x), expected)


def test_ensemble_members_are_separate_networks() -> None:
    ensemble, single = MLP((3, 4, 1), num_members=2), MLP((3, 4, 1))
    params = ensemble.init(seeded())
    x = torch.randn(5, 3, generator=seeded(1))
    outputs = ensemble(params, x)
    assert outputs.shape == (2, 5, 1)
    for member, own in enumerate(params.view(2, single.num_params)):
        torch.testing.assert_close(outputs[member], single(own, x))
    assert not torch.equal(outputs[0], outputs[1])


def test_default_initialisation_is_uniform_in_the_inverse_root_of_fan_in() -> None:
    mlp = MLP((100, 200, 1))
    ((weight, bias), _) = mlp.layers(mlp.init(seeded()))[0]
    bound = 1 / math.sqrt(100)
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert bias.abs().max() <= bound


def test_orthogonal_initialisation_has_the_given_gains() -> None:
    mlp = MLP((4, 8, 2))
    (first, bias), (last, _) = mlp.layers(mlp.init(seeded(), orthogonal=True, output_gain=0.01))[0]
    torch.testing.assert_close(first.T @ first, 2 * torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(last @ last.T, 1e-4 * torch.eye(2), atol=1e-8, rtol=0)
    assert not bias.any()


def test_adam_takes_the_steps_of_torch_adam() -> None:
    start = torch.randn(50, generator=seeded())
    reference = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([reference], lr=1e-2, eps=1e-5)
    params, state = start, init_adam(start)
    for step in range(100):
        grad = torch.randn(50, generator=seeded(step)) * (1 + step)
        reference.grad = grad
        optimizer.step()
        params, state = adam(params, grad, state, 1e-2, eps=1e-5)
    torch.testing.assert_close(params, reference.detach(), rtol=1e-5, atol=1e-6)
    assert state["step"].item() == 100


def test_first_adam_step_has_the_length_of_the_learning_rate() -> None:
    params = torch.zeros(2)
    params, _ = adam(params, torch.tensor([5.0, -0.01]), init_adam(params), 0.1)
    torch.testing.assert_close(params, torch.tensor([-0.1, 0.1]), rtol=1e-5, atol=0)


def test_clip_norm_shortens_only_long_gradients() -> None:
    torch.testing.assert_close(clip_norm(torch.tensor([3.0, 4.0]), 1.0), torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(clip_norm(torch.tensor([0.3, 0.4]), 1.0), torch.tensor([0.3, 0.4]))
