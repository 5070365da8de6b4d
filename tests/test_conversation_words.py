"""Words as they were written: in events, in `paused`, by rule, with notices; and text that says what it said before."""

from itertools import pairwise

import pytest
from conversations import HELLO, Rig, cut, paused, report, said_in_pieces, toy
from hypothesis import given, settings
from hypothesis import strategies as st

from dia2stream.errors import CommandError
from dia2stream.items import Frame
from dia2stream.protocol.messages import Done, End, FirstAudio, Inject, Notice, Pause, Start, Started, WordEvent
from dia2stream.text.lexicon import Lexicon
from dia2stream.text.settings import TextSettings

SPOKEN = TextSettings("spoken", auto="spoken")


def said(rig: Rig) -> list[str]:
    """What was spoken, entry by entry."""
    return [taken.word.text for taken in rig.conversation.words.sounded if taken.word.tokens]


def test_a_word_is_one_event_however_many_words_are_spoken_for_it() -> None:
    rig = toy(text=SPOKEN).say("**Pay** $42.60 by 4:30, _please_.", id="a")
    assert said(rig) == ["Pay", "forty", "two", "dollars", "and", "sixty", "cents", "by", "four", "thirty,", "please."]
    events = rig.of(WordEvent)
    assert [(e.word, e.said) for e in events] == [
        ("Pay", None),
        ("$42.60", "forty two dollars and sixty cents"),
        ("by", None),
        ("4:30,", "four thirty,"),
        ("please_.", "please."),
    ]
    text = "**Pay** $42.60 by 4:30, _please_."
    assert [text[e.text_start : e.text_end] for e in events] == [e.word for e in events]


def test_a_word_ends_where_the_next_begins_and_the_last_where_the_words_do() -> None:
    rig = toy(text=SPOKEN, ahead=0).say("Pay $42.60 now please.")
    events = rig.of(WordEvent)
    taken = {t.word.written: t.step for t in reversed(rig.conversation.words.sounded)}
    assert [e.start_ms for e in events] == [80 * step for step in reversed(taken.values())]
    known = [(e.end_ms, after.start_ms) for e, after in pairwise(events)]
    assert all(
        end in (start, e.start_ms + 400 * len((e.said or e.word).split()))
        for (end, start), e in zip(known, events, strict=False)
    )
    assert any(end == start for end, start in known)
    assert events[-1].end_ms in (events[-1].start_ms + 400, 80 * (rig.context.state.end_step or 0))


def test_a_word_whose_end_is_not_drawn_yet_is_given_400_ms() -> None:
    rig = toy(ahead=0).do(Start("One two three", final=False)).run(40)
    assert rig.words == ["One", "two"][: len(rig.words)]
    last = rig.of(WordEvent)[-1]
    assert last.end_ms == last.start_ms + 400
    rig.do(End()).run()


@pytest.mark.parametrize("text", ["[S1]Hello.[S2]Hi", "[s1] Hello. [s2] Hi", "[S1] Hello.\u200b[S2] Hi"])
def test_speaker_tags_need_no_spaces_around_them(text: str) -> None:
    rig = toy().say(text)
    assert [(e.word, e.speaker) for e in rig.of(WordEvent)] == [("Hello.", "S1"), ("Hi", "S2")]


def test_notices_come_behind_started_and_name_their_utterance() -> None:
    rig = toy().say("Hi [S3] there [S7]", id="a").do(Inject("<break time='soon'/> you", id="b")).run()
    notices = rig.of(Notice)
    assert [(n.code, n.id, n.text_start) for n in notices] == [
        ("unknown_tag", "a", 3),
        ("unknown_tag", "a", 14),
        ("bad_break", "b", 0),
    ]
    assert [type(item) for item in rig.items[:3]] == [Started, Notice, Notice]


@pytest.mark.parametrize("text", ["...", "\U0001f600", "<think>nothing", "# ", "[S2]", "&nbsp;", "**"])
def test_an_utterance_with_nothing_to_say_is_started_and_done_and_makes_no_sound(text: str) -> None:
    rig = toy().say(text)
    assert [type(item) for item in rig.items if not isinstance(item, Notice)] == [Started, Done]


def test_rules_and_words_are_the_conversations_own() -> None:
    server = TextSettings("clean", Lexicon({"GIF": "jiff", "SQL": "sequel"}), auto="spoken")
    for rules, spoken in [
        (None, ["a", "jiff", "S", "Q", "L", "$5"]),
        ("off", ["**a**", "jiff", "S", "Q", "L", "$5"]),
        ("clean", ["a", "jiff", "S", "Q", "L", "$5"]),
        ("spoken", ["a", "jiff", "S", "Q", "L", "five", "dollars"]),
        ("auto", ["a", "jiff", "S", "Q", "L", "five", "dollars"]),
    ]:
        rig = toy(text=server).say("**a** GIF sql $5", text_rules=rules, say={"SQL": "S Q L"})
        assert said(rig) == spoken
    assert said(toy(text=server).say("SQL")) == ["sequel"]


def test_half_a_character_at_the_end_of_a_piece_is_carried_over_to_the_next() -> None:
    rig = toy().do(Start("a \ud835", final=False), Inject("\udd4f b \ud83d", final=False), Inject("\ude00 c"))
    assert rig.run().words == ["a", "\U0001d54f", "b", "c"]


