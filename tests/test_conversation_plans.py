"""Any plan of commands, steps and reads is heard as it was asked: hypothesis makes up the plans."""

import base64
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from conversations import HELLO, Rig, ToyEar, ToyTokenizer, frame_number, scripts, toy, toy_voice
from hypothesis import given, settings
from hypothesis import strategies as st

from dia2stream.conversation.reader import ReadEntry, TextReader
from dia2stream.errors import CommandError
from dia2stream.items import Cut, Frame
from dia2stream.protocol.messages import (
    Command,
    Done,
    End,
    FirstAudio,
    Inject,
    Listen,
    Pause,
    Paused,
    Reset,
    Resume,
    Start,
    WordEvent,
)
from dia2stream.text.front_end import TextFrontEnd


class Listener:
    """What should be heard, told from what was asked and what came out, with no knowledge of how it is made."""

    def __init__(self, rig: Rig, first: int) -> None:
        self.rig, self.first = rig, first
        self.forget()
        self.active = False

    def forget(self) -> None:
        """Another conversation."""
        self.active = True
        self.reader = TextReader(ToyTokenizer(), TextFrontEnd("clean"))
        self.numbered = 0
        self.open: str | None = None
        self.asked: list[tuple[str, str]] = []  # (id, word) still to come
        self.order: list[str] = []  # utterances that will be done
        self.late: list[str] = []  # those that were interrupted, if all of them had been sent
        self.announced: set[str] = set()
        self.numbers: list[int] = []  # of the frames that were sent
        self.follows = self.first  # the frame that comes next, or a later one, behind what the caller said
        self.listens = 0
        self.played: int | None = None  # frames, where it is paused

    # What is asked. Each returns the error that it should be answered with.

    def do(self, what: str, value: Any) -> str | None:
        if not self.active and what not in ("start", "reset"):
            return "no_session"
        return getattr(self, what)(value)

    def start(self, text: str) -> None:
        self.forget()
        self.inject(text)

    def inject(self, text: str) -> None:
        self.piece(text, new=True)
        self.end(None)

    def piece(self, text: str, new: bool = False) -> None:
        self._interrupt()
        if self.open is None or new:
            self.end(None)
            self.numbered += 1
            self.open = f"u{self.numbered}"
            self.order.append(self.open)
        self._ask(self.reader.read(text, final=False))

    def listen(self, _: float) -> None:
        self._interrupt()
        self.listens += 1

    def _interrupt(self) -> None:
        """What was not heard is not wanted, and it goes on from the earliest frame that was not heard."""
        if self.played is not None:
            self.follows = min([*self.numbers[self.played :], self.follows])
            self.late, self.order, self.asked = [*self.late, *self.order], [], []
            self.open, self.played, self.reader = None, None, TextReader(ToyTokenizer(), TextFrontEnd("clean"))

    def end(self, _: None) -> str | None:
        if self.open is None:
            return "bad_command"
        self._ask(self.reader.finish())
        self.open = None
        return None

    def pause(self, frames: int | None) -> None:
        self.played = len(self.numbers) if frames is None else min(frames, len(self.numbers))

    def resume(self, _: None) -> str | None:
        was, self.played = self.played, None
        return "not_paused" if was is None else None

    def reset(self, _: None) -> None:
        self.forget()
        self.active = False

    def _ask(self, entries: Sequence[ReadEntry]) -> None:
        assert self.open is not None
        self.asked += [(self.open, read.written.text) for read in entries if read.begins and read.entry.tokens]

    # What comes out.

    def take(self, most: int) -> None:
        for item in self.rig.take(most):
            if isinstance(item, Frame):
                assert self.played is None
                number = frame_number(item)
                assert number == self.follows or (self.listens and number > self.follows)
                self.listens -= number > self.follows
                self.numbers.append(number)
                self.follows = number + 1
            elif isinstance(item, WordEvent):
                assert (item.id, item.word) == self.asked.pop(0)
                assert item.start_ms == 80 * len(self.numbers)
                assert item.id in self.announced
            elif isinstance(item, Done):
                assert item.audio_ms == 80 * len(self.numbers)
                due = self.late or self.order
                assert item.id in (due if self.late else due[:1])
                del due[: due.index(item.id) + 1]
                assert item.id not in [id for id, _ in self.asked]
            elif isinstance(item, FirstAudio):
                assert item.id not in self.announced
                self.announced.add(item.id)
            elif isinstance(item, Cut):
                self.late = []
            elif isinstance(item, Paused):
                assert self.played is not None
                assert item.heard_ms // 80 == self.played
                left = [word for _, word in self.asked] + words(self.reader.incomplete)
                assert not left or words(item.pending)[-len(left) :] == left


