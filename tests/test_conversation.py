"""A conversation: turns, text in pieces, pauses, interruptions, voices, contexts that fill up, and bounds."""

import base64
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GOLDENS
from conversations import (
    GREEDY,
    SAMPLED,
    Counts,
    Rig,
    ToyEar,
    ToyStepper,
    ToyTokenizer,
    assert_sound_alike,
    frame_number,
    frame_numbers,
    golden,
    paused,
    real,
    step_together,
    tiny,
    toy,
    toy_voice,
    voice,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from models import cases, checkpoint, expected

from dia2.steps.stepper import Stepper
from dia2.text.machine import MAX_PADDING
from dia2.text.script import Entry, ScriptReader, read_script
from dia2stream.conversation.conversation import MAX_QUEUED_WORDS
from dia2stream.conversation.outbox import Outbox
from dia2stream.errors import CommandError
from dia2stream.items import Cut, Frame
from dia2stream.options import SpeechOptions
from dia2stream.protocol.fields import MAX_TEXT_CHARS
from dia2stream.protocol.messages import (
    Command,
    Done,
    End,
    FirstAudio,
    Inject,
    Listen,
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

HELLO = "[S1] Hello there my friend. [S2] How are you? [S1] One two three four five six seven."
LONG = " ".join(f"word{number} and so on" for number in range(200))

Make = Callable[..., Rig]


def words_of(text: str) -> list[str]:
    """The words of a text as events spell them."""
    return [entry.text for entry in read_script(text, ToyTokenizer()) if entry.tokens]


# ---- A cold start ----


def lines(goldens: Path) -> list[dict[str, Any]]:
    """The goldens that are one line."""
    return [case for case in cases(goldens)["generate"] if isinstance(case["script"], str)]


def test_a_cold_start_says_what_the_goldens_say(goldens: Path) -> None:
    heard = 0
    for case in lines(goldens):
        defaults = SpeechOptions(
            text_temperature=0.0,
            audio_temperature=0.0,
            cfg_scale=case["cfg_scale"],
            cfg_filter_k=case["cfg_filter_k"],
            initial_padding=case["initial_padding"],
        )
        rig = golden(goldens, defaults).say(case["script"])
        tokens = expected(goldens)[case["id"] + ".audio_tokens"]
        assert torch.equal(rig.context._archived(0, rig.context.frames), tokens.long())
        assert [[word.word, word.start_ms / 1000] for word in rig.of(WordEvent)] == case["timestamps"]
        waveform = expected(goldens).get(case["id"] + ".waveform")
        if waveform is not None:
            np.testing.assert_allclose(rig.audio, waveform.numpy(), atol=1e-4)
            heard += 1
    assert heard


@pytest.mark.parametrize("late", [0, 1, 3])
def test_a_model_with_codebooks_without_a_delay_speaks_too(goldens: Path, late: int) -> None:
    loaded = checkpoint(goldens)
    data = replace(loaded.config.data, delay_pattern=(late, *[0] * (loaded.config.data.codebooks - 1)))
    rig = real(replace(loaded, config=replace(loaded.config, data=data))).say("One two.")
    rig.do(Inject("Three.")).run(4)
    rig.do(Pause(), Inject("Four.")).run()
    assert rig.words[:2] == ["One", "two."]
    assert rig.words[-1] == "Four."
    assert [done.id for done in rig.of(Done)] == ["1", "3"]
    assert rig.of(Done)[-1].audio_ms == rig.sent * 80


# ---- The lead-in ----


def lead_in_of(rig: Rig, counts: Counts) -> list[int]:
    """Stages of the depformer in each step up to the next frame that leaves."""
    sent, stages = rig.sent, []
    while rig.sent == sent:
        before = counts.steps, counts.stages
        assert rig.step()
        assert counts.steps == before[0] + 1
        stages.append(counts.stages - before[1])
        rig.take()
    return stages


@pytest.mark.parametrize("make", [partial(golden, GOLDENS / "published-like", GREEDY), lambda **o: real(tiny(), **o)])
def test_speech_begins_after_steps_of_the_backbone_alone_and_one_whole_step_in_all_four_cases(make: Make) -> None:
    rig = make()
    counts = Counts(rig.stepper)
    late = max(rig.stepper.delays)
    lead_in = [0] * (late - 1) + [len(rig.stepper.delays) - 1]
    assert lead_in_of(rig.do(Start("Yes.")), counts) == lead_in  # cold
    rig.run()
    assert lead_in_of(rig.do(Inject("No.")), counts) == lead_in  # after silence
    rig.run(4).do(Pause(rig.sent * 80 - 200))
    assert lead_in_of(rig.do(Inject("Well.")), counts) == lead_in  # after an interruption
    assert counts.prefilled == 0


def test_the_published_lead_in_is_seventeen_steps_and_one() -> None:
    assert max(tiny().config.data.delays) == 17 + 1


def test_speech_in_a_voice_begins_after_one_pass_over_the_clips_and_a_lead_in() -> None:
    rig = golden(GOLDENS / "published-like", GREEDY, voices={"clips": voice(GOLDENS / "published-like")})
    counts = Counts(rig.stepper)
    rig.do(Start("Yes."))
    assert counts.prefilled == voice(GOLDENS / "published-like").frames
    lead_in = [0] * (max(rig.stepper.delays) - 1) + [len(rig.stepper.delays) - 1]
    assert lead_in_of(rig, counts) == lead_in
    rig.run().do(Start("Yes."))
    assert lead_in_of(rig, counts) == lead_in
    assert counts.prefilled == voice(GOLDENS / "published-like").frames


# ---- Text in pieces ----

TEXTS = [
    HELLO,
    'Wait<break time="0.4s"/>here. [S2] [S1] It\u2019s 4:30 <b and <break time="0.2s" /> go',
    '<break time="0.5s"/> [S2] Supercalifragilistic  \n words.  ',
]


def cut(text: str, cuts: Sequence[int]) -> list[str]:
    ends = [0, *sorted({c for c in cuts if 0 < c < len(text)}), len(text)]
    return [text[a:b] for a, b in pairwise(ends)]


def said_in_pieces(rig: Rig, pieces: Sequence[str], between: Sequence[int], last: str = "end") -> Rig:
    """Starts with the first piece; so many steps after each one; the last piece is closed by `last`."""
    for number, piece in enumerate(pieces):
        closed = last == "final" and number == len(pieces) - 1
        rig.do(Inject(piece, final=closed) if number else Start(piece, final=closed))
        rig.run(between[number % len(between)])
    if last == "end":
        rig.do(End())
    return rig.run()


@pytest.mark.parametrize("cuts", [range(0, 99), [3, 20, 21, 44], [25]])
@pytest.mark.parametrize("text", TEXTS[:2])
def test_text_in_pieces_gives_the_audio_of_the_text_at_once(goldens: Path, text: str, cuts: Sequence[int]) -> None:
    text = text[:40]
    whole = golden(goldens, SAMPLED).say(text)
    pieces = said_in_pieces(golden(goldens, SAMPLED), cut(text, cuts), between=[0, 3, 1])
    assert whole.told == pieces.told


vocabulary = st.sampled_from(
    [
        "[S1]",
        "[S2]",
        "Hi",
        "there,",
        "supercalifragilistic",
        '<break time="0.3s"/>',
        "a<b",
        "4:30",
        "it\u2019s",
        "<break",
        "ok",
    ]
)
scripts = st.lists(st.tuples(vocabulary, st.sampled_from([" ", "  ", "\n", ""])), min_size=1, max_size=14).map(
    lambda parts: "".join(word + space for word, space in parts)
)


@settings(max_examples=150)
@given(
    text=scripts,
    cuts=st.lists(st.integers(1, 80), max_size=12),
    between=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    last=st.sampled_from(["end", "final"]),
    ahead=st.integers(0, 3),
    queue=st.integers(1, 30),
)
def test_however_text_is_cut_it_sounds_like_the_text_at_once(
    text: str, cuts: list[int], between: list[int], last: str, ahead: int, queue: int
) -> None:
    whole = toy(ahead=ahead).say(text)
    pieces = said_in_pieces(toy(ahead=ahead, queue_frames=queue), cut(text, cuts), between, last)
    assert whole.told == pieces.told
    assert whole.words == words_of(text)


@settings(max_examples=60)
@given(
    texts=st.lists(scripts, min_size=2, max_size=4),
    cuts=st.lists(st.integers(1, 40), max_size=4),
    between=st.lists(st.integers(0, 12), min_size=1, max_size=5),
)
def test_a_piece_with_another_id_closes_the_utterance_before_it(
    texts: list[str], cuts: list[int], between: list[int]
) -> None:
    whole, pieces = toy(), toy()
    for number, text in enumerate(texts):
        whole.do(Inject(text, id=f"u{number}") if number else Start(text, id="u0"))
        for at, piece in enumerate(cut(text, cuts)):
            command = Inject(piece, id=f"u{number}", final=False)
            pieces.do(command if number or at else Start(piece, id="u0", final=False)).run(between[at % len(between)])
    pieces.do(End()).run()
    assert pieces.told == whole.run().told


def test_open_text_waits_for_the_words_that_are_shown_ahead_and_no_longer() -> None:
    rig = toy(ahead=2).do(Start("One two", final=False)).run()
    assert rig.steps == 0
    rig.do(Inject(" three", final=False)).run()
    assert rig.steps == 0
    rig.do(Inject(" four", final=False)).run()
    assert (rig.steps > 0, rig.words) == (True, ["One"][: len(rig.words)])
    rig.do(End()).run()
    assert rig.words == ["One", "two", "three", "four"]


def test_pieces_without_an_id_belong_to_the_open_utterance() -> None:
    rig = toy().do(Start("One", id="a", final=False), Inject(" two", final=False), Inject(" three")).run()
    rig.do(Inject("Four.", final=False), Inject(" Five.", id="2", final=False), End()).run()
    assert [(word.word, word.id) for word in rig.of(WordEvent)] == [
        ("One", "a"),
        ("two", "a"),
        ("three", "a"),
        ("Four.", "2"),
        ("Five.", "2"),
    ]
    assert [done.id for done in rig.of(Done)] == ["a", "2"]


def test_end_has_nothing_to_end_when_nothing_is_open() -> None:
    rig = toy().do(Start("One."))
    with pytest.raises(CommandError, match="nothing to end") as caught:
        rig.do(End())
    assert (caught.value.code, caught.value.cmd) == ("bad_command", "end")


# ---- More text ----


def test_text_that_comes_while_words_are_left_sounds_like_one_text() -> None:
    text = "One two three four five six seven eight."
    whole = toy().do(Start(text), Inject("Nine ten.")).run()
    later, steps = toy().do(Start(text)), 0
    while later.conversation.queued >= 2:
        assert later.do(Inject("Nine ten.")).run().told == whole.told
        later, steps = toy().do(Start(text)).run(steps + 1), steps + 1
    assert steps > 20


def test_text_that_comes_in_the_silent_tail_goes_on_from_where_words_ran_out() -> None:
    whole = toy().say("One two three.")
    ended, frames = whole.context.state.end_step, len(whole.frames)
    assert ended is not None
    tails = set()
    for steps in range(ended + 1, whole.steps):
        rig = toy().do(Start("One two three.")).run(steps)
        assert rig.context.state.end_step == ended
        made = rig.context.frames
        rig.do(Inject("Four five.")).run()
        # Every frame once, and none of those that had been made is another one.
        assert frame_numbers(rig) == list(range(len(rig.frames)))
        assert [frame.tobytes() for frame in rig.frames[:made]] == [frame.tobytes() for frame in whole.frames[:made]]
        assert rig.words == ["One", "two", "three.", "Four", "five."]
        at = rig.of(WordEvent)[3].start_ms // 80
        assert at == ended if made <= ended else made <= at <= made + MAX_PADDING
        assert [(done.id, done.audio_ms) for done in rig.of(Done)] == [
            ("1", rig.of(WordEvent)[3].start_ms),
            ("2", len(rig.frames) * 80),
        ]
        tails.add(made)
    assert tails == set(range(ended + 2 - whole.context.lead_in, frames))


def test_text_in_pieces_that_comes_in_the_tail_waits_there_and_then_goes_on() -> None:
    ended = toy().say("One two three.").context.state.end_step
    assert ended is not None
    rig = toy().do(Start("One two three.")).run(ended + 2)
    rig.do(Inject("Fo", final=False)).run(3).do(Inject("ur five", final=False)).run(1)
    rig.do(Inject(" six", final=False), Inject(" seven", final=False))
    assert rig.context.state.end_step is None
    rig.do(End()).run()
    assert rig.words == ["One", "two", "three.", "Four", "five", "six", "seven"]
    assert frame_numbers(rig) == list(range(len(rig.frames)))


def test_text_that_comes_after_done_is_a_new_turn_right_behind_the_last_frame() -> None:
    rig = toy().say("One two three.")
    sent = len(rig.frames)
    rig.do(Inject("Four.", id="b")).run()
    assert frame_numbers(rig) == list(range(len(rig.frames)))
    assert rig.of(WordEvent)[-1] == WordEvent("b", "Four.", "S1", sent * 80)
    first = [type(item) for item in rig.items if not isinstance(item, Frame)]
    assert first == [Started, FirstAudio, WordEvent, WordEvent, WordEvent, Done, FirstAudio, WordEvent, Done]


def test_text_may_come_before_started_was_taken() -> None:
    rig = toy().do(Start("One."), Inject("Two."), Inject("Three.", id="c"))
    rig.run()
    assert isinstance(rig.items[0], Started)
    assert [(word.word, word.id) for word in rig.of(WordEvent)] == [("One.", "1"), ("Two.", "2"), ("Three.", "c")]


@pytest.mark.parametrize("steps", [0, 1, 5, 50])
def test_text_may_come_ten_times_in_a_row(steps: int) -> None:
    rig = toy().do(Start("[S2] Zero."))
    for number in range(1, 11):
        rig.run(steps).do(Inject(f"number{number}."))
    rig.run()
    assert rig.words == ["Zero.", *[f"number{number}." for number in range(1, 11)]]
    assert [done.id for done in rig.of(Done)] == [str(number) for number in range(1, 12)]
    assert {word.speaker for word in rig.of(WordEvent)} == {"S2"}
    assert frame_numbers(rig) == list(range(len(rig.frames)))


@pytest.mark.parametrize("text", ["", "  ", "[S2]", '<break time="0.01s"/>'])
def test_text_without_a_word_is_done_at_once_or_in_its_turn(text: str) -> None:
    rig = toy().say(text, id="a")
    assert [type(item) for item in rig.items] == [Started, Done]
    rig.do(Inject("One two.", id="b"), Inject(text, id="c"), Inject("Three.", id="d"), Inject(text, id="e")).run()
    assert [done.id for done in rig.of(Done)] == ["a", "b", "c", "d", "e"]
    assert rig.of(Done)[1].audio_ms == rig.of(Done)[2].audio_ms == rig.of(WordEvent)[2].start_ms


def test_an_utterance_of_nothing_but_a_break_is_silence_and_then_done() -> None:
    rig = toy().say('<break time="1s"/>')
    assert [type(item) for item in rig.items if not isinstance(item, Frame)] == [Started, FirstAudio, Done]
    assert len(rig.frames) >= 12


# ---- Events ----


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


# ---- Draws ----


def test_the_same_seed_gives_the_same_audio_and_another_one_another(goldens: Path) -> None:
    text = "[S1] Hello there."
    first = golden(goldens, SpeechOptions()).say(text, seed=1)
    again = golden(goldens, SpeechOptions(), queue_frames=1)
    again.do(Start(text, seed=1))
    while again.step():
        again.do(Pause(), Resume()).take()
    assert first.told == again.told
    assert golden(goldens, SpeechOptions()).say(text, seed=2).audio.tobytes() != first.audio.tobytes()


@settings(max_examples=60)
@given(queue=st.integers(1, 60), takes=st.lists(st.integers(0, 9), min_size=1, max_size=9), seed=st.integers(0, 9))
def test_how_fast_it_is_read_changes_nothing(queue: int, takes: list[int], seed: int) -> None:
    rig = toy(queue_frames=queue).do(Start(HELLO, seed=seed))
    for number in range(10**6):
        taken = rig.take(takes[number % len(takes)])
        if not rig.step() and not taken and rig.conversation.idle:
            break
        assert rig.conversation.outbox.waiting <= queue
        if not any(takes):
            rig.take(1)
    assert rig.told == toy().say(HELLO, seed=seed).told


# ---- Pause and resume ----


def test_a_pause_at_any_frame_changes_nothing() -> None:
    whole, rig = toy().say(HELLO), toy().do(Start(HELLO))
    rig.take()
    while rig.step():
        rig.do(Pause())
        assert [type(item) for item in rig.take()] == [Paused]
        assert not rig.can_step()
        assert rig.take() == []
        rig.do(Resume())
        assert isinstance(rig.take()[0], Resumed)
    assert rig.told == whole.told


def test_a_pause_at_any_frame_of_the_real_model_changes_nothing(goldens: Path) -> None:
    whole = golden(goldens).say(HELLO[:30])
    rig = golden(goldens).do(Start(HELLO[:30]))
    while rig.step():
        rig.do(Pause(), Resume()).take()
    assert rig.told == whole.told


def test_a_pause_with_what_was_played_changes_nothing_if_it_is_resumed() -> None:
    whole, rig = toy().say(HELLO), toy().do(Start(HELLO))
    for played in (0, 10**9, 500, 1):
        rig.run(10).do(Pause(played), Pause(played / 2), Resume())
    assert rig.run().told == whole.told


def test_text_may_be_closed_while_it_is_paused() -> None:
    rig = toy().do(Start("One two three four", final=False)).run().do(Pause(), End())
    assert rig.run().steps < 20
    assert rig.do(Resume()).run().told == toy().say("One two three four").told


class Strict(Outbox):
    """Lets frames go on only when the listener has been told so."""

    def release(self) -> None:
        assert self.answers, "a frame may leave ahead of resumed"
        super().release()


def test_resumed_is_told_before_anything_can_leave() -> None:
    rig = toy()
    rig.conversation.outbox = Strict(25, None)
    rig.do(Start("One.")).run(20).do(Pause()).take()
    rig.do(Resume())


def test_resume_needs_a_pause() -> None:
    rig = toy().do(Start("One."))
    with pytest.raises(CommandError) as caught:
        rig.do(Resume())
    assert caught.value.code == "not_paused"
    with pytest.raises(CommandError):
        rig.do(Pause(), Resume(), Resume())


# ---- What was heard ----


def test_paused_tells_what_was_heard_and_half_a_word_is_a_word_heard() -> None:
    text = "One two three four five six."
    whole = toy().say(text)
    words = [(word.word, word.start_ms) for word in whole.of(WordEvent)]
    ends = [start for _, start in words[1:]] + [80 * (whole.context.state.end_step or 0)]
    rig = toy().do(Start(text))
    for sent in (3, 17, len(whole.frames)):
        rig.run_until_sent(sent)
        for played in range(0, sent * 80 + 200, 20):
            told = paused(rig, played)
            heard = min(played, sent * 80)
            spoken = [w for (w, start), end in zip(words, ends, strict=True) if heard >= (start + end) / 2]
            assert told == Paused(heard, " ".join(spoken), " ".join(text.split()[len(spoken) :]))
        assert paused(rig).heard_ms == sent * 80
        rig.do(Resume())


def test_a_word_before_a_break_ends_where_the_break_begins() -> None:
    rig = toy().do(Start('Supercalifragilistic <break time="2s"/> word.')).run_until_sent(30)
    broke = next(taken.step for taken in rig.conversation._sounded if not taken.entry.tokens)
    assert paused(rig, broke * 40).spoken == "Supercalifragilistic"
    assert paused(rig, broke * 40 - 1).spoken == ""
    assert paused(rig, 30 * 80).pending == "word."


def test_pending_has_all_that_was_not_heard_down_to_the_beginning_of_a_word() -> None:
    rig = toy().do(Start("One two three", final=False), Inject(" four fi", final=False)).run()
    assert paused(rig, 0) == Paused(0, "", "One two three four fi")


def test_paused_is_about_the_turn_that_was_heard() -> None:
    rig = toy().say("One two.").do(Inject("Three four.")).run()
    turn = rig.of(Done)[0].audio_ms
    assert paused(rig) == Paused(rig.sent * 80, "Three four.", "")
    assert paused(rig, turn).spoken == ""
    assert paused(rig, turn - 80) == Paused(turn - 80, "One two.", "Three four.")
    assert paused(rig, 0) == Paused(0, "", "One two. Three four.")


def test_after_an_interruption_the_report_begins_anew() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(30).do(Pause(1200), Inject("Well then, good."))
    assert paused(rig) == Paused(30 * 80, "", "Well then, good.")
    rig.do(Resume()).run()
    assert paused(rig).spoken == "Well then, good."


# ---- Interruptions ----


def assert_goes_on_from(rig: Rig, sent: int, frame: int) -> None:
    """What was sent after so many frames goes on from a frame, with none lost or said twice."""
    assert frame_numbers(rig)[sent:] == list(range(frame, frame + len(rig.frames) - sent))


@pytest.mark.parametrize("played", [None, 0, 79, 80, 1000, 2399, 2400, 10**9])
def test_text_while_it_is_paused_is_said_from_where_the_listener_was(played: int | None) -> None:
    rig = toy().do(Start(HELLO, id="a")).run_until_sent(30).do(Pause(played), Inject("Well then.", id="b")).run()
    heard = 30 if played is None else min(30, played // 80)
    assert_goes_on_from(rig, 30, heard)
    assert [word.word for word in rig.of(WordEvent) if word.id == "b"] == ["Well", "then."]
    assert [done.id for done in rig.of(Done)] == ["b"]
    assert sum(isinstance(item, Cut) for item in rig.items) == 1
    assert rig.of(FirstAudio)[-1].id == "b"


def test_several_interruptions_each_go_back_to_what_was_heard() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(40)
    rig.do(Pause(20 * 80), Inject(HELLO)).run_until_sent(50)  # frames 0-39, 20-29
    assert_goes_on_from(rig, 40, 20)
    # Inside what was dropped: all before it was heard, and nothing of what came instead.
    rig.do(Pause(30 * 80), Inject(HELLO)).run_until_sent(60)  # 0-39, 20-29, 20-29
    assert_goes_on_from(rig, 50, 20)
    # Inside an earlier stretch.
    rig.do(Pause(45 * 80), Inject(HELLO)).run_until_sent(65)
    assert_goes_on_from(rig, 60, 20)
    rig.do(Pause(10 * 80), Inject(HELLO)).run_until_sent(70)
    assert_goes_on_from(rig, 65, 10)
    rig.do(Pause(0), Inject("The end.")).run()
    assert_goes_on_from(rig, 70, 0)
    assert rig.words[-2:] == ["The", "end."]


def test_an_interruption_of_an_interruption_that_was_not_heard_yet() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(20)
    for number in range(5):
        rig.do(Pause(), Inject(f"Take {number}."))
        rig.step()
    rig.run()
    assert_goes_on_from(rig, 20, 20)
    assert rig.words[-2:] == ["Take", "4."]
    assert [done.id for done in rig.of(Done)] == ["6"]


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
    """Before any word was heard the next one is still the first; a break is no word."""
    for text, played, tagged in [
        ("One two.", 0, True),
        ("One two.", 160, False),
        ('<break time="2s"/> One.', 800, True),
    ]:
        rig = toy().do(Start(text)).run_until_sent(12).do(Pause(played), Inject("Well."))
        entry = rig.context.state.queue[0]
        assert (entry.tokens[0] == 152) == tagged


def test_the_rest_of_a_break_is_not_waited_for() -> None:
    rig = toy().do(Start('One. <break time="20s"/> Two.')).run_until_sent(60)
    rig.do(Pause(), Inject("Three.")).run()
    assert rig.of(WordEvent)[-1] == WordEvent("2", "Three.", "S1", 60 * 80)


def test_an_interruption_by_open_text_waits_for_enough_of_it() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(30).do(Pause(), Inject("Well", id="b", final=False)).run()
    assert rig.sent == 30
    rig.do(Inject(" then my friend", final=False), End()).run()
    assert_goes_on_from(rig, 30, 30)
    whole = toy().do(Start(HELLO)).run_until_sent(30).do(Pause(), Inject("Well then my friend", id="b")).run()
    assert whole.told == rig.told


def test_an_interruption_by_nothing_is_silence() -> None:
    rig = toy().do(Start(HELLO)).run_until_sent(30).do(Pause(), Inject("", id="b")).run()
    assert rig.items[-2:] == [Cut(), Done("b", 30 * 80)]
    rig.do(Inject("And on.")).run()
    assert_goes_on_from(rig, 30, 30)


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


# ---- Voices ----


def test_a_voice_is_heard_in_nothing_but_what_follows_it(goldens: Path) -> None:
    rig = golden(goldens, GREEDY, voices={"clips": voice(goldens)}).say("[S1] Hello there.")
    clips = voice(goldens).frames
    assert rig.words == ["Hello", "there."]
    assert rig.of(WordEvent)[0].start_ms == 0
    assert rig.context.frames == clips + len(rig.frames)
    # It goes on from the clips' sound, without a click.
    whole = checkpoint(goldens).codec.decode(rig.context._archived(0, rig.context.frames)[None])[0]
    frame = len(rig.frames[0])
    np.testing.assert_allclose(rig.audio, whole[clips * frame :].clamp(-1, 1).numpy(), atol=1e-5)
    assert golden(goldens, GREEDY).say("[S1] Hello there.").audio.tobytes() != rig.audio.tobytes()


def test_the_first_voice_is_the_default_and_others_go_by_name() -> None:
    voices = {"one": toy_voice(), "two": toy_voice(seed=1)}
    told = {name: toy(voices=voices).say("Hello.", voice=name).told for name in (None, "one", "two")}
    assert told[None] == told["one"] != told["two"]
    rig = toy(voices=voices)
    with pytest.raises(CommandError, match="'three' is not known: one, two") as caught:
        rig.do(Start("Hello.", voice="three", id="a"))
    error = caught.value
    assert (error.code, error.field, error.cmd, error.id) == ("bad_field", "voice", "start", "a")
    assert not rig.conversation.active
    with pytest.raises(CommandError, match="none is loaded"):
        toy().do(Start("Hello.", voice="one"))


def test_in_a_voice_everything_is_the_same_but_the_voice() -> None:
    in_voice = partial(toy, voices={"clips": toy_voice()})
    whole = in_voice().say(HELLO)
    assert whole.words == words_of(HELLO)
    first = in_voice().context.first_frame + toy_voice().frames
    assert frame_numbers(whole) == list(range(first, first + len(whole.frames)))
    assert said_in_pieces(in_voice(), cut(HELLO, range(99)), [1, 2, 0]).told == whole.told
    rig = in_voice().do(Start(HELLO)).run_until_sent(20)
    assert paused(rig, 0) == Paused(0, "", " ".join(words_of(HELLO)))
    rig.do(Inject("Anew.")).run()
    assert_goes_on_from(rig, 20, first)


# ---- Contexts that fill up ----


@pytest.mark.parametrize("clips", [{}, {"clips": toy_voice()}], ids=["cold", "in a voice"])
@pytest.mark.parametrize(("limit", "history"), [(39, 375), (100, 375), (160, 40), (160, 375), (500, 60)])
def test_a_monologue_of_many_contexts_is_said_once_from_end_to_end(limit: int, history: int, clips: Any) -> None:
    rig = toy(limit=limit, history=history, voices=clips).say(LONG)
    assert rig.context.rollovers >= 3
    assert rig.words == LONG.split()
    first = rig.context.first_frame
    assert frame_numbers(rig) == list(range(first, first + len(rig.frames)))
    starts = [word.start_ms for word in rig.of(WordEvent)]
    assert starts == sorted(set(starts))
    assert rig.of(Done) == [Done("1", len(rig.frames) * 80)]


@pytest.mark.parametrize(
    "make", [toy, partial(golden, GOLDENS / "published-like"), partial(golden, GOLDENS / "every-option")]
)
def test_up_to_the_seam_nothing_tells_that_the_context_is_short(make: Make) -> None:
    short, wide = make(limit=70, history=30), make(limit=200)
    for rig in (short, wide):
        rig.do(Start(LONG)).run(85)
    assert (short.context.rollovers, wide.context.rollovers) == (1, 0)
    seam = 70 - short.context.lead_in
    assert [f.tobytes() for f in short.frames[: seam + 1]] == [f.tobytes() for f in wide.frames[: seam + 1]]
    # Behind it the model goes on from less; what was under way at the seam is said to its end.
    assert [f.tobytes() for f in short.frames] != [f.tobytes() for f in wide.frames]
    count = min(len(short.words), len(wide.words))
    assert short.words[:count] == wide.words[:count]
    assert len(short.frames) == len(wide.frames)


def test_the_real_model_says_a_long_text_once_across_seams(goldens: Path) -> None:
    text = " ".join(f"w{number}" for number in range(30))
    rig = golden(goldens, limit=80, history=30).say(text)
    assert rig.context.rollovers >= 2
    assert rig.words == text.split()
    assert all(np.abs(frame).max() <= 1 for frame in rig.frames)


@settings(max_examples=15)
@given(
    cuts=st.lists(st.integers(1, 500), max_size=20),
    between=st.lists(st.integers(0, 60), min_size=1, max_size=7),
    queue=st.integers(1, 40),
    with_voice=st.booleans(),
)
def test_seams_are_where_they_are_however_text_comes_and_audio_goes(
    cuts: list[int], between: list[int], queue: int, with_voice: bool
) -> None:
    voices = {"clips": toy_voice()} if with_voice else {}
    text = LONG[:500]
    whole = toy(voices=voices).say(text)
    assert whole.context.rollovers > 1
    rig = toy(voices=voices, queue_frames=queue)
    assert said_in_pieces(rig, cut(text, cuts), between).told == whole.told
    rig = toy(voices=voices).do(Start(text))
    while rig.run(between[0] + 1).can_step():
        rig.do(Pause(), Resume())
    assert rig.told == whole.told


@pytest.mark.parametrize("limit", [7, 9, 12])
def test_even_the_shortest_context_that_a_model_may_have_is_enough_to_go_on_in(limit: int) -> None:
    rig = toy(limit=limit).do(Start("One two three.")).run()
    for number in range(3):
        rig.do(Inject(f"And turn {number}.")).run(9 * number).do(Pause(), Resume()).run()
    rig.do(Pause((rig.sent - 9) * 80), Inject("The end.")).run()
    assert rig.words[:3] + rig.words[-2:] == ["One", "two", "three.", "The", "end."]
    assert frame_numbers(rig)[:30] == list(range(30))
    assert [done.id for done in rig.of(Done)] == ["1", "2", "3", "4", "5"]


def test_a_conversation_of_many_turns_loses_none() -> None:
    rig = toy().do(Start("Turn zero."))
    for number in range(1, 80):
        rig.run().do(Inject(f"[S{number % 2 + 1}] This is turn {number}, and it goes on a little."))
    rig.run()
    assert rig.context.rollovers > 10
    assert frame_numbers(rig) == list(range(len(rig.frames)))
    assert [done.id for done in rig.of(Done)] == [str(number) for number in range(1, 81)]
    assert rig.words == [
        "Turn",
        "zero.",
        *[w for n in range(1, 80) for w in f"This is turn {n}, and it goes on a little.".split()],
    ]


def resident_mb() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("make", [toy, lambda: real(tiny())], ids=["toy", "random:tiny"])
def test_an_hour_of_audio_takes_no_more_memory_than_its_first_minutes(make: Make) -> None:
    rig, sent, asked, said, figures = make().do(Start("", seed=1)), 0, 0, 0, []
    while sent < 3600 * 12.5:
        # A monologue, a short turn, and text that comes while words are left or the last one sounds.
        for count, steps in [(400, 10**9), (3, 10**9), (20, 60), (20, 10**9)]:
            rig.do(Inject(" ".join(f"w{number}" for number in range(asked, asked + count)))).run(steps)
            asked += count
        assert rig.words == [f"w{number}" for number in range(said, asked)]
        sent, said = sent + len(rig.frames), asked
        assert rig.sent == rig.context.frames == sent
        assert rig.of(Done)[-1].audio_ms == 80 * sent
        rig.items.clear()
        figures.append((sent * 0.08, resident_mb()))
    first = next(memory for seconds, memory in figures if seconds > 800)  # ten minutes are kept
    print(f"{rig.context.rollovers} rollovers; {figures[0]}, {first} -> {figures[-1]}")
    assert figures[-1][1] - first < 10


def test_room_for_the_next_turn_is_made_when_a_turn_ends_so_that_its_lead_in_is_not_longer() -> None:
    rig = toy(limit=300, history=40).do(Start("Turn zero."))
    for number in range(40):
        rig.run()
        ran, rolled = rig.stepper.prefilled, rig.context.rollovers
        rig.do(Inject(f"This is turn {number}."))
        assert (rig.stepper.prefilled, rig.context.rollovers) == (ran, rolled)
    assert rig.context.rollovers > 2


def test_an_interruption_may_go_back_behind_seams() -> None:
    rig, sent = toy().do(Start(LONG)).run_until_sent(700), 700
    for frame in (600, 480, 300, 90, 4):
        numbers = frame_numbers(rig)
        latest = len(numbers) - 1 - numbers[::-1].index(frame)
        rig.do(Pause(latest * 80), Inject(LONG)).run_until_sent(sent + 100)
        assert_goes_on_from(rig, sent, frame)
        sent += 100
    assert rig.context.rollovers > 5


# ---- Two at once ----


@pytest.mark.parametrize("rhythm", [(1, 1), (1, 3), (5, 2)])
def test_two_conversations_in_one_stepper_each_sound_as_alone(goldens: Path, rhythm: tuple[int, int]) -> None:
    stepper, texts = Stepper(checkpoint(goldens), 2), ["[S1] Hello there.", "[S2] Good day to you."]
    options = [SpeechOptions(seed=1), SpeechOptions(seed=2, cfg_scale=1.0, audio_temperature=0.0)]
    pair = [golden(goldens, options[n], stepper=stepper, slot=n).do(Start(texts[n])) for n in (0, 1)]
    while any(rig.can_step() for rig in pair):
        for rig, steps in zip(pair, rhythm, strict=True):
            rig.run(steps)
        step_together(*pair)
        for rig in pair:
            rig.take()
    for rig, text, chosen in zip(pair, texts, options, strict=True):
        alone = golden(goldens, chosen).say(text)
        assert rig.of(WordEvent) == alone.of(WordEvent)
        assert torch.equal(
            rig.context._archived(0, rig.context.frames), alone.context._archived(0, alone.context.frames)
        )
        assert_sound_alike(rig.frames, alone.frames)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["step", "both", "barge", "text", "pause"])), max_size=60))
