"""The bundled voice's training calls: what the product does in a call is what is learnt, column by column."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dia2.text.machine import TextMachine
from dia2.voice.voice import ClipWord, plan_words
from dia2stream.conversation.caller import CallerSpeech, Piece

sys.path.append(str(Path(__file__).parent.parent / "scripts" / "bundled-voice"))
from check_lm import check_text, fake_utterances
from compose import NO_ACTION, Composer, Ids, Mix, Utterance, Word
from tokenizer import learn, other_tokens

IDS = Ids(tags=(2500, 2501))
SILENCE = np.full((8, 50), 511, np.uint16) - np.arange(8, dtype=np.uint16)[:, None]
NEVER = Mix(untexted=0, prefixed=0, guests=0, heard=0, split=0, barged=0, broken=0)


def composer(seed: int = 0, length: int = 400, utterances: list[Utterance] | None = None, **mix: float) -> Composer:
    chosen = fake_utterances(200, 2500) if utterances is None else utterances
    return Composer(chosen, SILENCE, IDS, length, seed, Mix(**{**NEVER.__dict__, **mix}))


def is_silent(call_frames: np.ndarray, step: int) -> bool:
    return bool((call_frames[:, step] == SILENCE[:, 0]).all())


@pytest.mark.parametrize(
    "mix",
    [
        {},
        {"prefixed": 1},
        {"barged": 0.9},
        {"heard": 1},
        {"guests": 1},
        {"guests": 1, "heard": 1},
        {"split": 1},
        {"broken": 0.5},
    ],
    ids=lambda mix: "and".join(mix) or "plain",
)
def test_every_column_and_every_action_is_the_text_machines(mix: dict[str, float]) -> None:
    made, labels = composer(**mix), 0
    for _ in range(25):
        call = made.call()
        labels += check_text(call, *made.columns(call), IDS)[0]
    assert labels > 1000


def test_everything_together_is_the_text_machines_too() -> None:
    made = Composer(fake_utterances(200, 2500), SILENCE, IDS, 750, 3, Mix(untexted=0))
    for _ in range(40):
        call = made.call()
        check_text(call, *made.columns(call), IDS)


class Tokens:
    """A word is its number; a tag comes in front."""

    def encode(self, text: str) -> list[int]:
        return [
            2500 + int(part[2]) - 1 if part.startswith("[") else int(part) for part in text.replace("-", " ").split()
        ]


class Deaf:
    """An ear that encodes whole frames to zeros."""

    sample_rate, frame_samples = 24_000, 1920

    def begin(self) -> None: ...

    def encode(self, pcm: torch.Tensor) -> torch.Tensor:
        return torch.zeros(8, len(pcm) // 1920, dtype=torch.int64)


def clips(count: int = 60) -> list[Utterance]:
    return fake_utterances(count, 2500, seed=5)


def test_a_caller_is_laid_out_as_listen_does() -> None:
    """The columns of a caller's speech are those that the product's own CallerSpeech makes of the same words."""
    machine = TextMachine(IDS.new_word, IDS.pad, 2)
    made, compared = composer(heard=1.0, utterances=clips()), 0
    for _ in range(20):
        call = made.call()
        columns, actions = made.columns(call)
        ends = sorted(event.step for event in call.events if event.kind == "fresh")
        for event in (event for event in call.events if event.kind == "clip"):
            end = next(step for step in ends if step > event.step)
            spoken = next(
                u
                for u in made.of[call.caller].said
                if len(u.words) == len(event.entries)
                and u.words[-1].tokens == event.entries[-1][0][-len(u.words[-1].tokens) :]
                and u.codes.shape[1] == end - event.step
            )
            if end > 400:
                continue
            words = [ClipWord("-".join(map(str, word.tokens)), word.start, word.end) for word in spoken.words]
            caller = CallerSpeech(Deaf(), Tokens(), machine, call.caller + 1, 24_000)
            caller.hear(Piece(np.zeros(1920 * (end - event.step), np.float32), words))
            caller.close()
            assert [
                tuple(column) for column in columns[event.step + 1 : end + 1, :2].tolist()
            ] == caller.columns().texts
            assert (actions[event.step : end] == NO_ACTION).all()
            compared += 1
    assert compared > 20


def test_a_prefix_is_laid_out_as_a_voice_is() -> None:
    made, compared = composer(prefixed=1.0, utterances=clips()), 0
    for _ in range(30):
        call = made.call()
        first = next((event for event in call.events if event.kind == "clip"), None)
        if first is None:
            continue
        starts = [step for step in sorted(call.starts) if step < call.events[1].step]
        tagged = [n for n, (tokens, _) in enumerate(first.entries) if tokens[0] in IDS.tags]
        spoken = next(
            u
            for u in made.of[0].said
            if [w.tokens for w in u.words]
            == [
                [t for t in tokens if t not in IDS.tags]
                for tokens, _ in first.entries[: [*tagged, len(first.entries)][1]]
            ]
        )
        words = [ClipWord("-".join(map(str, word.tokens)), word.start, word.end) for word in spoken.words]
        entries, steps = plan_words(words, 1, Tokens())
        wanted = [step + 3 for step in steps if step + 3 < spoken.codes.shape[1]]  # later ones have no frame
        assert starts[: len(wanted)] == wanted
        assert [tokens for tokens, _ in first.entries[: len(entries)]] == [list(entry.tokens) for entry in entries]
        compared += 1
    assert compared > 10


def test_the_answer_to_a_caller_comes_at_once_and_says_whose_it_is() -> None:
    made, answers = composer(heard=1.0), 0
    for _ in range(30):
        call = made.call()
        ends = {event.step for event in call.events if event.kind == "fresh"}
        for event in call.events:
            if event.kind == "text" and event.step in ends and event.entries:
                assert event.entries[0][0][0] in IDS.tags
                assert event.step in call.starts or event.step >= made.length
                answers += 1
    assert answers > 30


def test_a_word_that_is_cut_is_in_no_text_and_nothing_of_it_sounds_but_its_first_frame() -> None:
    made, cuts = composer(barged=1.0), 0
    for _ in range(30):
        call = made.call()
        for event in call.events:
            if event.kind == "blank" and event.step < made.length:
                assert call.main[event.step] == call.second[event.step] == IDS.pad
                assert event.step in {text.step for text in call.events if text.kind == "text"} | {made.length}
                assert event.step in call.starts  # the next run's first word comes at once
                cuts += 1
    assert cuts > 60


def test_frames_behind_a_cut_are_the_next_speakers() -> None:
    """Utterances whose frames carry their own number: behind a cut no frame of the cut one is left."""
    said = [Utterance(n % 2, np.full((8, 40), n, np.uint16), [Word([300], 0.1, 3.0)]) for n in range(600, 3000)]
    made, seen = composer(barged=1.0, utterances=said), 0
    for _ in range(20):
        call = made.call()
        for event in call.events:
            if event.kind == "blank" and 0 < event.step < made.length - 45:
                before, after = call.frames[0, event.step - 1], call.frames[0, event.step]
                assert after != before or before == SILENCE[0, 0]
                assert before not in call.frames[0, event.step : event.step + 5] or before == SILENCE[0, 0]
                seen += 1
    assert seen > 20


@pytest.mark.parametrize("swapped", [0.0, 1.0])
def test_a_guest_speaks_only_after_being_heard_and_always_in_the_same_voice(swapped: float) -> None:
    """A guest has a voice of their own, or the other speaker's."""
    said = fake_utterances(400, 2500)
    for utterance in said:
        utterance.codes[:] = utterance.speaker  # a frame tells who speaks
    made, with_guest = composer(guests=1.0, swapped=swapped, heard=0.4, prefixed=0.2, utterances=said), 0
    for _ in range(120):
        call = made.call()
        voices = [voice.said[0].speaker for voice in call.cast]
        sounding = set(call.frames[0].tolist()) - set(SILENCE[0].tolist())
        assert sounding <= set(voices)
        guests = [voice for speaker, voice in enumerate(voices) if voice != speaker]
        assert all((voice < 2) == (swapped > 0) for voice in guests)
        for speaker, voice in enumerate(voices):
            if voice in guests and voice != voices[1 - speaker] and voice in sounding:
                first = int(np.argmax(call.frames[0] == voice))
                clip_ends = [event.step for event in call.events if event.kind == "fresh"]
                assert any(
                    event.kind == "clip" and event.step <= first < min(e for e in clip_ends if e > event.step)
                    for event in call.events
                    if event.kind == "clip"
                ), speaker
                with_guest += 1
    assert with_guest > 30


