"""`pipe`: JSON lines in, raw samples out, events on the side. `say`: one text into one file.

Three threads, because three things may be stuck: reading stdin, writing stdout (a player that is busy), and neither of
them may keep an answer to a command waiting. The reader only parses and submits; the `Player` only writes; the main
thread moves items from the session to the player and to the events. Nothing of the model runs here: that is the
engine's thread.

    stdin -> reader -> engine -> outbox -> main -> player -> stdout
                                             \\-> events

The reader waits while the engine or the reader of events is behind, so a flood of lines costs no memory.
"""

import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO

from . import __version__
from .audio import Encoder, wav_header
from .engine import Engine, Session
from .errors import CommandError
from .options import ModelOptions, PipeOptions, SayOptions, SpeechOptions
from .outbox import FRAME_MS, Cut, Frame
from .protocol import MAX_COMMAND_BYTES, Error, Event, Inject, Ready, Start, dump_event, pack_audio, parse_command
from .terminal import load_progress, note

# Words queued ahead by plain text, which has no reader of errors to tell that there are too many.
_TEXT_AHEAD = 200
# Commands on their way, or answers not read, at which reading stops.
_BEHIND = 200


def run(model: ModelOptions, speech: SpeechOptions, stream: PipeOptions) -> None:
    """Speaks stdin until it ends. Raises Dia2Error when the model cannot be had, SystemExit(1) when it failed."""
    with ExitStack() as stack:
        write_event = stack.enter_context(_events(stream.events))
        engine = _load(model, speech, quiet=stream.events is None and not sys.stderr.isatty())
        stack.callback(engine.close)
        session = stack.enter_context(engine.conversation(max_lead_ms=stream.max_lead_ms))
        player = Player(1, stream, session.notify)
        write_event(_ready(engine, stream))
        feed = _speak_lines if stream.text else _obey_lines
        threading.Thread(target=feed, args=(session, _lines(0)), name="stdin", daemon=True).start()
        failed = _deliver(session, player, write_event)
    if failed:
        raise SystemExit(1)


