"""How far what the codec makes is from what it should make."""

import math

import torch
import torch.nn.functional as F
from codec_net import FRAME
from torch import Tensor

RATE = 24_000
AROUND = 24  # samples on either side that a step is compared with, as in silence.py
ONE_WAY = 0.25  # what steps that all go one way count, against large ones
QUIET = 1e-3  # mean size of the steps of a batch that has hardly any speech
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
            a, b = (self._magnitude(sound, size, window) for sound in (made, wanted))
            floor = FLOOR * size
            total = total + (torch.log(a + floor) - torch.log(b + floor)).abs().mean() + (a - b).norm() / b.norm()
            mels = [torch.log(torch.matmul(basis, s) + floor) for s in (a, b)]
            total = total + 2 * (mels[0] - mels[1]).abs().mean()
        return total / len(self.scales)

    def mels(self, made: Tensor, wanted: Tensor) -> Tensor:
        """How far the log-mel spectra of the second longest window are apart, in natural logarithms."""
        size, window, basis = self.scales[2]
        a, b = (torch.log(basis @ self._magnitude(sound, size, window) + FLOOR * size) for sound in (made, wanted))
        return (a - b).abs().mean()

    @staticmethod
    def _magnitude(sound: Tensor, size: int, window: Tensor) -> Tensor:
        spectrum = torch.stft(sound, size, size // 4, window=window, center=True, return_complex=True)
        return (torch.view_as_real(spectrum).square().sum(-1) + 1e-9).sqrt()


def places_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """How far the places of a frame differ from each other. Both sounds float32 [B, n * FRAME], B and n at least 2.

    Speech knows nothing of frames: at each place of a frame, the steps from sample to sample are as large as those
    around it, and as many go up as down. A decoder whose pulses stand at the same places has large steps there, all one
    way. The loss is the mean over places of how much larger steps are there, and of how far they all go one way, in
    proportion to the steps that are wanted, and cubed: few places are far off, and they are what is heard.

    In a batch, places differ by chance, too. So what each piece does at a place is multiplied by what the other pieces
    do there, in which chance has no part on average: where all places are alike, the loss may be a little below 0.
    """
    steps = made.diff()[:, FRAME - 1 :].unflatten(1, (-1, FRAME))  # [B, n - 1, FRAME]; the first is onto frame 1
    sizes = steps.abs().mean(1)
    circle = torch.cat([sizes[:, -AROUND:], sizes, sizes[:, :AROUND]], 1)
    above = sizes - F.avg_pool1d(circle, 2 * AROUND + 1, 1)
    pieces = torch.stack([above, steps.mean(1)], 1) / wanted.diff().abs().mean().clamp(min=QUIET)  # [B, 2, FRAME]
    total, count = pieces.sum(0), len(pieces)
    products = (total.square() - pieces.square().sum(0)) / (count * (count - 1))  # of pairs of two different pieces
    larger, one_way = (products * total.detach().abs() / count).mean(1)
    return larger + ONE_WAY * one_way


def mel_basis(size: int, mels: int) -> Tensor:
    """Triangular filters [mels, size // 2 + 1], 0 to 9 kHz."""
    mel = lambda hertz: 2595 * math.log10(1 + hertz / 700)  # noqa: E731
    edges = 700 * (10 ** (torch.linspace(0, mel(9000), mels + 2) / 2595) - 1)
    bins = torch.linspace(0, RATE / 2, size // 2 + 1)
    up = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    basis = torch.minimum(up, down).clamp(min=0)
    return basis / basis.sum(1, keepdim=True).clamp(min=1e-3)