def test_what_one_conversation_does_is_nothing_to_another(plan: list[tuple[int, str]]) -> None:
    stepper = ToyStepper(slots=3, limit=120)
    together = [toy(stepper=stepper, slot=slot, voices={"clips": toy_voice()}) for slot in range(3)]
    alone = [toy(limit=120, voices={"clips": toy_voice()}) for _ in range(3)]
    for number, (one, other) in enumerate(zip(together, alone, strict=True)):
        for rig in (one, other):
            rig.do(Start(HELLO, seed=number))
    for number, what in plan:
        for rig in (together[number], alone[number]):
            if what == "barge":
                rig.do(Pause(max(0, rig.sent - 5) * 80), Inject("[S2] Something else, and quite long."))
            elif what == "text":
                rig.do(Inject("and more"))
            elif what == "pause":
                rig.do(Pause(), Resume())
            elif what == "step":
                rig.run(3)
        if what == "both":
            step_together(*together)
            for rig in together:
                rig.take()
            for rig in alone:
                rig.run(1)
    while step_together(*together):
        for rig in together:
            rig.take()
    for one, other in zip(together, alone, strict=True):
        assert one.told == other.run().told


# ---- Bounds ----

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
        if rig.conversation._opened:
            rig.do(Inject(" s"))
        rig.run(60).do(Pause(), Inject("[S1] That is all.")).run()
    assert rigs[0].told == rigs[1].told


