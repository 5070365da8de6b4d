"""When words are told as spoken: by the model's steps alone, and where it was silent or behind with its text."""

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from taping import TapedRig, revived

from dia2.checkpoint.corrections import Corrections
from dia2.text.machine import MAX_PADDING
from dia2stream.conversation.level import Gain
from dia2stream.conversation.word_times import WordTimes, levels_together, quietness
from dia2stream.conversation.words import QueuedWord, TakenWord
from dia2stream.protocol.messages import Resume, Start, WordEvent

HEARS = Corrections(word_delay_ms=60, letter_ms=50, pause_db=35)
SPEECH, SILENCE = 20, 70  # dB below full scale


def word(step: int, text: str) -> TakenWord:
    return TakenWord(
        step, QueuedWord((7,) if text else (), text, 0, utterance=cast(Any, 0), written=cast(Any, 0), begins=True)
    )


def told(times: WordTimes, words: list[TakenWord], silences: list[tuple[int, int]], frames: int) -> dict[str, int]:
    """The frame before which each word was told. silences: from when to when, in ms."""
    found = {}
    for frame in range(frames):
        at = [80 * frame + 10 * n for n in range(8)]
        levels = bytes(SILENCE if any(a <= t < b for a, b in silences) else SPEECH for t in at)
        for each in times.hear(frame, levels, [w for w in words if w.step == frame]):
            found[each.word.text] = frame
    return found


def test_without_corrections_every_word_begins_with_its_frame() -> None:
    words = [word(0, "One."), word(7, "two"), word(9, "three")]
    assert told(WordTimes(Corrections()), words, [(400, 900)], 12) == {"One.": 0, "two": 7, "three": 9}
    assert [(w.start, w.end) for w in words] == [(0, None), (560, None), (720, None)]


def test_a_word_is_told_with_its_frame_and_as_so_much_later_as_the_checkpoint_says() -> None:
    for delay in (60.0, 200.0, -30.0):
        words = [word(1, "One"), word(3, "two")]
        assert told(WordTimes(Corrections(word_delay_ms=delay)), words, [], 5) == {"One": 1, "two": 3}
        assert [w.start for w in words] == [80 + delay, 240 + delay]


def test_a_word_that_was_forced_is_told_where_the_pause_before_it_ends() -> None:
    """The example at the top of the module."""
    words = [word(11, "well?"), word(11 + MAX_PADDING + 1, "Yes,")]
    assert told(WordTimes(HEARS), words, [(0, 880), (1450, 2140)], 40) == {"well?": 11, "Yes,": 26}
    assert (words[0].start, words[0].end, words[1].start) == (940, 1450, 2140)


def test_a_word_that_was_forced_without_a_pause_is_told_when_the_word_before_may_be_over() -> None:
    words = [word(0, "understanding"), word(7, "nobody"), word(14, "at"), word(21, "all")]
    told(WordTimes(HEARS), words, [], 30)
    assert [w.start for w in words] == [60, 60 + 15 * 50, 810 + 8 * 50, 1740]  # in time again


def test_a_model_that_may_pause_longer_is_not_behind_with_a_word_that_it_took_after_the_usual_hold() -> None:
    """The silence behind "well?" begins late. If "Yes," was forced, it is the pause before "Yes,", else a later one."""
    for pause_padding, first, start in ((0, "well?", 1800), (14, "well?", 1500), (14, "everything", 1540)):
        words = [word(11, first), word(18, "Yes,")]
        told(WordTimes(HEARS, pause_padding), words, [(1650, 1800)], 40)
        assert words[1].start == start


def test_a_word_that_the_model_chose_is_told_at_once_unless_it_is_silent_there() -> None:
    words = [word(1, "One"), word(4, "two"), word(8, "three")]
    assert told(WordTimes(HEARS), words, [(650, 800)], 12) == {"One": 1, "two": 4, "three": 10}
    assert [w.start for w in words] == [140, 380, 800]


