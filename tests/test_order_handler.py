"""What becomes of an order: an answer or one error in its place, and a note on the tape where something has changed."""

import base64
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, cast

import pytest
from conversations import Rig, ToyEar, ToyStepper, toy

from dia2stream.conversation.conversation import Conversation
from dia2stream.engine.backlog import OrderSeconds
from dia2stream.engine.order_handler import OrderHandler
from dia2stream.engine.orders import FINISH, SAY_WHERE, STAND_STILL, Adoption, Forking
from dia2stream.engine.session import Session
from dia2stream.errors import CommandError
from dia2stream.items import FRAME_MS
from dia2stream.journal.tape import Place
from dia2stream.protocol.messages import (
    Command,
    End,
    Error,
    Forked,
    Inject,
    Listen,
    Pause,
    Paused,
    Prepare,
    Resume,
    Start,
    Started,
)

HELLO = "[S1] Hello there my friend. [S2] How are you?"
FRAME = base64.b64encode(bytes(2 * ToyEar.frame_samples)).decode()


class RecordedTape:
    """Stands for a tape: keeps what it is told."""

    def __init__(self) -> None:
        self.commands: list[tuple[Command, Place]] = []
        self.forks: list[tuple[Any, Conversation, bool]] = []

    def command(self, conversation: Conversation, command: Command, before: Place) -> None:
        self.commands.append((command, before))

    def fork(self, copy: Any, conversation: Conversation, was_paused: bool) -> None:
        self.forks.append((copy, conversation, was_paused))


class RecordedEars:
    """Stands for what hears all callers: keeps whom it was told of."""

    def __init__(self) -> None:
        self.noted: list[Conversation] = []

    def note(self, conversation: Conversation, now: float) -> None:
        self.noted.append(conversation)

    def of(self, slot: int, tape: Any) -> tuple[str, int, Any]:
        return "ear", slot, tape


class NoThread:
    """Stands for the engine's thread, which nothing is sent to here."""

    order_seconds = OrderSeconds()


class Handling:
    """A handler, the sessions that it works for, and what it has told of them."""

    def __init__(self, slots: int = 1) -> None:
        stepper = ToyStepper(slots=slots)
        self.rigs = [toy(stepper=stepper, slot=slot, ear=ToyEar()) for slot in range(slots)]
        self.sessions = [Session(cast(Any, None), cast(Any, NoThread()), rig.conversation) for rig in self.rigs]
        self.tapes: dict[Any, Any] = {}
        self.ears = RecordedEars()
        self.failures: list[tuple[Conversation, Exception]] = []
        self.copied: list[int] = []
        self.handler = OrderHandler(
            [rig.context for rig in self.rigs],
            cast(Any, self.ears),
            self.tapes,
            lambda conversation, error: self.failures.append((conversation, error)),
            self.copied.append,
        )

    @property
    def rig(self) -> Rig:
        return self.rigs[0]

    @property
    def session(self) -> Session:
        return self.sessions[0]

    def handle(self, *orders: Any) -> "Handling":
        for order in orders:
            self.handler.handle(self.session, order, 0.0)
        return self

    def answers(self) -> list[Any]:
        """What waits to be read."""
        taken = self.rig.take()
        return [item for item in taken if isinstance(item, Started | Paused | Error | Forked)]

    def write_down(self) -> RecordedTape:
        """Puts a tape to the first conversation."""
        tape = RecordedTape()
        self.handler.write_down(self.session.conversation, cast(Any, tape))
        return tape


# ---- Commands ----


def test_a_command_is_answered_in_its_place_and_one_that_could_not_be_read_as_well() -> None:
    handling = Handling()
    handling.handle(Start(HELLO, seed=3), CommandError("bad_json", "not JSON"), Pause())
    answers = handling.answers()
    assert [type(answer) for answer in answers] == [Started, Error, Paused]
    assert (answers[1].code, answers[1].message) == ("bad_json", "not JSON")


def test_a_refused_command_is_one_error_that_names_the_command_and_nothing_is_written_down() -> None:
    handling = Handling()
    tape = handling.write_down()
    handling.handle(Resume(), Start(HELLO, voice="nobody", id="a"))
    assert [(answer.code, answer.cmd, answer.id) for answer in handling.answers()] == [
        ("no_session", "resume", None),
        ("bad_field", "start", "a"),
    ]
    assert tape.commands == []
    assert handling.failures == []


def test_a_command_is_written_down_with_the_place_at_which_it_came() -> None:
    handling = Handling()
    tape = handling.write_down()
    handling.handle(Start(HELLO, seed=3))
    handling.rig.run(12)
    before = Place.of(handling.session.conversation)
    assert before.step > 0 < before.sent
    handling.handle(Pause())
    assert tape.commands == [(Start(HELLO, seed=3), Place(0, 0)), (Pause(), before)]


def test_a_prepared_reply_is_not_written_down_before_it_counts() -> None:
    handling = Handling()
    tape = handling.write_down()
    handling.handle(Start(""), Prepare("Sure.", "a"))
    assert [type(command) for command, _ in tape.commands] == [Start]
    assert handling.session.conversation.preparation.keeper is not None


def test_work_that_fails_is_told_and_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(conversation: Conversation, command: Command, arrived: float) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(Conversation, "handle", fail)
    handling = Handling().handle(Start(HELLO))
    [(conversation, error)] = handling.failures
    assert (conversation, type(error)) == (handling.session.conversation, ZeroDivisionError)
    assert handling.answers() == []


def test_the_ears_are_told_when_a_caller_has_said_something() -> None:
    handling = Handling().handle(Listen(FRAME))  # which is refused
    assert handling.ears.noted == []
    handling.handle(Start(""), Listen(FRAME))
    assert handling.ears.noted == [handling.session.conversation]


