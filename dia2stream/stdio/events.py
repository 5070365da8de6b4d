"""Events as JSON lines on stderr or in a file, and what else would like to be on stderr.

A program that reads stderr as JSON lines must get nothing but those, whatever a library has to say there. So where
stderr is no terminal and the events go to it, all the rest becomes events too, named "log":

    {"event": "log", "level": "error", "message": "a step failed\\nTraceback (most recent call last): ..."}

Clients pass over them, as over every event they do not know. A terminal, or a stderr without events, has plain text.
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
    """Writes events to stderr (None), into a file, or nowhere ("none"); if nobody reads them, the rest goes on.

    only_json: whether stderr is for a program, which cannot read plain text there.
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
        """Tells why the program ends."""
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
    """The log: one event a record, with its traceback if it has one."""

    def __init__(self, log: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log(record.levelname.lower(), self.format(record))


class _LogStream(io.TextIOBase):
    """What is printed: one event a line."""

    encoding = "utf-8"

    def __init__(self, log: Callable[[str, str], None]) -> None:
        self._log = log
        self._begun = threading.local()  # a line of one thread is not cut up by another's

    def write(self, text: str) -> int:
        *lines, begun = (getattr(self._begun, "text", "") + text).split("\n")
        for line in lines:
            if line.strip():
                self._log("warning", line)
        self._begun.text = begun.rpartition("\r")[2]  # a progress bar writes over itself
        return len(text)

    def fileno(self) -> int:
        return 2
