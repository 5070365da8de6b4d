"""Prepared replies in the engine: ready before they are wanted, and at nobody's cost."""

from collections.abc import Iterator

import pytest
from conftest import GOLDENS
from conversations import toy
from engines import ToyEngine, audio, eventually, running, take_until
from models import checkpoint

from dia2stream.engine.session import Session
from dia2stream.items import Frame, Item
from dia2stream.protocol.messages import (
    Command,
    Commit,
    Discard,
    Discarded,
    Done,
    Error,
    FirstAudio,
    Inject,
    Prepare,
    Prepared,
    Start,
)

SHORT, REPLY = "[S1] One two three.", "[S1] Sure, I can help you with that."


@pytest.fixture
def pair() -> Iterator[ToyEngine]:
    with running(slots=2) as engine:
        yield engine


@pytest.fixture
def engine() -> Iterator[ToyEngine]:
    with running(slots=1) as engine:
        yield engine


def in_turns(*commands: Command) -> bytes:
    """What a toy says that nobody disturbs, when each command comes after the turn before."""
    rig = toy()
    rig.conversation.tokenizer = checkpoint(GOLDENS / "published-like").tokenizer
    for command in commands:
        rig.do(command).run()
    return b"".join(frame.tobytes() for frame in rig.frames)


def drafted(session: Session) -> int:
    draft = session.conversation.preparation.draft
    return draft.outbox.waiting if draft is not None else 0


def test_a_commit_needs_no_step(engine: ToyEngine) -> None:
    with engine.conversation() as session:
        session.submit(Start(SHORT))
        heard = take_until(session, Done)
        session.submit(Prepare(REPLY, "b"))
        take_until(session, Prepared)
        eventually(lambda: not engine.has_work)
        engine.toy.gate.clear()  # no step is made from here on
        engine.toy.acts = 0
        session.submit(Commit("b"))
        heard += take_until(session, Frame)
        engine.toy.gate.set()
        heard += take_until(session, Done)
    assert [type(item) for item in heard if isinstance(item, FirstAudio | Error)] == [FirstAudio, FirstAudio]
    assert audio(heard) == in_turns(Start(SHORT), Inject(REPLY, id="b"))


def test_in_the_bound_of_an_outbox_and_then_the_engine_rests(engine: ToyEngine) -> None:
    with engine.conversation(queue_frames=6) as session:
        session.submit(Start(SHORT))
        take_until(session, Done)
        session.submit(Prepare(REPLY, "b"))
        take_until(session, Prepared)
        eventually(lambda: not engine.has_work)
        assert drafted(session) == 6


def test_a_discarded_reply_leaves_the_slot_as_it_was(engine: ToyEngine) -> None:
    with engine.conversation() as session:
        session.submit(Start(SHORT))
        heard = take_until(session, Done)
        for number in range(3):
            session.submit(Prepare(REPLY, f"never {number}"))
            take_until(session, Prepared)
            session.submit(Discard(f"never {number}"))
            take_until(session, Discarded)
        session.submit(Inject("[S2] Yes?"))
        heard += take_until(session, Done)
    assert audio(heard) == in_turns(Start(SHORT), Inject("[S2] Yes?"))


def test_two_prepare_side_by_side_and_each_sounds_as_in_turns(pair: ToyEngine) -> None:
    heard: list[list[Item]] = [[], []]
    with pair.conversation() as one, pair.conversation() as other:
        for session in (one, other):
            session.submit(Start(SHORT))
        for items, session in zip(heard, (one, other), strict=True):
            items += take_until(session, Done)
        for session in (one, other):
            session.submit(Prepare(REPLY, "b"))
        one.submit(Commit("b"))  # at once, whatever is made by then
        take_until(other, Prepared)
        other.submit(Commit("b"))
        for items, session in zip(heard, (one, other), strict=True):
            items += take_until(session, Done)
    for items in heard:
        assert audio(items) == in_turns(Start(SHORT), Inject(REPLY, id="b"))


def test_a_slot_that_is_given_up_in_a_draft_serves_the_next_client(engine: ToyEngine) -> None:
    with engine.conversation() as session:
        session.submit(Start(SHORT))
        take_until(session, Done)
        session.submit(Prepare(REPLY, "b"))
        take_until(session, Prepared)
    with engine.conversation() as session:
        session.submit(Start(SHORT))
        heard = take_until(session, Done)
        session.submit(Commit("b"))
        [*_, error] = take_until(session, Error)
        assert isinstance(error, Error)
        assert (error.code, error.cmd, error.id) == ("bad_field", "commit", "b")
    assert audio(heard) == in_turns(Start(SHORT))


@pytest.mark.parametrize("where", ["act", "complete"])
def test_a_model_that_fails_in_a_draft_ends_its_conversation_in_turns(pair: ToyEngine, where: str) -> None:
    with pair.conversation() as session, pair.conversation() as other:
        session.submit(Start(SHORT))
        take_until(session, Done)
        pair.toy.fail_in = where
        session.submit(Prepare(REPLY, "b"))
        [*_, error] = take_until(session, Error)
        assert isinstance(error, Error)
        assert error.code == "internal"
        other.submit(Start(SHORT))
        heard = take_until(other, Done)
    assert audio(heard) == in_turns(Start(SHORT))
    with pair.conversation() as session:
        session.submit(Start(SHORT))
        assert audio(take_until(session, Done)) == audio(heard)


def test_the_end_of_input_forgets_a_reply_and_the_loop_ends(engine: ToyEngine) -> None:
    with engine.conversation() as session:
        session.submit(Start(SHORT))
        session.submit(Prepare(REPLY, "b"))
        session.finish()
        kinds = [type(item) for item in session]
    assert kinds[-1] is Done
    assert Discarded in kinds
