"""From the codec's float samples to the bytes a listener takes.

Three things lie between the model and a telephone or a sound card: the sample rate, the encoding and, for files, a
header. All three are done here, on numpy arrays. Where the bytes go, and the count that the protocol puts in front of
each chunk (`protocol.pack_audio`), are not this module's business.

- **Rate.** The codec speaks at 24 kHz; telephony wants 8 or 16, sound cards 44.1 or 48. `Resampler` is a linear-phase
  filter that is only as long as it has to be: it holds back 5 ms (8 kHz), 2.5 ms (16 kHz) or 1.7 ms (above 24 kHz) and
  gives every 80 ms frame as 80 ms. General streaming resamplers work in blocks of their own; soxr, at 8 kHz, holds
  back up to 73 ms and hands out 61 to 122 ms at a time, which a voice agent hears as latency.
- **Encoding.** PCM16, 32-bit floats, or one of the two companded codes of ITU-T G.711. G.711 is a table of 65,536
  bytes: looking a sample up is as fast as anything and leaves no arithmetic to get wrong at the edges of the segments.
- **Header.** WAV, for a length that is known or still open.

How a stream is cut into chunks never changes its bytes.
"""

from __future__ import annotations

import functools
import math
import struct
from typing import Literal, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from dia2stream.options import Encoding, SampleRate

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int32]

# What our own protocol offers. The wire formats of others (server/dialects) take any rate, and floats too.
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
SAMPLE_RATES: tuple[SampleRate, ...] = get_args(SampleRate)
SampleFormat = Literal["pcm16", "mulaw", "alaw", "f32"]
SAMPLE_FORMATS: tuple[SampleFormat, ...] = get_args(SampleFormat)
LOWEST_RATE, HIGHEST_RATE = 8000, 48000
SOURCE_RATE = 24000
SAMPLE_BYTES: dict[SampleFormat, int] = {"pcm16": 2, "mulaw": 1, "alaw": 1, "f32": 4}

WAV_FORMAT_TAGS: dict[SampleFormat, int] = {"pcm16": 1, "f32": 3, "alaw": 6, "mulaw": 7}
UNKNOWN_SIZE = 0xFFFFFFFF


class Encoder:
    """A stream of float samples in -1..1 -> a stream of bytes in one encoding and sample rate (8000 to 48000).

    `flush` gives what the resampler still holds and leaves the encoder as new. Live audio, whose clock is the sum of
    what was sent, begins with `restart`, and does so again where it does not go on (the caller interrupted).
    """

    def __init__(self, encoding: SampleFormat, sample_rate: int, source_rate: int = SOURCE_RATE) -> None:
        if encoding not in SAMPLE_FORMATS:
            raise ValueError(f"encoding {encoding!r} is not one of {', '.join(SAMPLE_FORMATS)}")
        if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
            raise ValueError(f"sample_rate must be from {LOWEST_RATE} to {HIGHEST_RATE}, not {sample_rate}")
        self.encoding: SampleFormat = encoding
        self.sample_rate = sample_rate
        self.sample_bytes = SAMPLE_BYTES[encoding]
        self._resampler = Resampler(source_rate, sample_rate) if sample_rate != source_rate else None

    def restart(self) -> None:
        """Begins a stream in which every frame comes out whole: silence in front makes up for what is held back."""
        self.flush()
        if self._resampler:
            self._resampler.process(np.zeros(self._resampler.delay, np.float32))

    def encode(self, pcm: Floats) -> bytes:
        """Bytes for as many of the samples as can be given yet: all of them when the rate stays as it is."""
        return encode_samples(self._resampler.process(pcm) if self._resampler else pcm, self.encoding)

    def flush(self) -> bytes:
        """The bytes held back, at the end of a stream."""
        return encode_samples(self._resampler.flush(), self.encoding) if self._resampler else b""


