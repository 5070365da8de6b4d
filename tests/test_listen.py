"""`listen`: what the caller said is in the model's context as if it had been there from the start, and nowhere else."""

import base64
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from conftest import CLIPS
from conversations import GREEDY, Rig, ToyCodec, ToyEar, ToyStepper, ToyTokenizer, frame_numbers, paused, toy, toy_voice
from hypothesis import given, settings
from hypothesis import strategies as st
from models import checkpoint
from torch import Tensor

from dia2.checkpoint.load import LoadOptions, load_checkpoint
from dia2.codec.frames import FrameCodec
from dia2.codec.hearing import Hearing
from dia2.steps.context import Context
from dia2.steps.stepper import Stepper
from dia2.text.machine import TextMachine
from dia2.voice.recording import Recording, read_recording
from dia2.voice.voice import ClipWord, make_prefix, read_words
from dia2.voice.word_times import spread
from dia2stream.conversation.caller import AT_ONCE, BEHIND, HOLD_FRAMES, CallerSpeech, read_piece
from dia2stream.engine.engine import Engine
from dia2stream.errors import CommandError
from dia2stream.items import Cut, Frame
from dia2stream.options import ModelOptions
from dia2stream.protocol.messages import Done, End, Error, Inject, Listen, Pause, Resume, Start, Started, parse_command
from dia2stream.protocol.messages import WordEvent as Spoken

FRAME = 1920
LEAD_IN = 6  # of the toy
LONG = " ".join(f"word{number} and so on" for number in range(100))
WORDS = [["hello", 0.1, 0.3], ["can", 0.5, 0.6], ["you", 0.62, 0.7], ["hear", 1.0, 1.2], ["me?", 1.3, 1.6]]


