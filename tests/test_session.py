"""A session: items in order, readers of every speed, commands at any moment, and loops that end with it."""

import asyncio
import threading
import time
from typing import cast

import pytest
from engines import HELLO, LONG, ToyEngine, alone, audio, eventually, full, kinds, spoken, take_until
from piping import PATIENCE, soon

from dia2stream.errors import CommandError
from dia2stream.items import Frame, Item
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
        assert kinds(take_until(session, Paused)) == [Started, Paused]
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
        assert 7 * 0.08 - 0.05 < time.monotonic() - began < 7 * 0.08 + soon()


# ---- Commands at any moment ----


def test_a_reader_that_waits_for_its_moment_is_woken_by_answers_and_not_by_frames_behind_it(
    engine: ToyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.conversation(max_lead_ms=80) as session:
        session.submit(Start(LONG))
        eventually(lambda: full(session))
        eventually(lambda: isinstance(session.take(), float))
        woken: list[int] = []
        monkeypatch.setattr(session, "notify", lambda: woken.append(1))
        session.worked()
        assert not woken, "the frame that it waits for is still the next one"
        session.conversation.outbox.answer(Resumed())
        session.worked()
        assert len(woken) == 1
        assert isinstance(session.take(), Resumed)
        session.worked()
        assert len(woken) == 2, "it may not know yet when the next frame may leave"
        monkeypatch.undo()


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
        little = session.behind
        assert 0 < little < 1  # one answer
        for _ in range(100):
            session.submit(Resume())
        much = session.behind
        assert much > 1  # who reads commands is to wait
        engine.toy.gate.set()
        eventually(lambda: session.conversation.outbox.answers == 101)
        assert little < session.behind < much  # all were refused in no time, and the answers wait
        assert session.queued_words > 100
        while session.take(answers_only=True) is not None:
            pass
        eventually(lambda: session.behind == 0)


def test_who_submits_can_wait_until_the_engine_and_the_reader_have_caught_up(engine: ToyEngine) -> None:
    engine.toy.gate.clear()
    with engine.conversation() as session:
        session.submit(Start(HELLO))
        engine.toy.at_gate.wait()
        for _ in range(10):
            session.submit(Resume())
        waits = threading.Thread(target=session.wait_while, args=(lambda: session.behind > 0,))
        waits.start()
        engine.toy.gate.set()
        eventually(lambda: session.conversation.outbox.answers == 11)
        for _ in range(11):
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


# ---- Loops end ----


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