def test_words_are_split_only_where_there_is_time_for_more_tokens() -> None:
    quick = Word([300], 0.1, 0.2, [[301, 302, 303]])
    slow = Word([310], 0.2, 0.9, [[311, 312, 313]])
    made = composer(split=1.0)
    assert [word.tokens for word in made._split([quick, slow])] == [[300], [311, 312, 313]]
    assert [word.tokens for word in composer(split=0.0)._split([quick, slow])] == [[300], [310]]


def test_a_words_other_tokens_spell_the_same_word() -> None:
    built = learn(["appointment appoint ment wonderful wonder full pointed"] * 20, 400)
    for word in ("appointment", "Wonderful,", "pointed."):
        own, others = built.encode(word).ids, other_tokens(built, word, random.Random(0), count=9)
        assert len(others) >= 2
        assert own not in others
        assert {built.decode(tokens) for tokens in others} == {built.decode(own)}
        assert others == other_tokens(built, word, random.Random(0), count=9)
    assert other_tokens(built, "the", random.Random(0)) == []


def test_a_seed_makes_the_same_calls() -> None:
    mix = {"prefixed": 0.3, "guests": 0.5, "heard": 0.3, "split": 0.3, "barged": 0.3}
    first, second, third = composer(1, **mix), composer(1, **mix), composer(2, **mix)
    pairs = [(first.compose(), second.compose(), third.compose()) for _ in range(5)]
    assert all(np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b, _ in pairs)
    assert not all(np.array_equal(a[0], c[0]) for a, _, c in pairs)


def test_both_speakers_must_have_something_to_say() -> None:
    with pytest.raises(ValueError, match="both speakers must have utterances"):
        composer(utterances=[u for u in clips() if u.speaker == 1])


def test_clips_and_callers_are_what_the_encoder_hears_and_the_model_says_what_the_analysis_has() -> None:
    said = [u._replace(codes=u.codes % 256) for u in fake_utterances(60, 2500)]
    heard = [u._replace(codes=u.codes % 256 + 256, is_heard=True) for u in said]
    made = composer(utterances=said + heard, prefixed=1, heard=1, guests=0.7)
    seen = {True: 0, False: 0}
    for _ in range(30):
        call = made.call()
        clips = [event.step for event in call.events if event.kind == "clip"]
        ends = sorted(event.step for event in call.events if event.kind in ("fresh", "text"))
        of_clips = np.zeros(call.frames.shape[1], bool)
        for begin in clips:
            of_clips[begin : next((end for end in ends if end > begin), len(of_clips))] = True
        is_sound = (call.frames != call.quiet).any(0)
        for is_clip in seen:
            some = call.frames[0, is_sound & (of_clips == is_clip)]
            seen[is_clip] += len(some)
            assert ((some >= 256) == is_clip).all()
    assert min(seen.values()) > 1000
