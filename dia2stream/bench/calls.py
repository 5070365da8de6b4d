"""The calls that `bench` times: one conversation with all its moments, said to the engine or to a server.

    start                 cold start; then read on, for the interval between frames
    (all is spoken)
    inject                after silence: a new turn
    inject                during speech: how much later the frames behind it come
    pause, inject         a barge-in, up to `paused`; then a new turn from what was heard
    reset, start, ...     text in pieces, from the piece that makes enough words known

Each is timed from the command to the first sample that its sender has in hand. First audio costs 17 backbone steps, one
whole frame and one frame of the codec in all four cases (with the published delays); in this process that is counted.
"""

import asyncio
import contextlib
import queue
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Protocol

from dia2stream.client import connect
from dia2stream.engine.engine import Engine
from dia2stream.engine.observer import StepReport
from dia2stream.engine.session import Session
from dia2stream.errors import Dia2StreamError, EngineError
from dia2stream.items import FRAME_MS, Cut, Frame
from dia2stream.options import SpeechOptions
from dia2stream.protocol.fields import MAX_SEED
from dia2stream.protocol.messages import (
    Command,
    Done,
    End,
    Error,
    Event,
    Inject,
    Pause,
    Paused,
    Ready,
    Reset,
    ResetDone,
    Start,
)

# The answer is long enough to be spoken still when it is interrupted.
GREETING = "[S1] Good morning, this is the front desk, how can I help you?"
ANSWER = (
    "[S1] Of course, I can look that up for you right now, it only takes a moment. [S2] Thank you, that is very kind. "
    "[S1] While I do that, could you tell me when you made the booking, and the name that it is under, please?"
)
MORE = "[S2] Oh, and one more thing before I forget it."
INSTEAD = "[S1] Sorry, please go on, I am listening to what you have to say."
PIECES = "[S1] Yes, there is still a room free on Tuesday, shall I keep it for you until the evening?"

_SPAN = 30  # frames over which intervals are taken: within what a server sends ahead of playback
_BEFORE_MORE = 10  # frames of the answer that are read before more text comes, and again before the interruption
_SILENCE = 60.0  # seconds after which a server is taken for dead


Count = dict[str, int]  # backbone_steps, and frames: steps that ran the depformer too


class Line(Protocol):
    """A conversation as its caller has it."""

    def submit(self, command: Command) -> None:
        """Sends a command; waits for nothing."""

    def next(self) -> tuple[Event | None, float]:
        """The next event, or None for 80 ms of sound, and when it was there. Raises EngineError when no more comes."""

    def settle(self, played: float) -> None:
        """Returns when commands are carried out, nothing is going on, and the sound has been played.

        played: when a listener will have heard all that was sent; of no interest to an engine, which keeps no pace.
        """


class Caller:
    """Makes the calls and keeps the times.

    taken: by figure, in ms. counts: by figure, steps from the command to the first sample, of a run in which they are
    not what was expected if there is one. ahead: the words beyond the next that a model must know.
    """

    def __init__(self, line: Line, speech: SpeechOptions, steps: "Steps | None", ahead: int) -> None:
        self.taken: dict[str, list[float]] = defaultdict(list)
        self.counts: dict[str, Count] = {}
        self._line, self._steps = line, steps
        self._seed = speech.seed or 0
        # What a server must be told; an engine knows it. Voices are files, a server has its own.
        usual, own = asdict(SpeechOptions()), ("seed", "voice")
        self._chosen = {k: v for k, v in asdict(speech).items() if v != usual[k] and k not in own}
        self._opening, self._rest = pieces(PIECES, ahead)
        self._heard = 0  # frames of this conversation

    def call(self, number: int) -> None:
        """One run."""
        self._cold_start(number)
        self._answer_after_silence()
        self._more_during_speech()
        self._barge_in(number)
        self._reset()
        self._speak_in_pieces(number)
        self._reset()

    def _cold_start(self, number: int) -> None:
        self._heard = 0
        times = self._first("cold_start", [self._start(GREETING, number)])
        times += self._listen(until=Done)
        span = times[:_SPAN]
        self.taken["frame_interval"] += _intervals(span)
        seconds = (len(span) - 1) * FRAME_MS / 1000
        self.taken["real_time_factor"].append((span[-1] - span[0]) / seconds)
        self._line.settle(times[0] + len(times) * FRAME_MS / 1000)

    def _answer_after_silence(self) -> None:
        self._turn = self._heard
        self._latest = self._first("inject_after_silence", [Inject(ANSWER)])

    def _more_during_speech(self) -> None:
        """The frame that is being made when the text comes, and the one after it, against two others."""
        before = self._latest + self._listen(frames=_BEFORE_MORE)
        self._line.submit(Inject(MORE))
        after = self._listen(frames=_BEFORE_MORE)
        usual = statistics.median(_intervals(before) + _intervals(after[1:]))
        self.taken["inject_during_speech"].append(1000 * (after[1] - before[-1]) - 2 * usual)

    def _barge_in(self, number: int) -> None:
        # At another place in every run: how much of the codec's past has to be heard again depends on it.
        heard = self._turn + 4 + number % 12
        asked = time.perf_counter()
        self._line.submit(Pause(heard * FRAME_MS + FRAME_MS / 2))
        self._listen(until=Paused)
        self.taken["pause"].append(1000 * (time.perf_counter() - asked))
        self._first("inject_after_barge_in", [Inject(INSTEAD)])

    def _speak_in_pieces(self, number: int) -> None:
        first, *others = self._opening
        self._line.submit(self._start(first, number, final=False))
        for piece in others:
            self._line.submit(Inject(piece, final=False))
        self._line.settle(0.0)
        self._first("pieces", [*(Inject(piece, final=False) for piece in self._rest), End()])

    def _reset(self) -> None:
        self._line.submit(Reset())
        self._listen(until=ResetDone)
        self._line.settle(0.0)

    def _start(self, text: str, number: int, final: bool = True) -> Start:
        return Start(text, final=final, seed=(self._seed + number) % (MAX_SEED + 1), **self._chosen)

    def _first(self, name: str, commands: Iterable[Command]) -> list[float]:
        """Times `commands`, from the first of them to the frame that answers. Returns when its first frames came."""
        if self._steps is not None:
            self._steps.forget()
        asked = time.perf_counter()
        for command in commands:
            self._line.submit(command)
        times = self._listen(frames=3)
        self.taken[name].append(1000 * (times[0] - asked))
        if self._steps is not None:
            count = self._steps.to_first_frame()
            if self.counts.get(name, self._steps.expected) == self._steps.expected:
                self.counts[name] = count
        return times

    def _listen(self, *, frames: int | None = None, until: type[Event] | None = None) -> list[float]:
        """When frames came: so many of them, or all until an event of a kind."""
        times: list[float] = []
        while frames is None or len(times) < frames:
            event, at = self._line.next()
            if event is None:
                times.append(at)
            elif isinstance(event, Error):
                raise EngineError(f"{event.code}: {event.message}")
            elif until is not None and isinstance(event, until):
                break
        self._heard += len(times)
        return times


