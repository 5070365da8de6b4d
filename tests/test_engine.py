"""The engine: seats, readers of every speed, commands at any moment, failures, and an end from any state."""

import asyncio
import re
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from conftest import GOLDENS
from conversations import SAMPLED, RigPool, ToyCodec, ToyStepper, golden, toy, toy_voice
from models import checkpoint
from piping import PATIENCE, a_second

import dia2stream.engine.engine
from dia2.steps.context import Context
from dia2.steps.stepper import TextColumn
from dia2stream.engine.batch import Batch
from dia2stream.engine.engine import Engine
from dia2stream.engine.observer import StepReport
from dia2stream.engine.session import Session
from dia2stream.errors import CommandError, EngineError
from dia2stream.items import Cut, Frame, Item
from dia2stream.options import SpeechOptions
from dia2stream.protocol.messages import (
    Command,
    Done,
    End,
    Error,
    FirstAudio,
    Inject,
    Pause,
    Paused,
    Reset,
    ResetDone,
    Resume,
    Resumed,
    Start,
    Started,
    WordEvent,
)

HELLO = "[S1] Hello there my friend. [S2] How are you? [S1] One two three four five six seven eight nine ten."
LONG = " ".join(f"word{number} and so on" for number in range(300))


class Observing:
    """Keeps what the engine reports."""

    def __init__(self) -> None:
        self.steps: list[StepReport] = []

    def stepped(self, step: StepReport) -> None:
        self.steps.append(step)

    def idle(self) -> None:
        pass


def full(session: Session) -> bool:
    """Whether generation waits for the reader."""
    return session.conversation.outbox.waiting >= session.conversation.outbox.capacity


class GatedStepper(ToyStepper):
    """Stands before every step until `gate` is open, and fails when it is told to."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots=slots)
        self.gate = threading.Event()
        self.gate.set()
        self.at_gate = threading.Event()
        self.acts = 0
        self.fail_in: str | None = None

    def act(self, active: Sequence[int]) -> list[int]:
        self.acts += 1
        self.at_gate.set()
        self.gate.wait()
        self._fail("act")
        return super().act(active)

    def complete(self, texts: Sequence[TextColumn]) -> None:
        super().complete(texts)
        self._fail("complete")

    def prefill(self, slot: int, texts: Sequence[TextColumn]) -> None:
        super().prefill(slot, texts)
        self._fail("prefill")

    def _fail(self, where: str) -> None:
        if self.fail_in == where:
            self.fail_in = None
            raise RuntimeError("the model is on fire")


class ToyEngine(Engine):
    """An engine around a toy."""

    def __init__(self, slots: int = 1, **options: Any) -> None:
        super().__init__(checkpoint(GOLDENS / "published-like"), slots=slots, speech=SAMPLED, **options)
        self.toy = GatedStepper(slots)
        self.stepper = cast(Any, self.toy)
        self._batch = Batch(RigPool(self.stepper), self._conversation_failed)
        self._contexts = [Context(self.stepper, slot, cast(Any, ToyCodec()), 375) for slot in range(slots)]


@pytest.fixture
def engine() -> Iterator[ToyEngine]:
    engine = ToyEngine()
    yield engine
    engine.toy.gate.set()
    engine.close()


@pytest.fixture
def pair() -> Iterator[ToyEngine]:
    """An engine with two seats."""
    engine = ToyEngine(slots=2)
    yield engine
    engine.toy.gate.set()
    engine.close()


def eventually(condition: Callable[[], Any]) -> None:
    """Waits until it is so."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.001)


def spoken(session: Session, *commands: Command) -> list[Item]:
    """Says all of it, and takes what comes to the end."""
    for command in commands:
        session.submit(command)
    session.finish()
    return list(session)


def audio(items: Sequence[Item]) -> bytes:
    return b"".join(item.pcm.tobytes() for item in items if isinstance(item, Frame))


def kinds(items: Sequence[Item]) -> list[type[Any]]:
    """Types of the items that are no frames."""
    return [type(item) for item in items if not isinstance(item, Frame)]


def take_until(session: Session, kind: type[Any]) -> list[Item]:
    """Items up to the first of a kind."""
    items: list[Item] = []
    while not items or not isinstance(items[-1], kind):
        item = session.next()
        assert item is not None, f"it ended before {kind.__name__}"
        items.append(item)
    return items