def test_plain_words_begin_as_soon_as_ever() -> None:
    for rules in ("off", "spoken"):
        rig = toy(ahead=0).do(Start("Hel", text_rules=rules, final=False)).run()
        assert rig.steps == 0
        rig.do(Inject("lo ", final=False)).run()
        assert rig.steps > 0


@pytest.mark.parametrize(("rest", "word"), [("million ", "$5 million"), ("", "$5"), ("each ", "$5")])
def test_a_number_is_spoken_when_it_is_known_how_it_goes_on(rest: str, word: str) -> None:
    rig = toy(text=SPOKEN, ahead=0).do(Start("$5 ", final=False)).run()
    assert rig.steps == 0
    rig.do(Inject(rest, final=False), End()).run()
    assert rig.of(WordEvent)[0].word == word


# ---- What was heard ----


def test_pending_has_tags_breaks_and_the_callers_own_characters() -> None:
    text = "[S2] It\u2019s 4:30 <break time='500ms'/> now. [s1]Then **pay** $5 at [\"x.com\"](http://x.com) or <b>no"
    rig = toy(text=SPOKEN).do(Start(text, final=False)).run_until_sent(1)
    pending = '[S2] It\u2019s 4:30 <break time="0.5s"/> now. [S1] Then pay $5 at "x.com" or no'
    assert report(paused(rig, 0)) == (0, "", pending)


@settings(max_examples=60)
@given(
    text=st.sampled_from([HELLO, "Pay [S2] $5 million on 5/4/2024 [s1]at 4:30 <break time='1s'/> or ... **not**."]),
    sent=st.integers(1, 60),
    played=st.integers(0, 60),
)
def test_pending_may_be_injected_again_as_it_is(text: str, sent: int, played: int) -> None:
    rig = toy(text=SPOKEN).do(Start(text))
    whole = toy(text=SPOKEN).say(text)
    while rig.sent < sent and (rig.take(1) or rig.step()):
        pass
    told = paused(rig, 80 * played)
    heard = [word.heard for word in told.words]
    assert heard == sorted(heard, reverse=True)
    rig.do(Inject(told.pending)).run()
    again = [(e.word, e.speaker, e.said) for e in rig.of(WordEvent)][-len([w for w in heard if not w]) :]
    expected = [(e.word, e.speaker, e.said) for e in whole.of(WordEvent)][len([w for w in heard if w]) :]
    assert not expected or again == expected


def test_every_word_of_paused_has_its_place_in_its_own_utterance() -> None:
    rig = toy().do(Start("One **two**", id="a"), Inject(" three 4:30", id="b")).run_until_sent(1)
    words = paused(rig, 10**6).words
    assert [(w.id, w.text_start, w.text_end) for w in words] == [("a", 0, 3), ("a", 6, 9), ("b", 1, 6), ("b", 7, 11)]
    assert not any(word.heard for word in words[1:])


def test_a_word_spoken_as_several_is_heard_when_half_of_them_are() -> None:
    rig = toy(text=SPOKEN, ahead=0).do(Start("Pay $42.60 now please.")).run()
    steps = [t.step for t in rig.conversation.words.sounded if t.word.written.text == "$42.60"]
    assert len(steps) == 6
    assert paused(rig, 80 * steps[2]).spoken == "Pay"
    assert paused(rig, 80 * steps[3]).spoken == "Pay $42.60"


def test_text_that_is_refused_changes_nothing() -> None:
    rig = toy().do(Start("One [S3] two <b", final=False)).run()
    with pytest.raises(CommandError, match="a break of 90 s is too long"):
        rig.do(Inject(">three <break time='90s'/>", final=False))
    rig.do(Inject(">three", final=False), End()).run()
    assert rig.words == ["One", "two", "three"]
    assert len(rig.of(Notice)) == 1


def test_first_audio_is_told_before_the_first_word() -> None:
    rig = toy(text=SPOKEN).say("4:30 it is.")
    kinds = [type(item) for item in rig.items if not isinstance(item, Frame)]
    assert kinds[:3] == [Started, FirstAudio, WordEvent]
    assert rig.do(Pause()).take()


MIXED = (
    "# News\n- **Pay** $5 million [s2]by 4:30 p.m. on May 5, 2024\n- call (212) 555-0147 <think>x</think> or "
    "<b>No. 5</b> Main St. &amp; see [it](http://a.io/b)... \U0001f600 \u201cok\u201d"
)


@settings(max_examples=60)
@given(
    cuts=st.lists(st.integers(1, len(MIXED)), max_size=12),
    between=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    last=st.sampled_from(["end", "final"]),
    ahead=st.integers(0, 2),
    rules=st.sampled_from(["off", "clean", "spoken"]),
)
def test_by_any_rules_text_in_pieces_sounds_like_the_text_at_once(
    cuts: list[int], between: list[int], last: str, ahead: int, rules: str
) -> None:
    settings = TextSettings(rules)  # type: ignore[arg-type]
    whole = toy(ahead=ahead, text=settings).say(MIXED)
    pieces = said_in_pieces(toy(ahead=ahead, text=settings), cut(MIXED, cuts), between, last)
    assert pieces.told == whole.told
