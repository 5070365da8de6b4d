"""A recording -> a clip that a voice can be made of: read in pieces, mixed down, checked, resampled, trimmed.

It may have any format that soundfile reads. A clip that is clipped, silent, too short or damaged is refused in one
line, because the model would copy its faults faithfully.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from dia2.errors import ScriptError

BEST_SECONDS = 10.0  # longer clips take up context and do not keep the voice better

_LEAST_COMPLETE = 0.95  # a file may be a little shorter than it says, because encoders round lengths
# What libsndfile logs about a WAV, AIFF or AU file with fewer bytes than its header says; it reads the file anyway.
_FEWER_BYTES = re.compile(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_NO_SIZE = (
    0x7FFF0000  # programs that stream write this size or a larger one, because they do not know how much will come
)
_BLOCK = 1 << 16  # samples that are read at once, so that an hour of eight channels is never in memory
_LEAST_SECONDS = 0.5
_LEVEL_SECONDS = 0.02  # levels are measured over windows of this length
_QUIETEST_SPEECH = -50.0  # dBFS
_SILENCE_BELOW_SPEECH = 35.0  # dB
_MARGIN = 0.1  # seconds of silence that are left before and after
_FULL_SCALE = 0.999
_MOST_CLIPPED = 0.001  # of all samples


@dataclass(frozen=True)
class Recording:
    """Mono sound, float32 [samples]. clipped: the share of samples at full scale, in any channel."""

    name: str
    samples: NDArray[np.float32]
    rate: int
    clipped: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate

    def at(self, rate: int) -> "Recording":
        """The same at another rate."""
        if rate == self.rate:
            return self
        return Recording(self.name, soxr.resample(self.samples, self.rate, rate), rate, self.clipped)

    def part(self, start: float, stop: float) -> "Recording":
        """From `start` to `stop`, in seconds."""
        first, last = round(start * self.rate), round(stop * self.rate)
        return Recording(self.name, self.samples[first:last], self.rate, self.clipped)


def read_recording(path: str | Path, most_seconds: float = float("inf")) -> Recording:
    """Reads and mixes down a file. Raises ScriptError for one that cannot be read, is empty or too long."""
    with _opened(path) as file:
        seconds = file.frames / file.samplerate * _stated(file)
        if seconds > most_seconds:
            raise ScriptError(
                f"voice clip {path} is {round(seconds, 1):g} s long; at most {round(most_seconds, 1):g} s are read, "
                f"and a voice is best made of 3 to {BEST_SECONDS:.0f} s"
            )
        blocks, full = [], 0
        # file.blocks is not used: when a file is cut short, it goes on with whatever is in memory.
        while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
            full += int((np.abs(block) >= _FULL_SCALE).any(axis=1).sum())
            blocks.append(block.mean(axis=1, dtype=np.float32))
        rate = file.samplerate
    samples: NDArray[np.float32] = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if not samples.size:
        raise ScriptError(f"voice clip {path} is empty")
    if len(samples) < _LEAST_COMPLETE * seconds * rate:
        raise ScriptError(f"voice clip {path} is cut short: {len(samples) / rate:.2f} of {seconds:.2f} s are there")
    if not np.isfinite(samples).all():
        raise ScriptError(f"voice clip {path} holds values that are no samples (NaN or infinity)")
    return Recording(str(path), samples, rate, full / len(samples))


def _stated(file: soundfile.SoundFile) -> float:
    """The length that the file's header states, over its real length; 1 if they agree or no length is stated."""
    found = _FEWER_BYTES.search(file.extra_info)
    stated, there = map(int, found.groups()) if found else (1, 1)
    return stated / there if there and stated < _NO_SIZE else 1.0


@contextmanager
def _opened(path: str | Path) -> Iterator[soundfile.SoundFile]:
    if Path(path).suffix.lower() == ".raw":  # soundfile believes this suffix, whatever is in the file
        raise ScriptError(f"voice clip {path} is raw samples, whose rate and format nobody knows: make it a WAV file")
    try:
        with soundfile.SoundFile(path) as file:
            yield file
    except (OSError, soundfile.SoundFileError) as error:
        reason = str(error).replace("\n", " ")
        if isinstance(error, soundfile.SoundFileError) and Path(path).is_file():
            reason += " WAV, FLAC, OGG, MP3 and AIFF are read: convert it, as with ffmpeg -i clip.m4a clip.wav"
        raise ScriptError(f"voice clip {path} cannot be read: {reason}") from None


def trim(recording: Recording, keep: tuple[float, float] | None = None) -> tuple[float, float]:
    """Where speech begins and ends, in seconds, with a margin; never inside `keep`, where words are known to be.

    Raises ScriptError for a clip that is clipped, nearly silent or too short to hold a voice.
    """
    name = f"voice clip {recording.name}"
    if recording.seconds < _LEAST_SECONDS:
        length = f"{len(recording.samples)} samples" if recording.seconds < 0.01 else f"{recording.seconds:.2f} s"
        raise ScriptError(f"{name} is {length} long; a voice takes {_LEAST_SECONDS:g} s at least, 3 to 10 s are best")
    if recording.clipped > _MOST_CLIPPED:
        raise ScriptError(
            f"{name} is clipped: {recording.clipped:.1%} of it is at full scale; record it again at a lower level"
        )
    speech = float(np.percentile(_levels(recording), 95))
    if speech < _QUIETEST_SPEECH:
        level = f"{max(speech, -120):.0f} dBFS, {_QUIETEST_SPEECH:.0f} are needed"
        raise ScriptError(f"{name} is nearly silent: {level}; record it louder")
    first, last = sounding(recording)
    start, stop = first - _MARGIN, last + _MARGIN
    if keep is not None:
        start, stop = min(start, keep[0]), max(stop, keep[1])
    start, stop = max(0.0, start), min(recording.seconds, stop)
    if stop - start < _LEAST_SECONDS:
        raise ScriptError(f"{name} has {stop - start:.2f} s of sound; a voice takes {_LEAST_SECONDS:g} s at least")
    return start, stop


def sounding(recording: Recording) -> tuple[float, float]:
    """Where sound begins and ends, in seconds: the whole recording if it is silent or too short to tell."""
    levels = _levels(recording)
    if not len(levels) or float(np.percentile(levels, 95)) < _QUIETEST_SPEECH:
        return 0.0, recording.seconds
    loud = np.flatnonzero(levels > max(float(np.percentile(levels, 95)) - _SILENCE_BELOW_SPEECH, -70.0))
    return float(loud[0] * _LEVEL_SECONDS), float((loud[-1] + 1) * _LEVEL_SECONDS)


def _levels(recording: Recording) -> NDArray[np.float64]:
    """The level of every window of _LEVEL_SECONDS, in dBFS."""
    size = round(_LEVEL_SECONDS * recording.rate)
    whole = recording.samples[: len(recording.samples) // size * size].reshape(-1, size).astype(np.float64)
    levels: NDArray[np.float64] = 10 * np.log10(np.mean(whole**2, axis=1) + 1e-12)
    return levels
