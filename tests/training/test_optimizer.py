"""Initial values, and which parameters each optimiser moves and decays."""

from __future__ import annotations

import copy

import pytest
import torch

from model.config import GPTConfig
from model.decoder import GPT
from training.optimizer import OPTIMIZERS, Optimizer, OptimizerName, initialise

CONFIG = GPTConfig(
    vocab_size=300, num_positions=64, num_channels=64, num_layers=8, num_heads=2, num_inner=256
)


@pytest.fixture
def model() -> GPT:
    model = GPT(CONFIG)
    initialise(model, seed=0)
    return model


def test_initial_values_are_gpt2s(model: GPT) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight"):
            assert parameter.std().item() == pytest.approx(0.02 / 4, rel=0.05)  # 2 x 8 layers
        elif parameter.dim() == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05)
        else:
            assert bool((parameter == (1.0 if ".weight" in name else 0.0)).all()), name


def test_the_seed_makes_the_start(model: GPT) -> None:
    other = GPT(CONFIG)
    initialise(other, seed=0)
    assert torch.equal(other.wte.weight, model.wte.weight)
    initialise(other, seed=1)
    assert not torch.equal(other.wte.weight, model.wte.weight)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_everything_moves_and_only_matrices_decay(model: GPT, name: OptimizerName) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    moving = Optimizer(model, name, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    moving.step(0.1)
    for parameter_name, parameter in model.named_parameters():
        expected = 0.95 if parameter.dim() == 2 else 1.0
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected), msg=name)
        assert parameter.grad is None, parameter_name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_goes_on_bit_for_bit(model: GPT, name: OptimizerName) -> None:
    def advance(model: GPT, optimizer: Optimizer) -> None:
        for index, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(index)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step(0.01)

    first = Optimizer(model, name, weight_decay=0.1)
    advance(model, first)
    twin = GPT(CONFIG)
    twin.load_state_dict(model.state_dict())
    second = Optimizer(twin, name, weight_decay=0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    advance(model, first)
    advance(twin, second)
    pairs = zip(model.parameters(), twin.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