def alone(*commands: Command) -> bytes:
    """What a toy says that nobody disturbs."""
    rig = toy()
    rig.conversation._tokenizer = checkpoint(GOLDENS / "published-like").tokenizer
    return b"".join(frame.tobytes() for frame in rig.do(*commands).run().frames)


# ---- Seats ----


def test_a_second_client_is_refused_at_once_while_the_first_one_speaks(engine: ToyEngine) -> None:
    engine.toy.gate.clear()
    with engine.conversation() as session:
        session.submit(Start(HELLO))
        engine.toy.at_gate.wait()
        with pytest.raises(CommandError, match="holds 1") as caught:
            engine.conversation()
        assert caught.value.code == "busy"
        engine.toy.gate.set()


def test_a_seat_is_free_again_when_its_session_is_closed(engine: ToyEngine) -> None:
    for _ in range(3):
        with engine.conversation() as session:
            assert engine.free == 0
            session.submit(Start(LONG))
        assert session.released
        assert engine.free == 1
    session = engine.conversation()
    session.close()
    session.close()
    eventually(lambda: engine.free == 1)


def test_a_seat_that_was_taken_again_is_not_freed_by_its_old_session(engine: ToyEngine) -> None:
    old = engine.conversation()
    with old:
        pass
    with engine.conversation() as session:
        old.close()
        assert audio(spoken(session, Start(HELLO))) == alone(Start(HELLO))
        assert engine.free == 0


def test_nonsense_for_a_seat_costs_no_seat(engine: ToyEngine) -> None:
    for options in ({"queue_frames": 0}, {"max_lead_ms": 20}):
        with pytest.raises(ValueError, match="at least"):
            engine.conversation(**cast(Any, options))
    assert engine.free == 1


def test_the_next_client_of_a_seat_finds_the_voice_there() -> None:
    engine = ToyEngine(slots=2, voices={"clips": toy_voice()})
    try:
        for _ in range(3):
            with engine.conversation() as session:
                spoken(session, Start("Hello."))
        assert engine.toy.prefilled == toy_voice().frames
    finally:
        engine.close()


def test_a_voice_that_leaves_no_room_to_speak_in_is_refused() -> None:
    before = set(threading.enumerate())
    with pytest.raises(EngineError, match="voice clips takes 82 steps"):
        ToyEngine(voices={"clips": toy_voice(frames=41)})
    assert set(threading.enumerate()) <= before
    ToyEngine(voices={"clips": toy_voice(frames=40)}).close()


def test_a_codec_whose_sound_would_be_played_at_another_speed_is_refused() -> None:
    codec = cast(Any, SimpleNamespace(sample_rate=16000, frame_samples=1280))
    with pytest.raises(EngineError, match="makes 1280 samples a frame at 16000 Hz; it must be 1920 at 24000"):
        Engine(replace(checkpoint(GOLDENS / "published-like"), codec=codec))


# ---- Items ----


def test_a_loop_gets_everything_in_order_and_ends(engine: ToyEngine) -> None:
    with engine.conversation() as session:
        items = spoken(session, Start(HELLO, seed=5, id="a"), Inject("Bye.", id="b"))
    words = [item.word for item in items if isinstance(item, WordEvent)]
    assert words == [*HELLO.replace("[S1] ", "").replace("[S2] ", "").split(), "Bye."]
    assert kinds(items)[:3] == [Started, FirstAudio, WordEvent]
    assert isinstance(items[-1], Done)
    assert items[-1].audio_ms == 80 * sum(isinstance(item, Frame) for item in items)
    assert audio(items) == alone(Start(HELLO, seed=5, id="a"), Inject("Bye.", id="b"))


def test_an_async_loop_gets_the_same_as_a_plain_one(engine: ToyEngine) -> None:
    async def talk() -> list[Item]:
        async with engine.conversation() as conversation:
            await conversation.start(HELLO, seed=5, id="a")
            await conversation.inject("Bye.", id="b")
            conversation.finish()
            return [item async for item in conversation]

    items = asyncio.run(talk())
    assert engine.free == 1
    assert audio(items) == alone(Start(HELLO, seed=5, id="a"), Inject("Bye.", id="b"))
    assert isinstance(items[-1], Done)


