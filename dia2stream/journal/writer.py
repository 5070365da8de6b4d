"""The thread that writes tapes down, so that neither the engine nor the server ever waits for a disk."""

import contextlib
import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dia2stream.journal.private_folder import private_folder

if TYPE_CHECKING:  # brings torch along
    from dia2stream.journal.tape import Tape

_log = logging.getLogger(__name__)
PERIOD_SECONDS = 0.2


class Sink(Protocol):
    """Where one tape is written to."""

    def put(self, data: bytes | None) -> None:
        """More of the record; None where another one begins. Raises OSError."""

    def written(self) -> bytes:
        """The record so far. Raises OSError."""

    def close(self) -> None:
        """There will be no more. Raises OSError."""


class TapeMaker(Protocol):
    """What this needs of an engine."""

    def tape(self, keeps_text: bool = True) -> "Tape":
        """Something that writes one of its conversations down."""


class RecordFiles:
    """The records of one conversation's tape, each in a file of its own: DIR/TIME-ID.dia2rec."""

    def __init__(self, folder: Path, id: str) -> None:
        self._folder, self._id = folder, "".join(c for c in id[:6] if c.isalnum()) or "x"
        self._fd: int | None = None

    def put(self, data: bytes | None) -> None:
        """Appends to the file, which begins with the first bytes of its record."""
        if data is None:
            self.close()
            return
        if self._fd is None:
            self._fd = self._new_file()
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def written(self) -> bytes:
        """The file so far."""
        return b"" if self._fd is None else os.pread(self._fd, os.fstat(self._fd).st_size, 0)

    def close(self) -> None:
        """The record is complete."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _new_file(self) -> int:
        begun = time.strftime("%Y%m%d-%H%M%S")
        for number in range(1000):
            path = self._folder / f"{begun}-{self._id}{f'-{number}' if number else ''}.dia2rec"
            try:
                # Whoever reads it reads what callers said.
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            except FileExistsError:
                continue
        raise FileExistsError(f"{self._folder}: a thousand records began in one second")


class Nowhere:
    """A sink for a conversation that is no longer recorded: what its tape still holds must not fill the memory."""

    def put(self, data: bytes | None) -> None:
        """Forgets it."""

    def written(self) -> bytes:
        """Nothing."""
        return b""

    def close(self) -> None:
        """Nothing to close."""


class Recorder:
    """Writes conversations into a folder, on a thread of its own. A tape that cannot be written is given up."""

    def __init__(self, folder: str, keeps_text: bool = True) -> None:
        self._folder, self._keeps_text = private_folder("--record", folder), keeps_text
        self._sinks: dict[Tape, Sink] = {}
        self._ended: set[Tape] = set()
        self._unborn: set[Tape] = set()  # of forks: what was said before is to be copied first
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def begin(self, id: str, engine: TapeMaker, is_fork: bool = False) -> "Tape":
        """A tape for a conversation of this id. What is on it is written down until `end`.

        is_fork: its record begins with that of another conversation, whose tape says where.
        """
        tape = engine.tape(self._keeps_text)
        with self._lock:
            self._sinks[tape] = RecordFiles(self._folder, id)
            if is_fork:
                self._unborn.add(tape)
        return tape

    def end(self, tape: "Tape") -> None:
        """There will be no more on this tape."""
        with self._lock:
            self._ended.add(tape)

    def close(self) -> None:
        """Writes what is there, and ends the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_SECONDS):
            self._write_all()
        self._write_all()

    def _write_all(self) -> None:
        with self._lock:
            tapes, ended = list(self._sinks), set(self._ended)
        for tape in tapes:
            sink = self._sinks[tape]  # now, because a fork may have been given up since
            try:
                for data in () if tape in self._unborn else tape.take():
                    if isinstance(data, bytes | None):
                        sink.put(data)
                    else:
                        self._fork(sink, data.copy)
                if tape in ended:
                    sink.close()
            except OSError as error:
                _log.error("a conversation is no longer recorded", extra={"reason": error.strerror or str(error)})
                self._give_up(tape)
        with self._lock:
            for tape in ended:
                self._sinks.pop(tape, None)
                self._ended.discard(tape)
                self._unborn.discard(tape)

    def _fork(self, sink: Sink, tape: "Tape") -> None:
        """What is written of a conversation up to here is the beginning of its fork's record."""
        with self._lock:
            fork = self._sinks.get(tape)
            self._unborn.discard(tape)
        if fork is not None and isinstance(sink, Nowhere):
            self._give_up(tape)  # a record without its beginning could not be read
        elif fork is not None:
            fork.put(sink.written())

    def _give_up(self, tape: "Tape") -> None:
        """Nothing more of this tape is written."""
        with self._lock:
            sink, self._sinks[tape] = self._sinks[tape], Nowhere()
        with contextlib.suppress(OSError):
            sink.close()
