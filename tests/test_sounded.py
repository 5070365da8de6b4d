"""Words that have sounded: the same words come out, whichever of them are kept as tuples."""

import gc
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytest
from conversations import paused, toy
from hypothesis import given
from hypothesis import strategies as st

from dia2stream.conversation import sounded
from dia2stream.conversation.reader import Written
from dia2stream.conversation.words import QueuedWord, TakenWord, Utterance, Words
from dia2stream.protocol.messages import Inject
from dia2stream.text.settings import TextSettings

LINE = "[S1] It costs $42.60 by 4:30 today. [S2] Call 555 0199, please <break 0.5s> and ask for Ann. "


def plain(words: Sequence[TakenWord]) -> list[Any]:
    """Everything of words but who they are, and how many parts of a written word stand together."""
    parts = [len([*group]) for _, group in groupby(words, key=lambda taken: id(taken.word.written))]
    told: list[Any] = []
    for taken in words:
        word, written = taken.word, taken.word.written
        told.append((taken.step, taken.start, taken.end, word.begins, word.tokens, word.text, word.padding))
        told.append((word.speaker, word.utterance.id, written.text, written.said, written.start, written.end))
        told.append((written.tags, written.entries))
    return [*told, parts]


def spoken(counts: Sequence[int]) -> list[TakenWord]:
    """Words of written words that have so many parts each; a break for 0."""
    words: list[TakenWord] = []
    for number, count in enumerate(counts):
        written = Written(f"w{number}", "said", 3 * number, 3 * number + 2, "[S1] ", max(1, count))
        for part in range(max(1, count)):
            tokens = (number, part) if count else ()
            utterance = Utterance(str(number // 5), 0.0, None)
            word = QueuedWord(tokens, f"p{part}", 2, 1, utterance=utterance, written=written, begins=part == 0)
            words.append(TakenWord(2 * len(words), word, 1.0 * number, None))
    return words


moves = st.one_of(
    st.tuples(st.just("say"), st.lists(st.integers(0, 4), min_size=1, max_size=12)),
    st.tuples(st.just("drop since"), st.integers(0, 120)),
)


@given(plan=st.lists(moves, max_size=12), since=st.integers(0, 120), kept=st.integers(1, 5))
def test_whatever_is_said_and_taken_back_the_words_are_those_of_a_plain_list(
    plan: list[tuple[str, Any]], since: int, kept: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sounded, "KEPT", kept)
        words, model = Words(toy().conversation.words.reader).sounded, list[TakenWord]()
        for what, value in plan:
            if what == "say":
                first = model[-1].step + 2 if model else 0
                for word in spoken(value):
                    moved = TakenWord(first + word.step, word.word, word.start)
                    words.append(moved)
                    model.append(moved)
            else:
                words.drop_since(value)
                model = [word for word in model if word.step < value]
            assert plain([*words]) == plain(model)
            assert plain([*words.copy(lambda word: word)]) == plain(model)
            assert plain(words.since(since)) == plain([word for word in model if word.step >= since])
            assert [word.step for word in reversed(words)] == [word.step for word in reversed(model)]
            assert len(words) == len(model)
            assert (words.latest and words.latest.step) == (model[-1].step if model else None)


def test_older_words_than_a_step_are_forgotten_but_for_the_one_that_is_said_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sounded, "KEPT", 2)
    words = Words(toy().conversation.words.reader).sounded
    for word in spoken([1, 1, 0, 1, 1, 1, 1, 1, 1, 1]):  # at steps 0, 2, 4, ...; the third is a break
        words.append(word)
    words.forget_before(6)
    assert [word.step for word in words][:3] == [2, 6, 8], "a break is no word"
    words.forget_before(10)
    assert [word.step for word in words][:2] == [8, 10]


@pytest.mark.parametrize("seconds", [0.5, 2, 7, 15, 30])
def test_a_caller_who_interrupts_hears_the_same_whichever_words_are_tuples(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    told = []
    for kept in (10_000, 1):
        monkeypatch.setattr(sounded, "KEPT", kept)
        rig = toy(text=TextSettings("spoken", auto="spoken")).say(LINE * 6, id="a")
        assert len(rig.conversation.words.sounded) > 80
        event = paused(rig, rig.sent * 80 - 1000 * seconds)
        rig.do(Inject("Wait. " + LINE, id="b")).run()
        told.append([event, *rig.told])
    assert told[0] == told[1]


def test_words_that_sounded_long_ago_are_nothing_to_the_garbage_collector() -> None:
    def tracked() -> int:
        gc.collect()
        return sum(type(each) in (TakenWord, QueuedWord, Written) for each in gc.get_objects())

    rig = toy().say("[S1] " + "one two three four five. " * 60)
    assert len(rig.conversation.words.sounded) == 300
    before = tracked()
    del rig
    assert before - tracked() <= 3 * 2 * sounded.KEPT