def words(pending: str) -> list[str]:
    """Without its tags and breaks."""
    return re.sub(r"\[S[12]\]|<break[^>]*>", " ", pending).split()


def refusal(rig: Rig, command: Command) -> str | None:
    """Hands over a command. The code that it was refused with."""
    try:
        rig.do(command)
    except CommandError as error:
        return error.code
    return None


def carried_out(rig: Rig, listener: Listener, what: str, value: Any) -> None:
    """One move of a plan, by the conversation and by its listener."""
    if what == "step":
        for _ in range(value):
            rig.step()
        return
    if what == "take":
        listener.take(value)
        return
    expected = listener.do(what, value)
    commands: dict[str, Callable[[], Command]] = {
        "start": lambda: Start(value, id="u1"),
        "inject": lambda: Inject(value, id=f"u{listener.numbered}"),
        "piece": lambda: Inject(value, id=listener.open, final=False),
        "end": End,
        "pause": lambda: Pause(None if value is None else value * 80 + 40),
        "resume": Resume,
        "reset": Reset,
        "listen": lambda: Listen(base64.b64encode(bytes(round(value * 1920) * 2)).decode(), final=value > 5),
    }
    assert refusal(rig, commands[what]()) == expected
    # Answers come before all else; what is on its way may still leave before the next move, or not.
    while rig.conversation.outbox.answers:
        listener.take(1)


moves = st.one_of(
    st.tuples(st.just("step"), st.integers(1, 30)),
    st.tuples(st.just("take"), st.integers(1, 60)),
    st.tuples(st.sampled_from(["start", "inject", "inject", "piece", "piece"]), scripts),
    st.tuples(st.just("pause"), st.none() | st.integers(0, 80)),
    st.tuples(st.sampled_from(["end", "resume", "reset"]), st.none()),
    st.tuples(st.just("listen"), st.sampled_from([0.5, 3, 7.5, 20])),
)


def play(plan: list[tuple[str, Any]], queue: int, ahead: int, with_voice: bool) -> None:
    """Carries out a plan, then lets everything be said."""
    voices = {"clips": toy_voice()} if with_voice else {}
    rig = toy(limit=100, queue_frames=queue, ahead=ahead, voices=voices, ear=ToyEar())
    listener = Listener(rig, toy_voice().frames if with_voice else 0)
    for what, value in plan:
        carried_out(rig, listener, what, value)
    for what in ("end", "resume"):
        carried_out(rig, listener, what, None)
    while rig.step() or not rig.conversation.outbox.empty:
        listener.take(3)
    assert (listener.asked, listener.order) == ([], [])
    rig.context.run_due()  # the last turn may have rebuilt the context; the engine finds time for that between steps
    assert rig.conversation.idle


anything = given(st.lists(moves, max_size=25), st.integers(1, 30), st.integers(0, 2), st.booleans())


@settings(max_examples=120)
@anything
def test_whatever_is_asked_in_whatever_order_is_heard_as_asked(
    plan: list[tuple[str, Any]], queue: int, ahead: int, with_voice: bool
) -> None:
    play(plan, queue, ahead, with_voice)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=2000)
@anything
def test_whatever_is_asked_is_heard_as_asked_at_length(
    plan: list[tuple[str, Any]], queue: int, ahead: int, with_voice: bool
) -> None:
    play([("start", HELLO), *plan], queue, ahead, with_voice)
