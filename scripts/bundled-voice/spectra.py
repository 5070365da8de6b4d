"""What the codec's codes say: the spectra of a frame, in fewer numbers, by an analysis that needs no training.

A frame of 80 ms has four log-mel spectra, one every 20 ms, and one finer spectrum of its lowest part, where the pitch
is. `Analysis` keeps their principal components, and the phase of the pitch (pitch.py); those are the latents that the
codebooks are placed on and that the encoder learns to give. So codes are there before any network is, and the language
model and the decoder can learn from them side by side.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from codec_net import FRAME
from losses import FLOOR, mel_basis
from pitch import NUMBERS, phases
from safetensors.torch import load_file, save_file
from torch import Tensor

KEPT = 64  # numbers that stay of a frame: a codebook's dimensions
SPECTRAL = KEPT - NUMBERS  # of them principal components; the others are phases
STEPS = 4  # spectra a frame
SHORT, MELS = 1024, 64
LONG, LOWEST, HIGHEST = 2048, 5, 45  # bins of the long spectrum: 59 to 516 Hz
PITCH_WEIGHT = 0.7


class Analysis:
    """Sound -> principal components and phases, and back to spectra."""

    def __init__(self, mean: Tensor, axes: Tensor) -> None:
        """mean [features]; axes [features, SPECTRAL], orthonormal, in the order of what they explain."""
        self.mean, self.axes = mean, axes
        self.basis = mel_basis(SHORT, MELS).to(mean.device)

    @classmethod
    def of(cls, sounds: list[Tensor]) -> "Analysis":
        """The components of these sounds, each [B, T] at 24 kHz."""
        blank = cls(torch.zeros(1, device=sounds[0].device), torch.zeros(1, 1, device=sounds[0].device))
        features = torch.cat([blank.features(sound).flatten(0, 1) for sound in sounds])
        mean = features.mean(0)
        _, axes = torch.linalg.eigh((features - mean).T @ (features - mean) / len(features))
        return cls(mean, axes.flip(1)[:, :SPECTRAL].contiguous())

    def features(self, sound: Tensor) -> Tensor:
        """[B, n * 1920] -> [B, n, features]."""
        batch, frames = len(sound), sound.shape[1] // FRAME
        step = FRAME // STEPS
        short = torch.log(self._spectra(sound, SHORT, step) @ self.basis.T + FLOOR * SHORT)
        long = torch.log(self._spectra(sound, LONG, FRAME)[..., LOWEST:HIGHEST] + FLOOR * LONG)
        return torch.cat([short.reshape(batch, frames, STEPS * MELS), PITCH_WEIGHT * long], -1)

    def latents(self, sound: Tensor) -> Tensor:
        """[B, n * 1920] -> [B, n, KEPT]."""
        return torch.cat([(self.features(sound) - self.mean) @ self.axes, phases(sound)], -1)

    def mels(self, latents: Tensor) -> Tensor:
        """Latents [B, n, KEPT] -> the log-mel spectra that they stand for, [B, 4 * n, MELS]."""
        features = latents[..., :SPECTRAL] @ self.axes.T + self.mean
        return features[..., : STEPS * MELS].reshape(len(latents), -1, MELS)

    def save(self, path: Path) -> None:
        """Writes it."""
        save_file({"mean": self.mean, "axes": self.axes}, path)

    @classmethod
    def read(cls, path: Path, device: torch.device | str = "cpu") -> "Analysis":
        """What `save` wrote."""
        return cls(**{name: tensor.to(device) for name, tensor in load_file(path).items()})

    @staticmethod
    def _spectra(sound: Tensor, size: int, step: int) -> Tensor:
        """Magnitudes [B, T / step, size / 2 + 1] of windows that end where a step does: nothing of what follows."""
        windows = F.pad(sound, (size - step, 0)).unfold(1, size, step)
        return torch.fft.rfft(windows * torch.hann_window(size, device=sound.device)).abs()
