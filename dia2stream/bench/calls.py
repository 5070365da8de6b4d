"""The call that `bench` times: one conversation with all its moments, held with the engine or with a server.

    start                 cold start; then read on, for the interval between frames
    (all is spoken)
    inject                after silence: a new turn
    inject                during speech: how much later the next frames come
    pause, inject         a barge-in, up to `paused`; then a new turn from what was heard
    reset, start, ...     text in pieces, from the piece that makes enough words known
    reset, prepare, commit    a reply that was made in advance, from the commit

Each moment is timed from its command to the first sample in the client's hands. With the published delays first audio
costs 17 backbone steps, one whole frame and one frame of the codec in all cases but the last; `steps.py` counts them.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from dia2stream.bench.clients import BenchClient
from dia2stream.bench.steps import EngineWatch, StepCount
from dia2stream.errors import EngineError
from dia2stream.items import FRAME_MS
from dia2stream.options import SpeechOptions
from dia2stream.protocol.fields import MAX_SEED
from dia2stream.protocol.messages import (
    Command,
    Commit,
    Done,
    End,
    Error,
    Event,
    Inject,
    Pause,
    Paused,
    Prepare,
    Prepared,
    Reset,
    ResetDone,
    Start,
)

# The answer is so long that it is still being spoken when it is interrupted.
GREETING = "[S1] Good morning, this is the front desk, how can I help you?"
ANSWER = (
    "[S1] Of course, I can look that up for you right now, it only takes a moment. [S2] Thank you, that is very kind. "
    "[S1] While I do that, could you tell me when you made the booking, and the name that it is under, please?"
)
MORE = "[S2] Oh, and one more thing before I forget it."
INSTEAD = "[S1] Sorry, please go on, I am listening to what you have to say."
PIECES = "[S1] Yes, there is still a room free on Tuesday, shall I keep it for you until the evening?"

PUBLISHED_AHEAD = 2  # words that the published model must know beyond the next one: what a server is taken to need

_PREPARED_SECONDS = 2.0  # in which a server has made as much of a reply as it makes in advance
_SPAN = 30  # frames over which intervals are taken: fewer than a server sends ahead of playback
_BEFORE_MORE = 10  # frames of the answer that are read before more text comes, and again before the interruption


class BenchCall:
    """Holds calls, one after the other, and keeps what it measured.

    taken: milliseconds, by figure. counts: steps from the command to the first sample, by figure; once a run took other
    steps than expected, its count is kept. watch: observes the engine; None for a server. ahead: how many words beyond
    the next one the model must know.
    """

    def __init__(
        self, client: BenchClient, speech: SpeechOptions, ahead: int, watch: EngineWatch | None, expected: StepCount
    ) -> None:
        self.taken: dict[str, list[float]] = defaultdict(list)
        self.counts: dict[str, StepCount] = {}
        self._client, self._watch, self._expected = client, watch, expected
        self._seed = speech.seed or 0
        self._chosen = start_fields(speech)
        self._opening, self._rest = pieces(PIECES, ahead)
        self._heard = 0  # frames of this conversation

    def run(self, number: int) -> None:
        """Holds one call. `number` makes its seed and the place of its interruption."""
        self._cold_start(number)
        self._answer_after_silence()
        self._more_during_speech()
        self._barge_in(number)
        self._reset()
        self._speak_in_pieces(number)
        self._reset()
        self._commit(number)
        self._reset()

    def _cold_start(self, number: int) -> None:
        self._heard = 0
        times = self._first("cold_start", [self._start(GREETING, number)])
        times += self._read(until=Done)
        span = times[:_SPAN]
        self.taken["frame_interval"] += _intervals(span)
        seconds = (len(span) - 1) * FRAME_MS / 1000
        self.taken["real_time_factor"].append((span[-1] - span[0]) / seconds)
        self._client.settle(times[0] + len(times) * FRAME_MS / 1000)

    def _answer_after_silence(self) -> None:
        self._turn = self._heard
        self._latest = self._first("inject_after_silence", [Inject(ANSWER)])

    def _more_during_speech(self) -> None:
        """Times the frame that is being made when the text comes and the one after it, against two usual ones."""
        before = self._latest + self._read(frames=_BEFORE_MORE)
        self._client.submit(Inject(MORE))
        after = self._read(frames=_BEFORE_MORE)
        usual = statistics.median(_intervals(before) + _intervals(after[1:]))
        self.taken["inject_during_speech"].append(1000 * (after[1] - before[-1]) - 2 * usual)

    def _barge_in(self, number: int) -> None:
        # The place differs from run to run, since the codec hears more or less of its past again depending on it.
        heard = self._turn + 4 + number % 12
        asked = time.perf_counter()
        self._client.submit(Pause(heard * FRAME_MS + FRAME_MS / 2))
        self._read(until=Paused)
        self.taken["pause"].append(1000 * (time.perf_counter() - asked))
        self._first("inject_after_barge_in", [Inject(INSTEAD)])

    def _speak_in_pieces(self, number: int) -> None:
        first, *others = self._opening
        self._client.submit(self._start(first, number, final=False))
        for piece in others:
            self._client.submit(Inject(piece, final=False))
        self._client.settle(0.0)
        self._first("pieces", [*(Inject(piece, final=False) for piece in self._rest), End()])

    def _commit(self, number: int) -> None:
        """Times a reply that was made in advance: as far as it is made before anybody has asked for it."""
        self._client.submit(self._start("", number))
        self._client.submit(Prepare(INSTEAD, "reply"))
        self._read(until=Prepared)
        self._client.settle(time.perf_counter() + _PREPARED_SECONDS)
        asked = time.perf_counter()
        self._client.submit(Commit("reply"))
        self.taken["commit"].append(1000 * (self._read(frames=1)[0] - asked))

    def _reset(self) -> None:
        self._client.submit(Reset())
        self._read(until=ResetDone)
        self._client.settle(0.0)

    def _start(self, text: str, number: int, final: bool = True) -> Start:
        return Start(text, final=final, seed=(self._seed + number) % (MAX_SEED + 1), **self._chosen)

    def _first(self, name: str, commands: Iterable[Command]) -> list[float]:
        """Sends commands and times the first frame that answers them. Returns when the first three frames came."""
        if self._watch is not None:
            self._watch.forget()
        asked = time.perf_counter()
        for command in commands:
            self._client.submit(command)
        times = self._read(frames=3)
        self.taken[name].append(1000 * (times[0] - asked))
        if self._watch is not None and self.counts.get(name, self._expected) == self._expected:
            self.counts[name] = self._watch.to_first_frame()
        return times

    def _read(self, *, frames: int | None = None, until: type[Event] | None = None) -> list[float]:
        """Reads so many frames, or everything up to an event of a kind. Returns when the frames came."""
        times: list[float] = []
        while frames is None or len(times) < frames:
            event, at = self._client.next()
            if event is None:
                times.append(at)
            elif isinstance(event, Error):
                raise EngineError(f"{event.code}: {event.message}")
            elif until is not None and isinstance(event, until):
                break
        self._heard += len(times)
        return times


def start_fields(speech: SpeechOptions) -> dict[str, Any]:
    """Fields of a start command for the options that are not the usual ones: a server must be told of them.

    The seed is the caller's to choose. Voices are files, and a server has its own.
    """
    usual = asdict(SpeechOptions())
    return {k: v for k, v in asdict(speech).items() if v != usual[k] and k not in ("seed", "voice")}


def _intervals(times: Sequence[float]) -> list[float]:
    """Milliseconds from each moment to the next."""
    return [1000 * (later - earlier) for earlier, later in pairwise(times)]


def pieces(text: str, ahead: int, size: int = 4) -> tuple[list[str], list[str]]:
    """A text in pieces of `size` characters, as a language model gives it: those before speech can start, the rest.

    A word is spoken when `ahead` more words are known, and a word is known when the space after it has come. So speech
    starts with the first piece of the rest.
    """
    words = text.split(" ")
    tags = sum(word.startswith("[") for word in words[: ahead + 1])
    opening = " ".join(words[: ahead + 1 + tags])
    rest = text[len(opening) :]
    return _cut(opening, size), _cut(rest, size)


def _cut(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]
