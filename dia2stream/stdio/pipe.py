"""`pipe`: JSON lines in, raw samples out, events on stderr. `say`: one text into one file.

Reading stdin may block, and so may writing stdout, while its player is busy. Neither may delay the answer to a command,
so there are three threads. The reader parses commands and submits them. The `SampleWriter` writes samples. The main
thread moves items from the session to the writer and to the events. The model runs on a fourth one, the engine's.

    stdin -> reader -> engine -> outbox -> main -> writer -> stdout
                                             \\-> events

The reader stops reading while many commands or answers wait, so a flood of lines costs no memory.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from dia2stream import __version__
from dia2stream.engine.engine import Dia2Error, Engine
from dia2stream.engine.session import Session
from dia2stream.errors import CommandError, Dia2StreamError
from dia2stream.items import FRAME_MS, Cut, Frame
from dia2stream.options import ModelOptions, PipeOptions, SayOptions, SpeechOptions
from dia2stream.protocol.messages import (
    MAX_COMMAND_BYTES,
    Error,
    Event,
    Inject,
    Notice,
    Paused,
    Ready,
    ResetDone,
    Start,
    Started,
    parse_command,
)
from dia2stream.stdio.decoding import as_utf8, decoded
from dia2stream.stdio.descriptors import position_in_file, read_some, take_stdout, when_reader_leaves
from dia2stream.stdio.events import Events
from dia2stream.stdio.players import find_player, playing, takes_wav
from dia2stream.stdio.sound_files import SoundFileWriter, ending
from dia2stream.stdio.writer import SampleWriter
from dia2stream.terminal import load_progress, note
from dia2stream.text.lexer import Lexer

_log = logging.getLogger(__name__)

# Plain text is read in pieces, and the next piece only when fewer words than this wait to be spoken.
_TEXT_AHEAD = 200
_PIECE_CHARS = 1000
_PIECE = re.compile(rf"[^\n]{{1,{_PIECE_CHARS}}}\n?|\n")
# No audio may follow the event `paused`: it waits for the frame that is being written, at most this long.
_SETTLE_SECONDS = 0.05


def run(model: ModelOptions, speech: SpeechOptions, stream: PipeOptions) -> None:
    """Speaks stdin until it ends. Raises Dia2Error when the model cannot be had, SystemExit(1) when it failed."""
    stdout = _stdout()
    events = Events(stream.events)
    with ExitStack() as stack:
        engine = _load_for_pipe(model, speech, events)
        stack.callback(engine.close)
        session = stack.enter_context(engine.conversation(max_lead_ms=stream.max_lead_ms))
        writer = _writer(stdout, stream, session, lambda why: events.failed(f"stdout: {why}"))
        events.write(_ready(engine, stream))
        if events.only_json and engine.checkpoint.about is not None:
            events.log("info", engine.checkpoint.about)  # elsewhere it is among the notes
        read = (
            (lambda: _speak(session, _chunks(0), reads_marks=engine.text.rules != "off"))
            if stream.text
            else (lambda: _obey(session, _lines(as_utf8(_chunks(0)))))
        )
        reader = Reader(session, read)
        done = _deliver(session, writer, events.write)
        if reader.problem is not None:
            events.failed(reader.problem)
    if not done or reader.problem is not None:
        raise SystemExit(1)


def say(text: str, model: ModelOptions, speech: SpeechOptions, target: SayOptions) -> None:
    """Speaks one text into a file, or plays it; the same errors as `run`."""
    with ExitStack() as stack:
        name, out = _output(target.output, stack)
        engine = _load(model, speech)
        stack.callback(engine.close)
        session = stack.enter_context(engine.conversation())
        writer = _sink(name, out, session, stack)
        problems: list[str] = []
        started = time.monotonic()
        reader = Reader(session, lambda: _speak_all(session, text))

        def told(event: Event) -> None:
            if isinstance(event, Error):
                problems.append(event.message)
            elif isinstance(event, Notice):
                note(event.message)

        _deliver(session, writer, told)
        took = time.monotonic() - started
    problems += [reader.problem] if reader.problem is not None else []
    for problem in problems:
        note(problem)
    if problems:
        raise SystemExit(1)
    note(f"{name}: {writer.seconds:.1f} s of audio in {took:.1f} s by {engine.checkpoint.name}")


def _load(model: ModelOptions, speech: SpeechOptions, quiet: bool = False) -> Engine:
    with load_progress() as progress:
        engine = Engine.load(model, progress=progress, speech=speech)
    if not quiet:
        for line in engine.checkpoint.notes:
            note(line)
    return engine


def _load_for_pipe(model: ModelOptions, speech: SpeechOptions, events: Events) -> Engine:
    try:
        return _load(model, speech, quiet=events.only_json)
    except (Dia2Error, Dia2StreamError) as error:
        if not events.only_json:
            raise
        events.failed(str(error))
        raise SystemExit(1) from None


def _output(target: str | None, stack: ExitStack) -> tuple[str, int | None]:
    """The name and descriptor of what `say` writes. A file that it creates is removed again if it stays empty.

    Without a target it is the name of a player, which is started once there is something to play.
    """
    if target is None:
        return find_player(), None
    if target == "-":
        return "stdout", _stdout()
    is_new = not os.path.exists(target)
    out = os.open(target, os.O_WRONLY | os.O_CREAT, 0o666)

    def close() -> None:
        if is_new and os.fstat(out).st_size == 0:
            os.unlink(target)
        os.close(out)

    stack.callback(close)
    return target, out


def _sink(name: str, out: int | None, session: Session, stack: ExitStack) -> "SampleWriter | SoundFileWriter":
    """What takes the frames of `say`."""

    def tell(why: str) -> None:
        note(f"{name}: {why}")

    if out is None:
        return _writer(stack.enter_context(playing(name)), PipeOptions(wav=takes_wav(name)), session, tell)
    if position_in_file(out) is not None:
        os.ftruncate(out, 0)
    kind = ending(name)
    if name == "stdout" or kind in ("", "wav"):
        return _writer(out, PipeOptions(wav=True), session, tell)
    writer = SoundFileWriter(out, kind)
    stack.callback(writer.close)
    return writer


def _stdout() -> int:
    """stdout, for samples only. When its reader has gone, the program ends at once and without a message."""
    stdout = take_stdout()
    if stdout is None:
        raise SystemExit(0)
    when_reader_leaves(stdout, _leave)
    return stdout


def _leave(code: int = 0) -> None:
    os._exit(code)


def _writer(fd: int, stream: PipeOptions, session: Session, tell: Callable[[str], None]) -> SampleWriter:
    def failed(why: str) -> None:
        tell(why)
        _leave(1)

    return SampleWriter(fd, stream, on_free=session.notify, on_gone=_leave, on_failure=failed)


def _ready(engine: Engine, stream: PipeOptions) -> Ready:
    return Ready(
        version=__version__,
        model=engine.checkpoint.name,
        device=str(engine.checkpoint.device),
        sample_rate=stream.sample_rate,
        encoding=stream.encoding,
        frame_ms=FRAME_MS,
        voices=tuple(engine.voices),
        sampling=engine.sampling,
    )


# ---- Out ----


def _deliver(session: Session, writer: "SampleWriter | SoundFileWriter", write_event: Callable[[Event], None]) -> bool:
    """Moves items until the session is finished. Returns whether all went well."""
    while True:
        # While stdout blocks, answers to commands still get through.
        item = session.next(answers_only=lambda: writer.busy)
        if item is None:
            writer.wait()
            return True
        if isinstance(item, Frame):
            writer.write(item)
            continue
        if isinstance(item, Cut | Started | ResetDone):
            writer.restart()
        if isinstance(item, Paused):
            writer.wait(_SETTLE_SECONDS)
        if isinstance(item, Event):
            write_event(item)
        if isinstance(item, Error) and item.code == "internal":
            return False


# ---- In ----


class Reader:
    """Reads on a thread of its own, and finishes the session when reading ends or fails.

    problem: why reading failed; None as long as it has not.
    """

    def __init__(self, session: Session, read: Callable[[], None]) -> None:
        self.problem: str | None = None
        self._session, self._read = session, read
        threading.Thread(target=self._run, name="reader", daemon=True).start()

    def _run(self) -> None:
        try:
            self._read()
        except OSError as error:
            self.problem = f"stdin: {error.strerror}"
        except Exception:
            _log.exception("reading failed")
            self.problem = "reading failed, the log says why"
        finally:
            self._session.finish()


def _chunks(fd: int) -> Iterator[bytes]:
    """Bytes from a descriptor, in pieces as they arrive, to its end."""
    return iter(lambda: read_some(fd), b"")


def _lines(chunks: Iterator[bytes], limit: int = MAX_COMMAND_BYTES) -> Iterator[bytes | None]:
    """Lines without their ends; None in place of a line over `limit` bytes, of which at most `limit` are ever held."""
    begun, too_long = bytearray(), False
    for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield None if too_long or len(begun) + len(end) > limit else bytes(begun + end)
            begun, too_long = bytearray(), False
        if too_long or len(begun) + len(rest) > limit:
            begun, too_long = bytearray(), True
        else:
            begun += rest
    if begun or too_long:
        yield None if too_long else bytes(begun)


def _obey(session: Session, lines: Iterator[bytes | None]) -> None:
    """Submits the commands. A line that is no command is answered by an error event, in its place among the answers."""
    for line in lines:
        if line is not None and not line.strip():
            continue
        session.wait_while(lambda: session.behind >= 1)
        try:
            if line is None:
                raise CommandError("too_long", f"a line is over {MAX_COMMAND_BYTES} bytes long, which is the limit")
            session.submit(parse_command(line))
        except CommandError as error:
            if error.code == "bad_json" and line is not None and not line.lstrip().startswith(b"{"):
                error = CommandError(error.code, f"{error.message}; to speak plain text, give --text")
            session.refuse(error)


def _speak(session: Session, chunks: Iterator[bytes], reads_marks: bool = True) -> None:
    """Speaks plain text as it arrives, also in the middle of a line. Each line is an utterance of one conversation.

    reads_marks: what `<think>` begins is left out up to `</think>`, over as many lines as that takes.
    """
    begun = is_open = False
    marks = Lexer()  # only asked where a line's end is no utterance's
    for text in decoded(chunks):
        for piece in _PIECE.findall(text):
            if not is_open and not piece.strip():
                continue
            if reads_marks:
                marks.feed(piece)
            line_ends = piece.endswith("\n") and not marks.leaves_out
            session.wait_while(lambda: session.behind > 0 or session.queued_words > _TEXT_AHEAD)
            if not begun:
                session.submit(Start("", final=False))
            session.submit(Inject(piece, final=line_ends))
            begun, is_open = True, not line_ends
            if line_ends:
                marks.flush()


def _speak_all(session: Session, text: str) -> None:
    """Speaks one text as one utterance, with all of its lines."""
    session.submit(Start("", final=False))
    for start in range(0, len(text), _PIECE_CHARS):
        session.wait_while(lambda: session.behind > 0 or session.queued_words > _TEXT_AHEAD)
        session.submit(Inject(text[start : start + _PIECE_CHARS], final=False))