def test_a_long_word_costs_no_more_memory_than_its_steps() -> None:
    rig = toy(limit=2000).do(Start("x" * MAX_TEXT_CHARS)).run(1000)
    rows = {id(mark.pending.row) for _, mark in rig.context._columns}
    assert len(rows) == 2  # none, and the word's


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
        rig.do(Inject("x" * MAX_TEXT_CHARS if not rig.conversation._reader.incomplete else "", final=False))
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


# ---- Anything at any moment ----


class Listener:
    """What should be heard, told from what was asked and what came out, with no knowledge of how it is made."""

    def __init__(self, rig: Rig, first: int) -> None:
        self.rig, self.first = rig, first
        self.forget()
        self.active = False

    def forget(self) -> None:
        """Another conversation."""
        self.active = True
        self.reader = ScriptReader(ToyTokenizer())
        self.numbered = 0
        self.open: str | None = None
        self.asked: list[tuple[str, str]] = []  # (id, word) still to come
        self.order: list[str] = []  # utterances that will be done
        self.late: list[str] = []  # those that were interrupted, if all of them had been sent
        self.announced: set[str] = set()
        self.numbers: list[int] = []  # of the frames that were sent
        self.follows = self.first  # the frame that comes next, or a later one, behind what the caller said
        self.listens = 0
        self.played: int | None = None  # frames, where it is paused

    # What is asked. Each returns the error that it should be answered with.

    def do(self, what: str, value: Any) -> str | None:
        if not self.active and what not in ("start", "reset"):
            return "no_session"
        return getattr(self, what)(value)

    def start(self, text: str) -> None:
        self.forget()
        self.inject(text)

    def inject(self, text: str) -> None:
        self.piece(text, new=True)
        self.end(None)

    def piece(self, text: str, new: bool = False) -> None:
        self._interrupt()
        if self.open is None or new:
            self.end(None)
            self.numbered += 1
            self.open = f"u{self.numbered}"
            self.order.append(self.open)
        self._ask(self.reader.feed(text))

    def listen(self, _: float) -> None:
        self._interrupt()
        self.listens += 1

    def _interrupt(self) -> None:
        """What was not heard is not wanted, and it goes on from the earliest frame that was not heard."""
        if self.played is not None:
            self.follows = min([*self.numbers[self.played :], self.follows])
            self.late, self.order, self.asked = [*self.late, *self.order], [], []
            self.open, self.played, self.reader = None, None, ScriptReader(ToyTokenizer())

    def end(self, _: None) -> str | None:
        if self.open is None:
            return "bad_command"
        self._ask(self.reader.finish())
        self.open = None
        return None

    def pause(self, frames: int | None) -> None:
        self.played = len(self.numbers) if frames is None else min(frames, len(self.numbers))

    def resume(self, _: None) -> str | None:
        was, self.played = self.played, None
        return "not_paused" if was is None else None

    def reset(self, _: None) -> None:
        self.forget()
        self.active = False

    def _ask(self, entries: Sequence[Entry]) -> None:
        assert self.open is not None
        self.asked += [(self.open, entry.text) for entry in entries if entry.tokens]

    # What comes out.

    def take(self, most: int) -> None:
        for item in self.rig.take(most):
            if isinstance(item, Frame):
                assert self.played is None
                number = frame_number(item)
                assert number == self.follows or (self.listens and number > self.follows)
                self.listens -= number > self.follows
                self.numbers.append(number)
                self.follows = number + 1
            elif isinstance(item, WordEvent):
                assert (item.id, item.word) == self.asked.pop(0)
                assert item.start_ms == 80 * len(self.numbers)
                assert item.id in self.announced
            elif isinstance(item, Done):
                assert item.audio_ms == 80 * len(self.numbers)
                due = self.late or self.order
                assert item.id in (due if self.late else due[:1])
                del due[: due.index(item.id) + 1]
                assert item.id not in [id for id, _ in self.asked]
            elif isinstance(item, FirstAudio):
                assert item.id not in self.announced
                self.announced.add(item.id)
            elif isinstance(item, Cut):
                self.late = []
            elif isinstance(item, Paused):
                assert self.played is not None
                assert item.heard_ms // 80 == self.played
                left = [word for _, word in self.asked] + self.reader.incomplete.split()
                assert not left or item.pending.split()[-len(left) :] == left


