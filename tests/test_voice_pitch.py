"""The phases that the bundled voice's codes tell, the codebook that has them, and the loss that teaches a decoder."""

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
from pitch import COUNTS, periods, phases, quarters
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
    assert found[0, 2:-1] == pytest.approx([hertz] * (4 * FRAMES - 2), rel=0.01)
    assert alike[0, 2:-1].min() > 0.95


@pytest.mark.parametrize("turn", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("hertz", [90.0, 171.0])
def test_the_phase_every_20_ms_is_the_waves(hertz: float, turn: float) -> None:
    found = quarters(voice(hertz, turn))[0, 2:-1]
    times = torch.arange(2, 4 * FRAMES) * FRAME / 4 / RATE
    assert apart(found.angle(), 2 * math.pi * (hertz * times - turn)) < 0.02
    assert found.abs().min() > 0.95


def test_silence_and_noise_have_no_phase() -> None:
    noise = 0.1 * torch.randn(1, FRAMES * FRAME, generator=torch.Generator().manual_seed(1))
    assert phases(torch.zeros(1, FRAMES * FRAME)).abs().max() == 0
    assert quarters(noise).abs().mean() < 0.1


def test_a_frame_tells_the_phases_of_its_halves_twice_those_and_its_beginning_and_end() -> None:
    sound = voice(150.0, 0.3)
    told = torch.view_as_complex(phases(sound)[0, 1:-1].unflatten(-1, (len(COUNTS), 2)))
    begin, first, _, second, end = quarters(sound)[0].angle().unfold(0, 5, 4)[1:-1].T
    assert apart(told.angle(), torch.stack([first, second, 2 * first, 2 * second, begin, end], -1)) < 1e-3
    assert told.abs() == pytest.approx(torch.tensor(COUNTS).expand_as(told), rel=0.05)


def test_a_frame_begins_with_the_phase_that_the_one_before_ended_with() -> None:
    begin, end = phases(voice(133.0, 0.1))[0, :, -4:].split(2, -1)
    assert torch.equal(begin[1:], end[:-1])
    assert end.norm(dim=-1)[:-1].min() > 0.9 * COUNTS[-1]


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
    hiss = torch.randn(1, FRAMES * FRAME, generator=torch.Generator().manual_seed(2)).diff(
        n=6, append=torch.zeros(1, 6)
    )
    assert loss(wanted, wanted) < 1e-3
    assert float(loss(0 * wanted, wanted)) == pytest.approx(1, abs=0.01)
    assert loss(-wanted, wanted) > 1.9
    assert loss(wanted + 1e-3 * hiss, wanted) < 0.1
    assert loss(voice(140.0, 0.05), wanted) < loss(voice(140.0, 0.25), wanted)