def test_every_command_has_its_method() -> None:
    engine = ToyEngine()

    async def talk() -> list[Item]:
        async with engine.conversation() as conversation:
            await conversation.start(LONG, final=False)
            await conversation.end()
            await conversation.pause(played_ms=0)
            await conversation.resume()
            await conversation.pause()
            await conversation.inject("Hello.")
            await conversation.reset()
            conversation.finish()
            return [item async for item in conversation]

    try:
        answers = [k for k in kinds(asyncio.run(talk())) if k in (Started, Paused, Resumed, ResetDone, Error)]
        assert answers == [Started, Paused, Resumed, Paused, ResetDone]
    finally:
        engine.close()


def test_finish_closes_open_text_and_ends_when_it_was_spoken(engine: ToyEngine) -> None:
    with engine.conversation() as session:
        items = spoken(session, Start("One two thr", final=False))
    assert [item.word for item in items if isinstance(item, WordEvent)] == ["One", "two", "thr"]
    assert isinstance(items[-1], Done)


@pytest.mark.parametrize("commands", [[], [Start("")], [Start(HELLO), Reset()], [End()], [Start(""), Pause()]])
def test_finish_ends_a_loop_that_has_nothing_to_wait_for(engine: ToyEngine, commands: list[Command]) -> None:
    with engine.conversation() as session:
        items = spoken(session, *commands)
    assert sum(isinstance(item, Started | ResetDone | Error | Paused) for item in items) == len(commands)


def test_finish_while_it_is_paused_ends_with_the_answer_and_nothing_after_it(engine: ToyEngine) -> None:
    for _ in range(20):
        with engine.conversation() as session:
            items = spoken(session, Start(HELLO), Pause())
        assert isinstance(items[-1], Paused)


def test_the_example_of_the_module_runs_as_it_stands() -> None:
    example = textwrap.dedent(re.search(r"\n\n((?:    .*\n|\n)+)", dia2stream.engine.engine.__doc__ or "")[1])  # type: ignore[index]
    load, talk = re.split(r"\n(?=async )", example.strip())
    played: list[Any] = []
    names = {**vars(dia2stream.engine.engine), "play": played.append, "print": lambda *_: None}
    exec(f"{load}\nasync def main():\n{textwrap.indent(talk, '    ')}", names)
    asyncio.run(names["main"]())
    names["engine"].close()
    assert len(played) > 20
    assert {pcm.shape for pcm in played} == {(1920,)}
    assert {pcm.dtype for pcm in played} == {np.dtype(np.float32)}


# ---- Readers ----


def test_a_reader_that_stops_holds_generation_back_and_loses_nothing(engine: ToyEngine) -> None:
    with engine.conversation(queue_frames=5) as session:
        session.submit(Start(HELLO))
        most = 0
        eventually(lambda: full(session))
        steps = engine.toy.acts
        for _ in range(100):
            most = max(most, session.conversation.outbox.waiting)
            time.sleep(0.001)
        assert engine.toy.acts == steps
        session.finish()
        items = []
        for item in session:
            most = max(most, session.conversation.outbox.waiting)
            items.append(item)
        assert most == 5
        assert audio(items) == alone(Start(HELLO))


@pytest.mark.parametrize("frames", [1, 2, 25])
def test_the_size_of_the_queue_changes_nothing_but_when(engine: ToyEngine, frames: int) -> None:
    with engine.conversation(queue_frames=frames) as session:
        assert audio(spoken(session, Start(HELLO))) == alone(Start(HELLO))


def test_commands_are_carried_out_while_the_reader_is_stuck(engine: ToyEngine) -> None:
    with engine.conversation(queue_frames=2) as session:
        session.submit(Start(LONG))
        eventually(lambda: full(session))
        session.submit(Pause())
        eventually(lambda: session.conversation.paused)
        assert kinds([item for item in iter(session.take, None) if not isinstance(item, float)]) == [Started, Paused]
        session.submit(Inject("Bye."))
        session.finish()
        assert [item.word for item in session if isinstance(item, WordEvent)] == ["Bye."]