def refusal(rig: Rig, command: Command) -> str | None:
    """Hands over a command. The code that it was refused with."""
    try:
        rig.do(command)
    except CommandError as error:
        return error.code
    return None


def carried_out(rig: Rig, listener: Listener, what: str, value: Any) -> None:
    """One move of a plan, by the conversation and by its listener."""
    if what == "step":
        for _ in range(value):
            rig.step()
        return
    if what == "take":
        listener.take(value)
        return
    expected = listener.do(what, value)
    commands: dict[str, Callable[[], Command]] = {
        "start": lambda: Start(value, id="u1"),
        "inject": lambda: Inject(value, id=f"u{listener.numbered}"),
        "piece": lambda: Inject(value, id=listener.open, final=False),
        "end": End,
        "pause": lambda: Pause(None if value is None else value * 80 + 40),
        "resume": Resume,
        "reset": Reset,
        "listen": lambda: Listen(base64.b64encode(bytes(round(value * 1920) * 2)).decode(), final=value > 5),
    }
    assert refusal(rig, commands[what]()) == expected
    # Answers come before all else; what is on its way may still leave before the next move, or not.
    while rig.conversation.outbox.answers:
        listener.take(1)


moves = st.one_of(
    st.tuples(st.just("step"), st.integers(1, 30)),
    st.tuples(st.just("take"), st.integers(1, 60)),
    st.tuples(st.sampled_from(["start", "inject", "inject", "piece", "piece"]), scripts),
    st.tuples(st.just("pause"), st.none() | st.integers(0, 80)),
    st.tuples(st.sampled_from(["end", "resume", "reset"]), st.none()),
    st.tuples(st.just("listen"), st.sampled_from([0.5, 3, 7.5, 20])),
)


