"""The engine's thread: lends slots, carries out orders between steps, outlives failures, and leaves nobody waiting."""

import logging
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conversations import HISTORY, SAMPLED, RigPool, ToyCodec, ToyTokenizer
from engines import HELLO, LONG, GatedStepper, Observing, eventually, full, kinds, spoken, take_until
from piping import PATIENCE

from dia2.steps.context import Context
from dia2.steps.voice_cache import VoiceCache
from dia2stream.conversation.conversation import Conversation
from dia2stream.engine import model_thread
from dia2stream.engine.costs import H100
from dia2stream.engine.model_thread import ModelThread
from dia2stream.engine.observer import StepReport
from dia2stream.engine.session import Session
from dia2stream.errors import CommandError, EngineError
from dia2stream.items import Frame
from dia2stream.protocol.messages import Done, Error, Inject, Pause, Paused, Start, Started


class NoEars:
    """Stands for what hears callers; nobody says anything, unless a test makes it due."""

    def __init__(self) -> None:
        self.due = math.inf
        self.hear: Callable[[], None] = lambda: None

    def of(self, slot: int, tape: object) -> None:
        """Nobody's ear."""

    def note(self, conversation: Conversation, now: float) -> None:
        """No caller."""

    def forget(self, conversation: Conversation) -> None:
        """None of it."""

    def hears(self, conversation: Conversation) -> bool:
        return True


class ToyThread(ModelThread):
    """A thread over a toy model, which lends sessions."""

    def __init__(self, slots: int = 1, observers: Any = ()) -> None:
        self.toy, self.ears, self.voices = GatedStepper(slots), NoEars(), VoiceCache(1000)
        pool: Any = RigPool(cast(Any, self.toy))
        pool.contexts = [
            Context(cast(Any, self.toy), slot, cast(Any, ToyCodec()), HISTORY, self.voices) for slot in range(slots)
        ]
        self.contexts = pool.contexts
        super().__init__(pool, cast(Any, self.ears), self.voices, torch.device("cpu"), observers)

    def session(self) -> Session:
        """A conversation in a free slot."""

        def make(slot: int) -> Session:
            conversation = Conversation(self.contexts[slot], ToyTokenizer(), defaults=SAMPLED)
            return Session(cast(Any, SimpleNamespace(broken=None)), self, conversation)

        return self.lend(make)


@contextmanager
def running(slots: int = 1, observers: Any = ()) -> Iterator[ToyThread]:
    """A thread that works, and is closed at the end whatever it waits for."""
    thread = ToyThread(slots, observers)
    thread.start()
    try:
        yield thread
    finally:
        thread.toy.gate.set()
        thread.close()


# ---- Slots ----


def test_the_lowest_free_slot_is_lent_and_none_twice() -> None:
    with running(slots=3) as thread:
        sessions = [thread.session() for _ in range(3)]
        assert [session.conversation.slot for session in sessions] == [0, 1, 2]
        assert thread.free == 0
        with pytest.raises(CommandError, match="every slot is taken: this engine holds 3 at a time") as refused:
            thread.session()
        assert refused.value.code == "busy"
        sessions[1].close()
        eventually(lambda: thread.free == 1)
        assert thread.session().conversation.slot == 1


def test_a_session_that_cannot_be_made_costs_no_slot() -> None:
    def fail(slot: int) -> Session:
        raise ZeroDivisionError("a fault")

    with running() as thread:
        with pytest.raises(ZeroDivisionError):
            thread.lend(fail)
        assert thread.free == 1
        assert thread.session().conversation.slot == 0


def test_nothing_is_lent_by_a_thread_that_is_closed() -> None:
    with running() as thread:
        thread.close()
        with pytest.raises(EngineError, match="the engine is closed"):
            thread.session()


# ---- Orders ----


def test_a_slot_is_given_back_before_the_orders_that_wait() -> None:
    thread = ToyThread(slots=2)  # does not run yet, so everything waits
    flooding, leaving = thread.session(), thread.session()
    for _ in range(50):
        flooding.submit(Start(HELLO))
    leaving.close()
    done: list[str] = []
    flooding.carried_out = lambda order: done.append("another order")  # type: ignore[method-assign]
    leaving.release = lambda: done.append("given back")  # type: ignore[method-assign]
    thread.start()
    eventually(lambda: done.count("another order") == 50)
    thread.close()
    assert done[0] == "given back"