def test_answers_can_be_had_without_the_audio(engine: ToyEngine) -> None:
    with engine.conversation() as session:
        session.submit(Start(HELLO))
        eventually(lambda: session.conversation.outbox.waiting > 3)
        assert kinds([cast(Item, session.next(answers_only=lambda: True))]) == [Started]
        assert session.take(answers_only=True) is None
        session.submit(Pause())
        assert isinstance(session.next(answers_only=lambda: True), Paused)
        assert session.conversation.outbox.sent == 0


def test_a_lead_holds_sending_back_and_the_loop_waits_just_so_long(engine: ToyEngine) -> None:
    with engine.conversation(max_lead_ms=400) as session:
        began = time.monotonic()
        session.submit(Start(HELLO))
        items = take_until(session, Frame)
        while sum(isinstance(item, Frame) for item in items) < 12:
            items.append(cast(Item, session.next()))
        assert 7 * 0.08 - 0.05 < time.monotonic() - began < 7 * 0.08 + a_second()


# ---- Commands at any moment ----


def test_a_pause_acts_at_the_end_of_the_step_that_is_going_on(engine: ToyEngine) -> None:
    with engine.conversation() as session:
        engine.toy.gate.clear()
        session.submit(Start(HELLO))
        engine.toy.at_gate.wait()
        session.submit(Pause())
        engine.toy.gate.set()
        items = take_until(session, Paused)
        time.sleep(0.02)
        assert engine.toy.acts == 1
        assert kinds(items) == [Started, Paused]
        session.submit(Resume())
        assert audio(spoken(session)) == alone(Start(HELLO))


def test_refused_commands_are_events_in_their_place(engine: ToyEngine) -> None:
    with engine.conversation() as session:
        session.submit(Inject("Hello."))
        session.submit(Start(HELLO, id="a"))
        session.refuse(CommandError("bad_json", "no"))
        session.submit(Resume())
        session.submit(Start(HELLO, voice="nobody", id="b"))
        session.submit(Pause())
        items = spoken(session)
    assert [item.code if isinstance(item, Error) else type(item) for item in items] == [
        "no_session",
        Started,
        "bad_json",
        "not_paused",
        "bad_field",
        Paused,
    ]
    errors = [item for item in items if isinstance(item, Error)]
    assert [(error.cmd, error.id, error.field) for error in errors] == [
        ("inject", None, None),
        (None, None, None),
        ("resume", None, None),
        ("start", "b", "voice"),
    ]


def test_it_tells_how_far_behind_the_commands_it_is(engine: ToyEngine) -> None:
    engine.toy.gate.clear()
    with engine.conversation() as session:
        session.submit(Start(LONG))
        engine.toy.at_gate.wait()
        for _ in range(10):
            session.submit(Resume())
        assert session.behind == 11  # and one answer
        engine.toy.gate.set()
        eventually(lambda: session.conversation.outbox.answers == 11)
        assert session.behind == 11
        assert session.queued_words > 100


def test_who_submits_can_wait_until_the_engine_and_the_reader_have_caught_up(engine: ToyEngine) -> None:
    engine.toy.gate.clear()
    with engine.conversation() as session:
        session.submit(Start(HELLO))
        engine.toy.at_gate.wait()
        for _ in range(10):
            session.submit(Resume())
        waits = threading.Thread(target=session.wait_while, args=(lambda: session.behind > 3,))
        waits.start()
        engine.toy.gate.set()
        eventually(lambda: session.conversation.outbox.answers == 11)
        for _ in range(8):
            assert waits.is_alive()
            assert isinstance(session.take(answers_only=True), Started | Error)
        waits.join(PATIENCE)
        assert not waits.is_alive()


def test_whether_there_is_work_can_be_asked_from_any_thread(engine: ToyEngine) -> None:
    eventually(lambda: not engine.has_work)
    engine.toy.gate.clear()
    with engine.conversation() as session:
        session.submit(Start(HELLO))
        engine.toy.at_gate.wait()
        assert engine.has_work
        engine.toy.gate.set()
        session.finish()
        for _ in session:
            assert isinstance(engine.has_work, bool)
    eventually(lambda: not engine.has_work)


# ---- Failures ----