def test_silence_within_a_word_is_no_pause() -> None:
    words = [word(1, "One"), word(4, "two")]
    assert told(WordTimes(HEARS), words, [(360, 430)], 12) == {"One": 1, "two": 5}
    assert (words[0].end, words[1].start) == (None, 380)


def test_a_word_whose_sound_never_comes_is_told_after_a_while() -> None:
    words = [word(0, "One."), word(7, "two")]
    assert told(WordTimes(HEARS), words, [(400, 9000)], 40)["two"] == 26
    assert words[0].end == 400


def test_the_last_word_is_over_where_it_is_silent_and_not_if_it_goes_on() -> None:
    words = [word(0, "One")]
    told(WordTimes(HEARS), words, [(300, 2000)], 6)
    assert words[0].end == 300
    words = [word(0, "One")]
    told(WordTimes(HEARS), words, [(300, 420)], 6)
    assert words[0].end is None


def test_words_that_wait_are_told_when_what_follows_cannot_wait() -> None:
    times, words = WordTimes(HEARS), [word(0, "One."), word(7, "two"), word(9, "three")]
    assert set(told(times, words, [(400, 9000)], 10)) == {"One."}
    assert [w.start for w in times.flush()] == [620, 780]
    assert times.flush() == []


def test_a_model_that_is_behind_is_cut_where_it_was_in_time() -> None:
    """Each word was taken before the word before it was over, back to the one behind the pause."""
    times = WordTimes(HEARS)
    words = [word(0, "Fine."), word(7, "My"), word(14, "grandfather"), word(21, "did")]
    told(times, words, [(500, 1300)], 22)
    assert [w.start for w in words] == [60, 1300, 1500, None]
    cut = times.being_said(words[::-1], at=1720, ended=False)
    assert [w.word.text for w in cut] == ["did", "grandfather", "My"]
    assert times.being_said([], at=0, ended=False) == times.being_said([word(3, "")], at=300, ended=False) == ()


def test_a_word_that_does_not_sound_yet_is_cut_together_with_the_one_that_does() -> None:
    """ "Only" was forced, and sounds behind a pause; "once" was taken while it sounds."""
    times, words = WordTimes(HEARS), [word(0, "summer?"), word(7, "Only"), word(14, "once")]
    told(times, words, [(500, 1070)], 16)
    assert [w.start for w in words[:2]] == [60, 1070]
    assert list(times.being_said(words[::-1], at=1200, ended=False)) == words[:0:-1]


def test_the_pause_behind_a_sentence_may_come_late_and_that_behind_a_part_of_one_sooner() -> None:
    for mark, told_at in ((".", 1500), (",", 620)):
        words = [word(0, "One" + mark), word(7, "two")]
        told(WordTimes(HEARS), words, [(1100, 1500)], 24)
        assert words[1].start == told_at


def test_a_model_that_is_behind_is_not_in_time_again_at_once() -> None:
    words = [word(0, "Fine."), word(7, "grandfather"), word(12, "did")]
    told(WordTimes(HEARS), words, [(500, 1300)], 24)
    assert [w.start for w in words] == [60, 1300, 1300 + 13 * 50 / 2]


@pytest.mark.parametrize(
    ("silences", "heard", "step"),
    [
        ([], 9, 5),  # it is as loud everywhere: the word's first frame is remembered
        ([(460, 500)], 9, 6),  # what is remembered ends where it is quiet, up to two frames later
        ([(540, 580)], 9, 7),
        ([(620, 660)], 9, 5),
        ([(380, 420), (460, 500)], 9, 5),  # it is quiet there anyway
        ([(300, 340)], 9, 5),
        ([(460, 500)], 5, 5),  # not where nothing was heard
        ([(460, 480)], 6, 6),
        ([(480, 560)], 6, 5),
    ],
)
def test_an_interruption_goes_back_to_where_it_is_quiet_behind_a_words_first_frame(
    silences: list[tuple[int, int]], heard: int, step: int
) -> None:
    times, words = WordTimes(HEARS), [word(1, "One"), word(4, "two")]
    told(times, words, silences, 12)
    assert times.border(words[1], heard) == step
    times.go_back(step, words[1])
    told_nothing = WordTimes(Corrections())
    told(told_nothing, words, silences, 12)
    assert told_nothing.border(words[1], heard) == 5


