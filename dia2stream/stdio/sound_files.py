"""Sound into a file that is no WAV: MP3, FLAC or OGG, by soundfile."""

import os

import soundfile

from dia2stream.items import FRAME_MS, FRAME_SAMPLES, Frame

ENDINGS = ("wav", "mp3", "flac", "ogg")
_RATE = FRAME_SAMPLES * 1000 // FRAME_MS


def ending(path: str) -> str:
    """What a file's name ends in, in small letters; empty without a dot."""
    return os.path.splitext(path)[1].lower().removeprefix(".")


class SoundFileWriter:
    """Takes frames as `SampleWriter` does, and is never busy. fd: of an empty file. kind: one of ENDINGS."""

    busy = False

    def __init__(self, fd: int, kind: str) -> None:
        self._file = soundfile.SoundFile(fd, "w", _RATE, 1, format=kind.upper(), closefd=False)
        self.frames = 0

    @property
    def seconds(self) -> float:
        """How much was written."""
        return self.frames * FRAME_MS / 1000

    def write(self, frame: Frame) -> None:
        """Takes a frame."""
        self._file.write(frame.pcm)
        self.frames += 1

    def restart(self) -> None:
        """Nothing to do: frames follow each other in a file, whatever they are of."""

    def wait(self, seconds: float | None = None) -> None:
        """Nothing to do: frames are written when they are given."""

    def close(self) -> None:
        """Completes the file."""
        self._file.close()