@pytest.mark.parametrize("where", ["act", "complete"])
def test_a_model_that_fails_ends_the_conversation_with_one_event_and_leaves_the_engine_usable(
    engine: ToyEngine, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.conversation() as session:
        session.submit(Start(HELLO))
        take_until(session, Frame)
        engine.toy.fail_in = where
        items = list(session)
        assert [item.code for item in items if isinstance(item, Error)] == ["internal"]
        assert isinstance(items[-1], Error)
        session.submit(Start(HELLO))
        assert list(session) == []
    assert "the model is on fire" in caplog.text
    assert engine.stats.failures == 1
    with engine.conversation() as session:
        assert audio(spoken(session, Start(HELLO))) == alone(Start(HELLO))


def test_a_command_that_fails_ends_only_its_own_conversation() -> None:
    engine = ToyEngine(slots=2, voices={"clips": toy_voice()})
    try:
        with engine.conversation() as first, engine.conversation() as second:
            first.submit(Start(HELLO))
            take_until(first, Frame)
            engine.toy.fail_in = "prefill"
            second.submit(Start(HELLO))
            assert [item.code for item in second if isinstance(item, Error)] == ["internal"]
            assert isinstance(spoken(first)[-1], Done)
        with engine.conversation(), engine.conversation() as second:
            before = engine.toy.prefilled
            assert isinstance(spoken(second, Start("Hello."))[-1], Done)
            assert engine.toy.prefilled == before + toy_voice().frames  # what failed is not built upon
    finally:
        engine.close()


def test_conversations_of_one_step_fail_together_and_others_go_on(pair: ToyEngine) -> None:
    with pair.conversation() as first, pair.conversation() as second:
        second.submit(Start(HELLO))
        take_until(second, Frame)
        second.submit(Pause())
        take_until(second, Paused)
        first.submit(Start(HELLO))
        take_until(first, Frame)
        pair.toy.fail_in = "act"
        assert [item.code for item in first if isinstance(item, Error)] == ["internal"]
        second.submit(Resume())
        assert isinstance(spoken(second)[-1], Done)


@pytest.mark.parametrize("part", ["prepare", "advance", "complete", "deliver"])
def test_a_failure_of_one_conversations_own_work_ends_that_one_alone(pair: ToyEngine, part: str) -> None:
    def fail(*arguments: object) -> None:
        raise KeyError("an event that nobody thought of")

    with pair.conversation() as first, pair.conversation() as second:
        setattr(first.conversation, part, fail)
        first.submit(Start(HELLO))
        assert audio(spoken(second, Start(HELLO))) == alone(Start(HELLO))
        assert [item.code for item in first if isinstance(item, Error)] == ["internal"]
    with pair.conversation() as next_one:
        assert audio(spoken(next_one, Start(HELLO))) == alone(Start(HELLO))
    assert pair.stats.failures == 1
    assert pair.broken is None


def test_a_thread_that_ends_by_itself_makes_the_engine_broken(engine: ToyEngine) -> None:
    def fail() -> bool:
        raise MemoryError("no room left")

    session = engine.conversation()
    engine._carry_out_orders = fail  # type: ignore[method-assign]
    session.submit(Start(HELLO))
    assert list(session) == []
    assert session.released
    with pytest.raises(EngineError, match="thread has ended: no room left"):
        engine.conversation()


def test_a_callback_that_fails_is_logged_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Observing):
        def stepped(self, step: StepReport) -> None:
            raise RuntimeError("nobody is interested")

    engine = ToyEngine(observers=[Failing()])
    try:
        with engine.conversation() as session:
            assert audio(spoken(session, Start(HELLO))) == alone(Start(HELLO))
    finally:
        engine.close()
    assert "nobody is interested" in caplog.text


def test_every_step_is_told_with_the_frames_it_made() -> None:
    told = Observing()
    engine = ToyEngine(observers=[told])
    try:
        with engine.conversation() as session:
            items = spoken(session, Start(HELLO))
    finally:
        engine.close()
    frames = sum(isinstance(item, Frame) for item in items)
    assert sum(step.frames for step in told.steps) == frames == engine.stats.frames
    assert len(told.steps) == engine.stats.steps
    assert all(step.seconds >= step.device_seconds >= 0 for step in told.steps)


# ---- The end ----


def test_no_thread_is_left_when_it_is_closed_twice() -> None:
    before = set(threading.enumerate())
    engine = ToyEngine()
    assert set(threading.enumerate()) - before
    engine.close()
    engine.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(EngineError, match="closed"):
        engine.conversation()