def say(text: str, model: ModelOptions, speech: SpeechOptions, target: SayOptions) -> None:
    """Speaks one text into a WAV file; the same errors as `run`."""
    lines = iter([" ".join(text.split()).encode("utf-8", "replace")])
    errors: list[Error] = []
    with ExitStack() as stack:
        engine = _load(model, speech, quiet=False)
        stack.callback(engine.close)
        session = stack.enter_context(engine.conversation())
        out = 1 if target.output == "-" else os.open(target.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        player = Player(out, PipeOptions(wav=True), session.notify)
        started = time.monotonic()
        threading.Thread(target=_speak_lines, args=(session, lines), name="text", daemon=True).start()
        failed = _deliver(session, player, lambda event: errors.append(event) if isinstance(event, Error) else None)
        seconds = player.frames * FRAME_MS / 1000
        took = time.monotonic() - started
    for error in errors:
        note(error.message)
    if failed or errors:
        raise SystemExit(1)
    name = "stdout" if target.output == "-" else target.output
    note(f"{name}: {seconds:.1f} s of audio in {took:.1f} s by {engine.checkpoint.name}")


def _load(model: ModelOptions, speech: SpeechOptions, quiet: bool) -> Engine:
    with load_progress() as progress:
        engine = Engine.load(model, progress=progress, speech=speech)
    if not quiet:
        for line in engine.checkpoint.notes:
            note(line)
    return engine


def _ready(engine: Engine, stream: PipeOptions) -> Ready:
    return Ready(
        version=__version__,
        model=engine.checkpoint.name,
        device=str(engine.checkpoint.device),
        sample_rate=stream.sample_rate,
        encoding=stream.encoding,
        frame_ms=FRAME_MS,
        voices=tuple(engine.voices),
    )


# ---- Out ----


def _deliver(session: Session, player: "Player", write_event: Callable[[Event], None]) -> bool:
    """Moves items until the session is finished. Returns whether the model failed."""
    failed = False
    while True:
        # While the player is stuck, answers to commands still get through.
        item = session.next(answers_only=lambda: player.busy)
        if item is None:
            break
        if isinstance(item, Frame):
            player.play(item)
        elif isinstance(item, Cut):
            player.cut()
        elif isinstance(item, Event):
            write_event(item)
            failed |= isinstance(item, Error) and item.code == "internal"
    player.close()
    return failed


class Player:
    """Writes samples to a file descriptor on a thread of its own, one frame at a time.

    A reader that goes away (a player that was quit) ends the program at once and quietly: there is nobody left to
    speak to.
    """

    def __init__(self, fd: int, stream: PipeOptions, on_free: Callable[[], None]) -> None:
        self.frames = 0
        self._fd, self._framed, self._on_free = fd, stream.framed, on_free
        self._encoder = Encoder(stream.encoding, stream.sample_rate)
        self._header = wav_header(stream.encoding, stream.sample_rate) if stream.wav else b""
        self._start = _position(fd)
        self._data_bytes = 0
        self._waiting: bytes | None = self._header
        self._turn = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="stdout", daemon=True)
        self._thread.start()
        threading.Thread(target=_watch, args=(fd,), name="stdout-watch", daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether the last chunk is still being written."""
        return self._waiting is not None

    def play(self, frame: Frame) -> None:
        """Takes a frame; not while `busy`."""
        self.frames += 1
        self._give(self._encoder.encode(frame.pcm))

    def cut(self) -> None:
        """What was played is not going on: nothing of it may be left in the resampler."""
        self._encoder.flush()

    def close(self) -> None:
        """Writes what the resampler held back, and waits until all of it is out."""
        self._wait_free()
        self._give(self._encoder.flush())
        self._wait_free()
        with self._turn:
            self._closed = True
            self._turn.notify()
        self._thread.join()
        self._complete_header()
        if self._fd != 1:
            os.close(self._fd)

    def _give(self, data: bytes) -> None:
        if data:
            self._data_bytes += len(data)
            with self._turn:
                samples = len(data) // self._encoder.sample_bytes
                self._waiting = pack_audio(samples, data) if self._framed else data
                self._turn.notify()

    def _wait_free(self) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._waiting is None)

    def _write_all(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._waiting is not None or self._closed)
                data = self._waiting
            if data is None:
                return
            try:
                _write(self._fd, data)
            except BrokenPipeError:
                os._exit(0)
            except OSError as error:
                note(f"stdout: {error.strerror}")
                os._exit(1)
            with self._turn:
                self._waiting = None
                self._turn.notify_all()
            self._on_free()

    def _complete_header(self) -> None:
        """A WAV header of open length is a last resort: where the output is a file, the length goes in."""
        if self._header and self._start is not None:
            samples = self._data_bytes // self._encoder.sample_bytes
            header = wav_header(self._encoder.encoding, self._encoder.sample_rate, samples)
            os.pwrite(self._fd, header, self._start)


def _position(fd: int) -> int | None:
    """Where the next byte will be written, None for what is not a file, or is only ever appended to."""
    try:
        return None if os.get_blocking(fd) is None or _appends(fd) else os.lseek(fd, 0, os.SEEK_CUR)
    except OSError:
        return None


def _appends(fd: int) -> bool:
    import fcntl

    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _watch(fd: int) -> None:
    """Ends the program when the reader of a pipe is gone, even if there is nothing to write."""
    poller = select.poll()
    poller.register(fd, 0)  # POLLERR is always reported: for a pipe, that nobody reads it any more
    while True:
        if any(event & select.POLLERR for _, event in poller.poll()):
            os._exit(0)
        time.sleep(0.2)  # a hang-up that is no error, as a terminal's


class _events:
    """Where events go: stderr, a file, or nowhere. A context manager that gives the function to call."""

    def __init__(self, target: str | None) -> None:
        self._target = target
        self._file: IO[str] | None = None

    def __enter__(self) -> Callable[[Event], None]:
        if self._target == "none":
            return lambda event: None
        self._file = sys.stderr if self._target is None else open(self._target, "w", encoding="utf-8")
        return self._write

    def __exit__(self, *exception: object) -> None:
        if self._file is not None and self._file is not sys.stderr:
            self._file.close()

    def _write(self, event: Event) -> None:
        assert self._file is not None
        self._file.write(dump_event(event) + "\n")
        self._file.flush()


# ---- In ----


def _lines(fd: int) -> Iterator[bytes]:
    """Lines of a file descriptor. Of one that is too long only as much as is needed to see that."""
    begun, skipping = b"", False
    while piece := os.read(fd, 1 << 16):
        *whole, rest = (begun + piece).split(b"\n")
        for line in whole:
            if not skipping:
                yield line
            skipping = False
        begun = rest
        if len(begun) > MAX_COMMAND_BYTES:
            if not skipping:
                yield begun
            begun, skipping = b"", True
    if begun and not skipping:
        yield begun


def _obey_lines(session: Session, lines: Iterator[bytes]) -> None:
    """Submits the commands; a line that is none becomes an error event in its place."""
    for line in lines:
        if not line.strip():
            continue
        _wait_while(lambda: session.behind > _BEHIND)
        try:
            session.submit(parse_command(line))
        except CommandError as error:
            session.refuse(error)
    session.finish()


def _speak_lines(session: Session, lines: Iterator[bytes]) -> None:
    """Plain text: each line is an utterance of one conversation, and read no faster than it is spoken."""
    begun = False
    for line in lines:
        pieces = list(_pieces(line.decode("utf-8", "replace"))) if line.strip() else []
        for number, piece in enumerate(pieces, start=1):
            _wait_while(lambda: session.behind > 0 or session.queued_words > _TEXT_AHEAD)
            final = number == len(pieces)
            session.submit(Inject(piece, final=final) if begun else Start(piece, final=final))
            begun = True
    session.finish()


def _pieces(text: str, size: int = 1000) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]


def _wait_while(condition: Callable[[], bool]) -> None:
    while condition():
        time.sleep(0.005)
