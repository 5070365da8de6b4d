"""The standard streams as file descriptors: no buffers of their own, no encoding, nothing in between.

A descriptor may come in a mode that whoever started the program chose for itself (Node.js and some shells share theirs
as non-blocking), may be closed, and may lose its other end at any moment. All of that is dealt with here.
"""

import os
import select
import stat
import threading
import time
from collections.abc import Callable
from fcntl import F_GETFL, fcntl

_CHUNK = 1 << 16


def take_stdout() -> int | None:
    """A descriptor for stdout that nobody else has, None if stdout is closed.

    From here on what a library prints goes to stderr: a stray line among the samples would be a loud noise.
    """
    for fd in (0, 2):
        _open_if_closed(fd)  # else a file opened later gets its number
    try:
        samples = os.dup(1)
    except OSError:
        return None
    os.dup2(2, 1)
    return samples


def _open_if_closed(fd: int) -> None:
    try:
        os.fstat(fd)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != fd:
            os.dup2(null, fd)
            os.close(null)


def read_some(fd: int) -> bytes:
    """What there is to read, waiting for the first byte of it; nothing at the end."""
    while True:
        try:
            return os.read(fd, _CHUNK)
        except BlockingIOError:
            _wait(fd, select.POLLIN)


def write_all(fd: int, data: bytes) -> None:
    """Writes all of it, waiting as long as it takes."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            _wait(fd, select.POLLOUT)


def position_in_file(fd: int) -> int | None:
    """Where the next byte will be written in a file; None for anything else, and for a file that is appended to."""
    if not stat.S_ISREG(os.fstat(fd).st_mode) or fcntl(fd, F_GETFL) & os.O_APPEND:
        return None
    return os.lseek(fd, 0, os.SEEK_CUR)


def when_reader_leaves(fd: int, call: Callable[[], None]) -> None:
    """Has `call` made, on a thread of its own, once nobody reads what is written: also while nothing is."""

    def watch() -> None:
        while not _wait(fd, 0) & (select.POLLERR | select.POLLHUP):
            time.sleep(0.1)
        call()

    threading.Thread(target=watch, name="watch", daemon=True).start()


def _wait(fd: int, event: int) -> int:
    """Waits for an event, or for what is always told: an error (a pipe without a reader), a hang-up (a socket)."""
    poller = select.poll()
    poller.register(fd, event)
    return sum(flags for _, flags in poller.poll())
