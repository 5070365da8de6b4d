"""What the bundled checkpoint gives back: its analysis and its weights as floats; a schedule for the rest of a call."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).parent.parent / "scripts" / "bundled-voice"))
import codec_net
import export
import recover
from spectra import KEPT, SPECTRAL
from torch import Tensor
from training import Schedule

FRAMES, FEATURES = 20_000, 96

pytestmark = pytest.mark.usefixtures("one_thread")


def spectra_and_axes() -> tuple[Tensor, Tensor, Tensor]:
    """Spectra [N, features], axes [features, 52] of what they have most of, and how much each of those spreads."""
    generator = torch.Generator().manual_seed(5)
    turn = torch.linalg.qr(torch.randn(FEATURES, FEATURES, generator=generator))[0]
    spread = 0.96 ** torch.arange(FEATURES)
    spectra = torch.randn(FRAMES, FEATURES, generator=generator) * spread @ turn.T + 3
    return spectra, turn[:, :SPECTRAL].contiguous(), spread[:SPECTRAL]


def test_an_analysis_is_recovered_from_an_encoder_that_errs() -> None:
    spectra, axes, spread = spectra_and_axes()
    exact = (spectra - 3) @ axes
    # What squares teach: of each component the part that it hears, and its errors have nothing to do with what it says.
    heard = torch.linspace(0.95, 0.5, SPECTRAL)
    noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(6)) * spread
    said = heard * exact + (heard * (1 - heard)).sqrt() * noise
    phases = torch.zeros(FRAMES, KEPT - SPECTRAL)
    analysis, lengths = recover.analysis_of(
        recover.Pairs(spectra, phases, torch.cat([said, phases], -1)), spread.double()
    )
    found = (spectra - analysis.mean) @ analysis.axes
    assert torch.allclose(analysis.axes.T @ analysis.axes, torch.eye(SPECTRAL), atol=1e-5)
    assert (lengths - 1).abs().max() < 0.06
    assert (found - exact).square().mean() < 0.01 * exact.var()
    assert (said - exact).square().mean() > 0.1 * exact.var()


def test_how_much_components_spread_is_read_from_the_codec() -> None:
    net, spread = codec_net.CodecNet(codec_net.new_weights(1)), torch.linspace(16, 0.5, KEPT)
    net.see(spread)
    assert torch.allclose(recover.spread_of(net), spread[:SPECTRAL].double(), rtol=1e-4)


def test_weights_in_8_bits_become_floats_under_the_same_names(tmp_path: Path) -> None:
    weights = {"layer": torch.randn(3, 5, 64), "norm": torch.randn(64)}
    save_file(export.small(weights), tmp_path / "model.safetensors")
    found = recover.weights_of(tmp_path / "model.safetensors")
    assert set(found) == set(weights)
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
    assert all((found[name] - weights[name]).norm() < 0.01 * weights[name].norm() for name in weights)


def test_a_schedule_for_the_rest_of_a_call_ends_with_it() -> None:
    schedule = Schedule(0, peak=1.0, warm_up=0.1, spent=20.0)
    schedule.fill(80.0)
    assert schedule.progress == 0.2
    schedule.spent = 100.0
    assert (schedule.progress, schedule.rate) == (1.0, 0.01)


def test_a_slope_leaves_a_component_that_spreads_far_more_and_keeps_its_own() -> None:
    spectra, axes, spread = spectra_and_axes()
    seen, exact = (spectra - 3).double(), ((spectra - 3) @ axes).double()
    heard = 0.5 * exact + 0.5 * spread * torch.randn(exact.shape, generator=torch.Generator().manual_seed(6))
    seen_seen, said_said, seen_said = (a.T @ b / FRAMES for a, b in ((seen, seen), (heard, heard), (seen, heard)))
    slopes = axes.double().clone()
    slopes[:, -1] += 0.3 * axes[:, 0]
    found = recover.likely(slopes, spread.double(), seen_seen, said_said, seen_said)
    assert (found[:, -1] @ axes[:, 0].double()).abs() < 0.15
    assert found[:, -1] @ axes[:, -1].double() > 0.9
