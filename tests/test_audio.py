"""The bytes a listener gets: exact encodings, the same stream however it is cut, headers that other programs read."""

import io
import math
import struct
import wave

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from dia2stream.audio import (
    SAMPLE_BYTES,
    SAMPLE_FORMATS,
    SAMPLE_RATES,
    Encoder,
    Resampler,
    alaw,
    encode_samples,
    mulaw,
    to_pcm16,
    wav_file,
    wav_header,
)

EVERY_PCM16 = np.arange(-32768, 32768, dtype=np.int32)
SOUNDFILE_NAMES = {"pcm16": "PCM_16", "mulaw": "ULAW", "alaw": "ALAW", "f32": "FLOAT"}
# Rates that the codec's 24 kHz is turned into: what our own protocol offers, and what other wire formats ask for.
RESAMPLED = [8000, 11025, 16000, 22050, 32000, 44100, 48000]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.3, size=samples).astype(np.float32)


def tone(hertz: float, samples: int, rate: int = 24000) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)).astype(np.float32)


# --- PCM16 ---


def test_pcm16_rounds_half_to_even_and_clips():
    steps = np.array([0, 0.5, 1.5, 2.5, -0.5, -1.5, 32766.5, 32768, 70000, -32768, -32769, -70000]) / 32768
    assert to_pcm16(steps.astype(np.float32)).tolist() == [
        *[0, 0, 2, 2, 0, -2, 32766, 32767, 32767, -32768, -32768, -32768]
    ]


def test_every_pcm16_sample_survives_a_trip_through_float():
    as_floats = EVERY_PCM16.astype(np.float32) / 32768
    assert np.array_equal(to_pcm16(as_floats), EVERY_PCM16)
    assert encode_samples(as_floats, "pcm16") == struct.pack("<65536h", *EVERY_PCM16)


# --- G.711 ---


def mulaw_values() -> np.ndarray:
    """What G.711 gives for each mu-law code, in its own 14-bit steps: table 2 of the recommendation."""
    code = ~np.arange(256) & 255
    segment, step = code >> 4 & 7, code & 15
    value = ((2 * step + 33) << segment) - 33
    return np.where(code & 128, -value, value)


def alaw_values() -> np.ndarray:
    """What G.711 gives for each A-law code, in its own 13-bit steps: table 1 of the recommendation."""
    code = np.arange(256) ^ 0x55
    segment, step = code >> 4 & 7, code & 15
    value = np.where(segment == 0, 2 * step + 1, (2 * step + 33) << np.maximum(segment, 1) - 1)
    return np.where(code & 128, value, -value)


def test_mulaw_has_the_codes_of_the_recommendation():
    assert mulaw(np.array([0, 32767, -32768, 8 * 4, -1])).tolist() == [0xFF, 0x80, 0x00, 0xFB, 0x7F]
    assert np.abs(mulaw_values()).max() == 8031


def test_alaw_has_the_codes_of_the_recommendation():
    assert alaw(np.array([0, 32767, -32768, -1])).tolist() == [0xD5, 0xAA, 0x2A, 0x55]
    assert np.abs(alaw_values()).max() == 4032


@pytest.mark.parametrize(("encode", "values", "scale"), [(mulaw, mulaw_values(), 4), (alaw, alaw_values(), 8)])
def test_g711_codes_decode_to_themselves_and_lie_between_their_decision_values(encode, values, scale):
    codes = encode(values.astype(np.int32) * scale)
    negative_zero = values == 0
    assert np.array_equal(codes[~negative_zero], np.arange(256)[~negative_zero])
    error = np.abs(EVERY_PCM16 / scale - values[encode(EVERY_PCM16)])
    half_step = np.maximum(1, 2.0 ** (np.floor(np.log2(np.abs(values[encode(EVERY_PCM16)]) + 33)) - 5))
    limit = np.abs(values).max() * scale
    assert np.all((error <= half_step) | (np.abs(EVERY_PCM16) > limit))


