"""`replay`: a recorded conversation once more, into a file or for a player."""

import io
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from dia2stream.audio import Encoder
from dia2stream.engine.replay import Replay
from dia2stream.items import FRAME_MS, FRAME_SAMPLES, Frame
from dia2stream.journal.record import Record, read_record
from dia2stream.options import CheckpointOptions, ReplayOptions
from dia2stream.stdio.descriptors import write_all
from dia2stream.stdio.players import find_player, playing, takes_wav
from dia2stream.terminal import load_progress, note

_RATE = FRAME_SAMPLES * 1000 // FRAME_MS


def run(path: str, model: CheckpointOptions, target: ReplayOptions) -> None:
    """Speaks it again. Raises Dia2StreamError or Dia2Error, OSError for a file that cannot be read or written."""
    record = read_record(Path(path).read_bytes(), path)
    player = find_player() if target.output is None else None
    _tell_record(path, record)
    with load_progress() as progress:
        replay = Replay(record, model, progress)
    until = None if target.until is None else -(-target.until // FRAME_MS)
    frames = replay.frames(until)
    if target.output is None:
        assert player is not None
        _play(player, frames)
    else:
        _write(target.output, frames)
    note(_summary(replay, len(frames)))


def _tell_record(path: str, record: Record) -> None:
    header = record.header
    note(f"{path}: spoken by {header.model} in {header.dtype}, dia2stream {header.made_by}")
    if record.torn:
        note(f"{path}: the last {record.torn} bytes are no whole entry and are left out")


def _summary(replay: Replay, frames: int) -> str:
    seconds, differences = frames * FRAME_MS / 1000, replay.differences
    if not replay.record.header.has_text:
        return f"{seconds:.1f} s were heard again; without the text, nothing was computed"
    if differences.first is None:
        return f"{seconds:.1f} s were spoken again; all {differences.steps} steps drew the same"
    drawn = f"{differences.count} of {differences.steps} steps drew something else, the first is step"
    return f"{seconds:.1f} s were spoken again; {drawn} {differences.first}: the record's draws were taken"


def _sound(frames: Sequence[Frame]) -> NDArray[np.int16]:
    """Rounded as a server does it."""
    encoder = Encoder("pcm16", _RATE)
    return np.frombuffer(b"".join(encoder.encode(frame.pcm) for frame in frames), "<i2")


def _write(path: str, frames: Sequence[Frame]) -> None:
    ending = os.path.splitext(path)[1].lower().removeprefix(".") or "wav"
    data = io.BytesIO()
    soundfile.write(data, _sound(frames), _RATE, format=ending.upper())
    Path(path).write_bytes(data.getvalue())


def _play(player: str, frames: Sequence[Frame]) -> None:
    with ExitStack() as stack:
        fd = stack.enter_context(playing(player))
        if takes_wav(player):
            data = io.BytesIO()
            soundfile.write(data, _sound(frames), _RATE, format="WAV")
            write_all(fd, data.getvalue())
        else:
            write_all(fd, _sound(frames).tobytes())