@pytest.mark.parametrize("state", ["nothing said", "speaking", "paused", "at the gate", "full", "closed"])
def test_it_can_be_closed_in_any_state_and_every_loop_ends(state: str) -> None:
    engine = ToyEngine()
    session = engine.conversation(queue_frames=3)
    items: list[Item] = []
    reader = threading.Thread(target=lambda: items.extend(session))
    if state != "nothing said":
        session.submit(Start(LONG))
        eventually(lambda: full(session))
    if state == "paused":
        session.submit(Pause())
    if state == "at the gate":
        engine.toy.gate.clear()
        session.submit(Reset())
        session.submit(Start(HELLO))
        eventually(lambda: session.conversation.active)
        threading.Timer(0.05, engine.toy.gate.set).start()
    if state == "closed":
        session.close()
    if state != "full":
        reader.start()
    engine.close()
    if state == "full":
        reader.start()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    assert session.released
    session.submit(Start(HELLO))
    session.finish()
    session.close()
    assert list(session) == []


def test_it_can_be_closed_from_its_own_thread() -> None:
    class Closing(Observing):
        def stepped(self, step: StepReport) -> None:
            engine.close()

    engine = ToyEngine(observers=[Closing()])
    with engine.conversation() as session:
        spoken(session, Start(HELLO))
    engine._thread.join(PATIENCE)
    assert not engine._thread.is_alive()


def test_a_loop_in_another_task_ends_when_the_conversation_is_closed(engine: ToyEngine) -> None:
    async def talk(held: bool) -> list[Item]:
        async with engine.conversation() as conversation:
            items: list[Item] = []

            async def read() -> None:
                async for item in conversation:
                    items.append(item)

            reader = asyncio.create_task(read())
            await conversation.start("Hello.")
            if held:
                await conversation.pause()
            await asyncio.sleep(0.05)
        await asyncio.wait_for(reader, PATIENCE)
        return items

    for held in (False, True):
        assert isinstance(asyncio.run(talk(held))[0], Started)
    assert engine.free == 1


def test_a_loop_in_another_thread_ends_when_the_conversation_is_closed(engine: ToyEngine) -> None:
    for commands in ([Start("Hello.")], [Start(LONG), Pause()], []):
        with engine.conversation() as session:
            reader = threading.Thread(target=lambda s=session: list(s))
            reader.start()
            for command in commands:
                session.submit(command)
            time.sleep(0.02)
        reader.join(PATIENCE)
        assert not reader.is_alive()


def test_nothing_comes_out_of_a_closed_session(engine: ToyEngine) -> None:
    session = engine.conversation()
    session.submit(Start(HELLO))
    eventually(lambda: session.conversation.outbox.waiting > 5)
    session.close()
    assert session.take() is None
    assert session.next() is None


def test_a_loop_that_was_left_can_be_taken_up_by_another(engine: ToyEngine) -> None:
    async def talk() -> list[Item]:
        async with engine.conversation() as conversation:
            await conversation.start(HELLO)
            items: list[Item] = []
            async for item in conversation:
                items.append(item)
                if len(items) == 10:
                    break
            conversation.finish()
            async for item in conversation:
                items.append(item)
            return items

    assert audio(asyncio.run(talk())) == alone(Start(HELLO))


def test_seats_are_taken_and_given_back_while_the_engine_closes() -> None:
    for _ in range(30):
        engine = ToyEngine(slots=3)
        over = threading.Event()

        def come_and_go(engine: ToyEngine = engine, over: threading.Event = over) -> None:
            while not over.is_set():
                try:
                    with engine.conversation() as session:
                        session.submit(Start("Hello."))
                        list(islice(session, 3))
                except CommandError:
                    pass
                except EngineError:
                    over.set()

        threads = [threading.Thread(target=come_and_go) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.01)
        engine.close()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


# ---- Several at once ----