def play(plan: list[tuple[str, Any]], queue: int, ahead: int, with_voice: bool) -> None:
    """Carries out a plan, then lets everything be said."""
    voices = {"clips": toy_voice()} if with_voice else {}
    rig = toy(limit=100, queue_frames=queue, ahead=ahead, voices=voices, ear=ToyEar())
    listener = Listener(rig, toy_voice().frames if with_voice else 0)
    for what, value in plan:
        carried_out(rig, listener, what, value)
    for what in ("end", "resume"):
        carried_out(rig, listener, what, None)
    while rig.step() or not rig.conversation.outbox.empty:
        listener.take(3)
    assert (listener.asked, listener.order) == ([], [])
    assert rig.conversation.idle


anything = given(st.lists(moves, max_size=25), st.integers(1, 30), st.integers(0, 2), st.booleans())


@settings(max_examples=120)
@anything
def test_whatever_is_asked_in_whatever_order_is_heard_as_asked(
    plan: list[tuple[str, Any]], queue: int, ahead: int, with_voice: bool
) -> None:
    play(plan, queue, ahead, with_voice)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=2000)
@anything
def test_whatever_is_asked_is_heard_as_asked_at_length(
    plan: list[tuple[str, Any]], queue: int, ahead: int, with_voice: bool
) -> None:
    play([("start", HELLO), *plan], queue, ahead, with_voice)
