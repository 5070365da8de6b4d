"""Speech that the decoder never learns from, and how near it comes to it.

spectral    the loss that it learns by
wave        the one of phases: 1.4 where none is known
mel         how far log-mel spectra are apart, dB
place       how far that sample of a frame which is furthest from its neighbours is from the one before it, in
            proportion to them (silence.py). 1.1 in the speech itself; more where pulses begin anew in every frame
"""

from typing import Protocol

import numpy as np
import silence
import torch
from codec import Encoder, resample
from codec_net import CodecNet
from losses import SpectralLoss, WaveLoss
from torch import Tensor
from training import Averages

DB = 8.686  # of a difference in natural logarithms
AT_ONCE = 8  # pieces


class _Learner(Protocol):
    net: CodecNet
    averages: Averages


class HeldOut:
    """Pieces of speech with their codes."""

    def __init__(self, encoder: Encoder, loss: SpectralLoss, wave: WaveLoss, sound: Tensor) -> None:
        """sound: [n, T] at 16 kHz."""
        self._loss, self._wave, self._wanted = loss, wave, resample(sound)
        with torch.no_grad():
            self._codes = torch.cat([encoder(piece) for piece in self._wanted.split(AT_ONCE)])

    @torch.no_grad()
    def __call__(self, net: CodecNet) -> dict[str, float]:
        """How near a decoder comes; see the top."""
        made = torch.cat([net.decode(net.dequantize(codes)).float() for codes in self._codes.split(AT_ONCE)])
        sounds = [np.asarray(piece, np.float64) for piece in made.cpu().numpy()]
        steps = silence.against_neighbours(silence.steps_by_place(sounds))
        found = [loss(made, self._wanted) for loss in (self._loss, self._wave, self._loss.mels)]
        spectral, wave, mel = map(float, found)
        return {"spectral": spectral, "wave": wave, "mel": DB * mel, "place": float(steps.max())}

    def report(self, trainer: _Learner) -> None:
        """Prints how near a trainer's averages come."""
        with trainer.averages.in_place():
            found = self(trainer.net)
        print("       held out:", ", ".join(f"{name} {value:.3f}" for name, value in found.items()), flush=True)
