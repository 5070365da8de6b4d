"""The phases that the bundled voice's codes tell, the codebook that has them, and the loss that a decoder learns them by."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent.parent / "scripts" / "bundled-voice"))
import codec
from codec_net import ACOUSTIC, FRAME, SEMANTIC, CodecNet, new_weights
from losses import WaveLoss
from pitch import NUMBERS, halves, periods, phases
from spectra import KEPT, SPECTRAL, Analysis

FRAMES, RATE = 6, 24_000

pytestmark = pytest.mark.usefixtures("one_thread")


def voice(hertz: float, turn: float = 0.0, frames: int = FRAMES) -> Tensor:
    """A voice with five harmonics, each half as loud as the one below, [1, samples]; turn: of a period, its delay."""
    time = torch.arange(frames * FRAME) / RATE
    return 0.1 * sum(torch.cos(2 * math.pi * n * (hertz * time - turn)) / 2**n for n in range(1, 6))[None]


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest distance between two angles, in periods."""
    turns = (found - expected) / (2 * math.pi)
    return float((turns - turns.round()).abs().max())


@pytest.mark.parametrize("hertz", [78.0, 103.0, 167.3, 240.0, 330.0])
def test_a_voices_pitch_is_found_to_a_hundredth(hertz: float) -> None:
    found, alike = periods(voice(hertz))
    assert found[0, 1:] == pytest.approx([hertz] * (2 * FRAMES - 1), rel=0.01)
    assert alike[0, 1:].min() > 0.95


@pytest.mark.parametrize("turn", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("hertz", [90.0, 171.0])
def test_the_phase_in_the_middle_of_each_half_is_the_waves(hertz: float, turn: float) -> None:
    found = halves(voice(hertz, turn))[0, 1:]
    middles = (torch.arange(1, 2 * FRAMES) + 0.5) * FRAME / 2 / RATE
    assert apart(found.angle(), 2 * math.pi * (hertz * middles - turn)) < 0.02
    assert found.abs().min() > 0.95


def test_silence_and_noise_have_no_phase() -> None:
    noise = 0.1 * torch.randn(1, FRAMES * FRAME, generator=torch.Generator().manual_seed(1))
    assert phases(torch.zeros(1, FRAMES * FRAME)).abs().max() == 0
    assert halves(noise).abs().mean() < 0.1


def test_a_frame_tells_both_phases_twice_each_their_difference_and_their_sum() -> None:
    sound = voice(150.0, 0.3)
    told = torch.view_as_complex(phases(sound)[0, 1:].unflatten(-1, (NUMBERS // 2, 2)))
    first, second = halves(sound)[0, 2::2].angle(), halves(sound)[0, 3::2].angle()
    expected = torch.stack([first, second, 2 * first, 2 * second, second - first, second + first], -1)
    assert apart(told.angle(), expected) < 1e-3


def test_the_last_codebook_has_the_phases_and_the_others_the_spectra() -> None:
    sounds = torch.cat([voice(80 + 3.1 * n, n / 17, 8) for n in range(120)])
    analysis = Analysis.of([sounds[::7]])
    found = analysis.latents(sounds)[:, 1:].flatten(0, 1)
    net = CodecNet(new_weights(1))
    net.see(found.std(0))
    net.place_codebooks(codec.widened(found), SPECTRAL, rounds=2)
    *spectral, last = [*net.books(SEMANTIC), *net.books(ACOUSTIC)]
    assert all(net.entries(book)[:, SPECTRAL:].abs().max() == 0 for book in spectral)
    assert net.entries(last)[:, :SPECTRAL].abs().max() == 0
    kept = net.acoustic(net.quantize(codec.widened(found[None])))[0]
    missed = [(kept - found)[:, part].var() / found[:, part].var() for part in (slice(SPECTRAL), slice(SPECTRAL, KEPT))]
    assert max(missed) < 0.2
    turned = found.clone()
    turned[:, SPECTRAL:] = found[:, SPECTRAL:].roll(40, 0)
    both = [net.quantize(codec.widened(each[None]))[0] for each in (found, turned)]
    assert torch.equal(both[0][:-1], both[1][:-1])
    assert not torch.equal(both[0][-1], both[1][-1])


def test_the_wave_loss_hears_phases_where_a_voice_is_and_no_noise_above() -> None:
    loss, wanted = WaveLoss(torch.device("cpu")), voice(140.0)
    hiss = torch.randn(1, FRAMES * FRAME, generator=torch.Generator().manual_seed(2)).diff(n=6, append=torch.zeros(1, 6))
    assert loss(wanted, wanted) < 1e-3
    assert float(loss(0 * wanted, wanted)) == pytest.approx(1, abs=0.01)
    assert loss(-wanted, wanted) > 1.9
    assert loss(wanted + 1e-3 * hiss, wanted) < 0.1
    assert loss(voice(140.0, 0.05), wanted) < loss(voice(140.0, 0.25), wanted)
