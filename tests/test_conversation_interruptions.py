"""Interruptions: the conversation goes on from the frame that the listener heard last."""

from pathlib import Path

import pytest
from conversations import (
    HELLO,
    SILENT,
    assert_goes_on_from,
    assert_sound_alike,
    frame_numbers,
    golden,
    memory_at,
    paused,
    toy,
)

from dia2.checkpoint.corrections import Corrections
from dia2stream.errors import CommandError
from dia2stream.items import Cut
from dia2stream.protocol.messages import Done, End, FirstAudio, Inject, Pause, Start, WordEvent


@pytest.mark.parametrize("played", [None, 0, 79, 80, 1000, 2399, 2400, 10**9])
def test_text_while_it_is_paused_is_said_from_where_the_listener_was(played: int | None) -> None:
    rig = toy().do(Start(HELLO, id="a")).run_until_sent(30).do(Pause(played), Inject("Well then.", id="b")).run()
    heard = 30 if played is None else min(30, played // 80)
    assert_goes_on_from(rig, 30, memory_at(rig, heard))
    assert [word.word for word in rig.of(WordEvent) if word.id == "b"] == ["Well", "then."]
    assert [done.id for done in rig.of(Done)] == ["b"]
    assert sum(isinstance(item, Cut) for item in rig.items) == 1
    assert rig.of(FirstAudio)[-1].id == "b"


def test_several_interruptions_each_go_back_to_what_was_heard() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(40)
    ten, twenty = memory_at(rig, 10), memory_at(rig, 20)
    assert ten < 10 < twenty <= 20
    rig.do(Pause(20 * 80), Inject(HELLO)).run_until_sent(50)
    assert_goes_on_from(rig, 40, twenty)
    # Inside what was dropped: all before it was heard, and nothing of what came instead.
    rig.do(Pause(30 * 80), Inject(HELLO)).run_until_sent(60)
    assert_goes_on_from(rig, 50, twenty)
    # Inside an earlier stretch.
    rig.do(Pause(45 * 80), Inject(HELLO)).run_until_sent(65)
    assert_goes_on_from(rig, 60, twenty)
    rig.do(Pause(10 * 80), Inject(HELLO)).run_until_sent(70)
    assert_goes_on_from(rig, 65, ten)
    rig.do(Pause(0), Inject("The end.")).run()
    assert_goes_on_from(rig, 70, 0)
    assert rig.words[-2:] == ["The", "end."]


def test_an_interruption_of_an_interruption_that_was_not_heard_yet() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(20)
    for number in range(5):
        rig.do(Pause(), Inject(f"Take {number}."))
        rig.step()
    rig.run()
    assert_goes_on_from(rig, 20, memory_at(rig, 20))
    assert rig.words[-2:] == ["Take", "4."]
    assert [done.id for done in rig.of(Done)] == ["6"]


@pytest.mark.parametrize("corrections", [Corrections(), SILENT])
@pytest.mark.parametrize("final", [True, False])
def test_text_that_nobody_heard_a_sound_of_is_all_that_is_told_of_its_interruption(corrections, final) -> None:
    """What was heard before was told by the interruption before, and the rest of that text is not wanted any more."""
    for played in range(1, 40):
        rig = toy(corrections=corrections).do(Start(HELLO)).run_until_sent(40)
        told = paused(rig, played * 80)
        rig.do(Inject("Well", id="b", final=final)).columns(5)
        again = paused(rig, played * 80)
        assert told.pending
        assert (again.heard_ms, again.spoken, again.pending) == (told.heard_ms, "", "Well")
        assert [word.id for word in again.words] == (["b"] if final else [])
        assert_goes_on_from(rig.do(Inject("Then.")).run(), 40, rig.conversation.clock.latest.step)


def test_the_same_interruption_gives_the_same_audio_whatever_was_made_ahead(goldens: Path) -> None:
    near, far = (golden(goldens, queue_frames=queue).do(Start(HELLO)) for queue in (1, 25))
    for rig in (near, far):
        rig.run_until_sent(8).do(Pause(6 * 80), Inject("[S2] Oh.")).run()
    assert near.of(WordEvent) == far.of(WordEvent)
    assert_sound_alike(near.frames, far.frames)


def test_after_an_interruption_text_without_a_tag_is_said_by_the_speaker_who_was_heard() -> None:
    text = '[S1] One two three. [S2] Four <break time="2s"/> five. [S1] Six.'
    starts = {word.word: word.start_ms for word in toy().say(text).of(WordEvent)}
    for played, speaker in [
        (0, "S1"),
        (starts["three."], "S1"),
        (starts["Four"] + 80, "S2"),
        (starts["five."] - 80, "S2"),
    ]:
        rig = toy().do(Start(text)).run().do(Pause(played), Inject("Well.")).run()
        assert rig.of(WordEvent)[-1].speaker == speaker
    tagged = toy().do(Start(text)).run().do(Pause(starts["Four"] + 80), Inject("[S1] Well.")).run()
    assert tagged.of(WordEvent)[-1].speaker == "S1"


def test_only_the_first_word_of_a_conversation_gets_its_lines_speaker() -> None:
    """Before any word was heard the next one is still the first; so it is when the first is cut. A break is no word."""
    second = toy().say("One two.").of(WordEvent)[1].start_ms
    for text, played, tagged in [
        ("One two.", 0, True),
        ("One two.", 160, True),
        ("One two.", second + 80, False),
        ('<break time="2s"/> One.', 800, True),
    ]:
        rig = toy().do(Start(text)).run_until_sent(12).do(Pause(played), Inject("Well."))
        entry = rig.context.state.queue[0]
        assert (entry.tokens[0] == 152) == tagged


def test_the_rest_of_a_break_is_not_waited_for() -> None:
    rig = toy().do(Start('One. <break time="20s"/> Two.')).run_until_sent(60)
    rig.do(Pause(), Inject("Three.")).run()
    three = rig.of(WordEvent)[-1]
    assert (three.id, three.word, three.start_ms) == ("2", "Three.", 60 * 80)


def test_a_word_that_was_cut_is_forgotten_but_for_its_first_frame() -> None:
    """A model that remembers half a word says the other half before anything new."""
    for played in range(1, 40):
        rig = toy().do(Start(HELLO)).run_until_sent(40).do(Pause(played * 80), Inject("Well."))
        context, cut = rig.context, [word for word in rig.of(WordEvent) if word.start_ms < played * 80][-1]
        assert context.frames == context.step == cut.start_ms // 80 + 1
        assert rig.stepper.slots[0].text == (rig.conversation.machine.pad,) * 2  # nothing of the word
        assert rig.run().of(WordEvent)[-1].start_ms == 40 * 80  # at once, with nothing before it
        assert frame_numbers(rig)[:40] == list(range(40))  # the listener's clock goes on


def test_frames_may_be_remembered_whose_words_are_not() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(30)
    context, pad = rig.context, rig.conversation.machine.pad
    run = rig.stepper.prefilled
    context.cut(12, heard=15, since=10)
    assert (context.step, context.frames, context.due) == (12, 12, 2)
    assert context.history.last(2) == [(pad, pad)] * 2 != context.history.last(4)[:2]
    context.run_due()
    assert (context.step, rig.stepper.prefilled - run) == (12, 2)
    assert rig.stepper.slots[0].text == (pad, pad)
    context.cut(11, heard=11, since=0)  # the first column of all reads what opens a conversation
    assert context.due == 10


def test_behind_a_word_that_was_cut_the_model_remembers_silence_that_nobody_hears() -> None:
    rig = toy(corrections=SILENT).do(Start(HELLO)).run_until_sent(30)
    context, pad, cut = rig.context, rig.conversation.machine.pad, memory_at(rig, 20)
    heard = list(context.playback.codec.state)[:20]
    rig.do(Pause(20 * 80), Inject("Well then.", id="b"))
    assert context.frames == context.step == cut + 2
    assert context.history.frames(cut, cut + 2).T.tolist() == [list(SILENT.silence)] * 2
    assert context.history.last(2) == [(pad, pad)] * 2
    assert rig.stepper.slots[0].text == (pad, pad)
    rig.run_until_sent(35)
    assert_goes_on_from(rig, 30, cut + 2)
    decoded = list(context.playback.codec.state)
    assert decoded[:20] == heard
    assert len(decoded) == 20 + context.frames - cut - 2
    rig.run()
    assert rig.of(WordEvent)[-2].start_ms == 30 * 80  # as soon as without
    assert [done.id for done in rig.of(Done)] == ["b"]


def test_silence_costs_no_step_before_the_first_sound() -> None:
    steps = []
    for corrections in (Corrections(), SILENT):
        rig = toy(corrections=corrections).do(Start(HELLO)).run_until_sent(30)
        before = rig.steps
        rig.do(Pause(), Inject("Well.")).run_until_sent(31)
        steps.append(rig.steps - before)
    assert steps[0] == steps[1]


@pytest.mark.parametrize("played", range(0, 40, 3))
def test_an_interruption_before_a_reply_was_heard_finds_silence_only_once(played: int) -> None:
    """Where the listener heard nothing of a reply, the next one is as if that had never been."""
    twice, once = (toy(corrections=SILENT).do(Start(HELLO)).run_until_sent(40) for _ in range(2))
    twice.do(Pause(played * 80), Inject("No.")).run_until_sent(44).do(Pause(40 * 80), Inject("Well."))
    once.do(Pause(played * 80), Inject("Well.")).run_until_sent(44)
    assert twice.context.frames <= once.context.frames
    assert frame_numbers(twice.run())[44:48] == frame_numbers(once)[40:44]


def test_nothing_is_forgotten_between_words() -> None:
    text = 'One two three. <break time="2s"/> Four.'
    whole = toy().say(text)
    four, silent = whole.of(WordEvent)[3].start_ms // 80, len(whole.frames)
    for heard in (four, four - 1, silent - 1, silent):
        rig = toy().do(Start(text)).run().do(Pause(heard * 80), Inject("Well."))
        assert rig.context.frames == heard


def test_a_speaker_whose_first_word_was_cut_is_named_again() -> None:
    text = "[S1] One two three. [S2] Four five six."
    words = toy().say(text).of(WordEvent)
    for word, tag in [(words[1], None), (words[3], 153), (words[4], None)]:
        rig = toy().do(Start(text)).run().do(Pause(word.start_ms + 80), Inject("Well."))
        reply = rig.context.state.queue[0]
        assert (reply.tokens[0] if reply.tokens[0] in (152, 153) else None) == tag
        assert reply.speaker == int(word.speaker[1])


def test_the_first_sound_after_an_interruption_takes_no_more_steps_than_a_cold_start() -> None:
    cold = toy().do(Start(HELLO)).run_until_sent(1)
    for played in range(40):
        rig = toy().do(Start(HELLO)).run_until_sent(40)
        steps = rig.steps
        rig.do(Pause(played * 80), Inject("Well.")).run_until_sent(41)
        assert rig.steps - steps == cold.steps


def test_the_codec_goes_on_behind_what_was_heard_also_of_what_is_forgotten() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(30)
    heard = list(rig.context.playback.codec.state)[:20]
    rig.do(Pause(20 * 80), Inject(HELLO))
    assert list(rig.context.playback.codec.state) == heard
    rig.run_until_sent(40)
    said = list(rig.context.playback.codec.state)[:25]
    assert said[:20] == heard
    rig.do(Pause(35 * 80), Inject("Well."))  # five frames of the second text
    assert list(rig.context.playback.codec.state) == said
    rig.run_until_sent(45).do(Pause(10 * 80), Inject("Oh."))  # in the first text again
    assert list(rig.context.playback.codec.state) == heard[:10]
    rig.do(Inject("Well."))


def test_an_interruption_by_open_text_waits_for_enough_of_it() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(30).do(Pause(), Inject("Well", id="b", final=False)).run()
    assert rig.sent == 30
    rig.do(Inject(" then my friend", final=False), End()).run()
    assert_goes_on_from(rig, 30, memory_at(rig, 30))
    whole = toy().do(Start(HELLO)).run_until_sent(30).do(Pause(), Inject("Well then my friend", id="b")).run()
    assert whole.told == rig.told


def test_an_interruption_by_nothing_is_silence() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(30).do(Pause(), Inject("", id="b")).run()
    assert rig.items[-2:] == [Cut(), Done("b", 30 * 80)]
    rig.do(Inject("And on.")).run()
    assert_goes_on_from(rig, 30, memory_at(rig, 30))


def test_what_was_sent_to_its_last_sample_is_done_though_interrupted_right_behind_it() -> None:
    whole = toy().say("One two.", id="a")
    rig = toy().do(Start("One two.", id="a"))
    while rig.step():
        pass
    while rig.sent < len(whole.frames):
        rig.take(1)
    rig.do(Pause(), Inject("Three.", id="b")).run()
    assert [done.id for done in rig.of(Done)] == ["a", "b"]


def test_an_interruption_in_silence_begins_the_next_turn() -> None:
    rig = toy().say("One two.").do(Pause(), Inject("Three.")).run()
    quiet = toy().say("One two.").do(Inject("Three.")).run()
    assert rig.told == quiet.told


def test_sixty_four_interruptions_are_remembered_and_older_ones_refused() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(10)
    for _ in range(70):
        rig.do(Pause(), Inject(HELLO)).run_until_sent(rig.sent + 1)
    with pytest.raises(CommandError, match="too long ago") as caught:
        rig.do(Pause(3 * 80))
    assert (caught.value.code, caught.value.field) == ("bad_field", "played_ms")
    assert not rig.conversation.paused
    assert paused(rig, (rig.sent - 30) * 80).heard_ms == (rig.sent - 30) * 80
