"""The measured cost of a candidate network, and what ``auto`` makes of it."""

from __future__ import annotations

import pytest
import torch

from engine import loader
from engine.loader import build_core
from engine.messages import EngineConfig
from engine.networks import CacheShape, Weights, build_network
from model.config import GPTConfig
from model.decoder import parameter_shapes
from model.fidelity import MAX_RISE, NUM_SEQUENCES, Fidelity, measure
from model.kernels import native
from model.network import Network

CONFIG = GPTConfig(
    vocab_size=50, num_positions=32, num_channels=32, num_layers=2, num_heads=2, num_inner=64
)


def weights(scale: float = 0.3) -> Weights:
    torch.manual_seed(0)
    tensors = {
        name: torch.randn(shape) * scale + ("ln_" in name and name.endswith("weight"))
        for name, shape in parameter_shapes(CONFIG).items()
    }
    return Weights(CONFIG, tensors, {})


def plain(given: Weights, dtype: str = "float32") -> Network:
    return build_network(given, dtype, None, CacheShape(NUM_SEQUENCES, 20))[0]


def test_a_network_costs_nothing_against_itself() -> None:
    given = weights()
    fidelity = measure(plain(given), plain(given), 49, 20)
    assert abs(fidelity.rise) < 1e-6
    assert 0.5 < fidelity.log_loss < 4
    assert fidelity.is_kept


def test_the_cost_grows_with_the_damage() -> None:
    """Both networks are sampled by the same reference, so the rises compare."""
    given = weights()
    reference = plain(given)
    rises = []
    for noise in (0.001, 0.01, 0.1):
        generator = torch.Generator().manual_seed(1)
        damaged = {
            name: tensor + noise * torch.randn(tensor.shape, generator=generator)
            for name, tensor in given.tensors.items()
        }
        rises.append(measure(reference, plain(Weights(CONFIG, damaged, {})), 49, 20).rise)
    assert 0 <= rises[0] < rises[1] < rises[2]
    assert rises[2] > 0.05


def test_a_rise_is_kept_up_to_its_share() -> None:
    assert Fidelity(4.0, 4.0 * MAX_RISE).is_kept
    assert not Fidelity(4.0, 4.1 * MAX_RISE).is_kept
    assert Fidelity(4.0, 0.02).share == pytest.approx(0.005)


@pytest.mark.parametrize("is_kept", [True, False])
def test_auto_takes_int8_only_if_it_keeps_quality(
    is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = native.load()
    if kernels is None or kernels.path == "plain":
        pytest.skip("no kernels that are fast at int8 on this machine")
    rise = 0.001 if is_kept else 1.0
    monkeypatch.setattr(loader, "measure", lambda *_: Fidelity(2.0, rise))
    given = weights()
    _, info = build_core(CONFIG, given.tensors, EngineConfig("", num_slots=1), "hash", "a test")
    assert (info.dtype == "int8") == is_kept
    assert info.log_loss_rise == rise / 2
    _, info = build_core(
        CONFIG, given.tensors, EngineConfig("", num_slots=1, dtype="bfloat16"), "hash", "a test"
    )
    assert info.log_loss_rise is None