class Resampler:
    """Streaming resampling by a ratio of whole numbers: n samples in, ceil(n * out / in) out, none of them late.

    Output i stands at input position i * down / up. The positions between input samples repeat with period `up`, so
    there are `up` kernels, each a windowed sinc centred on its own fraction. A group is one output of each kernel and
    moves the input on by `down`: 1 output for 3 inputs at 8 kHz, 147 for 80 at 44.1 kHz.
    """

    # Zero crossings of the sinc on either side, in samples of the lower rate: the price in latency (40 samples are 5 ms
    # at 8 kHz) for a transition band of an eighth of its Nyquist frequency: 8 kHz is flat to 3.5, down by 80 dB at 4.
    REACH = 40
    STOPBAND_DB = 80.0

    def __init__(self, source_rate: int, sample_rate: int) -> None:
        common = math.gcd(source_rate, sample_rate)
        self._up, self._down = sample_rate // common, source_rate // common
        self._half = math.ceil(self.REACH * max(1.0, self._down / self._up))
        self._offsets = np.arange(self._up) * self._down // self._up  # where in a group each kernel stands
        self._kernels = _kernels(self._up, self._down, self._half, self.STOPBAND_DB)
        self._window = int(self._offsets[-1]) + 2 * self._half + 1  # input samples that one group looks at
        self._pending: Doubles
        self._received: int
        self._given: int
        self._reset()

    @property
    def delay(self) -> int:
        """How many input samples it has to see after one to give that one's output."""
        return self._half

    def process(self, samples: Floats) -> Floats:
        """What can be computed once these samples have come."""
        self._received += len(samples)
        self._pending = np.concatenate([self._pending, samples])
        groups = max(0, (len(self._pending) - self._window) // self._down + 1)
        if groups == 0:
            return np.empty(0, np.float32)
        out = self._outputs(groups).astype(np.float32)
        self._pending = self._pending[groups * self._down :]
        self._given += out.size
        return out.reshape(-1)

    def flush(self) -> Floats:
        """The rest, with silence after the end; afterwards a new stream may begin."""
        missing = math.ceil(self._received * self._up / self._down) - self._given
        rest = self.process(np.zeros(self._window + self._down, np.float32))[:missing]
        self._reset()
        return rest

    def _reset(self) -> None:
        self._pending = np.zeros(self._half)  # silence before the beginning: output 0 sits on input 0
        self._received = self._given = 0

    def _outputs(self, groups: int) -> Doubles:
        """The next groups: [groups, up], which in memory is the order of time.

        Both ways sum each output by itself. A matrix product would sum in another order for another number of rows, and
        the bytes would depend on the chunks.
        """
        if self._up <= 4:
            return np.stack([self._correlate(phase, groups) for phase in range(self._up)], axis=1)
        windows = sliding_window_view(self._pending, self._kernels.shape[1])
        at = np.arange(groups)[:, None] * self._down + self._offsets
        chosen: list[Doubles] = [
            np.einsum("gpt,pt->gp", windows[some], self._kernels) for some in np.split(at, range(32, groups, 32))
        ]  # a few groups at a time, because [groups, up, taps] of a long recording is more than memory holds
        return np.concatenate(chosen)

    def _correlate(self, phase: int, groups: int) -> Doubles:
        """The outputs of one kernel, one dot product each; for the outputs of few kernels the fastest way."""
        kernel, offset = self._kernels[phase], self._offsets[phase]
        reach = offset + (groups - 1) * self._down + len(kernel)
        return np.correlate(self._pending[offset:reach], kernel, "valid")[:: self._down]


@functools.cache
def _kernels(up: int, down: int, half: int, stopband_db: float) -> Doubles:
    """A low-pass of gain one around each of the fractions 0, 1 / up, ...: [up, 2 * half + 1], at input positions."""
    fractions = np.arange(up) * down % up / up
    position = np.arange(-half, half + 1) - fractions[:, None]
    # Kaiser's formulas: the window's shape for a stop band, and the bandwidth it costs in units of Nyquist.
    beta = 0.1102 * (stopband_db - 8.7)
    transition = (stopband_db - 8.0) / (2.285 * math.pi * 2 * half)
    cutoff = min(1.0, up / down) - transition / 2  # the stop band begins at the lower Nyquist frequency
    window = np.i0(beta * np.sqrt(np.clip(1 - (position / (half + 1)) ** 2, 0, 1)))
    kernels = np.sinc(cutoff * position) * window
    unit: Doubles = kernels / kernels.sum(axis=1, keepdims=True)
    return unit


def encode_samples(samples: Floats, encoding: SampleFormat) -> bytes:
    """Float samples -> bytes, sample by sample."""
    if encoding == "f32":
        return samples.astype("<f4", copy=False).tobytes()
    pcm = to_pcm16(samples)
    if encoding == "pcm16":
        return pcm.astype("<i2", copy=False).tobytes()
    return _g711_table(encoding)[pcm.view(np.uint16)].tobytes()


def to_pcm16(samples: Floats) -> NDArray[np.int16]:
    """Round to the nearest step of 1/32768, half to even; what lies outside is clipped.

    The scale is 32768 and not 32767: it is exact in float32, so there is one rounding and not two, and a file that was
    read as floats (every common reader divides by 32768) comes out as it went in.
    """
    scaled: Floats = np.rint(samples * np.float32(32768))
    return np.clip(scaled, -32768, 32767).astype(np.int16)


@functools.cache
def _g711_table(encoding: SampleFormat) -> NDArray[np.uint8]:
    """The code of every 16-bit sample, indexed by the sample's bits as an unsigned number: [65536]."""
    pcm = np.arange(65536).astype(np.uint16).view(np.int16).astype(np.int32)
    return (mulaw if encoding == "mulaw" else alaw)(pcm)


def mulaw(pcm: Integers) -> NDArray[np.uint8]:
    """G.711 mu-law of 16-bit samples: sign, 3 bits of segment, 4 bits within it, all inverted.

    G.711 counts in 14-bit steps, four of ours. With 33 added its decision values are (16 + step) * 2 ** (segment + 1):
    a biased magnitude is a little floating-point number, and its code the exponent and the first four digits.
    """
    magnitude = np.minimum(np.abs(pcm) // 4, 8158) + 33
    segment = _exponent(magnitude) - 5
    step = (magnitude >> (segment + 1)) & 15
    code: Integers = ~(np.where(pcm < 0, 128, 0) | segment << 4 | step) & 255
    return code.astype(np.uint8)


def alaw(pcm: Integers) -> NDArray[np.uint8]:
    """G.711 A-law of 16-bit samples: sign (set for positive), 3 bits of segment, 4 bits within it, even bits inverted.

    G.711 counts in 13-bit steps, eight of ours, and its decision values are even. The first two segments have steps of
    the same size; from the second on a magnitude is a little floating-point number, as in mu-law but without a bias.
    """
    magnitude = np.minimum(np.abs(pcm) // 16, 2047)
    segment = np.maximum(_exponent(magnitude | 1) - 3, 0)
    step = (magnitude >> np.maximum(segment, 1) - 1) & 15
    code: Integers = (np.where(pcm < 0, 0, 128) | segment << 4 | step) ^ 0x55
    return code.astype(np.uint8)


def _exponent(values: Integers) -> Integers:
    """floor(log2(value)), exactly: frexp takes it from the bits of the number."""
    return np.frexp(values.astype(np.float64))[1] - 1


def wav_header(encoding: SampleFormat, sample_rate: int, samples: int | None = None) -> bytes:
    """A mono WAV header; with `samples` None one for a stream whose end is not known, which players read to its end.

    All but PCM16 carry an extension size in `fmt ` and a `fact` chunk with the sample count, as the WAV
    specification has it for everything but PCM.
    """
    width, tag = SAMPLE_BYTES[encoding], WAV_FORMAT_TAGS[encoding]
    fmt = struct.pack("<HHIIHH", tag, 1, sample_rate, sample_rate * width, width, width * 8)
    fact = b""
    if tag != WAV_FORMAT_TAGS["pcm16"]:
        fmt += struct.pack("<H", 0)
        fact = _chunk(b"fact", struct.pack("<I", UNKNOWN_SIZE if samples is None else samples))
    chunks = b"WAVE" + _chunk(b"fmt ", fmt) + fact
    size = UNKNOWN_SIZE if samples is None else samples * width
    riff_size = UNKNOWN_SIZE if samples is None else len(chunks) + 8 + size + size % 2
    return b"RIFF" + struct.pack("<I", riff_size) + chunks + b"data" + struct.pack("<I", size)


def wav_file(encoding: SampleFormat, sample_rate: int, data: bytes) -> bytes:
    """A whole WAV file around encoded samples."""
    padding = b"\0" * (len(data) % 2)  # chunks are padded to an even length
    return wav_header(encoding, sample_rate, len(data) // SAMPLE_BYTES[encoding]) + data + padding


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body
