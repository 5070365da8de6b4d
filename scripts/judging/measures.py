"""Measures of sound that need no listener: levels, silence, clicks. All pure functions of float32 samples at 24 kHz."""

import numpy as np
from numpy.typing import NDArray
from speaking import FRAME_SAMPLES, SAMPLE_RATE, Sound

WINDOW_MS = 10
_WINDOW = SAMPLE_RATE * WINDOW_MS // 1000
_FLOOR = 1e-12
QUIET_BELOW_SPEECH_DB = 30.0  # what is lower than that under speech is taken for silence
_CLICK_FACTOR = 8.0  # a click bends the wave so many times as much as it bends around it
_CLICK_AROUND = 240  # samples on either side
_CLICK_LEAST = 0.02  # of full scale


def levels(sound: Sound) -> NDArray[np.float64]:
    """The level of each 10 ms, in dBFS."""
    count = len(sound) // _WINDOW
    power = np.mean(sound[: count * _WINDOW].astype(np.float64).reshape(count, _WINDOW) ** 2, axis=1)
    return 10 * np.log10(power + _FLOOR)


def speech_level(sound: Sound) -> float:
    """The level of the loud parts of speech, in dBFS: the 95th percentile."""
    found = levels(sound)
    return float(np.percentile(found, 95)) if len(found) else -np.inf


def loudest_before(sound: Sound, seconds: float) -> float:
    """The loudest 10 ms before a moment, in dB against the speech in the sound; -inf when there is nothing before."""
    before = levels(sound)[: max(0, int(seconds * 1000) // WINDOW_MS)]
    return float(before.max()) - speech_level(sound) if len(before) else -np.inf


def silence_behind(sound: Sound) -> float:
    """How long the sound is quiet at its end, in ms."""
    loud = np.flatnonzero(levels(sound) > speech_level(sound) - QUIET_BELOW_SPEECH_DB)
    return float(len(sound) / SAMPLE_RATE * 1000 - (loud[-1] + 1) * WINDOW_MS) if len(loud) else np.inf


def border_clicks(sound: Sound) -> int:
    """At how many borders between frames the wave has a kink that it has nowhere near."""
    borders = np.arange(FRAME_SAMPLES, len(sound) - 1, FRAME_SAMPLES)
    return sum(is_click(sound, int(border)) for border in borders)


def is_click(sound: Sound, border: int) -> bool:
    """Whether the wave has a kink between samples `border` - 1 and `border`."""
    around = sound[max(0, border - _CLICK_AROUND) : border + _CLICK_AROUND].astype(np.float64)
    bends = np.abs(np.diff(around, 2))
    at = min(border, _CLICK_AROUND)  # bends[n] is around sample n + 1
    here, others = bends[at - 2 : at].max(initial=0.0), np.delete(bends, slice(max(0, at - 3), at + 1))
    return bool(here > _CLICK_LEAST and here > _CLICK_FACTOR * np.percentile(others, 99))


def clipped(sound: Sound) -> float:
    """The share of samples at full scale."""
    return float(np.mean(np.abs(sound) >= 32767 / 32768)) if len(sound) else 0.0
