"""The standard streams as file descriptors, without Python's buffers and encodings.

A descriptor may be non-blocking, because a parent that shares it set that mode, as Node.js and some shells do. It
may be closed from the start. Its other end may go away at any moment. This module deals with all three.
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
    """A descriptor for stdout that nothing else in the process uses; None if stdout is closed.

    From now on what a library prints goes to stderr: a stray line among the samples would be a loud noise.
    """
    for fd in (0, 2):
        _open_if_closed(fd)  # else the next file that is opened gets this number and is taken for a standard stream
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
    """Up to 64 kB, after waiting for the first byte; empty at the end of the stream."""
    while True:
        try:
            return os.read(fd, _CHUNK)
        except BlockingIOError:
            _wait(fd, select.POLLIN)


def write_all(fd: int, data: bytes) -> None:
    """Writes all of `data`, and waits as long as that takes."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            _wait(fd, select.POLLOUT)


def position_in_file(fd: int) -> int | None:
    """Where in a file the next byte will be written; None for pipes and devices, and for a file opened to append."""
    if not stat.S_ISREG(os.fstat(fd).st_mode) or fcntl(fd, F_GETFL) & os.O_APPEND:
        return None
    return os.lseek(fd, 0, os.SEEK_CUR)


def when_reader_leaves(fd: int, call: Callable[[], None]) -> None:
    """Calls `call`, on a thread of its own, when the reader of `fd` has gone, also if nothing is being written then."""

    def watch() -> None:
        while not _wait(fd, 0) & (select.POLLERR | select.POLLHUP):
            time.sleep(0.1)
        call()

    threading.Thread(target=watch, name="watch", daemon=True).start()


def _wait(fd: int, event: int) -> int:
    """Waits for an event, or for an error (a pipe lost its reader) or a hang-up (a socket did). Returns the flags."""
    poller = select.poll()
    poller.register(fd, event)
    return sum(flags for _, flags in poller.poll())
