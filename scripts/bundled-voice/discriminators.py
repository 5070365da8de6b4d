"""Two kinds of networks that tell speech from what the decoder makes of its codes, for training it against them.

`Periods` folds the wave into rows of a prime number of samples each, so that pitch shows as columns. `Spectra` looks at
the spectrum in several resolutions, where a buzz is a line. Both return what each layer saw (feature matching) and a
score for each place.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

SLOPE = 0.1
PERIODS = (2, 3, 5, 7, 11)
WINDOWS = (512, 1024, 2048)


class _Layers(nn.Module):
    """Convolutions of two dimensions; the last one gives the scores."""

    def __init__(self, channels: list[int], kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        around = (kernel[0] // 2, kernel[1] // 2)
        pairs = pairwise(channels)
        self.layers = nn.ModuleList(weight_norm(nn.Conv2d(a, b, kernel, stride, around)) for a, b in pairs)
        self.score = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """x [B, C, H, W] -> what each layer gives, the scores last."""
        seen = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            seen.append(x)
        return [*seen, self.score(x)]


class Discriminators(nn.Module):
    """Sound [B, T] -> for each of the networks, what its layers give. width: channels of the first layer."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        growing = [1, width, 2 * width, 4 * width, 8 * width]
        self.periods = nn.ModuleList(_Layers(growing, (5, 1), (3, 1)) for _ in PERIODS)
        self.spectra = nn.ModuleList(_Layers([1, width, width, width, width], (9, 3), (2, 1)) for _ in WINDOWS)
        for size in WINDOWS:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def forward(self, sound: Tensor) -> list[list[Tensor]]:
        folded = [net(fold(sound, period)) for net, period in zip(self.periods, PERIODS, strict=True)]
        looked = [net(self._spectrum(sound, size)) for net, size in zip(self.spectra, WINDOWS, strict=True)]
        return folded + looked

    def _spectrum(self, sound: Tensor, size: int) -> Tensor:
        """[B, 1, size / 2 + 1, frames], in logarithms: a quiet buzz counts as much as a loud one."""
        window = getattr(self, f"window_{size}")
        with torch.autocast(sound.device.type, enabled=False):
            found = torch.view_as_real(torch.stft(sound.float(), size, size // 4, window=window, return_complex=True))
            return torch.log(found.square().sum(-1)[:, None] + 1e-5)


def fold(sound: Tensor, period: int) -> Tensor:
    """[B, T] -> [B, 1, T / period, period], padded at the end by reflection."""
    missing = -sound.shape[1] % period
    padded = F.pad(sound[:, None], (0, missing), mode="reflect") if missing else sound[:, None]
    return padded.unflatten(-1, (-1, period))


def telling_loss(real: list[list[Tensor]], made: list[list[Tensor]]) -> Tensor:
    """For the discriminators: scores of 1 for what is real and 0 for what is made."""
    losses = [
        (r[-1].float() - 1).square().mean() + m[-1].float().square().mean() for r, m in zip(real, made, strict=True)
    ]
    return torch.stack(losses).mean()


def fooling_loss(made: list[list[Tensor]]) -> Tensor:
    """For the decoder: a score of 1."""
    return torch.stack([(m[-1].float() - 1).square().mean() for m in made]).mean()


def matching_loss(real: list[list[Tensor]], made: list[list[Tensor]]) -> Tensor:
    """For the decoder: how far what each layer sees in what is made is from what it sees in what is real."""
    apart = [
        (m.float() - r.detach().float()).abs().mean() / r.detach().float().abs().mean().clamp(min=1e-4)
        for reals, mades in zip(real, made, strict=True)
        for r, m in zip(reals[:-1], mades[:-1], strict=True)
    ]
    return torch.stack(apart).mean()
