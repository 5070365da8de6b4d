"""Sound in files that are sent while they are made: other programs read them, and nothing waits longer than it must."""

import io
import sys

import av
import numpy as np
import pytest
import soundfile
from dialects import refusal

from dia2stream.audio import Encoder, wav_header
from dia2stream.server.dialects.containers import MP3_RATES, OPUS_RATES, Wanted, open_body

TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(24000) / 24000)).astype(np.float32)
FRAMES = np.split(np.tile(TONE, 2)[: 1920 * 25], 25)  # 2 s


def parts(wanted: Wanted) -> list[bytes]:
    body = open_body(wanted)
    return [*(body.encode(frame) for frame in FRAMES), body.finish()]


def decoded(data: bytes) -> tuple[np.ndarray, int]:
    with av.open(io.BytesIO(data)) as file:
        stream = file.streams.audio[0]
        resampler = av.AudioResampler("flt", "mono")
        frames = [out.to_ndarray()[0] for frame in file.decode(stream) for out in resampler.resample(frame)]
        return np.concatenate(frames), stream.rate


def loudest_hertz(samples: np.ndarray, rate: int) -> float:
    middle = samples[rate // 2 : -rate // 2]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    return float(np.fft.rfftfreq(len(middle), 1 / rate)[spectrum.argmax()])


@pytest.mark.parametrize("wanted", [Wanted("raw", 8000, "mulaw"), Wanted("raw", 44100, "f32"), Wanted()])
def test_raw_is_the_encoders_bytes_to_the_last_sample(wanted):
    encoder = Encoder(wanted.encoding, wanted.sample_rate)
    assert b"".join(parts(wanted)) == b"".join(encoder.encode(frame) for frame in FRAMES) + encoder.flush()


def test_a_wav_begins_with_a_header_of_no_known_length():
    data = b"".join(parts(Wanted("wav", 22050)))
    assert data.startswith(wav_header("pcm16", 22050))
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert (rate, len(samples)) == (22050, 44100)


def test_a_wav_of_nothing_is_its_header():
    assert open_body(Wanted("wav")).finish() == wav_header("pcm16", 24000)


@pytest.mark.parametrize(
    "wanted",
    [
        *(Wanted("mp3", rate) for rate in MP3_RATES),
        *(Wanted("opus", rate) for rate in OPUS_RATES),
        *(Wanted("flac", rate) for rate in (8000, 24000, 44100)),
        *(Wanted("mp3", 44100, bit_rate=rate) for rate in (32000, 64000, 96000, 128000, 192000)),
        Wanted("mp3", 22050, bit_rate=32000),
        Wanted("mp3", 48000, bit_rate=320000),
        Wanted("opus", 48000, bit_rate=128000),
    ],
    ids=str,
)
def test_a_file_that_was_sent_while_it_was_made_is_read_to_its_end(wanted):
    samples, rate = decoded(b"".join(parts(wanted)))
    assert rate == (48000 if wanted.container == "opus" else wanted.sample_rate)
    assert len(samples) / rate == pytest.approx(2.0, abs=0.17)  # MP3 pads by some of its frames
    assert loudest_hertz(samples, rate) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("bit_rate", [32000, 128000, 192000])
def test_an_mp3_has_the_bit_rate_that_was_asked_for_and_players_reckon_its_length(bit_rate):
    data = b"".join(parts(Wanted("mp3", 44100, bit_rate=bit_rate)))
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert file.frames / file.samplerate == pytest.approx(2.0, abs=0.1)
    assert len(data) * 8 / bit_rate == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(
    ("wanted", "most"),
    [(Wanted("mp3"), 0.09), (Wanted("opus"), 0.03), (Wanted("flac"), 0.2), (Wanted("wav", 8000), 0.006)],
)
def test_little_is_held_back(wanted, most):
    samples, rate = decoded(b"".join(parts(wanted)[:13]))
    assert 13 * 0.08 - len(samples) / rate < most


@pytest.mark.parametrize(
    ("wanted", "content_type"),
    [
        (Wanted(), "audio/pcm"),
        (Wanted(encoding="mulaw"), "audio/basic"),
        (Wanted("wav", encoding="alaw"), "audio/wav"),
        (Wanted("opus"), "audio/ogg"),
    ],
)
def test_a_form_has_its_mime_type(wanted, content_type):
    assert wanted.content_type == content_type


def test_opus_without_pyav_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    error = refusal(lambda: open_body(Wanted("opus")))
    assert "pip install 'dia2stream[opus]'" in str(error)
