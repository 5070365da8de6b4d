"""Text of a conversation: in pieces, more of it while it is spoken, and none at all."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from conversations import HELLO, SAMPLED, cut, frame_numbers, golden, said_in_pieces, scripts, toy, words_of
from hypothesis import given, settings
from hypothesis import strategies as st

from dia2.text.machine import MAX_PADDING
from dia2stream.errors import CommandError
from dia2stream.items import Frame
from dia2stream.protocol.messages import Done, End, FirstAudio, Inject, Start, Started, WordEvent

# ---- Text in pieces ----

TEXTS = [
    HELLO,
    'Wait<break time="0.4s"/>here. [S2] [S1] It\u2019s 4:30 <b and <break time="0.2s" /> go',
    '<break time="0.5s"/> [S2] Supercalifragilistic  \n words.  ',
]


@pytest.mark.parametrize("cuts", [range(0, 99), [3, 20, 21, 44], [25]])
@pytest.mark.parametrize("text", TEXTS[:2])
def test_text_in_pieces_gives_the_audio_of_the_text_at_once(goldens: Path, text: str, cuts: Sequence[int]) -> None:
    text = text[:40]
    whole = golden(goldens, SAMPLED).say(text)
    pieces = said_in_pieces(golden(goldens, SAMPLED), cut(text, cuts), between=[0, 3, 1])
    assert whole.told == pieces.told


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
    four = rig.of(WordEvent)[-1]
    assert (four.id, four.word, four.speaker, four.start_ms) == ("b", "Four.", "S1", sent * 80)
    assert (four.text_start, four.text_end) == (0, 5)
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