def test_of_conversations_from_elsewhere_those_that_speak_go_first() -> None:
    thread = ToyThread(slots=3)  # does not run yet, so everything waits
    order: list[str] = []
    for name, speaks in (("stands still", False), ("speaks", True), ("speaks too", True)):
        revival: Any = SimpleNamespace(speaks=speaks, conversation=Conversation(thread.contexts[0], ToyTokenizer()))
        revival.settle = lambda context, ear, name=name: order.append(name)
        done = thread.session().adopt(revival)
    thread.start()
    done.result(PATIENCE)
    eventually(lambda: len(order) == 3)
    thread.close()
    assert order == ["speaks", "speaks too", "stands still"]


def test_one_that_stands_still_waits_for_others_for_a_short_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_thread, "LATER_SECONDS", -1.0)
    thread = ToyThread(slots=2)
    still, other = thread.session(), thread.session()
    revival: Any = SimpleNamespace(speaks=False, conversation=still.conversation, settle=lambda context, ear: None)
    done, answered = still.adopt(revival), []
    other.carried_out = lambda order: answered.append(done.done())  # type: ignore[method-assign]
    other.submit(Pause())
    other.submit(Pause())
    thread.start()
    eventually(lambda: len(answered) == 2)
    thread.close()
    assert answered == [True, True]


def test_orders_are_carried_out_one_after_the_other_between_steps() -> None:
    with running() as thread:
        session = thread.session()
        thread.toy.gate.clear()
        session.submit(Start(HELLO))
        thread.toy.at_gate.wait(PATIENCE)
        session.submit(Pause())
        session.submit(Inject("Bye."))
        assert session.take() is not None  # `started`
        assert session.take() is None  # the step goes on
        thread.toy.gate.set()
        assert kinds(spoken(session))[0] is Paused


def test_an_order_that_comes_when_the_thread_has_ended_is_told_so_and_nobody_waits_for_it() -> None:
    with running(slots=2) as thread:
        session, copy = thread.session(), thread.session()
        session.submit(Start(HELLO))
        thread.close()
        session.ended = False  # whoever asks may have looked just before the thread ended
        with pytest.raises(CommandError, match="the conversation is over"):
            session.fork_into(copy).result(PATIENCE)
        assert session.behind == 0


def test_it_rests_when_nothing_is_wanted_and_an_order_wakes_it() -> None:
    observer = Observing()
    with running(observers=[observer]) as thread:
        session = thread.session()
        session.submit(Start(HELLO))
        eventually(lambda: full(session))
        eventually(lambda: not thread.has_work)
        rests, steps = observer.rests, thread.stats.steps
        assert rests > 0
        session.submit(Pause())
        take_until(session, Paused)
        assert thread.stats.steps == steps
        eventually(lambda: not thread.has_work and observer.rests > rests)


def test_room_in_an_outbox_wakes_it() -> None:
    with running() as thread:
        session = thread.session()
        session.submit(Start(LONG))
        eventually(lambda: full(session) and not thread.has_work)
        take_until(session, Frame)
        eventually(lambda: full(session))


@pytest.mark.parametrize(("seconds", "steps_at_once"), [(60.0, True), (0.0, False)])
def test_room_in_an_outbox_ends_no_row_of_lead_in_steps_that_has_just_begun(
    monkeypatch: pytest.MonkeyPatch, seconds: float, steps_at_once: bool
) -> None:
    monkeypatch.setattr(model_thread, "ROOM_SECONDS", seconds)
    rows: list[int] = []
    with running(slots=2) as thread:
        speaker, starter = thread.session(), thread.session()
        speaker.submit(Start(LONG))
        eventually(lambda: full(speaker) and not thread.has_work)
        act, lead_in = thread.toy.act, thread.batch.lead_in

        def act_while_the_speaker_is_heard(active: Any) -> list[int]:
            thread.wake(speaker)
            return act(active)

        def count_steps(*arguments: Any) -> list[StepReport]:
            reports = lead_in(*arguments)
            rows.append(len(reports))
            return reports

        monkeypatch.setattr(thread.toy, "act", act_while_the_speaker_is_heard)
        monkeypatch.setattr(thread.batch, "lead_in", count_steps)
        starter.submit(Start(HELLO))
        take_until(starter, Frame)
    assert (max(rows) > 1) == steps_at_once


# ---- What it tells ----


def test_it_counts_the_steps_and_frames_that_its_observers_are_told_of() -> None:
    observer = Observing()
    with running(slots=2, observers=[observer]) as thread:
        for session in (thread.session(), thread.session()):
            frames = sum(isinstance(item, Frame) for item in spoken(session, Start(HELLO)))
            assert frames > 30
    stats = thread.stats
    assert stats.steps == sum(step.columns for step in observer.steps)
    assert stats.frames == sum(step.frames for step in observer.steps) == 2 * frames
    assert stats.host_seconds == pytest.approx(sum(step.host_seconds for step in observer.steps))
    assert stats.failures == 0


