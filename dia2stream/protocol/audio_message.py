"""The binary message: a count of samples, and the samples."""

import struct
from dataclasses import dataclass

from dia2stream.errors import ProtocolError
from dia2stream.protocol.fields import shown

# --- audio ---


@dataclass(frozen=True, slots=True)
class Audio:
    """One binary message. data: `samples` mono samples, two bytes each (pcm16, little-endian) or one (mulaw, alaw)."""

    samples: int
    data: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.samples < 2**32:
            raise ProtocolError(f"an audio message holds 0 to {2**32 - 1} samples, not {shown(self.samples)}")
        if len(self.data) not in (self.samples, 2 * self.samples):
            sizes = f"{2 * self.samples} bytes (pcm16) or {self.samples} (mulaw, alaw)"
            raise ProtocolError(f"{self.samples} samples are {sizes}, not {len(self.data)}")


_COUNT = struct.Struct("<I")


def pack_audio(count: int, data: bytes) -> bytes:
    """The message for `count` samples: their number in 4 bytes, little-endian unsigned, then the samples."""
    audio = Audio(count, data)
    return _COUNT.pack(audio.samples) + audio.data


def unpack_audio(message: bytes) -> Audio:
    """What pack_audio packed; raises ProtocolError when the count does not fit the bytes."""
    if len(message) < _COUNT.size:
        raise ProtocolError(f"an audio message starts with {_COUNT.size} bytes of count, not {len(message)}")
    return Audio(_COUNT.unpack_from(message)[0], message[_COUNT.size :])
