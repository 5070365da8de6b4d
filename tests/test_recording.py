"""Recordings: what can be a clip is read, mixed, resampled and trimmed; what cannot is refused in one line."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import CLIPS

from dia2.errors import ScriptError
from dia2.voice.recording import Recording, read_recording, trim

RATE = 24000


def tone(seconds: float, rate: int = RATE, level: float = 0.5) -> Any:
    return (level * np.sin(2 * np.pi * 200 * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def recording(*parts: Any, rate: int = RATE) -> Recording:
    return Recording("clip.wav", np.concatenate(parts).astype(np.float32), rate)


def refusal(path: Path, most_seconds: float = 300) -> str:
    """The one line with which a file is refused, wherever that happens."""
    with pytest.raises(ScriptError) as error:
        trim(read_recording(path, most_seconds))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(path), "clip")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_any_format_of_soundfile_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, tone(2), RATE)
    read = read_recording(path)
    assert abs(read.seconds - 2) < 0.2  # an MP3 is padded
    middle = read.samples[RATE // 2 : RATE]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / 2**0.5, rel=0.02)


def test_a_recording_of_96_khz_and_eight_channels_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "studio.wav"
    soundfile.write(path, np.stack([tone(1, 96000)] * 8, axis=1), 96000)
    read = read_recording(path).at(RATE)
    assert read.samples.shape == (RATE,)
    assert np.abs(read.samples - tone(1))[1000:-1000].max() < 1e-3
    assert trim(read) == (0.0, 1.0)


def test_an_hour_is_refused_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "hour.wav"
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(60):
            file.write(tone(60, 8000))
    assert refusal(path) == (
        "voice clip clip is 3600 s long; at most 300 s are read, and a voice is best made of 3 to 10 s"
    )


def test_a_truncated_mp3_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp3"
    soundfile.write(path, tone(4), RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert re.fullmatch(r"voice clip clip is cut short: [12]\.\d+ of 4\.\d+ s are there", refusal(path))
    path.write_bytes(whole[:100])
    assert re.fullmatch("voice clip clip (cannot be read: .*|is empty|is cut short: .*)", refusal(path))


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au"])
def test_a_file_with_fewer_samples_than_its_header_says_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    soundfile.write(path, tone(4), RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert refusal(path) == "voice clip clip is cut short: 2.00 of 4.00 s are there"
    path.write_bytes(whole[: len(whole) // 100])
    assert re.fullmatch(r"voice clip clip is cut short: 0\.0\d of \d\.\d\d s are there", refusal(path))
    path.write_bytes(whole[:-20])  # as good as whole
    assert read_recording(path).seconds == pytest.approx(4, abs=0.001)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x7FFFF000])
def test_a_stream_whose_header_was_written_before_its_length_was_known_is_read_to_its_end(
    tmp_path: Path, size: int
) -> None:
    path = tmp_path / "stream.wav"
    soundfile.write(path, tone(2), RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + size.to_bytes(4, "little") + whole[44:])
    assert read_recording(path).seconds == 2


def test_raw_samples_are_refused(tmp_path: Path) -> None:
    for name in ("x.raw", "X.RAW"):
        (tmp_path / name).write_bytes(bytes(48000))
        assert refusal(tmp_path / name).startswith("voice clip clip is raw samples, whose rate and format nobody knows")


def test_files_that_hold_no_sound_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(b"")
    assert refusal(path).startswith("voice clip clip cannot be read:")
    path.write_text("These are my notes on the recording.\n")
    assert refusal(path).startswith("voice clip clip cannot be read:")
    soundfile.write(path, np.zeros(0), RATE)
    assert refusal(path) == "voice clip clip is empty"
    soundfile.write(path, np.ones(1), RATE)
    assert refusal(path) == "voice clip clip is 1 samples long; a voice takes 0.5 s at least, 3 to 10 s are best"
    soundfile.write(path, np.array([0.1, np.nan] * RATE), RATE, subtype="FLOAT")
    assert refusal(path) == "voice clip clip holds values that are no samples (NaN or infinity)"


def test_clipped_and_silent_clips_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.clip(tone(2, level=1.4), -1, 1), RATE)
    assert re.fullmatch(r"voice clip clip is clipped: \d\d\.\d% of it is at full scale; .*", refusal(path))
    # Clipped in one channel of two: the mean of both hides it.
    soundfile.write(path, np.stack([np.clip(tone(2, level=1.4), -1, 1), 0 * tone(2)], axis=1), RATE)
    assert "is clipped" in refusal(path)
    soundfile.write(path, tone(2, level=0.001), RATE)
    assert refusal(path) == "voice clip clip is nearly silent: -63 dBFS, -50 are needed; record it louder"
    soundfile.write(path, 0 * tone(2), RATE)
    assert "is nearly silent: -120 dBFS" in refusal(path)


def test_silence_is_cut_off_but_for_a_margin() -> None:
    hush = np.random.default_rng(0).normal(0, 1e-4, 2 * RATE)
    start, stop = trim(recording(hush, tone(1.5), hush))
    assert start == pytest.approx(1.9, abs=0.03)
    assert stop == pytest.approx(3.6, abs=0.03)


def test_words_are_never_cut_off() -> None:
    clip = recording(0 * tone(2), tone(1.5), 0 * tone(2))
    assert trim(clip, keep=(1.2, 4.7)) == pytest.approx((1.2, 4.7))
    assert trim(clip, keep=(2.5, 3.0)) == pytest.approx((1.9, 3.6), abs=0.03)
    assert trim(clip, keep=(0.0, 99.0)) == (0.0, 5.5)


def test_a_click_is_no_voice() -> None:
    with pytest.raises(ScriptError, match=r"has 0\.\d\d s of sound"):
        trim(recording(0 * tone(0.3), tone(0.1), 0 * tone(0.3)))


@pytest.mark.parametrize("name", ["flite_slt", "flite_rms", "flite_awb", "kokoro_af_heart"])
def test_speech_passes(name: str) -> None:
    read = read_recording(CLIPS / f"{name}.flac")
    start, stop = trim(read)
    assert 0 <= start < 0.3
    assert read.seconds - 0.5 < stop <= read.seconds
