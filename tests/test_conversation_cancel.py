"""cancel: an utterance that waits is forgotten, as if it had never been asked for. end: of an utterance by its id."""

from typing import Any

import numpy as np
import pytest
from conversations import ToyEar, in_pieces, paused, scripts, stopped_at, toy, words_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dia2stream.conversation.words import MAX_WAITING_CHARS
from dia2stream.errors import CommandError
from dia2stream.protocol.messages import (
    Cancel,
    Cancelled,
    Done,
    End,
    Inject,
    Listen,
    Notice,
    Pause,
    Resume,
    Start,
    WordEvent,
)


def refused(rig: Any, command: Any) -> CommandError:
    with pytest.raises(CommandError) as caught:
        rig.do(command)
    assert (caught.value.cmd, caught.value.id) == (type(command).__name__.lower(), command.id)
    return caught.value


def attempt(rig: Any, command: Any) -> str | None:
    """Does it, or says with which code it was refused."""
    try:
        rig.do(command)
    except CommandError as error:
        return error.code
    return None


def told_of(rig: Any) -> list[Any]:
    """All that a listener gets, but for the order in which utterances were numbered."""
    return [item for item in rig.told if not isinstance(item, Done)]


@settings(max_examples=60)
@given(
    first=scripts,
    gone=scripts,
    rest=st.lists(scripts, max_size=3),
    is_open=st.booleans(),
    ahead=st.integers(0, 2),
)
def test_an_utterance_cancelled_before_it_is_seen_leaves_no_trace(
    first: str, gone: str, rest: list[str], is_open: bool, ahead: int
) -> None:
    commands = [Inject(text, id=f"later{number}") for number, text in enumerate(rest)]
    plain = toy(ahead=ahead).do(Start("[S1] One two three."), Inject(first, id="first"), *commands).run()
    rig = toy(ahead=ahead).do(Start("[S1] One two three."), Inject(first, id="first"))
    rig.do(Inject(gone, id="gone", final=not (is_open and not rest)), *commands, Cancel("gone")).run()
    assert told_of(rig) == told_of(plain)
    assert rig.of(Cancelled) == [Cancelled("gone")]
    assert [done.id for done in rig.of(Done)] == [done.id for done in plain.of(Done)]
    # The reader too is where it would be: a tag that was open is forgotten.
    for each in (rig, plain):
        each.do(Inject("and then", id="last")).run()
    assert told_of(rig) == told_of(plain)


@settings(max_examples=60)
@given(
    texts=st.lists(scripts, min_size=2, max_size=5),
    which=st.integers(0, 9),
    steps=st.integers(0, 60),
    taking=st.booleans(),
)
def test_whenever_it_is_cancelled_all_other_words_are_said_once_and_none_of_its_own(
    texts: list[str], which: int, steps: int, taking: bool
) -> None:
    rig = toy().do(Start(texts[0], id="0"), *(Inject(text, id=str(n)) for n, text in enumerate(texts) if n))
    for _ in range(steps):
        rig.step()
        if taking:
            rig.take()
    id = str(which % len(texts))
    begun = {word.word.utterance.id for word in (*rig.conversation.words.taken, *rig.conversation.words.sounded)}
    problem = attempt(rig, Cancel(id))
    assert problem in (None, "bad_command")
    assert not (id in begun and problem is None)
    rig.take()
    said = [(event.id, event.word) for event in rig.run().of(WordEvent)]
    left = [(str(n), text) for n, text in enumerate(texts) if problem or str(n) != id]
    assert said == [(n, word) for n, text in left for word in words_of(text)]
    assert [done.id for done in rig.of(Done)] == [n for n, _ in left]
    assert rig.conversation.idle


def test_the_next_speaker_is_the_one_that_would_have_spoken_without_it() -> None:
    rig = toy().do(Start("[S1] One two three four five."), Inject("[S2] Wrong.", id="a"), Inject("Right.", id="b"))
    rig.do(Cancel("a")).run()
    assert [(event.word, event.speaker) for event in rig.of(WordEvent)][-1] == ("Right.", "S1")
    assert rig.told == toy().do(Start("[S1] One two three four five."), Inject("Right.", id="b")).run().told


def test_its_places_in_the_text_are_told_of_the_utterances_behind_it_and_its_notices_only_once() -> None:
    texts = {"a": "Not *this* one.", "b": "But $5 of [S9] that."}
    rig = toy().do(Start("One two three."), *(Inject(text, id=id) for id, text in texts.items()), Cancel("a")).run()
    said = [event for event in rig.of(WordEvent) if event.id == "b"]
    assert [texts["b"][event.text_start : event.text_end] for event in said] == [event.word for event in said]
    assert [notice.id for notice in rig.of(Notice)].count("b") == 1


def test_an_open_utterance_can_be_cancelled_and_its_end_is_then_no_error() -> None:
    rig = toy().do(Start("One two."), Inject("half a sent", id="a", final=False)).run(3)
    rig.do(Cancel("a"), End("a")).run()
    assert (rig.words, rig.conversation.idle) == (["One", "two."], True)
    rig.do(Inject("Three.")).run()
    assert rig.words == ["One", "two.", "Three."]