# ---- What amounts to a command ----


@pytest.mark.parametrize("opened", [True, False])
def test_the_end_of_the_text_closes_what_is_open_and_is_written_down_if_something_was(opened: bool) -> None:
    handling = Handling()
    tape = handling.write_down()
    handling.handle(Start(HELLO, final=not opened), FINISH)
    assert handling.session.finishing
    assert handling.session.conversation.words.opened is None
    assert [command for command, _ in tape.commands[1:]] == ([End()] if opened else [])


def test_a_client_that_is_gone_pauses_its_conversation_without_an_answer() -> None:
    handling = Handling()
    tape = handling.write_down()
    handling.handle(Start(HELLO))
    handling.answers()
    handling.handle(STAND_STILL, STAND_STILL)
    assert handling.session.conversation.paused
    assert handling.answers() == []
    assert [type(command) for command, _ in tape.commands] == [Start, Pause]


def test_where_nothing_has_begun_a_client_that_is_gone_changes_nothing() -> None:
    handling = Handling()
    tape = handling.write_down()
    handling.handle(STAND_STILL)
    assert not handling.session.conversation.paused
    assert tape.commands == []


def test_a_client_that_is_back_is_told_once_where_a_paused_conversation_stands() -> None:
    handling = Handling().handle(Start(HELLO), SAY_WHERE)
    assert [type(answer) for answer in handling.answers()] == [Started]
    handling.handle(STAND_STILL, SAY_WHERE, SAY_WHERE)
    assert [type(answer) for answer in handling.answers()] == [Paused]


# ---- From elsewhere ----


@dataclass
class Revived:
    """A conversation from elsewhere: keeps where it was put."""

    conversation: Conversation
    settled: list[tuple[Any, Any]]
    speaks: bool = True

    def settle(self, context: Any, ear: Any) -> None:
        self.settled.append((context, ear))


@pytest.mark.parametrize("taped", [True, False])
def test_a_conversation_from_elsewhere_takes_the_slot_and_the_tape_of_the_one_that_was_there(taped: bool) -> None:
    handling = Handling(slots=2)
    tape = handling.write_down() if taped else None
    old, new = handling.session.conversation, toy().conversation
    revived = Revived(new, [])
    handling.handle(Adoption(revived, Future()))
    assert handling.session.conversation is new
    assert revived.settled == [(handling.rig.context, ("ear", 0, tape))]
    assert old not in handling.tapes
    assert handling.tapes.get(new) is tape


# ---- Forks ----


def forking(handling: Handling, id: str | None = None) -> Forking:
    return Forking(handling.sessions[1], id, Future())


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Conversation, Conversation]]:
    """What was copied from what; the copying itself is tested with real models (test_fork.py)."""
    copied = list[tuple[Conversation, Conversation]]()
    monkeypatch.setattr(Conversation, "copy", lambda copy, original, now: copied.append((copy, original)))
    return copied


def test_a_fork_is_done_when_its_slot_is_a_copy_and_the_client_is_told_of_it(
    copies: list[tuple[Conversation, Conversation]],
) -> None:
    handling = Handling(slots=2).handle(Start(HELLO))
    handling.rig.run(15)
    order = forking(handling, id="copy")
    copy = handling.sessions[1].conversation
    copy.outbox.go_on_from(3, ())  # as a copy stands still where its original had sent three frames
    handling.answers()
    handling.handle(order)
    assert order.done.result(0) is None
    assert copies == [(copy, handling.session.conversation)]
    assert handling.copied == [1]
    assert handling.ears.noted == [copy]
    assert handling.answers() == [Forked("copy", 3 * FRAME_MS)]


def test_a_fork_without_an_id_is_told_to_nobody(copies: list[Any]) -> None:
    handling = Handling(slots=2).handle(Start(HELLO))
    handling.answers()
    handling.handle(forking(handling))
    assert handling.answers() == []
    assert len(copies) == 1


@pytest.mark.parametrize("paused", [True, False])
def test_the_record_of_a_copy_begins_with_that_of_its_original(paused: bool, copies: list[Any]) -> None:
    handling = Handling(slots=2)
    tape, copied = handling.write_down(), RecordedTape()
    handling.handler.write_down(handling.sessions[1].conversation, cast(Any, copied))
    handling.handle(Start(HELLO), *([Pause()] if paused else []))
    handling.handle(forking(handling))
    assert tape.forks == [(copied, handling.sessions[1].conversation, paused)]
    assert len(copies) == 1


def test_a_fork_that_nobody_waits_for_any_more_copies_nothing(copies: list[Any]) -> None:
    handling = Handling(slots=2).handle(Start(HELLO))
    order = forking(handling)
    assert order.done.cancel()
    handling.handle(order)
    assert copies == []
    assert handling.copied == []


def test_where_nothing_has_begun_a_fork_raises_what_the_conversation_says() -> None:
    handling = Handling(slots=2)
    order = forking(handling, id="copy")
    handling.handle(order)
    with pytest.raises(CommandError, match="begin one with start"):
        order.done.result(0)
    assert handling.answers() == []
    assert handling.copied == []


def test_a_copy_that_fails_hurts_neither_conversation_and_says_where_to_look(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(copy: Conversation, original: Conversation, now: float) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(Conversation, "copy", fail)
    handling = Handling(slots=2).handle(Start(HELLO))
    order = forking(handling)
    handling.handle(order)
    with pytest.raises(CommandError, match="the log says why"):
        order.done.result(0)
    assert "a fault" in caplog.text
    assert handling.failures == []
    handling.handle(Inject("Bye."))
    assert handling.rig.run().words[-1] == "Bye."