def test_an_observer_that_fails_is_logged_and_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        def stepped(self, step: StepReport) -> None:
            raise ZeroDivisionError("a fault")

        def idle(self) -> None:
            raise ZeroDivisionError("a fault")

    observer = Observing()
    with running(observers=[Failing(), observer]) as thread:
        assert isinstance(spoken(thread.session(), Start(HELLO))[-1], Done)
    assert observer.steps
    assert "an observer of the engine failed" in caplog.text


def test_it_plans_with_the_costs_that_it_is_told() -> None:
    with running() as thread:
        assert thread.costs is not H100
        thread.plan_with(H100)
        assert thread.costs is H100
        assert isinstance(spoken(thread.session(), Start(HELLO))[-1], Done)


# ---- Failures ----


def test_a_model_that_fails_ends_the_conversations_of_its_step_and_no_kept_voice_is_used_again() -> None:
    with running(slots=2) as thread:
        cleared: list[bool] = []
        thread.voices.clear = lambda: cleared.append(True)  # type: ignore[method-assign]
        speaking, silent = thread.session(), thread.session()
        silent.submit(Start(""))
        take_until(silent, Started)
        thread.toy.fail_in = "act"
        speaking.submit(Start(HELLO))
        items = list(speaking)
        assert [item.code for item in items if isinstance(item, Error)] == ["internal"]
        assert (speaking.ended, silent.ended) == (True, False)
        assert cleared == [True]
        assert thread.stats.failures == 1
        assert isinstance(spoken(silent, Inject("Bye."))[-1], Done)
        assert thread.broken is None


def test_hearing_that_fails_ends_those_who_were_heard() -> None:
    def fail() -> None:
        thread.ears.due = math.inf
        raise ZeroDivisionError("a fault")

    with running() as thread:
        session = thread.session()
        session.submit(Start(""))
        take_until(session, Started)
        thread.ears.hear = fail
        thread.ears.due = 0.0
        session.submit(Pause())  # so that the thread looks
        assert isinstance(take_until(session, Error)[-1], Error)
        assert session.ended


def test_a_device_that_no_longer_answers_ends_everything_and_is_the_reason_for_who_comes_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with running(slots=2) as thread:
        speaking, silent = thread.session(), thread.session()

        def check() -> None:
            thread.broken = "the device no longer answers: it is on fire"

        monkeypatch.setattr(thread, "_check_device", check)
        thread.toy.fail_in = "act"
        speaking.submit(Start(HELLO))
        for session in (speaking, silent):
            assert [type(item) for item in session][-1] is Error
        with pytest.raises(EngineError, match="it is on fire"):
            thread.session()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_by_itself_says_why_and_releases_everybody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1)  # the log is not what this is about
    with running(slots=2) as thread:
        sessions = [thread.session(), thread.session()]

        def fail() -> Any:
            raise SystemError("a fault\nof several lines")

        thread._demands.take = fail  # type: ignore[method-assign]
        sessions[0].submit(Start(HELLO))
        for session in sessions:
            assert isinstance([*session][-1], Error)
        thread.join(PATIENCE)
        assert thread.broken == "the engine's thread has ended: a fault"
        assert all(session.released for session in sessions)
        with pytest.raises(EngineError, match="a fault"):
            thread.session()


# ---- The end ----


def test_a_thread_can_be_closed_from_itself_and_twice() -> None:
    class Closing(Observing):
        def idle(self) -> None:
            closed.append(threading.current_thread())
            cast(ToyThread, threading.current_thread()).close()

    closed: list[threading.Thread] = []
    with running(observers=[Closing()]) as thread:
        thread.join(PATIENCE)
        assert closed == [thread]
        thread.close()


def test_closing_ends_a_loop_that_waits() -> None:
    with running() as thread:
        session = thread.session()
        reader = threading.Thread(target=list, args=(session,))
        reader.start()
        thread.close()
        reader.join(PATIENCE)
        assert not reader.is_alive()
        assert session.released


def test_a_fork_that_waits_when_it_is_closed_is_told_so() -> None:
    thread = ToyThread(slots=2)  # never begins to work on it
    session, copy = thread.session(), thread.session()
    done: Future[None] = session.fork_into(copy)
    with thread._lock:
        thread._closing = True
    thread.start()
    thread.join(PATIENCE)
    with pytest.raises(CommandError, match="the conversation is over"):
        done.result(0)