def test_a_paused_conversation_goes_on_without_it() -> None:
    rig = toy().do(Start("One two three four five six seven eight."), Inject("Nine.", id="a"), Inject("Ten.", id="b"))
    stopped_at(rig, 5)
    assert paused(rig).pending.endswith("Nine. Ten.")
    rig.do(Cancel("a"))
    assert paused(rig).pending.endswith("eight. Ten.")
    rig.do(Resume()).run()
    assert rig.words[-2:] == ["eight.", "Ten."]


def test_what_is_spoken_is_not_cancelled_but_paused() -> None:
    rig = toy().do(Start("One two three four five six.", id="a")).run(30)
    error = refused(rig, Cancel("a"))
    assert (error.code, error.field, error.message) == (
        "bad_command",
        "id",
        "cancel: 'a' is spoken already; to stop it, send pause",
    )
    assert rig.run().words[-1] == "six."
    assert refused(rig, Cancel("a")).message == "cancel: 'a' no longer waits"
    error = refused(rig, Cancel("b"))
    assert (error.code, error.field, error.message) == ("bad_field", "id", "id 'b' is that of no utterance")
    assert refused(toy(), Cancel("a")).code == "no_session"


def test_of_two_with_one_id_the_one_that_waits_is_cancelled() -> None:
    rig = toy().do(Start("One two three four.", id="a")).run(4).do(Inject("Five.", id="a"), Cancel("a")).run()
    assert rig.words == ["One", "two", "three", "four."]
    assert [done.id for done in rig.of(Done)] == ["a"]


def test_the_reply_that_is_cancelled_leaves_the_caller_heard_and_the_next_one_answers() -> None:
    def conversation() -> Any:
        said = np.full(24000, 9000, "<i2").tobytes()
        rig = toy(ear=ToyEar()).do(Start("One two three four five six.")).run(25)
        return rig.do(Listen(said, "What?"))

    rig = conversation().do(Inject("No.", id="a"), Cancel("a"), Inject("Yes.", id="b")).run()
    plain = conversation().do(Inject("Yes.", id="b")).run()
    assert told_of(rig) == told_of(plain)
    other = conversation().do(Inject("No.", id="a"), Inject("Yes.", id="b"), Cancel("a")).run()
    assert told_of(other) == told_of(plain)


def test_only_so_much_text_waits_whatever_it_is_made_of() -> None:
    rig = toy().do(Start("One two three."))
    piece = "* " * 10_000
    for _ in range(MAX_WAITING_CHARS // len(piece)):
        rig.do(Inject(piece, id="a", final=False))
    with pytest.raises(CommandError, match="200000 characters of text wait to be spoken, of at most 200000") as caught:
        rig.do(Inject(piece, id="a", final=False))
    assert (caught.value.code, caught.value.field) == ("overloaded", "text")
    rig.do(Cancel("a"), Inject("Four.")).run()
    assert rig.words == ["One", "two", "three.", "Four."]


# ---- end ----


def test_end_closes_the_utterance_of_its_id() -> None:
    whole = toy().say("One two three.")
    assert in_pieces(toy(), "One two three.", [4], lambda rig: None).told == whole.told
    rig = toy().do(Start("One two", id="a", final=False), Inject(" three.", id="a", final=False), End("a")).run()
    assert (rig.words, [done.id for done in rig.of(Done)]) == (whole.words, ["a"])


def test_end_of_an_utterance_that_is_complete_or_gone_is_no_error() -> None:
    rig = toy().do(Start("One two", id="a", final=False), Inject("Three", id="b", final=False), End("a"), End("a"))
    rig.do(End("b"), End("b")).run().do(End("a"), End("b"))
    rig.do(Inject("Four five six seven eight", id="c", final=False)).run()
    stopped_at(rig, rig.sent).do(Inject("Instead.", id="d"), End("c")).run()
    assert rig.words[-1] == "Instead."
    assert refused(rig, End("e")).code == "bad_field"
    with pytest.raises(CommandError, match="nothing to end"):
        rig.do(End())


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["open", "piece", "end", "cancel", "pause", "resume", "step"]), max_size=30))
def test_no_order_of_commands_leaves_anything_that_is_never_spoken(orders: list[str]) -> None:
    assume("open" in orders)
    rig, number = toy().do(Start("")), 0
    for order in orders:
        number += order == "open"
        commands: dict[str, Any] = {
            "open": Inject("word and ", id=str(number), final=False),
            "piece": Inject("more ", id=str(number), final=False),
            "end": End(str(number)),
            "cancel": Cancel(str(number)),
            "pause": Pause(),
            "resume": Resume(),
        }
        if order == "step":
            rig.run(7)
        else:
            assert attempt(rig, commands[order]) in (None, "bad_command", "bad_field", "not_paused")
    rig.conversation.close_text()
    if rig.conversation.paused:
        rig.do(Resume())
    rig.run()
    assert (rig.conversation.idle, rig.conversation.queued, list(rig.conversation.words.utterances)) == (True, 0, [])