@pytest.mark.parametrize(("encoding", "encode"), [("mulaw", mulaw), ("alaw", alaw)])
def test_g711_equals_libsndfile_for_every_sample(encoding, encode):
    file = io.BytesIO()
    soundfile.write(file, EVERY_PCM16.astype(np.int16), 8000, subtype=SOUNDFILE_NAMES[encoding], format="RAW")
    assert encode(EVERY_PCM16).tobytes() == file.getvalue()
    assert encode_samples((EVERY_PCM16 / 32768).astype(np.float32), encoding) == file.getvalue()


# --- floats ---


def test_floats_go_out_as_they_are_and_are_not_clipped():
    samples = np.array([0, 0.1, -1, 1.5], np.float32)
    assert encode_samples(samples, "f32") == struct.pack("<4f", *samples)


# --- the stream ---


@pytest.mark.parametrize("encoding", SAMPLE_FORMATS)
def test_equal_rates_hold_nothing_back(encoding):
    encoder = Encoder(encoding, 24000)
    assert len(encoder.encode(noise(1920))) == 1920 * SAMPLE_BYTES[encoding]
    assert encoder.flush() == b""


@given(
    encoding=st.sampled_from(SAMPLE_FORMATS),
    rate=st.sampled_from([*RESAMPLED, 24000]),
    cuts=st.lists(st.integers(0, 4000), max_size=8),
)
def test_the_bytes_do_not_depend_on_the_chunks(encoding, rate, cuts):
    samples = noise(4000)
    encoder = Encoder(encoding, rate)
    whole = encoder.encode(samples) + encoder.flush()
    pieces = [encoder.encode(piece) for piece in np.split(samples, sorted(cuts))]
    assert b"".join(pieces) + encoder.flush() == whole


@given(samples=st.integers(0, 700), rate=st.sampled_from(RESAMPLED))
def test_a_resampled_stream_is_as_long_as_it_was(samples, rate):
    encoder = Encoder("pcm16", rate)
    data = encoder.encode(noise(samples)) + encoder.flush()
    assert len(data) // 2 == -(-samples * rate // 24000)


