"""Contexts over one conversation: their text in turn, their sound and words apart, and what was heard when one ends."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from conversations import Rig, toy, toy_voice, words_of
from hypothesis import given
from hypothesis import strategies as st

from dia2stream.errors import CommandError
from dia2stream.items import Frame, Item
from dia2stream.protocol.messages import (
    Command,
    End,
    FirstAudio,
    Inject,
    Pause,
    Start,
    Started,
    WordEvent,
    error_event,
)
from dia2stream.server.dialects.context_items import (
    Audio,
    ContextItem,
    Failed,
    Finished,
    Flushed,
    Interrupted,
    Turned,
    Word,
)
from dia2stream.server.dialects.contexts import MAX_CONTEXTS, Contexts
from dia2stream.server.dialects.dialect import Standing, Voice

ANNA = Voice("anna")
ANY = Voice(seed=5)
HELLO = "Hello there my friend, how are you?"


class Talk:
    """Contexts, the conversation behind them, and a listener who plays what comes in real time."""

    def __init__(self, rig: Rig | None = None, standing: Standing | None = None) -> None:
        self.rig = rig or toy()
        self.contexts = Contexts(prefix="")
        self.now = 100.0
        self.commands: list[Command] = []
        self.items: list[ContextItem] = []
        self.sent = 0
        self.contexts.begin(standing or Standing(), self.now)

    def say(self, name: str, text: str, **options: Any) -> "Talk":
        return self.do(self.contexts.speak(name, text, self.now, **{"voice": ANY, **options}))

    def cancel(self, name: str, played_ms: float | None = None) -> "Talk":
        return self.do(self.contexts.cancel(name, self.now, played_ms))

    def do(self, turned: list[Turned]) -> "Talk":
        for each in turned:
            if isinstance(each, Command):
                self._command(each)
            else:
                self.items.append(each)
        return self

    def _command(self, command: Command) -> None:
        self.commands.append(command)
        try:
            self.rig.do(command)
        except CommandError as error:
            self.rig.conversation.outbox.answer(error_event(error))

    def run(self, frames: int | None = None) -> "Talk":
        until = None if frames is None else self.sent + frames
        while until is None or self.sent < until:
            item = self.rig.conversation.take(self.now)
            if isinstance(item, Item):
                self.sent += isinstance(item, Frame)
                self.do(self.contexts.take(item, self.now))
            elif not self.rig.step():
                assert until is None
                break
        return self

    def wait(self, seconds: float) -> "Talk":
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.do(self.contexts.look(self.now))
        return self

    def of(self, kind: type[Any], name: str | None = None) -> list[Any]:
        return [each for each in self.items if isinstance(each, kind) and name in (None, each.context)]

    def frames(self, name: str) -> int:
        return len(self.of(Audio, name))

    @property
    def texts(self) -> list[str]:
        return [each.text for each in self.commands if isinstance(each, Start | Inject)]


# --- text in, sound out ---


def test_a_context_is_spoken_to_its_end():
    talk = Talk().say("a", HELLO, last=True).run()
    assert isinstance(talk.commands[0], Start)
    assert [word.word for word in talk.of(Word)] == words_of(HELLO)
    assert talk.items[-1] == Finished("a", 80 * talk.frames("a"), HELLO)


def test_text_in_pieces_is_joined_as_it_is_and_sounds_as_given_at_once():
    whole = Talk().say("a", HELLO, last=True).run()
    talk = Talk()
    for piece in ("Hel", "lo there my fri", "end, how ", "are you?"):
        talk.say("a", piece).run()
    talk.say("a", "", last=True).run()
    assert talk.items[-1] == whole.items[-1]
    assert [audio.pcm.tobytes() for audio in talk.of(Audio)] == [audio.pcm.tobytes() for audio in whole.of(Audio)]


def test_the_first_text_begins_the_conversation_in_the_contexts_voice_and_later_text_adds_to_it():
    rig = toy(voices={"other": toy_voice(seed=1), "anna": toy_voice()})
    talk = Talk(rig).say("a", "Hello there.", last=True, voice=ANNA).run().say("b", "How are you?", last=True).run()
    first, second = talk.commands
    assert isinstance(first, Start)
    assert (first.voice, first.seed) == ("anna", None)
    assert isinstance(second, Inject)


def test_a_conversation_that_has_begun_goes_on():
    talk = Talk().say("a", HELLO, last=True).run()
    later = Talk(talk.rig, Standing(True, 80 * talk.sent)).say("a", "And again.", last=True).run()
    assert isinstance(later.commands[0], Inject)
    assert later.of(Word)[0].start_ms < 1000  # from the beginning of this context
    assert later.of(Finished)[0].audio_ms == 80 * later.frames("a")


def test_whitespace_alone_begins_nothing_and_takes_nobodys_turn():
    talk = Talk().say("a", " ").say("b", "Hello.", last=True).run()
    assert talk.texts == ["Hello."]
    assert [each.context for each in talk.of(Finished)] == ["b"]


def test_a_context_that_ends_without_a_word_is_finished_at_once():
    talk = Talk().say("a", " ").say("a", "", last=True)
    assert talk.items == [Finished("a", 0, "")]
    assert not talk.commands


@given(st.lists(st.sampled_from(["Hello ", "wor", "ld ", " ", "", "again. "]), min_size=1, max_size=8))
def test_however_text_is_cut_every_context_finishes_once_and_its_text_is_what_was_given(pieces):
    talk = Talk()
    for piece in pieces:
        talk.say("a", piece).run(0)
    talk.say("a", "", last=True).run()
    (finished,) = talk.of(Finished)
    assert finished.text.strip() == "".join(pieces).strip()
    assert finished.audio_ms == 80 * talk.frames("a")


# --- words ---


def test_words_are_those_of_the_text_with_their_places_and_times_of_the_context():
    talk = Talk().say("z", "Before.", last=True).run().say("a", "[S1] Hello,  it\u2019s 4:30. ", last=True).run()
    words = talk.of(Word, "a")
    text = talk.of(Finished, "a")[0].text
    assert all(text[word.text_start : word.text_end] == word.word for word in words)
    assert [word.word for word in words][:2] == ["Hello,", "it\u2019s"]
    assert words[0].start_ms < 800
    assert all(one.text_end <= other.text_start and one.start_ms <= other.start_ms for one, other in pairwise(words))


def test_a_word_comes_before_the_sound_that_it_is_in():
    talk = Talk().say("a", HELLO, last=True).run()
    played = 0
    for item in talk.items:
        if isinstance(item, Word):
            assert item.start_ms == played
        played += 80 * isinstance(item, Audio)


# --- several contexts ---


def test_contexts_are_spoken_one_after_another_and_told_apart():
    talk = Talk().say("a", "One two three.").say("b", "Four five.", last=True).say("a", " Six seven.", last=True).run()
    assert [each.context for each in talk.of(Finished)] == ["a", "b"]
    assert [word.word for word in talk.of(Word, "a")] == ["One", "two", "three.", "Six", "seven."]
    assert [word.word for word in talk.of(Word, "b")] == ["Four", "five."]
    assert talk.frames("a") + talk.frames("b") == talk.sent


def test_a_context_that_waits_does_not_wait_for_one_that_has_nothing_to_say_for_now():
    talk = Talk().say("a", "One two three.").say("b", "Four five.", last=True).run().wait(0.5).run()
    assert [each.context for each in talk.of(Finished)] == ["b"]
    talk.say("a", " Six.", last=True).run()
    assert [word.word for word in talk.of(Word, "a")] == ["One", "two", "three.", "Six."]


def test_times_of_a_context_leave_out_what_others_say_between_its_utterances():
    talk = Talk().say("a", "One two.").say("b", HELLO, last=True).run().wait(0.5).run()
    talk.say("a", " Three four.", last=True).run()
    assert [each.context for each in talk.of(Finished)] == ["b", "a"]
    for name in ("a", "b"):
        played, starts = 0, []
        for item in talk.items:
            if isinstance(item, Word) and item.context == name:
                starts.append((item.start_ms, played))
            played += 80 * (isinstance(item, Audio) and item.context == name)
        assert [start for start, _ in starts] == [at for _, at in starts]
        assert talk.of(Finished, name)[0].audio_ms == 80 * talk.frames(name)


# --- flush and patience ---


def test_a_flush_is_told_when_all_before_it_was_spoken_and_the_context_stays_open():
    talk = Talk().say("a", "One two.", flush=True).run()
    assert talk.items[-1] == Flushed("a", 1)
    talk.say("a", " Three.", flush=True).say("a", " Four.", last=True).run()
    assert [each for each in talk.items if isinstance(each, Flushed | Finished)] == [
        Flushed("a", 1),
        Flushed("a", 2),
        Finished("a", 80 * talk.frames("a"), "One two. Three. Four."),
    ]


def test_a_flush_of_nothing_is_told_at_once_or_with_what_was_said_before():
    assert Talk().say("a", "", flush=True).items == [Flushed("a", 1)]
    talk = Talk().say("a", "One two.", patience=0).say("a", "", flush=True)
    assert not talk.of(Flushed)
    assert talk.run().items[-1] == Flushed("a", 1)


def test_each_flush_is_told_also_where_nothing_was_said_between_two():
    talk = Talk().say("a", "One two.", flush=True).say("a", "", flush=True).run()
    assert talk.of(Flushed) == [Flushed("a", 1), Flushed("a", 2)]


def test_without_patience_each_piece_is_spoken_to_its_last_word():
    talk = Talk().say("a", "One two three. ", patience=0).run()
    assert [word.word for word in talk.of(Word)] == ["One", "two", "three."]


@pytest.mark.parametrize(("text", "seconds"), [("One two three.", 0.3), ("One two three ", 3.0)])
def test_words_are_held_back_for_what_may_follow_and_said_when_nothing_does(text, seconds):
    talk = Talk().say("a", text).run()
    assert len(talk.of(Word)) < 3
    talk.wait(seconds - 0.2).run()
    assert len(talk.of(Word)) < 3
    talk.wait(0.4).run()
    assert [word.word for word in talk.of(Word)] == text.split()
    assert not talk.of(Finished)
    assert talk.say("a", "Four.", last=True).run().of(Finished)


# --- cancelled ---


def test_a_cancel_in_mid_speech_stops_where_the_listener_is_and_the_next_context_is_said_from_there():
    talk = Talk().say("a", HELLO * 3, last=True).run(frames=20)
    talk.now += 0.8
    talk.cancel("a")
    assert talk.commands[-1] == Pause(800)
    sent = len(talk.items)
    talk.say("b", "Yes?", last=True).run()
    (interrupted,) = talk.of(Interrupted)
    assert interrupted.heard_ms == 800
    assert interrupted.spoken + interrupted.remaining == HELLO * 3
    assert not [each for each in talk.items[sent:] if isinstance(each, Audio | Word) and each.context == "a"]
    assert [word.word for word in talk.of(Word, "b")] == ["Yes?"]
    assert talk.rig.context.frames == 10 + talk.frames("b")  # the memory: what was heard of a, and b


def test_a_cancel_splits_the_text_behind_the_last_word_that_was_heard_by_half():
    talk = Talk().say("a", HELLO, last=True).run(frames=20)
    words = talk.of(Word)
    talk.cancel("a", played_ms=words[1].start_ms + 200).run()
    (interrupted,) = talk.of(Interrupted)
    assert interrupted.spoken == HELLO[: words[1].text_end]
    assert interrupted.remaining == HELLO[words[1].text_end :]


def test_a_cancel_after_the_end_still_counts_for_what_was_not_heard():
    talk = Talk().say("a", HELLO, last=True).run()
    assert talk.of(Finished)
    talk.now += 0.4
    talk.cancel("a")
    assert talk.commands[-1] == Pause(400)
    assert talk.run().of(Interrupted)[0].heard_ms == 400


def test_a_cancel_of_what_was_heard_to_its_end_changes_nothing():
    talk = Talk().say("a", HELLO, last=True).run()
    talk.now += 60
    assert not talk.cancel("a").cancel("unknown").cancel("a").run().of(Interrupted)
    assert len(talk.commands) == 1


def test_a_context_that_waits_can_be_cancelled_and_is_never_said():
    talk = Talk().say("a", "One two.", last=True).say("b", "Three.", last=True).cancel("b").run()
    assert talk.texts == ["One two."]
    assert talk.of(Interrupted) == [Interrupted("b", 0, "", "Three.")]
    assert [each.context for each in talk.of(Finished)] == ["a"]


@pytest.mark.parametrize("frames", [0, 2])
def test_a_late_cancel_of_what_is_over_does_not_take_the_next_context_with_it(frames):
    talk = Talk().say("a", HELLO, last=True).run()
    talk.now += 0.4
    talk.say("b", "One two.", flush=True).say("b", " Three.", flush=True).say("b", " Four.", last=True)
    talk.cancel("a")
    if frames:  # of b, made before the conversation hears of the cancel
        talk.do(talk.contexts.take(FirstAudio("2", 41.0), talk.now))
        talk.do(talk.contexts.take(WordEvent("2", "One", "S1", 3040, None, 3300, 0, 3), talk.now))
    for _ in range(frames):
        talk.do(talk.contexts.take(Frame(np.zeros(1920, np.float32)), talk.now))
    talk.run()
    assert [each for each in talk.items if isinstance(each, Flushed | Finished | Interrupted)] == [
        Finished("a", 80 * talk.frames("a"), HELLO),
        Interrupted("a", 400, "Hello", HELLO[5:]),
        Flushed("b", 1),
        Flushed("b", 2),
        Finished("b", 80 * talk.frames("b"), "One two. Three. Four."),
    ]
    assert [word.word for word in talk.of(Word, "b")] == ["One", "two.", "Three.", "Four."]


def test_what_was_not_heard_counts_once_however_many_contexts_it_interrupts():
    talk = Talk().say("a", HELLO, last=True).run().say("b", "Next.", last=True)
    talk.cancel("b", played_ms=480).cancel("a", played_ms=480).run()
    assert [each.context for each in talk.of(Interrupted)] == ["b", "a"]
    assert talk.contexts.position_ms == 480


def test_positions_leave_out_what_was_sent_and_not_heard():
    talk = Talk().say("a", HELLO * 3, last=True).run(frames=20).cancel("a", played_ms=480).run()
    assert talk.contexts.position_ms == 480
    talk.say("b", HELLO, last=True).run(frames=10)
    assert talk.contexts.position_ms == 1280
    talk.cancel("b", played_ms=880).run()
    assert talk.of(Interrupted)[-1].heard_ms == 400


def test_the_next_context_waits_until_the_conversation_stands_still():
    talk = Talk().say("a", HELLO, last=True).say("b", "Next.", last=True).run(frames=5)
    talk.cancel("a")
    assert talk.texts == [HELLO]
    assert talk.run().texts == [HELLO, "Next."]


def test_a_position_too_long_ago_to_go_back_to_counts_as_all_that_was_sent():
    talk = Talk()
    for number in range(70):  # interruptions, of which the conversation remembers 64
        talk.say(str(number), HELLO, last=True).run(frames=1).cancel(str(number)).run()
    talk.say("a", HELLO, last=True).run(frames=5).cancel("a", played_ms=-5600).run()
    assert talk.commands[-2:] == [Pause(0), Pause()]
    assert talk.of(Interrupted)[-1].heard_ms == 400


LONGEST_WORD = 6  # frames, of HELLO in the toy's mouth


@given(first=st.integers(0, 30), waited=st.integers(0, 30), again=st.integers(0, 10))
def test_whenever_contexts_are_cancelled_the_memory_is_what_was_heard_without_the_words_that_were_cut(
    first, waited, again
):
    talk = Talk().say("a", HELLO * 3, last=True).run(frames=first)
    talk.now += 0.08 * waited
    talk.cancel("a").say("b", HELLO * 2, last=True).run(frames=again)
    talk.cancel("b").run()
    heard = {each.context: round(each.heard_ms / 80) for each in talk.of(Interrupted)}
    assert heard == {"a": min(first, waited), "b": 0}
    talk.say("c", "Yes?", last=True).run()
    remembered = talk.rig.context.frames - talk.frames("c")
    assert sum(heard.values()) - LONGEST_WORD <= remembered <= sum(heard.values())


def test_who_leaves_in_mid_speech_has_not_heard_the_rest():
    talk = Talk().say("a", HELLO, last=True).run(frames=20)
    talk.now += 0.4
    assert talk.contexts.leave(talk.now) == [Pause(400)]


def test_who_leaves_after_a_cancel_has_told_already_how_far_it_has_listened():
    talk = Talk().say("a", HELLO, last=True).run(frames=20).cancel("a", played_ms=480)
    assert talk.contexts.leave(talk.now) == []
    talk.run()
    talk.now += 5
    assert talk.contexts.leave(talk.now) == []


def test_who_leaves_after_the_end_and_has_heard_all_interrupts_nothing():
    talk = Talk().say("a", HELLO, last=True).run()
    talk.now += 60
    assert talk.contexts.leave(talk.now) == []
    assert Talk().contexts.leave(0.0) == []


# --- errors ---


def test_text_that_is_refused_fails_its_context_and_the_next_is_spoken():
    talk = Talk().say("a", 'Hello <break time="99s"/> there.', last=True).say("b", "Hi.", last=True).run()
    (failed,) = talk.of(Failed)
    assert failed.context == "a"
    assert "break" in failed.error.message
    assert [each.context for each in talk.of(Finished)] == ["b"]
    assert isinstance(talk.commands[-1], Start)


def test_text_that_is_refused_in_mid_speech_stops_what_was_taken_of_its_context():
    talk = Talk().say("a", HELLO).run(frames=5).say("a", ' <break time="99s"/>').run()
    assert talk.of(Failed)[0].context == "a"
    assert isinstance(talk.commands[-1], Pause)
    assert talk.say("b", "Hi.", last=True).run().of(Finished)[0].context == "b"


def test_a_context_that_fails_is_told_so_once_and_never_interrupted_too():
    talk = Talk().say("a", HELLO).run(frames=5).say("a", ' <break time="99s"/>').run()
    assert len(talk.of(Failed)) == 1
    assert not talk.of(Interrupted)


def test_a_refusal_that_crosses_a_cancel_is_told_to_nobody():
    talk = Talk().say("a", HELLO).run(frames=5).say("a", ' <break time="99s"/>').cancel("a").run()
    assert not talk.of(Failed)
    assert [each.context for each in talk.of(Interrupted)] == ["a"]


def test_a_first_text_that_is_refused_and_cancelled_meanwhile_leaves_the_next_one_to_begin():
    talk = Talk().say("a", 'Hello <break time="99s"/> there.').cancel("a").say("b", "Hi.", last=True).run()
    assert not talk.of(Failed)
    assert [each.context for each in talk.of(Finished)] == ["b"]
    assert isinstance(talk.commands[-1], Start)


def test_what_stands_behind_a_first_text_that_is_refused_fails_with_it():
    talk = Talk().say("a", '<break time="99s"/>', flush=True).say("a", "Hi.", last=True).run()
    assert [each.context for each in talk.of(Failed)] == ["a"]


def test_a_conversation_that_should_have_begun_and_has_not_is_begun():
    talk = Talk(standing=Standing(begun=True)).say("a", "One two.", flush=True).say("a", " Three.", last=True).run()
    assert isinstance(talk.commands[-1], Start | Inject)
    assert [word.word for word in talk.of(Word)] == ["One", "two.", "Three."]
    assert [each for each in talk.items if isinstance(each, Flushed | Finished | Failed)] == [
        Flushed("a", 1),
        Finished("a", 80 * talk.frames("a"), "One two. Three."),
    ]


def test_half_a_character_fails_its_context_alone():
    talk = Talk().say("a", "\ud83d!", last=True).say("b", "Hi.", last=True).run()
    assert talk.of(Failed)[0].context == "a"
    assert talk.of(Finished)[0].context == "b"


def test_more_contexts_than_anybody_needs_are_refused():
    talk = Talk()
    for number in range(MAX_CONTEXTS + 1):
        talk.say(str(number), " ")
    (failed,) = talk.of(Failed)
    assert failed.error.code == "overloaded"


def test_more_text_than_anybody_hears_is_refused_while_it_waits():
    talk = Talk().say("a", "One two.")
    for _ in range(6):
        talk.say("b", "word " * 4000)
    assert [each.error.code for each in talk.of(Failed)] == ["overloaded"]
    assert talk.contexts.names == ["a"]  # the one that failed is gone
    talk.say("a", "", last=True).run()
    assert [each.context for each in talk.of(Finished)] == ["a"]


def test_events_of_others_are_passed_over():
    contexts = Contexts()
    assert contexts.take(Frame(np.zeros(1920, np.float32)), 0.0) == []
    assert contexts.take(Started("x", 1), 0.0) == []
    assert contexts.position_ms == 0
    assert End() not in contexts.leave(0.0)
