"""Standard streams in whatever state a program is given them: non-blocking, closed, or suddenly without a reader."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from piping import PATIENCE

from dia2stream.stdio.descriptors import position_in_file, read_some, when_reader_leaves, write_all

ROOT = Path(__file__).parent.parent


@pytest.fixture
def ends():
    """The two ends of a pipe: to read from, to write to."""
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        with contextlib.suppress(OSError):  # the test closed it
            os.close(fd)


def test_reading_waits_where_the_descriptor_does_not(ends):
    reading, writing = ends
    os.set_blocking(reading, False)
    threading.Timer(0.1, os.write, (writing, b"late")).start()
    assert read_some(reading) == b"late"
    os.close(writing)
    assert read_some(reading) == b""


def test_writing_waits_where_the_descriptor_does_not(ends):
    reading, writing = ends
    os.set_blocking(writing, False)
    data, got = os.urandom(1_000_000), bytearray()

    def read() -> None:
        while len(got) < len(data):
            got.extend(os.read(reading, 5000))

    thread = threading.Thread(target=read)
    thread.start()
    write_all(writing, data)
    thread.join()
    assert got == data


def test_writing_to_nobody_is_a_connection_error(ends):
    reading, writing = ends
    os.close(reading)
    with pytest.raises(ConnectionError):
        write_all(writing, b"x")


@pytest.mark.parametrize("make", [os.pipe, lambda: tuple(end.detach() for end in socket.socketpair())])
def test_a_reader_that_leaves_is_noticed_though_nothing_is_written(make):
    theirs, ours = make()
    gone = threading.Event()
    when_reader_leaves(ours, gone.set)
    assert not gone.wait(0.2)
    os.close(theirs)
    assert gone.wait(PATIENCE)
    os.close(ours)


def test_files_and_null_have_no_reader_to_leave(tmp_path):
    gone = threading.Event()
    for path in (tmp_path / "file", Path(os.devnull)):
        when_reader_leaves(os.open(path, os.O_WRONLY | os.O_CREAT), gone.set)
    assert not gone.wait(0.3)


def test_only_a_file_that_is_not_appended_to_has_a_position(tmp_path, ends):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    for mode, position in (("wb", 0), ("rb+", 0), ("ab", None)):
        with path.open(mode) as file:
            assert position_in_file(file.fileno()) == position
    assert position_in_file(ends[1]) is None
    with open(os.devnull, "wb") as null:
        assert position_in_file(null.fileno()) is None


TAKE = """
import os
from dia2stream.stdio.descriptors import take_stdout
samples = take_stdout()
print("stray", flush=True)
os.system("echo from a child")
held = None if samples is None else os.fstat(samples)
for fd in (0, 1, 2):
    os.fstat(fd)  # open, all of them
if samples is not None:
    assert samples > 2
    os.write(samples, b"samples")
"""


@pytest.mark.parametrize(
    ("closed", "out", "err"),
    [
        ("", b"samples", b"stray\nfrom a child\n"),
        ("<&-", b"samples", b"stray\nfrom a child\n"),
        ("2>&-", b"samples", b""),
        ("<&- 2>&-", b"samples", b""),
    ],
)
def test_stdout_carries_samples_only_whatever_is_closed(closed, out, err):
    command = ["bash", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, TAKE]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, out, err)


def test_a_closed_stdout_is_none():
    code = (
        "from dia2stream.stdio.descriptors import take_stdout; import sys; sys.exit(7 if take_stdout() is None else 0)"
    )
    done = subprocess.run(["bash", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code], cwd=ROOT, timeout=PATIENCE)
    assert done.returncode == 7
