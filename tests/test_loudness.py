"""LUFS against what the standard says of test tones, and of silence."""

import numpy as np
import pytest

from dia2.voice.loudness import TARGET_LUFS, level_gain, loudness


def tone(hertz: float, level_db: float, seconds: float = 3.0, rate: int = 48_000) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (10 ** (level_db / 20) * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_a_sine_of_997_hz_at_full_scale_is_3_lu_under_zero(rate: int) -> None:
    assert loudness(tone(997, 0, rate=rate), rate) == pytest.approx(-3.01, abs=0.05)


def test_ten_decibels_less_are_ten_units_less() -> None:
    assert loudness(tone(997, -23), 48_000) == pytest.approx(-26.01, abs=0.02)


@pytest.mark.parametrize(("hertz", "units"), [(25, -11.1), (100, -1.8), (10_000, 3.3)])
def test_low_tones_count_less_and_high_ones_more(hertz: float, units: float) -> None:
    """Decibels against 997 Hz: a shelf of 4 dB for high ones, and a high-pass at 38 Hz of quality 0.5."""
    found = loudness(tone(hertz, -20), 48_000) - loudness(tone(997, -20), 48_000)
    assert found == pytest.approx(units, abs=0.3)


def test_silence_does_not_count() -> None:
    """EBU Tech 3341, case 3: quieter parts around a tone change nothing."""
    quiet, loud = tone(997, -33, 10, 16_000), tone(997, -20, 60, 16_000)
    assert loudness(np.concatenate([quiet, loud, quiet]), 16_000) == pytest.approx(-23, abs=0.1)
    assert loudness(np.zeros(48_000, np.float32), 48_000) == -np.inf
    assert loudness(tone(997, 0, 0.3), 48_000) == -np.inf


def test_a_gain_brings_sound_to_the_target_and_no_peak_beyond_the_ceiling() -> None:
    quiet = tone(997, -30)
    assert loudness(level_gain(quiet, 48_000) * quiet, 48_000) == pytest.approx(TARGET_LUFS, abs=0.01)
    peaky = quiet.copy()
    peaky[::4800] = 0.5
    assert level_gain(peaky, 48_000) == pytest.approx(0.99 / 0.5)
    loud = tone(997, 0)
    assert level_gain(loud, 48_000) < 1
    assert level_gain(np.zeros(48_000, np.float32), 48_000) == 1