@pytest.mark.parametrize(
    ("rate", "held_ms"), [(8000, 5.0), (22050, 11 / 6), (16000, 2.5), (44100, 5 / 3), (48000, 5 / 3)]
)
def test_resampling_holds_back_a_few_milliseconds_and_keeps_frames_even(rate, held_ms):
    encoder = Encoder("alaw", rate)
    sizes = [len(encoder.encode(noise(1920))) for _ in range(20)]
    group = rate // math.gcd(rate, 24000)  # outputs that come together: one at 8 kHz, 147 at 44.1
    assert sizes[0] == round((80 - held_ms) * rate / 1000, 6) // group * group
    assert set(sizes[1:]) == {80 * rate // 1000}


@pytest.mark.parametrize("rate", RESAMPLED)
def test_a_restarted_encoder_gives_every_frame_whole_and_nothing_of_what_was_before(rate):
    encoder, samples = Encoder("mulaw", rate), noise(1920)
    encoder.restart()
    first = [encoder.encode(samples) for _ in range(3)]
    assert {len(data) for data in first} == {80 * rate // 1000}
    encoder.restart()
    assert encoder.encode(samples) == first[0]


def test_a_flushed_encoder_is_as_new():
    encoder, samples = Encoder("mulaw", 8000), noise(3000)
    first = encoder.encode(samples) + encoder.flush()
    assert encoder.encode(samples) + encoder.flush() == first


@pytest.mark.parametrize("rate", RESAMPLED)
def test_what_lies_in_the_band_passes_unchanged_and_in_time(rate):
    resampler = Resampler(24000, rate)
    hertz = 0.43 * min(rate, 24000)
    out = np.concatenate([resampler.process(tone(hertz, 24000)), resampler.flush()])
    inner = slice(rate // 10, -rate // 10)
    assert np.abs(out - tone(hertz, rate, rate))[inner].max() < 1e-4


@pytest.mark.parametrize("rate", [rate for rate in RESAMPLED if rate < 24000])
def test_what_lies_above_the_band_is_gone(rate):
    resampler = Resampler(24000, rate)
    out = np.concatenate([resampler.process(tone(rate / 2 + 50, 24000)), resampler.flush()])
    assert np.abs(out[rate // 10 : -rate // 10]).max() < 0.5 * 10 ** (-79 / 20)


@pytest.mark.parametrize("rate", [rate for rate in RESAMPLED if rate > 24000])
def test_a_higher_rate_has_nothing_above_the_band_of_the_source(rate):
    resampler = Resampler(24000, rate)
    out = np.concatenate([resampler.process(tone(10000, 24000)), resampler.flush()])[rate // 10 : -rate // 10]
    spectrum = np.abs(np.fft.rfft(out * np.hanning(len(out))))
    above = np.fft.rfftfreq(len(out), 1 / rate) > 12100
    assert spectrum[above].max() < spectrum.max() * 10 ** (-79 / 20)


@pytest.mark.parametrize("rate", RESAMPLED)
def test_resampling_agrees_with_soxr(rate):
    samples = soxr.resample(noise(8000), 8000, 24000) if rate == 8000 else noise(24000)
    samples = soxr.resample(soxr.resample(samples, 24000, 6000), 6000, 24000).astype(np.float32)
    resampler = Resampler(24000, rate)
    ours = np.concatenate([resampler.process(samples), resampler.flush()])
    theirs = soxr.resample(samples, 24000, rate)
    assert len(ours) == len(theirs)
    assert np.abs(ours - theirs)[200:-200].max() < 1e-3


def test_an_unknown_encoding_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match="'opus' is not one of pcm16, mulaw, alaw, f32"):
        Encoder("opus", 24000)


@pytest.mark.parametrize("rate", [7999, 48001])
def test_a_rate_out_of_range_is_refused_with_the_range(rate):
    with pytest.raises(ValueError, match=f"sample_rate must be from 8000 to 48000, not {rate}"):
        Encoder("pcm16", rate)


# --- WAV ---


@pytest.mark.parametrize("encoding", SAMPLE_FORMATS)
@pytest.mark.parametrize("rate", [*SAMPLE_RATES, 44100])
@pytest.mark.parametrize("samples", [0, 1, 801])
def test_a_wav_file_reads_back_exactly(encoding, rate, samples):
    data = encode_samples(noise(samples), encoding)
    file = wav_file(encoding, rate, data)
    assert len(file) % 2 == 0
    assert struct.unpack_from("<I", file, 4) == (len(file) - 8,)
    info = soundfile.info(io.BytesIO(file))
    assert (info.samplerate, info.channels, info.frames) == (rate, 1, samples)
    assert info.subtype == SOUNDFILE_NAMES[encoding]
    read, _ = soundfile.read(io.BytesIO(file), dtype="float32")
    assert encode_samples(read, encoding) == data


@pytest.mark.parametrize("encoding", SAMPLE_FORMATS)
def test_a_streaming_wav_is_read_to_its_end(encoding):
    data = encode_samples(noise(1000), encoding)
    read, rate = soundfile.read(io.BytesIO(wav_header(encoding, 8000) + data), dtype="float32")
    assert rate == 8000
    assert encode_samples(read, encoding) == data


def test_the_standard_library_reads_our_pcm16():
    data = encode_samples(noise(500), "pcm16")
    with wave.open(io.BytesIO(wav_file("pcm16", 16000, data))) as file:
        assert file.getparams()[:4] == (1, 2, 16000, 500)
        assert file.readframes(500) == data


def test_every_header_but_that_of_pcm16_has_a_fact_chunk():
    assert b"fact" not in wav_header("pcm16", 8000, 3)
    assert b"fact" + struct.pack("<II", 4, 3) in wav_header("mulaw", 8000, 3)
    assert b"fact" + struct.pack("<II", 4, 0xFFFFFFFF) in wav_header("alaw", 8000)
