"""Events of a conversation: words, latencies, `started`, `done`, and what a reset forgets."""

import pytest
from conversations import HELLO, toy

from dia2stream.errors import CommandError
from dia2stream.items import Frame
from dia2stream.options import SpeechOptions
from dia2stream.protocol.messages import (
    Done,
    End,
    FirstAudio,
    Inject,
    Pause,
    Paused,
    Reset,
    ResetDone,
    Resume,
    Start,
    Started,
    WordEvent,
)


def test_words_tell_the_time_at_which_they_start_on_the_clock_and_come_right_before_it() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(40).do(Pause(1000), Inject(HELLO)).run()
    rig.do(Inject("One more.")).run()
    sent = 0
    for item in rig.items:
        if isinstance(item, WordEvent):
            assert item.start_ms == sent * 80
        elif isinstance(item, Done):
            assert item.audio_ms == sent * 80
        sent += isinstance(item, Frame)
    assert len(rig.words) > 20


def test_words_tell_their_speaker() -> None:
    rig = toy().say("Hello [S2] there, [S1] [S2] you [S1] all.")
    assert [(word.word, word.speaker) for word in rig.of(WordEvent)] == [
        ("Hello", "S1"),
        ("there,", "S2"),
        ("you", "S2"),
        ("all.", "S1"),
    ]


def test_latency_is_told_once_an_utterance_from_the_arrival_of_its_text() -> None:
    rig = toy()
    rig.now = 10.0
    rig.do(Start("One two three four.", id="a"), Inject("Five.", id="b"))
    rig.now = 10.25
    rig.run(3)
    rig.now = 10.75
    rig.run()
    rig.now = 20.0
    rig.do(Inject("Six", id="c", final=False))
    rig.now = 21.0
    rig.do(Inject(" seven eight.", id="c")).run()
    latencies = {event.id: round(event.latency_ms) for event in rig.of(FirstAudio)}
    assert latencies == {"a": 750, "b": 750, "c": 1000}
    assert len(rig.of(FirstAudio)) == 3


def test_a_latency_tells_when_the_last_words_came_that_the_audio_needed() -> None:
    rig = toy().do(Start("One two", id="a", final=False)).run()
    assert rig.steps == 0
    rig.now = 1.0
    rig.do(Inject(" three four", id="a", final=False)).run()
    assert 0 < rig.steps < 5
    rig.now = 2.0  # the lead-in needs more words than speech needs to begin
    rig.do(Inject(" five six seven eight nine ten eleven", id="a", final=False)).run(1)
    rig.now = 2.5  # the words are there, and the model is slow
    rig.do(Inject(" twelve", id="a")).run()
    (first,) = rig.of(FirstAudio)
    assert (first.latency_ms, first.words_ms) == (2500, 2000)


def test_a_latency_says_nothing_of_waits_where_all_words_were_there() -> None:
    rig = toy().say(HELLO)
    rig.now = 5.0
    rig.do(Inject(HELLO))
    rig.now = 6.0
    rig.run()
    assert [(first.latency_ms, first.words_ms) for first in rig.of(FirstAudio)] == [(0, None), (1000, None)]


def test_initial_padding_is_silence_before_the_first_word() -> None:
    rig = toy().say("Hello.", initial_padding=7)
    assert rig.of(WordEvent)[0].start_ms == 7 * 80
    assert [type(item) for item in rig.items[:3]] == [Started, FirstAudio, Frame]


def test_started_tells_the_seed_that_repeats_the_conversation() -> None:
    rig = toy(SpeechOptions()).say(HELLO)
    seed = rig.of(Started)[0].seed
    assert toy(SpeechOptions()).say(HELLO, seed=seed).told == rig.told
    assert toy(SpeechOptions()).say(HELLO).of(Started)[0].seed != seed


def test_a_start_in_the_middle_of_speech_forgets_everything_before_it() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(30)
    rig.items.clear()
    rig.do(Start("Again.", seed=5)).run()
    assert rig.told == toy().say("Again.", seed=5).told
    assert isinstance(rig.items[0], Started)


def test_a_reset_forgets_the_conversation() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(30).do(Pause())
    rig.items.clear()
    rig.do(Reset()).run()
    assert [type(item) for item in rig.items] == [Paused, ResetDone]
    for command in (Inject("Hi."), End(), Pause(), Resume()):
        with pytest.raises(CommandError) as caught:
            rig.do(command)
        assert caught.value.code == "no_session"
    rig.do(Reset()).run()
    assert toy().say("Again.").told == rig.do(Start("Again.")).run().told