def test_the_last_words_are_cut_as_long_as_they_sound() -> None:
    times, words = WordTimes(HEARS), [word(0, "One")]
    told(times, words, [(600, 2000)], 10)
    assert list(times.being_said(words, at=560, ended=True)) == words
    assert times.being_said(words, at=640, ended=True) == ()
    assert WordTimes(Corrections()).being_said(words, at=560, ended=True) == ()


@given(
    gaps=st.lists(st.integers(1, 9), max_size=8),
    levels=st.lists(st.binary(min_size=8, max_size=8), max_size=60),
    corrections=st.builds(Corrections, st.integers(-90, 300), st.integers(0, 90), st.integers(0, 60)),
)
def test_whatever_is_heard_every_word_is_told_once_and_in_order(
    gaps: list[int], levels: list[bytes], corrections: Corrections
) -> None:
    times, step, words = WordTimes(corrections), 0, []
    for number, gap in enumerate(gaps):
        words.append(word(step, f"word{number}."))
        step += gap
    heard = [times.hear(n, level, [w for w in words if w.step == n]) for n, level in enumerate(levels)]
    came = [w for w in words if w.step < len(levels)]
    assert [w for each in heard for w in each] + times.flush() == came
    starts = [w.start for w in came]
    assert None not in starts
    assert starts == sorted(starts, key=float)


def test_levels_are_decibels_below_full_scale_and_follow_the_gain() -> None:
    sound = np.stack([np.full(1920, 0.1, np.float32), np.zeros(1920, np.float32)])
    sound[1, 240:480] = 1.0
    assert quietness(sound).tolist() == [[20] * 8, [120, 0, *[120] * 6]]
    assert levels_together(sound, [None, None]) == [bytes([20] * 8), bytes([120, 0, *[120] * 6])]
    first, second = levels_together(sound, [Gain(1.0, 2.0), Gain(4.0, 4.0)])
    assert first == bytes([14] * 8)
    assert second[:2] == bytes([108, 0])


def test_a_conversation_that_is_taken_over_tells_every_word_once_and_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def toy_levels(pcm: np.ndarray) -> np.ndarray:
        """Silent for three frames of every eight; which ones they are, a toy's first sample says."""
        silent = np.rint(pcm[:, 0] * 2**20).astype(int) % 8 < 3
        return np.repeat(np.where(silent, SILENCE, SPEECH)[:, None], 8, axis=1).astype(np.uint8)

    monkeypatch.setattr("dia2stream.conversation.word_times.quietness", toy_levels)
    text = Start("[S1] One two three. [S2] Four five, six seven. [S1] Eight.", seed=3)

    def heard(*rigs: Any) -> list[Any]:
        return [t for rig in rigs for t in rig.told if isinstance(t, WordEvent | bytes)]

    whole = TapedRig(corrections=HEARS).do(text).run()
    plain = TapedRig().do(text).run()
    words = [(event.word, event.start_ms) for event in whole.of(WordEvent)]
    assert [word for word, _ in words] == [event.word for event in plain.of(WordEvent)]
    assert words != [(event.word, event.start_ms + 60) for event in plain.of(WordEvent)]  # some sound late
    for sent in range(1, whole.sent, 3):
        rig = TapedRig(corrections=HEARS).do(text).run_until_sent(sent)
        other = revived(rig.record(), rig, sent)
        other.do(Resume()).run()
        assert heard(rig, other) == heard(whole), sent
