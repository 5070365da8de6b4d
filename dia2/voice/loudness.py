"""How loud speech is, in LUFS: ITU-R BS.1770-4, for one channel.

The sound is weighted as the ear does (a shelf that lifts high frequencies, and a high-pass), its power is measured over
blocks of 400 ms, and blocks that are silence do not count: those below -70 LUFS, then those 10 LU below the rest.
"""

import numpy as np
from numpy.typing import NDArray

TARGET_LUFS = -18.0  # what voices are levelled to
SILENT_LUFS = -70.0  # blocks below it never count

_BLOCK_SECONDS, _HOP_SECONDS = 0.4, 0.1
_RELATIVE_GATE = 10.0  # LU below the mean of what is no silence
_OFFSET = -0.691  # dB: makes a 997 Hz sine at full scale -3.01 LUFS
_RINGING_SECONDS = 0.5  # after which the high-pass at 38 Hz has died away
# The two filters of the standard, as analog prototypes: frequency, quality, gain in dB.
_SHELF = (1681.974450955533, 0.7071752369554196, 3.999843853973347)
_HIGH_PASS = (38.13547087602444, 0.5003270373238773)


def loudness(samples: NDArray[np.float32], rate: int) -> float:
    """Mono samples in -1..1 -> LUFS; -inf when all of it is silence, or less than a block."""
    weighted = _weighted(samples.astype(np.float64), rate)
    size, hop = round(_BLOCK_SECONDS * rate), round(_HOP_SECONDS * rate)
    sums = np.concatenate([[0.0], np.cumsum(weighted**2)])
    starts = np.arange(0, len(samples) - size + 1, hop)
    powers = (sums[starts + size] - sums[starts]) / size
    powers = powers[_lufs(powers) > SILENT_LUFS]
    if not len(powers):
        return -np.inf
    powers = powers[_lufs(powers) > _lufs(powers.mean()) - _RELATIVE_GATE]
    return float(_lufs(powers.mean()))


def level_gain(samples: NDArray[np.float32], rate: int, target: float = TARGET_LUFS, ceiling: float = 0.99) -> float:
    """The factor that brings samples to `target` LUFS, or as near as peaks stay under `ceiling`; 1 for silence."""
    now = loudness(samples, rate)
    if not np.isfinite(now):
        return 1.0
    peak = float(np.abs(samples).max())
    return min(10 ** ((target - now) / 20), max(1.0, ceiling / peak))


def _lufs(power: NDArray[np.float64]) -> NDArray[np.float64]:
    decibels: NDArray[np.float64] = _OFFSET + 10 * np.log10(np.maximum(power, 1e-20))
    return decibels


def _weighted(samples: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    """The samples through both filters; by their frequency response, over sound with silence behind it."""
    size = len(samples) + round(_RINGING_SECONDS * rate)
    turns = np.exp(-2j * np.pi * np.fft.rfftfreq(size))
    response = _response(turns, *_shelf(rate)) * _response(turns, *_high_pass(rate))
    weighted: NDArray[np.float64] = np.fft.irfft(np.fft.rfft(samples, size) * response, size)[: len(samples)]
    return weighted


def _response(turns: NDArray[np.complex128], above: list[float], below: list[float]) -> NDArray[np.complex128]:
    """A filter's response where z^-1 is `turns`."""
    response: NDArray[np.complex128] = np.polyval(above[::-1], turns) / np.polyval(below[::-1], turns)
    return response


def _shelf(rate: int) -> tuple[list[float], list[float]]:
    """Numerator and denominator of the filter that lifts high frequencies."""
    frequency, quality, gain_db = _SHELF
    k = np.tan(np.pi * frequency / rate)
    high = 10 ** (gain_db / 20)
    band = high**0.4996667741545416
    scale = 1 + k / quality + k * k
    above = [high + band * k / quality + k * k, 2 * (k * k - high), high - band * k / quality + k * k]
    return [a / scale for a in above], [1.0, 2 * (k * k - 1) / scale, (1 - k / quality + k * k) / scale]


def _high_pass(rate: int) -> tuple[list[float], list[float]]:
    """Numerator and denominator of the high-pass."""
    frequency, quality = _HIGH_PASS
    k = np.tan(np.pi * frequency / rate)
    scale = 1 + k / quality + k * k
    return [1.0, -2.0, 1.0], [1.0, 2 * (k * k - 1) / scale, (1 - k / quality + k * k) / scale]
