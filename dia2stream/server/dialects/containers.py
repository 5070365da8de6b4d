"""Sound as other wire formats want it: raw samples, or a file that is sent while it is made.

    body = open_body(Wanted("mp3", 24000))
    body.encode(frame.pcm)  -> bytes, as many as there are yet
    body.finish()           -> the rest

A file whose end is not known has no true length in its header. WAV says so (0xFFFFFFFF); FLAC leaves it out; MP3 has a
constant bit rate and no header, so that players reckon the length right.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dia2stream.audio import Encoder, Resampler, SampleFormat, to_pcm16, wav_header
from dia2stream.errors import CommandError

if TYPE_CHECKING:
    import soundfile

Floats = NDArray[np.float32]
Container = Literal["raw", "wav", "mp3", "flac", "opus"]

CONTENT_TYPES: dict[Container, str] = {
    "raw": "audio/pcm",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "opus": "audio/ogg",
}
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_SOURCE_RATE = 24000
_OPUS_PAGE_US = 20_000  # a page of the container for each packet, so that no packet waits for others


@dataclass(frozen=True)
class Wanted:
    """A form of sound. encoding: of raw and wav. bit_rate: of mp3 and opus, in bits a second; None for a good one."""

    container: Container = "raw"
    sample_rate: int = _SOURCE_RATE
    encoding: SampleFormat = "pcm16"
    bit_rate: int | None = None

    @property
    def content_type(self) -> str:
        """The MIME type."""
        if self.container == "raw" and self.encoding in ("mulaw", "alaw"):
            return "audio/basic" if self.encoding == "mulaw" else "audio/x-alaw-basic"
        return CONTENT_TYPES[self.container]


class Body(ABC):
    """Frames of 24 kHz -> the bytes of one sound."""

    @abstractmethod
    def encode(self, pcm: Floats) -> bytes:
        """What can be sent once these samples have come."""

    @abstractmethod
    def finish(self) -> bytes:
        """The rest."""


def open_body(wanted: Wanted) -> Body:
    """Raises CommandError when this server cannot make it."""
    if wanted.container in ("raw", "wav"):
        return _Samples(wanted)
    if wanted.container == "opus":
        return _Opus(wanted)
    return _SoundFile(wanted)


class _Samples(Body):
    def __init__(self, wanted: Wanted) -> None:
        self._encoder = Encoder(wanted.encoding, wanted.sample_rate)
        self._header = wav_header(wanted.encoding, wanted.sample_rate) if wanted.container == "wav" else b""

    def encode(self, pcm: Floats) -> bytes:
        header, self._header = self._header, b""
        return header + self._encoder.encode(pcm)

    def finish(self) -> bytes:
        header, self._header = self._header, b""
        return header + self._encoder.flush()


class _SoundFile(Body):
    """MP3 and FLAC by libsndfile, which writes into memory as it goes."""

    def __init__(self, wanted: Wanted) -> None:
        import soundfile

        self._resampler = Resampler(_SOURCE_RATE, wanted.sample_rate) if wanted.sample_rate != _SOURCE_RATE else None
        self._sink = _Sink()
        self._tag: int | None = None  # bytes of an MP3's first frame, until it has been looked at
        options: dict[str, Any] = {"format": "FLAC", "subtype": "PCM_16"}
        if wanted.container == "mp3":
            bit_rate = wanted.bit_rate or _good_mp3_rate(wanted.sample_rate)
            options = {"format": "MP3", "subtype": "MPEG_LAYER_III", **_constant(bit_rate, wanted.sample_rate)}
            self._tag = (144 if wanted.sample_rate >= 32000 else 72) * bit_rate // wanted.sample_rate
        self._file: soundfile.SoundFile = soundfile.SoundFile(
            self._sink, "w", samplerate=wanted.sample_rate, channels=1, **options
        )

    def encode(self, pcm: Floats) -> bytes:
        self._file.write(self._resampler.process(pcm) if self._resampler else pcm)
        return self._new_bytes()

    def finish(self) -> bytes:
        if self._resampler:
            self._file.write(self._resampler.flush())
        self._file.close()
        return self._new_bytes()

    def _new_bytes(self) -> bytes:
        data = self._sink.take()
        if self._tag is not None and data:
            # LAME leaves room for a header that it fills in at the end. Until then players take it for a length of 0.
            frame, self._tag = data[: self._tag], None
            if not any(frame[4:]):
                data = data[len(frame) :]
        return data


class _Sink(io.RawIOBase):
    """A file in memory that keeps what is appended until it is taken, and nothing of what is written over."""

    def __init__(self) -> None:
        self._new = bytearray()
        self._size = self._position = 0

    def write(self, data: Any) -> int:
        size = len(data)
        if self._position == self._size:
            self._new += data
            self._size += size
        self._position += size
        return size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        data = bytes(self._new)
        self._new.clear()
        return data


class _Opus(Body):
    """Ogg Opus by PyAV: libsndfile holds it back for a second, as it fills pages before it writes them."""

    def __init__(self, wanted: Wanted) -> None:
        try:
            import av
        except ImportError:
            raise CommandError(
                "bad_field", "opus needs PyAV on the server: pip install 'dia2stream[opus]'", field="response_format"
            ) from None
        self._frame_of = av.AudioFrame.from_ndarray
        self._resampler = Resampler(_SOURCE_RATE, wanted.sample_rate) if wanted.sample_rate != _SOURCE_RATE else None
        self._rate, self._given = wanted.sample_rate, 0
        self._sink = io.BytesIO()
        pages = {"page_duration": str(_OPUS_PAGE_US), "flush_packets": "1"}
        self._container = av.open(_Unseekable(self._sink), "w", format="ogg", options=pages)
        self._stream = self._container.add_stream(
            "libopus", rate=wanted.sample_rate, layout="mono", options={"application": "voip"}
        )
        self._stream.bit_rate = wanted.bit_rate or 32_000

    def encode(self, pcm: Floats) -> bytes:
        samples = self._resampler.process(pcm) if self._resampler else pcm
        if len(samples):
            self._write(samples)
        return self._new_bytes()

    def finish(self) -> bytes:
        if self._resampler and len(rest := self._resampler.flush()):
            self._write(rest)
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._new_bytes()

    def _write(self, samples: Floats) -> None:
        frame = self._frame_of(to_pcm16(samples)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = self._rate, self._given
        self._given += len(samples)
        self._container.mux(self._stream.encode(frame))

    def _new_bytes(self) -> bytes:
        data = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return data


class _Unseekable:
    """What PyAV writes to, with no way back."""

    def __init__(self, sink: io.BytesIO) -> None:
        self.write = sink.write


def _constant(bit_rate: int, sample_rate: int) -> dict[str, Any]:
    """libsndfile's options for that bit rate, which it wants as a place between the highest and the lowest one."""
    low, high = (32_000, 320_000) if sample_rate >= 32000 else (8_000, 160_000 if sample_rate >= 16000 else 64_000)
    level = (high - min(max(bit_rate, low), high)) / (high - low)
    return {"bitrate_mode": "CONSTANT", "compression_level": min(level, 0.999)}


def _good_mp3_rate(sample_rate: int) -> int:
    return 128_000 if sample_rate >= 32000 else 64_000
