"""Where the pulses of a voice are: the phase of its pitch, four times a frame.

Spectra say how high a voice is, and not where in a frame its pulses are. A decoder that cannot know it puts them at the
same places of every frame, and their phase begins anew with each. So codes tell the phase of the lowest harmonic: in
the middle of both halves of a frame, where a decoder needs it, and at the frame's beginning and end. The beginning is
the end of the frame before, so a language model goes on with a voice by saying again what it has just said.

A network of few layers learns twice a phase with difficulty, so what it needs of it stands there as numbers: those of
the second harmonic.
"""

import math

import torch
import torch.nn.functional as F
from codec_net import FRAME
from torch import Tensor

QUARTER, HALF = FRAME // 4, FRAME // 2
RATE = 24_000
SLOWLY = 4  # samples that make one where periods are counted
BEFORE = 480  # samples before a window that are looked at, too: two periods of a deep voice
LOWEST, HIGHEST = 65, 400  # Hz
SHORTER = 0.0015  # a period of one more slow sample must be so much more alike: two periods are alike as well
VOICED = (0.6, 0.8)  # alike: no voice below, all voice above
# What each phase counts: so that all come out of codes 0.05 of a period off, and an encoder's squares see them, too.
COUNTS = (3.0, 3.0, 2.1, 2.1, 4.2, 4.2)
NUMBERS = 2 * len(COUNTS)  # that tell a frame's phases
QUIET = 0.05  # of the harmonic's amplitude, summed over a window: silence has no phase
SIZE = 1024  # of a Fourier transform that holds window and lags


def phases(sound: Tensor) -> Tensor:
    """[B, n * 1920] at 24 kHz -> [B, n, NUMBERS]: cosines and sines, 0 where there is no voice.

    Of the phase in the middle of both halves of a frame, of twice each, and of the phase at its beginning and its end.
    """
    begin, first, _, second, end = quarters(sound).unfold(1, 5, 4).unbind(2)
    turns = first, second, square(first), square(second), begin, end
    counted = torch.stack([count * turn for count, turn in zip(COUNTS, turns, strict=True)], -1)
    return torch.view_as_real(counted).flatten(-2)


def square(turn: Tensor) -> Tensor:
    """Twice the phase, as sure as it was."""
    return turn * turn / turn.abs().clamp(min=1e-4)


def quarters(sound: Tensor) -> Tensor:
    """[B, n * 1920] -> complex [B, 4n + 1]: the phase every 20 ms, from the beginning to the end; its size is 1 in a
    voice, 0 without. Of a window of 40 ms around; beyond the sound, there is silence.
    """
    hertz, alike = periods(sound)
    at = torch.arange(HALF, device=sound.device) - HALF / 2
    angle = 2 * math.pi / RATE * hertz[..., None] * at
    windows = around(sound, 0) * torch.hann_window(HALF, device=sound.device)
    turn = torch.complex((windows * angle.cos()).sum(-1), -(windows * angle.sin()).sum(-1))
    voice = ((alike - VOICED[0]) / (VOICED[1] - VOICED[0])).clamp(0, 1)
    return turn * voice / (turn.abs() + QUIET)


def around(sound: Tensor, before: int) -> Tensor:
    """Windows [B, 4n + 1, HALF + before] of [B, n * 1920]: 20 ms on both sides of a quarter's border, more before."""
    return F.pad(sound, (QUARTER + before, QUARTER)).unfold(1, HALF + before, QUARTER)


def periods(sound: Tensor) -> tuple[Tensor, Tensor]:
    """[B, n * 1920] -> every 20 ms: how high the voice is, Hz, and how alike its periods are, -1 to 1; [B, 4n + 1]."""
    windows = around(sound, BEFORE).unflatten(-1, (-1, SLOWLY)).mean(-1)
    windows = windows - windows.mean(-1, keepdim=True)
    first, last = RATE // SLOWLY // HIGHEST, RATE // SLOWLY // LOWEST
    lags = torch.arange(last + 2, device=sound.device)
    power = torch.fft.rfft(windows, SIZE).abs().square()
    energy = F.pad(windows.square().cumsum(-1), (1, 0))
    count = windows.shape[-1]
    both = energy[..., count - lags] * (energy[..., -1:] - energy[..., lags])
    alike = torch.fft.irfft(power, SIZE)[..., : last + 2] / (both + 1e-6).sqrt()
    best = (alike - SHORTER * lags)[..., first : last + 1].argmax(-1) + first
    before, here, behind = (alike.gather(-1, (best + step)[..., None])[..., 0] for step in (-1, 0, 1))
    # The top of a parabola through three points: a period is seldom a whole number of samples.
    bend = (before - 2 * here + behind).clamp(max=-1e-6)
    return RATE / SLOWLY / (best + (0.5 * (before - behind) / bend).clamp(-0.5, 0.5)), here
