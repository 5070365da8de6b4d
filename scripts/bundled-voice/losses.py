"""How far what the codec makes is from what it should make."""

import math

import torch
from torch import Tensor

RATE = 24_000
HIGHEST = 1_200  # Hz of what has a phase to learn
FLOOR = 2e-5  # of a spectrum, by its size: some 60 dB under speech. Lower, it is silence that training is about


class SpectralLoss:
    """How far two sounds are apart: log-mel and linear spectra of three window lengths."""

    def __init__(self, device: torch.device) -> None:
        self.scales = [
            (size, torch.hann_window(size, device=device), mel_basis(size, mels).to(device))
            for size, mels in ((256, 32), (512, 64), (1024, 80), (2048, 128))
        ]

    def __call__(self, made: Tensor, wanted: Tensor) -> Tensor:
        total = made.new_zeros(())
        for size, window, basis in self.scales:
            a, b = (_sizes(_spectrum(sound, size, window)) for sound in (made, wanted))
            floor = FLOOR * size
            total = total + (torch.log(a + floor) - torch.log(b + floor)).abs().mean() + (a - b).norm() / b.norm()
            mels = [torch.log(torch.matmul(basis, s) + floor) for s in (a, b)]
            total = total + 2 * (mels[0] - mels[1]).abs().mean()
        return total / len(self.scales)

    def mels(self, made: Tensor, wanted: Tensor) -> Tensor:
        """How far the log-mel spectra of the second longest window are apart, in natural logarithms."""
        size, window, basis = self.scales[2]
        a, b = (torch.log(basis @ _sizes(_spectrum(sound, size, window)) + FLOOR * size) for sound in (made, wanted))
        return (a - b).abs().mean()


class WaveLoss:
    """How far two sounds are apart below HIGHEST Hz, phases and all: 0 if they are the same, 1 where one is silent.

    Only what is said by codes can be learnt of phases: those of a voice's low harmonics (pitch.py). Noise is above.
    """

    def __init__(self, device: torch.device) -> None:
        self.scales = [(size, torch.hann_window(size, device=device)) for size in (512, 1024, 2048)]

    def __call__(self, made: Tensor, wanted: Tensor) -> Tensor:
        losses = []
        for size, window in self.scales:
            lowest = slice(1, HIGHEST * size // RATE)
            a, b = (_spectrum(sound, size, window)[:, lowest] for sound in (made, wanted))
            losses.append(_sizes(a - b).mean() / _sizes(b).mean())
        return torch.stack(losses).mean()


def _spectrum(sound: Tensor, size: int, window: Tensor) -> Tensor:
    """[B, T] -> [B, bins, windows, 2], real and imaginary parts."""
    return torch.view_as_real(torch.stft(sound, size, size // 4, window=window, center=True, return_complex=True))


def _sizes(spectrum: Tensor) -> Tensor:
    """Of numbers [..., 2], real and imaginary."""
    return (spectrum.square().sum(-1) + 1e-9).sqrt()


def mel_basis(size: int, mels: int) -> Tensor:
    """Triangular filters [mels, size // 2 + 1], 0 to 9 kHz."""
    mel = lambda hertz: 2595 * math.log10(1 + hertz / 700)  # noqa: E731
    edges = 700 * (10 ** (torch.linspace(0, mel(9000), mels + 2) / 2595) - 1)
    bins = torch.linspace(0, RATE / 2, size // 2 + 1)
    up = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    basis = torch.minimum(up, down).clamp(min=0)
    return basis / basis.sum(1, keepdim=True).clamp(min=1e-3)
