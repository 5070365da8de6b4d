"""What a context has to say, as commands of the conversation."""

import pytest

from dia2stream.errors import CommandError
from dia2stream.protocol.fields import MAX_TEXT_CHARS
from dia2stream.protocol.messages import End, Inject, Start
from dia2stream.server.dialects.context import Context
from dia2stream.server.dialects.context_items import Flushed
from dia2stream.server.dialects.context_texts import ContextTexts
from dia2stream.server.dialects.dialect import Voice


def waiting(text: str, **fields: object) -> Context:
    return Context("a", Voice("anna", 5), 3.0, waiting=text, **fields)


def test_the_first_text_begins_the_conversation_and_what_follows_joins_it():
    texts, context = ContextTexts("p."), waiting("Hello ")
    assert texts.hand_over(context) == [Start("Hello ", id="p.1", final=False, voice="anna", seed=5)]
    context.waiting, context.ended = "there.", True
    assert texts.hand_over(context) == [Inject("there.", id="p.1", final=True)]
    assert (context.text, context.waiting, context.open) == ("Hello there.", "", None)
    assert list(texts.utterances) == ["p.1"]
    assert texts.utterances["p.1"].context is context


def test_each_flush_closes_its_utterance_and_is_told_with_it():
    texts, context = ContextTexts(""), waiting("One. Two. Three", breaks=[5, 10, 10])
    one, two, three = texts.hand_over(context)
    assert [(each.text, each.id, each.final) for each in (one, two, three)] == [
        ("One. ", "1", True),
        ("Two. ", "2", True),
        ("Three", "3", False),
    ]
    assert [texts.utterances[id].flushes for id in "123"] == [[1], [2, 3], []]
    assert texts.close(context, flush=4) == [End()]
    assert texts.utterances["3"].flushes == [4]


def test_a_flush_of_nothing_is_told_at_once():
    assert ContextTexts("").hand_over(waiting(" ", breaks=[1])) == [Flushed("a", 1)]


def test_a_long_text_takes_several_commands_of_one_utterance():
    texts, context = ContextTexts(""), waiting("word " * (MAX_TEXT_CHARS // 4), ended=True)
    first, second = texts.hand_over(context)
    assert (type(first), type(second), first.id, second.id) == (Start, Inject, "1", "1")
    assert (len(first.text), first.final, second.final) == (MAX_TEXT_CHARS, False, True)
    assert first.text + second.text == context.text


def test_what_cannot_be_said_changes_nothing():
    texts, context = ContextTexts(""), waiting("Half a character: \ud83d!", ended=True)
    with pytest.raises(CommandError):
        texts.hand_over(context)
    assert not texts.begun
    assert not texts.utterances
    assert (list(context.unspoken), context.text) == ([], "")


def test_utterances_that_are_forgotten_are_nobodys():
    texts, one, two = ContextTexts(""), waiting("One."), waiting("Two.")
    texts.hand_over(one)
    texts.hand_over(two)
    texts.forget(one)
    assert list(texts.utterances) == ["2"]
