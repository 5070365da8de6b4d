"""The sample writer: exact clocks in every format, true headers, and a writer that is stuck, gone or out of disk."""

import os
import queue
import struct
import threading

import numpy as np
import pytest
import soundfile

from dia2stream.audio import ENCODINGS, SAMPLE_BYTES, SAMPLE_RATES, UNKNOWN_SIZE
from dia2stream.items import Frame
from dia2stream.options import PipeOptions
from dia2stream.stdio.writer import SampleWriter


def frame(number: int) -> Frame:
    """80 ms of a tone that goes on from frame to frame."""
    return Frame((0.5 * np.sin(0.05 * np.arange(number * 1920, (number + 1) * 1920))).astype(np.float32))


class Told(queue.Queue):
    """What a writer calls back."""

    def writer(self, fd: int, **options: object) -> SampleWriter:
        return SampleWriter(
            fd,
            PipeOptions(**options),
            on_free=lambda: self.put("free"),
            on_gone=lambda: self.put("gone"),
            on_failure=self.put,
        )

    def until(self, wanted: str) -> None:
        while self.get(timeout=30) != wanted:
            pass


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def ends():
    reading, writing = os.pipe()
    yield reading, writing
    os.close(writing)


def listen(reading: int) -> tuple[threading.Thread, bytearray]:
    got = bytearray()

    def read() -> None:
        while piece := os.read(reading, 1 << 16):
            got.extend(piece)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread, got


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("rate", SAMPLE_RATES)
def test_every_frame_is_80_ms_also_after_an_interruption(tmp_path, told, encoding, rate):
    path, size = tmp_path / "out", 80 * rate // 1000 * SAMPLE_BYTES[encoding]
    with path.open("wb") as file:
        writer = told.writer(file.fileno(), encoding=encoding, sample_rate=rate)
        for number in range(5):
            writer.write(frame(number))
            writer.wait()
            assert path.stat().st_size == (number + 1) * size
        writer.restart()
        writer.write(frame(0))
        writer.wait()
    data = path.read_bytes()
    assert len(data) == 6 * size
    assert data[:size] == data[5 * size :]  # nothing of what was before the interruption is left


def test_framed_chunks_say_how_many_samples_they_have(ends, told):
    thread, got = listen(ends[0])
    writer = told.writer(ends[1], framed=True, encoding="mulaw", sample_rate=8000)
    for number in range(3):
        writer.write(frame(number))
    writer.wait()
    while len(got) < 3 * 644:
        thread.join(0.01)
    assert [struct.unpack_from("<I", got, at)[0] for at in (0, 644, 1288)] == [640] * 3


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_wav_file_is_whole_after_every_frame_wherever_in_the_file_it_begins(tmp_path, told, encoding):
    path = tmp_path / "speech.wav"
    with path.open("wb") as file:
        file.write(b"before")
        file.flush()
        writer = told.writer(file.fileno(), wav=True, encoding=encoding, sample_rate=8000)
        for number in range(3):
            writer.write(frame(number))
            writer.wait()
            (tmp_path / "copy.wav").write_bytes(path.read_bytes()[6:])
            assert soundfile.info(tmp_path / "copy.wav").frames == 640 * (number + 1)
    assert path.read_bytes().startswith(b"before")


def test_a_wav_stream_has_a_header_of_open_length(ends, told):
    thread, got = listen(ends[0])
    writer = told.writer(ends[1], wav=True)
    writer.write(frame(0))
    writer.wait()
    while len(got) < 44 + 3840:
        thread.join(0.01)
    assert struct.unpack_from("<I", got, 40) == (UNKNOWN_SIZE,)


def test_a_stuck_reader_makes_it_busy_and_one_that_goes_on_loses_nothing(ends, told):
    writer = told.writer(ends[1])
    written = 0
    while not writer.busy or written == 0:
        writer.write(frame(written))
        written += 1
        writer.wait(0.2)
    writer.wait(0.05)
    assert writer.busy
    thread, got = listen(ends[0])
    writer.write(frame(written))
    writer.wait()
    assert writer.seconds == pytest.approx((written + 1) * 0.08)
    while len(got) < (written + 1) * 3840:
        thread.join(0.01)


def test_a_reader_that_is_gone_is_told_once(told):
    reading, writing = os.pipe()
    os.close(reading)
    told.writer(writing).write(frame(0))
    told.until("gone")
    os.close(writing)


def test_a_full_disk_is_told_with_its_reason(told):
    with open("/dev/full", "wb") as full:
        told.writer(full.fileno(), wav=True)
        told.until("No space left on device")
