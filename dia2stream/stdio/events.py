"""Events as JSON lines on stderr or in a file, and the other lines that a process writes to stderr.

A program that reads stderr as JSON lines must get nothing else, whatever libraries print there. So if the events go to
stderr, and stderr is no terminal, every other line becomes an event too, named "log":

    {"event": "log", "level": "error", "message": "a step failed\\nTraceback (most recent call last): ..."}

Clients ignore it, as they ignore every event they do not know. On a terminal, and on a stderr without events, the log
stays plain text.
"""

import io
import json
import logging
import os
import sys
import threading
from collections.abc import Callable

from dia2stream.protocol.messages import Error, Event, dump_event
from dia2stream.stdio.descriptors import write_all
from dia2stream.terminal import note


class Events:
    """Writes events to stderr (None), into a file, or nowhere ("none"). If their reader has gone, speech goes on.

    only_json: whether a program reads stderr, so that plain text must not be written there.
    """

    def __init__(self, target: str | None) -> None:
        self.only_json = target is None and not (sys.stderr is not None and sys.stderr.isatty())
        self._lock = threading.Lock()
        self._fd: int | None = 2 if target is None else None
        if target not in (None, "none"):
            self._fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        logging.captureWarnings(True)
        if self.only_json:
            logging.getLogger().addHandler(_LogHandler(self.log))
            sys.stdout = sys.stderr = _LogStream(self.log)

    def write(self, event: Event) -> None:
        """Writes one event."""
        self._line(dump_event(event))

    def failed(self, why: str) -> None:
        """Says why the program ends."""
        if self.only_json:
            self.write(Error("internal", why))
        else:
            note(why)

    def log(self, level: str, message: str) -> None:
        """Writes a line of the log as an event."""
        self._line(json.dumps({"event": "log", "level": level, "message": message}))

    def _line(self, line: str) -> None:
        if self._fd is None:
            return
        try:
            with self._lock:
                write_all(self._fd, line.encode() + b"\n")
        except OSError as error:
            self._fd = None
            if not isinstance(error, ConnectionError):
                note(f"events: {error.strerror}")


class _LogHandler(logging.Handler):
    """Writes each record of the log as an event, with its traceback."""

    def __init__(self, log: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log(record.levelname.lower(), self.format(record))


class _LogStream(io.TextIOBase):
    """Writes each printed line as an event."""

    encoding = "utf-8"

    def __init__(self, log: Callable[[str, str], None]) -> None:
        self._log = log
        self._begun = threading.local()  # by thread, so that lines of two threads do not mix

    def write(self, text: str) -> int:
        *lines, begun = (getattr(self._begun, "text", "") + text).split("\n")
        for line in lines:
            if line.strip():
                self._log("warning", line)
        self._begun.text = begun.rpartition("\r")[2]  # after a carriage return a progress bar writes over itself
        return len(text)

    def fileno(self) -> int:
        return 2
