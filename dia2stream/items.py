"""What leaves a conversation: events, frames of sound, and marks between them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dia2stream.protocol.messages import Event

# A frame is one step of the model, whose rate is FRAME_RATE in dia2/model/config.py (12.5 a second), at the codec's
# 24,000 samples a second. They are written out because clients import this without torch; the engine checks the codec.
FRAME_MS = 80
FRAME_SAMPLES = 1920


@dataclass(frozen=True)
class Frame:
    """80 ms of sound, float32 [1920] in -1..1."""

    pcm: NDArray[np.float32]


@dataclass(frozen=True)
class FirstFrame:
    """Stands before the frame that an utterance starts with: becomes `first_audio` when it is taken.

    arrived: when its command came. words_after: how many seconds later the last words came that its audio needed.
    """

    id: str
    arrived: float
    words_after: float = 0.0


@dataclass(frozen=True)
class Cut:
    """The audio behind this mark does not continue the audio before it. So an encoder of the stream starts afresh."""


Item = Event | Frame | FirstFrame | Cut