def _intervals(times: Sequence[float]) -> list[float]:
    """Milliseconds from each to the next."""
    return [1000 * (later - earlier) for earlier, later in pairwise(times)]


def pieces(text: str, ahead: int, size: int = 4) -> tuple[list[str], list[str]]:
    """A text as a language model gives it: what is not enough to begin with, and the rest from the piece that is.

    ahead: a word is spoken when so many more are known; the last of them only is when the space after it has come.
    """
    words = text.split(" ")
    tags = sum(word.startswith("[") for word in words[: ahead + 1])
    opening = " ".join(words[: ahead + 1 + tags])
    rest = text[len(opening) :]
    return _cut(opening, size), _cut(rest, size)


def _cut(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


# ---- To the engine ----


class EngineLine:
    """A session of the engine."""

    def __init__(self, engine: Engine, session: Session) -> None:
        self._engine, self._session = engine, session

    def submit(self, command: Command) -> None:
        self._session.submit(command)

    def next(self) -> tuple[Event | None, float]:
        while True:
            item = self._session.next()
            at = time.perf_counter()
            if isinstance(item, Frame):
                return None, at
            if isinstance(item, Event):
                return item, at
            if not isinstance(item, Cut):
                raise EngineError(self._engine.broken or "the engine has ended the conversation")

    def settle(self, played: float) -> None:
        while self._session.behind or self._engine.has_work:
            self._session.take(answers_only=True)
            time.sleep(0.001)
        time.sleep(0.005)  # for the end of the step that made all of this true


class Steps:
    """Counts what the engine's stepper does, on the engine's thread."""

    def __init__(self) -> None:
        self._whole: list[bool] = []  # of every step: whether the depformer ran
        self._made: list[int] = []  # frames that it completed
        self.expected: Count = {}

    def expect(self, delays: Sequence[int]) -> None:
        """Says what first audio has to cost with these delays: the depformer runs from the shortest delay on."""
        shortest, longest = min(delays[1:]), max(delays)
        self.expected = {"backbone_steps": shortest - 1, "frames": longest - shortest + 1}

    def stepped(self, step: StepReport) -> None:
        """The engine made a step."""
        self._whole.append(step.depformer_rows > 0)
        self._made.append(step.frames)

    def idle(self) -> None:
        """The engine has nothing to do, and there is nothing to count."""

    def forget(self) -> None:
        """Counts anew; nothing may be going on."""
        self._whole.clear()
        self._made.clear()

    def to_first_frame(self) -> Count:
        """Steps with and without the depformer, up to the one that completed the first frame; later ones are there."""
        steps = next(number for number, made in enumerate(self._made, start=1) if made)
        frames = sum(self._whole[:steps])
        return {"backbone_steps": steps - frames, "frames": frames}


# ---- To a server ----


class ServerLine:
    """A connection to a server, on a thread of its own: sound is timed when it arrives, whatever the caller does."""

    ready: Ready

    def __init__(self, url: str, token: str | None) -> None:
        self._url, self._token = url, token
        self._came: queue.SimpleQueue[tuple[Event | None, float] | Exception] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="server-line", daemon=True)

    def __enter__(self) -> "ServerLine":
        self._thread.start()
        event, _ = self.next()
        assert isinstance(event, Ready)  # `connect` has seen to it
        self.ready = event
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server was the first to go
            self._loop.call_soon_threadsafe(self._talking.cancel)
        self._thread.join()

    def submit(self, command: Command) -> None:
        asyncio.run_coroutine_threadsafe(self._client.send(command), self._loop)

    def next(self) -> tuple[Event | None, float]:
        try:
            came = self._came.get(timeout=_SILENCE)
        except queue.Empty:
            raise EngineError(f"the server was silent for {_SILENCE:g} s") from None
        if isinstance(came, Exception):
            raise came
        return came

    def settle(self, played: float) -> None:
        time.sleep(max(0.0, played - time.perf_counter()) + 0.25)  # what was sent before has arrived by then

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._talking = self._loop.create_task(self._talk())
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._talking)

    async def _talk(self) -> None:
        try:
            async with connect(self._url, token=self._token) as self._client:
                self._came.put((self._client.ready, time.perf_counter()))
                async for item in self._client:
                    self._came.put((item if isinstance(item, Event) else None, time.perf_counter()))
            self._came.put(EngineError("the server has closed the connection"))
        except Dia2StreamError as error:
            self._came.put(error)
