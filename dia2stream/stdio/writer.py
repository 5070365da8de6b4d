"""Samples to stdout or into a file, written by a thread of their own: a slow reader delays only the audio.

The audio clock is exact. Every frame of 80 ms becomes 80 ms of samples in every encoding and rate, so the sum of what
was written since a conversation began is the position on its clock. At 8 kHz a frame is four packets of 20 ms, the size
that telephones take. The resampler holds back a few samples; silence written before the first frame makes up for them.
"""

import os
import threading
from collections.abc import Callable

from dia2stream.audio import Encoder, wav_header
from dia2stream.items import FRAME_MS, Frame
from dia2stream.options import PipeOptions
from dia2stream.protocol.audio_message import pack_audio
from dia2stream.stdio.descriptors import position_in_file, write_all


class SampleWriter:
    """Writes frames to a file descriptor. One frame may wait to be written; `write` blocks while another one does.

    on_free: called when a frame has been written and there is room for the next. on_gone: called when the reader has
    closed its end. on_failure: called with the reason when writing fails. All three are called on the writer's thread.
    """

    def __init__(
        self,
        fd: int,
        stream: PipeOptions,
        *,
        on_free: Callable[[], None],
        on_gone: Callable[[], None],
        on_failure: Callable[[str], None],
    ) -> None:
        self.frames = 0
        self._fd, self._framed = fd, stream.framed
        self._on_free, self._on_gone, self._on_failure = on_free, on_gone, on_failure
        self._encoder = Encoder(stream.encoding, stream.sample_rate)
        self._header_at = position_in_file(fd) if stream.wav else None
        self._turn = threading.Condition()
        self._waiting: bytes | None = wav_header(stream.encoding, stream.sample_rate) if stream.wav else None
        self.restart()
        threading.Thread(target=self._write_frames, name="writer", daemon=True).start()

    @property
    def seconds(self) -> float:
        """How much audio was taken, in seconds."""
        return self.frames * FRAME_MS / 1000

    @property
    def busy(self) -> bool:
        """Whether a frame is still being written."""
        return self._waiting is not None

    def write(self, frame: Frame) -> None:
        """Takes a frame, as soon as the one before it has been written."""
        data = self._encoder.encode(frame.pcm)
        if self._framed:
            data = pack_audio(len(data) // self._encoder.sample_bytes, data)
        self.wait()
        with self._turn:
            self.frames += 1
            self._waiting = data
            self._turn.notify_all()

    def restart(self) -> None:
        """Starts the encoder anew: the next frame does not continue the sound of the last one."""
        self._encoder.restart()

    def wait(self, seconds: float | None = None) -> None:
        """Returns when everything has been written, or after so many seconds."""
        with self._turn:
            self._turn.wait_for(lambda: not self.busy, seconds)

    def _write_frames(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self.busy)
                data = self._waiting
            assert data is not None
            try:
                write_all(self._fd, data)
                self._complete_header()
            except ConnectionError:
                self._on_gone()
                return
            except OSError as error:
                self._on_failure(os.strerror(error.errno or 0))
                return
            with self._turn:
                self._waiting = None
                self._turn.notify_all()
            self._on_free()

    def _complete_header(self) -> None:
        """Writes the true length into a file's header after every frame: a killed program leaves a good file."""
        if self._header_at is not None:
            samples = self.frames * FRAME_MS * self._encoder.sample_rate // 1000
            header = wav_header(self._encoder.encoding, self._encoder.sample_rate, samples)
            os.pwrite(self._fd, header, self._header_at)