def test_two_conversations_at_once_each_sound_as_alone(pair: ToyEngine) -> None:
    texts = [HELLO, "[S2] Something else, and [S1] longer than that, in another voice altogether."]
    with pair.conversation() as first, pair.conversation(queue_frames=2) as second:
        got: list[bytes] = [b"", b""]

        def talk(number: int, session: Session) -> None:
            got[number] = audio(spoken(session, Start(texts[number], seed=number)))

        threads = [threading.Thread(target=talk, args=(n, s)) for n, s in enumerate((first, second))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert got == [alone(Start(text, seed=number)) for number, text in enumerate(texts)]


def test_a_stuck_reader_holds_up_nobody_else(pair: ToyEngine) -> None:
    with pair.conversation() as stuck, pair.conversation() as session:
        stuck.submit(Start(LONG))
        eventually(lambda: full(stuck))
        assert audio(spoken(session, Start(HELLO))) == alone(Start(HELLO))
        stuck.submit(Pause())
        stuck.submit(Resume())
        assert take_until(stuck, Resumed)


def test_the_real_model_warms_up_every_seat_and_speaks_as_alone() -> None:
    loaded = checkpoint(GOLDENS / "every-option")
    told = Observing()
    engine = Engine(loaded, slots=2, speech=SpeechOptions(seed=3), observers=[told])
    try:
        engine.warm_up()
        assert engine.free == 2
        assert told.steps
        with engine.conversation() as first, engine.conversation() as second:
            second.submit(Start("[S1] Hello there."))
            second.finish()
            one = spoken(first, Start("[S2] Good day to you."))
            two = list(second)
    finally:
        engine.close()
    for items, text in ((one, "[S2] Good day to you."), (two, "[S1] Hello there.")):
        rig = golden(GOLDENS / "every-option", SpeechOptions(seed=3)).say(text)
        assert [e for e in items if isinstance(e, WordEvent)] == rig.of(WordEvent)
        np.testing.assert_allclose(np.concatenate([f.pcm for f in items if isinstance(f, Frame)]), rig.audio, atol=1e-5)


def test_a_model_that_fails_while_it_warms_up_says_that_it_does_not_run() -> None:
    engine = ToyEngine()
    try:
        engine.toy.fail_in = "act"
        with pytest.raises(EngineError, match="does not run here"):
            engine.warm_up()
    finally:
        engine.close()


@pytest.mark.parametrize("seed", range(4))
def test_readers_and_commands_from_many_threads_never_lose_an_event(seed: int) -> None:
    """Each client: reads at its own speed, while another thread sends commands; the answers come in order."""
    engine, random = ToyEngine(slots=3), np.random.default_rng(seed)
    plans = [[int(n) for n in random.integers(0, 7, 25)] for _ in range(3)]
    got: dict[int, list[Item]] = {}

    def command(session: Session, plan: list[int]) -> None:
        made: list[Command] = [Pause(), Resume(), Inject("more words"), Pause(80), Inject("", final=False), End()]
        session.submit(Start(HELLO))
        for number in plan:
            session.submit(made[number] if number < 6 else Start(HELLO, seed=number))
            time.sleep(0.002 * (number % 3))
        session.submit(Resume())
        session.finish()

    def client(number: int) -> None:
        with engine.conversation(queue_frames=3) as session:
            sender = threading.Thread(target=command, args=(session, plans[number]))
            sender.start()
            items = got[number] = []
            for item in session:
                items.append(item)
                if len(items) % 7 == number:
                    time.sleep(0.001)
            sender.join()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    engine.close()
    for number, items in got.items():
        errors = [item for item in items if isinstance(item, Error)]
        assert {error.code for error in errors} <= {"not_paused", "bad_command"}
        # What every start, pause and resume of the plan was answered with.
        kept = [item for item in items if isinstance(item, Started | Paused | Resumed) or item in errors]
        answers = [type(item) for item in kept if not isinstance(item, Error) or item.cmd == "resume"]
        plan = [Started, *[_ANSWERS[n] for n in plans[number] if n in _ANSWERS], (Resumed, Error)]
        assert len(answers) == len(plan)
        assert all(issubclass(answer, cast(Any, planned)) for answer, planned in zip(answers, plan, strict=True))
        _assert_no_frame_while_held(items)


_ANSWERS: dict[int, Any] = {0: Paused, 1: (Resumed, Error), 3: Paused, 6: Started}


def _assert_no_frame_while_held(items: list[Item]) -> None:
    held = False
    for item in items:
        held = (held or isinstance(item, Paused)) and not isinstance(item, Resumed | Started | Cut)
        assert not (held and isinstance(item, Frame))