class Recorder(ToyCodec):
    """Keeps the codes of every frame that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[int, ...]] = []

    def hear(self, codes: Tensor) -> None:
        super().hear(codes)
        self.given += [tuple(frame) for frame in codes.T.tolist()]


def talk(**options: Any) -> Rig:
    return toy(ear=ToyEar(), **options)


def sound(frames: float, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(-8000, 8000, round(frames * FRAME))
    return noise.astype("<i2").tobytes()


def said(frames: float = 24, words: Any = WORDS, **fields: Any) -> Listen:
    return Listen(cast(str, sound(frames)), words=words, **fields)


def pieces(whole: Listen, cuts: Sequence[int]) -> list[Listen]:
    """The same in pieces cut at samples; each word is in the piece that it starts in."""
    ends = [0, *sorted(cuts), len(whole.pcm) // 2]
    parts = []
    for start, stop in pairwise(ends):
        inside = [
            (w, a, b) for w, a, b in whole.words or () if start <= a * 24000 < stop or stop == ends[-1] < a * 24000
        ]
        words = tuple((w, a - start / 24000, b - start / 24000) for w, a, b in inside)
        parts.append(Listen(cast(str, whole.pcm[2 * start : 2 * stop]), words=words, final=stop == ends[-1]))
    return parts


def columns(rig: Rig) -> list[Any]:
    """All that the model was given, column by column."""
    slot = rig.stepper.slots[0]
    return rig.stepper.remembered(0, slot.column), slot.text, rig.context.frames


def answer(rig: Rig, text: str = "Yes, I can hear you very well.") -> list[Any]:
    rig.items.clear()
    return rig.do(Inject(text)).run().told


# ---- What is in the context ----


@pytest.mark.parametrize("ahead", [0, 1, 2])
@pytest.mark.parametrize("speaker", [1, 2])
def test_what_was_heard_stands_in_the_columns_of_a_prefix_that_holds_the_same(ahead: int, speaker: int) -> None:
    rig = talk(ahead=ahead).do(Start(""), said(speaker=f"S{speaker}"))
    codes = ToyEar().encode(torch.frombuffer(bytearray(said().pcm), dtype=torch.int16) / 32768)
    clips = [(codes, [ClipWord(*word) for word in WORDS])]
    if speaker == 2:
        clips.insert(0, (codes[:, :0], []))
    prefix = make_prefix(clips, ToyTokenizer())
    if speaker == 1:  # the published offset is a voice's alone
        prefix = type(prefix)(prefix.codes, prefix.entries, tuple(step - 3 for step in prefix.new_word_steps))
    voiced = toy(ahead=ahead, voices={"caller": prefix}).do(Start(""))
    assert columns(rig) == columns(voiced)
    assert rig.stepper.prefilled == voiced.stepper.prefilled == 24


@settings(max_examples=60)
@given(st.lists(st.integers(0, 24 * FRAME), max_size=5), st.sampled_from([0, 2]))
def test_pieces_leave_what_the_whole_leaves(cuts: list[int], ahead: int) -> None:
    whole = talk(ahead=ahead).do(Start(""), said())
    rig = talk(ahead=ahead).do(Start(""), *pieces(said(), cuts))
    assert columns(rig) == columns(whole)
    assert answer(rig) == answer(whole)


def test_real_caches_equal_those_of_a_prefix(goldens: Path) -> None:
    """Issue 6. Keys and values of every column, whole and in pieces, to 1e-5 of the largest."""
    loaded = checkpoint(goldens)
    read = read_recording(CLIPS / "flite_slt.flac").at(24000)
    pcm = (read.samples * 32767).astype("<i2")
    words = [[word.text, word.start, word.end] for word in read_words(CLIPS / "flite_slt.words.json")]
    whole = Listen(cast(str, pcm.tobytes()), words=cast(Any, words))
    sample = torch.from_numpy(pcm.astype(np.float32) / 32768)
    codes = loaded.codec.encode(torch.nn.functional.pad(sample, (0, -len(sample) % FRAME))[None])[0]
    prefix = make_prefix([(codes[:, :0], []), (codes, [ClipWord(*word) for word in words])], loaded.tokenizer)

    def cache(*listens: Listen, **options: Any) -> Tensor:
        context = Context(Stepper(loaded), 0, FrameCodec(loaded.codec).slot(0), 375)
        rig = Rig(context, loaded.tokenizer, GREEDY, ear=Hearing(loaded.codec).slot(0), **options)
        rig.do(Start("", cfg_scale=3.0), *listens)
        assert context.frames == context.step == prefix.frames
        both = rig.stepper.cache.copied(0, 2, prefix.frames)
        return torch.stack([both.k, both.v])

    expected = cache(voices={"caller": prefix})
    for heard in ([whole], pieces(whole, [20_000, 31_000, 50_000])):
        torch.testing.assert_close(cache(*heard), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_words_stand_where_they_were_said_in_the_callers_own_speech() -> None:
    rig = talk(ahead=0).do(Start(""), said())
    mains = [text[0] for text, _ in rig.context.history.columns]
    encode = ToyTokenizer().encode
    # Column t + 1 holds what step t produced; "can" is said at 0.5 s, frame 6, taken by step 5.
    first, second = encode("[S2] hello"), encode("can")
    assert mains[2 : 2 + len(first)] == first
    assert mains[7 : 7 + len(second)] == second


@pytest.mark.parametrize("ahead", [0, 2])
def test_the_words_are_taken_where_they_are_said_whatever_the_text_ids_are(ahead: int) -> None:
    def texts(new_word: int, pad: int) -> list[list[Any]]:
        caller = CallerSpeech(ToyEar(), ToyTokenizer(), TextMachine(new_word, pad, ahead), 1, 24000)
        caller.hear(read_piece(said()))
        caller.close()
        named = {new_word: "new word", pad: "pad"}
        return [[named.get(token, token) for token in text] for text in caller.columns().texts]

    assert texts(0, 1) == texts(1, 0) == texts(2, 3)


# ---- The reply ----


def test_the_reply_begins_behind_the_caller_and_says_whose_it_is() -> None:
    rig = talk().say("[S1] Hello there.")
    frames = rig.context.frames
    rig.do(said())
    assert rig.context.frames == frames + 24
    told = answer(rig)
    assert rig.words == ["Yes,", "I", "can", "hear", "you", "very", "well."]
    assert [event.speaker for event in rig.of(Spoken)] == ["S1"] * 7
    numbers = frame_numbers(rig)
    assert numbers == list(range(frames + 24, frames + 24 + len(numbers)))
    tagged = [entry for entry in rig.conversation.words.sounded if entry.word.text == "Yes,"]
    assert tagged[0].word.tokens[0] == ToyTokenizer.speakers[0]
    assert told[-1] == Done("2", rig.sent * 80)
    # The next utterance, with nobody in between, goes on without a tag.
    rig.do(Inject("Good.")).run()
    assert rig.conversation.words.sounded.latest.word.tokens == tuple(ToyTokenizer().encode("Good."))


def test_a_reply_with_a_tag_of_its_own_keeps_it() -> None:
    rig = talk().say("[S1] Hello.").do(said(), Inject("[S2] Me, too.")).run()
    assert [event.speaker for event in rig.of(Spoken)] == ["S1", "S2", "S2"]


def test_the_reply_hears_the_caller() -> None:
    """Other sound or other words: another reply. None at all: another one still."""
    replies = [answer(talk().say("Hello.").do(*heard)) for heard in ([said()], [said(words=WORDS[:3])], [said(23)], [])]
    assert len({tuple(map(str, reply)) for reply in replies}) == 4


def test_nothing_is_left_to_do_when_the_reply_comes() -> None:
    alone = talk().say("Hello.")
    rig = talk().say("Hello.").do(*pieces(said(), [9_000, 20_000, 30_000]))
    for one in (alone, rig):
        one.steps = one.stepper.prefilled = 0
        one.do(Inject("Yes, I do hear you.")).run_until_sent(one.sent + 1)
    assert rig.stepper.prefilled == alone.stepper.prefilled == 0
    assert rig.steps == alone.steps == LEAD_IN + 1 or rig.steps == alone.steps == LEAD_IN


def test_a_reply_closes_what_the_caller_left_open() -> None:
    whole, left_open = talk().say("Hello.").do(said()), talk().say("Hello.").do(said(final=False))
    assert left_open.context.frames < whole.context.frames
    assert answer(left_open) == answer(whole)


def test_the_words_ahead_are_waited_for() -> None:
    rig = talk(ahead=2).do(Start(""))
    ran = []
    for words in (WORDS[:2], WORDS[2:], []):
        before = rig.stepper.prefilled
        shifted = [[word, start % 0.5, start % 0.5 + 0.1] for word, start, _ in words]
        rig.do(said(AT_ONCE + BEHIND, words=shifted, final=False))
        ran.append(rig.stepper.prefilled - before)
    # "hello" is taken at step 0, but not before "you", two words on, is there; then "hear" waits for what follows "me".
    assert ran[0] == 0
    assert ran[1] > AT_ONCE


def test_few_passes_are_run_while_a_caller_speaks_and_little_is_left_for_the_end() -> None:
    rig = talk().do(Start(""))
    passes = []
    for number in range(200):
        before = rig.stepper.prefilled
        rig.do(Listen(cast(str, sound(0.5, number)), final=False))
        passes.append(rig.stepper.prefilled - before)
    assert {ran for ran in passes if ran} == {AT_ONCE}
    before = rig.stepper.prefilled
    rig.do(Listen(cast(str, b"")))
    assert rig.stepper.prefilled == 100
    assert 100 - before < AT_ONCE + BEHIND


def test_a_word_whose_followers_never_come_is_run_in_the_end() -> None:
    rig = talk(limit=800).do(Start(""), said(final=False))
    held = rig.stepper.prefilled
    for number in range(HOLD_FRAMES // 25 + 2):
        rig.do(Listen(cast(str, sound(25, number)), final=False))
    assert held < 24
    assert rig.stepper.prefilled > held + 25


# ---- Nothing of it is played ----


def test_the_codec_never_meets_the_callers_frames() -> None:
    """Neither on the way nor when it goes back over the place: not even their echo is in the reply."""
    codec = Recorder()
    rig = Rig(Context(cast(Any, ToyStepper()), 0, cast(Any, codec), 375), ToyTokenizer(), ear=ToyEar())
    rig.say("Hello there, who is it?").do(said())
    rig.do(Inject("I see, and what can I do for you?")).run_until_sent(rig.sent + 5)
    rig.do(Pause()).take()
    rig.do(Inject("Well?")).run()
    rig.do(said(30)).do(Inject("Good.")).run()
    caller = set(
        map(tuple, ToyEar().encode(torch.frombuffer(bytearray(said(30).pcm), dtype=torch.int16) / 32768).T.tolist())
    )
    assert codec.given
    assert not caller & set(codec.given)


@pytest.mark.parametrize("frames", [0, 1, 5, 9, 30])
@pytest.mark.parametrize("listens", [1, 2])
def test_going_back_over_what_the_caller_said_leaves_the_codec_as_it_was(frames: int, listens: int) -> None:
    """Interrupted so many frames into the reply: the codec has heard the greeting and those frames, nothing else."""

    class States(ToyCodec):
        def submit(self, codes: Tensor) -> Any:
            made = super().submit(codes)
            after.append(list(self.state))
            return made

    after: list[list[int]] = []
    codec = States()
    rig = Rig(Context(cast(Any, ToyStepper(400)), 0, cast(Any, codec), 375), ToyTokenizer(), ear=ToyEar())
    rig.say("Hello there, who is it?").do(*[said(17 + 5 * n) for n in range(listens)], Inject(f"I see. {LONG[:300]}"))
    heard = rig.sent + frames
    rig.run_until_sent(heard + 7).do(Pause(played_ms=heard * 80), Inject("Well?"))
    assert codec.state == after[heard - 1]


def test_the_audio_clock_stands_still_while_the_caller_speaks() -> None:
    rig = talk().say("Hello there.")
    sent = rig.sent
    rig.do(said())
    assert rig.take() == []
    rig.do(Inject("Yes?")).run()
    (word,) = [event for event in rig.of(Spoken) if event.word == "Yes?"]
    assert word.start_ms == sent * 80


# ---- Interruptions ----


def interrupted(heard: int, *commands: Any) -> Rig:
    rig = talk().do(Start("This is a long story of which nobody will hear the end.")).run_until_sent(20)
    rig.do(Pause(played_ms=heard * 80)).take()
    return rig.do(*commands)


def test_a_caller_who_interrupts_stands_behind_what_was_heard() -> None:
    rig = interrupted(12, said())
    assert rig.context.frames == 12 + 24
    answer(rig)
    assert frame_numbers(rig)[0] == 36
    assert isinstance(rig.items[0], Started | Cut)
    # The same as text that interrupts, but for the caller in between.
    plain = interrupted(12)
    answer(plain)
    assert frame_numbers(plain)[0] == 12
    assert rig.words == plain.words


def test_after_listening_there_is_nothing_to_resume() -> None:
    rig = interrupted(12, said())
    with pytest.raises(CommandError, match="not paused") as error:
        rig.do(Resume())
    assert error.value.code == "not_paused"
    rig.run()
    assert frame_numbers(rig) == list(range(20))


def test_a_pause_in_the_reply_tells_what_was_heard_of_the_reply() -> None:
    rig = interrupted(12, said())
    rig.do(Inject("Yes, of course I can hear you.")).run()
    begun = rig.of(Spoken)[-7].start_ms
    rig.do(Pause(played_ms=begun + 8 * 80)).take()
    assert paused(rig).spoken.startswith("Yes,")
    assert "story" not in paused(rig).spoken
    assert "hello" not in paused(rig).spoken + paused(rig).pending
    # What the caller said is older than that: it stays.
    step = rig.conversation.clock.step_at(rig.conversation.heard_ms)
    rig.do(Inject("Well?"))
    assert rig.context.frames == step >= 36


def test_a_pause_before_the_reply_keeps_what_the_caller_said() -> None:
    rig = talk().say("Hello.").do(said())
    frames = rig.context.frames
    rig.do(Pause()).take()
    rig.do(Inject("Yes?")).run()
    assert rig.context.frames > frames
    assert frame_numbers(rig)[-1] >= frames


def test_what_is_said_while_something_is_spoken_comes_behind_it() -> None:
    rig = talk(limit=800).do(Start("This is a long story of which somebody will hear the end.")).run_until_sent(9)
    rig.do(*pieces(said(), [10_000]), Inject("What did you say?"))
    assert rig.stepper.prefilled == 0
    rig.run()
    assert rig.stepper.prefilled == 24
    assert " ".join(rig.words) == "This is a long story of which somebody will hear the end. What did you say?"
    numbers = frame_numbers(rig)
    (gap,) = [n for n, (a, b) in enumerate(pairwise(numbers)) if b != a + 1]
    assert numbers[gap + 1] == numbers[gap] + 1 + 24
    assert [event.id for event in rig.of(Done)] == ["1", "2"]


def test_text_of_an_utterance_that_had_begun_is_not_held_up() -> None:
    rig = talk(limit=800).do(Start("This is a long story", final=False)).run()
    rig.do(said(), Inject(" of which somebody will hear", final=False)).run()
    assert rig.stepper.prefilled == 0
    rig.do(Inject(" the end."), Inject("And another one,", id="b", final=False)).run()
    assert rig.stepper.prefilled == 24
    rig.do(said(), Inject(" much longer than this.", id="b"), Inject("Yes?", id="c")).run()
    assert " ".join(rig.words) == (
        "This is a long story of which somebody will hear the end. And another one, much longer than this. Yes?"
    )
    assert rig.stepper.prefilled == 48
    assert rig.conversation.idle


def test_the_same_reply_comes_in_pieces() -> None:
    whole = talk().say("Hello.").do(said())
    rig = talk().say("Hello.").do(said(final=False))
    expected = answer(whole)
    rig.items.clear()
    for piece in ("Yes, I", " can he", "ar you very", " well."):
        rig.do(Inject(piece, final=False)).run()
    assert rig.do(End()).run().told == expected


def test_two_callers_in_a_row_are_two_utterances() -> None:
    rig = talk(ahead=0).say("Hello.")
    rig.do(said(12, WORDS[:2], final=False), said(12, WORDS[:2], speaker="S1"), said(12, WORDS[:2]))
    tags = [text[0] for text, _ in rig.context.history.columns if text[0] in ToyTokenizer.speakers]
    assert tags[-3:] == [ToyTokenizer.speakers[n] for n in (1, 0, 1)]


# ---- Long calls ----


def test_a_long_call_with_a_talkative_caller_never_fills_the_context() -> None:
    rig = talk(voices={"voice": toy_voice()}).say("Hello.")
    sent = 0
    for number in range(12):
        rig.do(*[Listen(cast(str, sound(11, number + n)), "and so on, you see", final=n == 3) for n in range(4)])
        rig.do(Inject("Is that so?")).run()
        assert rig.context.room >= 0
        assert rig.sent > sent
        sent = rig.sent
    assert rig.context.rollovers > 3
    assert rig.words == ["Hello."] + ["Is", "that", "so?"] * 12


def test_one_utterance_longer_than_the_context_is_heard_to_its_end() -> None:
    rig = talk().say("Hello.").do(Listen(cast(str, sound(450)), LONG), Inject("My goodness.")).run()
    assert rig.words == ["Hello.", "My", "goodness."]
    assert rig.context.rollovers > 1
    assert frame_numbers(rig)[-1] > 450


# ---- What is refused ----


@pytest.mark.parametrize(
    ("listen", "code", "message"),
    [
        (Listen(text="Hi."), "bad_field", "text: 1 words do not fit into 0.00 s of audio"),
        (Listen(cast(str, sound(2)), "a " * 100), "bad_field", "text: 100 words do not fit into 0.16 s of audio"),
        (said(10), "bad_field", "words: 'me?' starts at 1.3 s, the audio is 0.80 s long"),
        (said(sample_rate=16000), "bad_field", "sample_rate must stay 24000 until a final piece, not 16000"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_has_changed(listen: Listen, code: str, message: str) -> None:
    rig = talk().say("Hello.").do(said(final=False))
    before = columns(rig)
    with pytest.raises(CommandError) as error:
        rig.do(listen)
    assert (error.value.code, error.value.message, error.value.cmd) == (code, message, "listen")
    assert columns(rig) == before
    whole = talk().say("Hello.").do(said())
    assert answer(rig) == answer(whole)


def test_listening_needs_a_conversation_and_a_codec() -> None:
    with pytest.raises(CommandError, match="there is no conversation: begin one with start"):
        talk().do(said())
    with pytest.raises(CommandError, match="there is no codec to encode"):
        toy().say("Hello.").do(said())


def test_a_caller_who_talks_over_everything_is_refused_in_the_end() -> None:
    rig = talk().do(Start("This is a long story", final=False)).run()
    for number in range(7):
        rig.do(Listen(cast(str, sound(100, number)), final=False))
    with pytest.raises(CommandError, match="56 s of the caller wait until the turn has ended, of at most 60") as error:
        rig.do(Listen(cast(str, sound(100))))
    assert error.value.code == "overloaded"


# ---- Pieces, words and rates ----


def test_words_without_times_are_spread_over_what_sounds() -> None:
    quiet, tone = np.zeros(24000), np.sin(np.arange(48000) / 20)
    clip = Recording("audio", np.concatenate([quiet, tone, quiet]).astype(np.float32), 24000)
    words = spread(clip, "[S2] Hi, there ’all")  # noqa: RUF001
    assert [word.text for word in words] == ["Hi,", "there", "'all"]
    assert words[0].start == pytest.approx(1.0, abs=0.03)
    assert words[-1].end == pytest.approx(3.0, abs=0.03)
    assert [round(w.end - w.start, 1) for w in words] == [0.5, 0.8, 0.7]
    silent = spread(Recording("audio", np.zeros(24000, np.float32), 24000), "one two")
    assert [(word.start, word.end) for word in silent] == [(0.0, 0.5), (0.5, 1.0)]


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_sound_of_any_rate_has_the_same_frames(rate: int) -> None:
    class Levels(ToyEar):
        def encode(self, pcm: Tensor, known: int = 0) -> Tensor:
            return (pcm.view(-1, FRAME)[known:, 500:1500].abs().mean(1) * 1000).round().long().expand(5, -1)

    tone = np.sin(np.arange(2 * rate) * 2 * np.pi * 300 / rate) * np.linspace(0.2, 0.8, 2 * rate)
    pcm = (tone * 32767).astype("<i2").tobytes()
    rig = toy(ear=Levels()).do(Start(""))
    for start in range(0, len(pcm), 9000):
        rig.do(Listen(cast(str, pcm[start : start + 9000]), sample_rate=rate, final=False))
    rig.do(Listen(sample_rate=rate))
    assert rig.context.frames == 25
    levels = rig.context.history.archive[0, :25].tolist()
    expected = [1000 * 2 / np.pi * (0.2 + 0.6 * (frame + 0.52) / 25) for frame in range(25)]
    assert np.abs(np.array(levels) - expected)[1:-1].max() < 8


class Counting(ToyEar):
    """Notes how many frames it is given at once, and -1 where a recording begins."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def begin(self) -> None:
        self.calls.append(-1)

    def encode(self, pcm: Tensor) -> Tensor:
        self.calls.append(len(pcm) // FRAME)
        return super().encode(pcm)


def test_the_encoder_is_given_every_frame_once_and_an_utterance_begins_a_recording() -> None:
    ear = Counting()
    rig = toy(ear=ear).do(Start(""), *pieces(said(60, words=[]), [FRAME // 2 * n for n in range(1, 120)]))
    rig.do(said(3, words=[]))
    assert ear.calls[0] == -1
    assert ear.calls.count(-1) == 2
    assert sum(call for call in ear.calls if call > 0) == 63


@settings(max_examples=60)
@given(st.lists(st.integers(0, 60 * FRAME), max_size=8), st.data())
def test_frames_that_are_encoded_with_those_of_others_leave_what_one_alone_leaves(cuts: list[int], data: Any) -> None:
    parts = pieces(said(60), cuts)
    alone, together = talk().do(Start(""), *parts), talk().do(Start(""))
    for part in parts:
        together.do(part)
        for _ in range(data.draw(st.integers(0, 30))):
            if (frame := together.conversation.callers.unheard()) is not None:
                together.conversation.callers.heard(ToyEar().encode(torch.from_numpy(frame))[:, 0])
    assert columns(together) == columns(alone)
    assert answer(together) == answer(alone)


def test_a_session_listens() -> None:
    """Through the engine, with the codec's own encoder, from the JSON of a client."""
    engine = Engine(load_checkpoint("random:tiny", LoadOptions(device="cpu", dtype="float32")))
    line = {"cmd": "listen", "audio": base64.b64encode(sound(12)).decode(), "text": "Hello, is it you?"}
    with engine.conversation() as session:
        for command in (Start("Hi.", seed=1), parse_command(json.dumps(line)), Inject("Yes, it is."), Listen(text="x")):
            session.submit(command)
        session.finish()
        items = list(session)
    engine.close()
    (error,) = [item for item in items if isinstance(item, Error)]
    assert (error.code, error.cmd, error.field) == ("bad_field", "listen", "text")
    assert [item.word for item in items if isinstance(item, Spoken)] == ["Hi.", "Yes,", "it", "is."]
    assert sum(isinstance(item, Frame) for item in items) > 10


def test_with_listen_the_encoder_is_there_before_the_first_caller() -> None:
    for listen in (False, True):
        engine = Engine.load(ModelOptions("random:tiny", device="cpu", listen=listen))
        engine.close()
        assert (engine.checkpoint.codec._encoder is not None) is listen
