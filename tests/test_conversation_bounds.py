"""Bounds: what is refused has changed nothing, and what is allowed is taken."""

import gc

import pytest
from conversations import HELLO, Rig, toy

from dia2stream.conversation.words import MAX_QUEUED_WORDS
from dia2stream.errors import CommandError
from dia2stream.protocol.fields import MAX_TEXT_CHARS
from dia2stream.protocol.messages import Command, Done, End, Inject, Pause, Resume, Start

BAD: list[tuple[str, list[Command], str]] = [
    ("too many words", [Inject("w " * (MAX_QUEUED_WORDS + 1))], "overloaded"),
    ("too many with those that wait", [Inject("w " * 1990), Inject("w " * 100)], "overloaded"),
    ("too many in an open piece", [Inject("w " * (MAX_QUEUED_WORDS + 1), final=False)], "overloaded"),
    ("too many behind an open piece", [Inject("a", id="x", final=False), Inject("w " * 2000, id="y")], "overloaded"),
    ("a word without an end", [*[Inject("x" * 9000, final=False, id="x")] * 3], "too_long"),
    ("a break without an end", [Inject('<break time="61s"/>')], "bad_field"),
    ("a break in pieces", [Inject('<break time="9', final=False, id="x"), Inject('99s"/>', id="x")], "bad_field"),
    ("another conversation with such text", [Start('One. <break time="100s"/>')], "bad_field"),
    ("another conversation of too many words", [Start("w " * 2001)], "overloaded"),
    ("a voice that is not there", [Start("Hi.", voice="x")], "bad_field"),
    ("an end of nothing", [End()], "bad_command"),
    ("a resume of nothing", [Resume()], "not_paused"),
]


@pytest.mark.parametrize(("commands", "code"), [pytest.param(c, code, id=name) for name, c, code in BAD])
@pytest.mark.parametrize("steps", [0, 20, 10**6])
def test_a_command_that_is_refused_has_changed_nothing(commands: list[Command], code: str, steps: int) -> None:
    *before, bad = commands
    rigs = [toy().do(Start("One two three. [S2] Four five.")).run(steps).do(*before) for _ in range(2)]
    with pytest.raises(CommandError) as caught:
        rigs[0].do(bad)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    for rig in rigs:
        if rig.conversation.words.opened:
            rig.do(Inject(" s"))
        rig.run(60).do(Pause(), Inject("[S1] That is all.")).run()
    assert rigs[0].told == rigs[1].told


def test_a_long_word_costs_no_more_memory_than_its_steps() -> None:
    rig = toy(limit=2000).do(Start("x" * MAX_TEXT_CHARS)).run(1000)
    rows = {id(mark.pending.row) for _, mark in rig.context.history.columns}
    assert len(rows) == 2  # none, and the word's


def test_the_garbage_collector_visits_four_objects_for_a_word_and_none_for_a_step() -> None:
    def said(rig: Rig, turns: int) -> int:
        """Says some turns of ten words. Returns what the collector then visits."""
        for _ in range(turns):
            rig.do(Inject("One two three four five six seven eight nine ten.")).run()
        rig.items.clear()
        gc.collect()  # finds that tuples of numbers need no visits
        gc.collect()  # and then the same of tuples of such tuples
        return len(gc.get_objects())

    rig = toy(limit=200).do(Start("Hello."))
    before, steps = said(rig, 5), rig.steps
    after = said(rig, 20)
    assert rig.steps - steps > 1000
    assert after - before < 4 * 200 + 100


@pytest.mark.parametrize("played", [None, 800])
def test_a_command_that_is_refused_while_paused_has_changed_nothing(played: int | None) -> None:
    whole = toy().say(HELLO)
    rig = toy().do(Start(HELLO)).run_until_sent(20).do(Pause(played))
    for bad in (Inject('<break time="61s"/>'), Inject("w " * 2001), End(), Start("Hi.", voice="x")):
        with pytest.raises(CommandError):
            rig.do(bad)
    assert rig.conversation.paused
    assert rig.do(Resume()).run().told == whole.told


def test_the_longest_text_and_the_most_words_are_taken() -> None:
    rig = toy().do(Start("w " * MAX_QUEUED_WORDS))
    assert rig.conversation.queued == MAX_QUEUED_WORDS
    with pytest.raises(CommandError, match="2000 are queued and 2000 may be"):
        rig.do(Inject("one"))
    rig = toy().do(Start("x" * MAX_TEXT_CHARS))
    assert rig.conversation.queued == 1
    assert rig.run(30).words == ["x" * MAX_TEXT_CHARS]


def test_a_word_without_an_end_can_still_be_ended() -> None:
    rig = toy().do(Start("", final=False))
    for _ in range(2):
        rig.do(Inject("x" * MAX_TEXT_CHARS if not rig.conversation.words.reader.incomplete else "", final=False))
    for _ in range(3):
        with pytest.raises(CommandError) as caught:
            rig.do(Inject("y", final=False))
        assert (caught.value.code, caught.value.field) == ("too_long", "text")
    rig.do(End()).run(30)
    assert rig.words == ["x" * MAX_TEXT_CHARS]


def inject_without_end(rig: Rig) -> None:
    for _ in range(10**4):
        rig.do(Inject(""))


def test_utterances_without_a_word_are_bounded_too() -> None:
    rig = toy().do(Start("One two three."))
    with pytest.raises(CommandError, match="utterances") as caught:
        inject_without_end(rig)
    assert caught.value.code == "overloaded"
    rig.run()
    assert len(rig.of(Done)) == MAX_QUEUED_WORDS
    with pytest.raises(CommandError, match="events wait"):
        inject_without_end(rig)  # nobody reads that they are done
    assert rig.conversation.outbox.events == MAX_QUEUED_WORDS


def test_before_a_start_there_is_nothing_to_command() -> None:
    for command in (Inject("Hi.", id="a"), End(), Pause(), Resume()):
        rig = toy()
        with pytest.raises(CommandError, match="begin one with start") as caught:
            rig.do(command)
        assert caught.value.code == "no_session"
        assert caught.value.cmd == type(command).__name__.lower()
