"""What was said at each step: columns are counted backwards, frames forwards, and both are known for ten minutes."""

import gc

import pytest
import torch
from conversations import ToyStepper
from hypothesis import given
from hypothesis import strategies as st

from dia2.steps.history import ARCHIVE_FRAMES, History, new_archive
from dia2.text.machine import Mark, TextMachine, Tokens

CODEBOOKS = 3
BEGUN = TextMachine(2, 3, ahead=0).start().mark()


def history() -> History:
    return History(torch.zeros(CODEBOOKS, ARCHIVE_FRAMES, dtype=torch.int16))


def mark(number: int, pending: bool = False, lookahead: bool = False) -> Mark:
    """A mark that no other number has."""
    pending_tokens, later = Tokens((1, 2)) if pending else Tokens(), Tokens((3,)) if lookahead else Tokens()
    return BEGUN._replace(padding_budget=number, pending=pending_tokens, lookahead=later)


def filled(steps: int) -> History:
    """A history whose column of step n has the text (n, n)."""
    made = history()
    for step in range(steps):
        made.add((step, step), mark(step))
    return made


def codes(start: int, stop: int) -> torch.Tensor:
    """Codes that tell whose frame they are, int64 [C, stop - start]."""
    return (torch.arange(start, stop) + 1000 * torch.arange(CODEBOOKS)[:, None]) % 2048


# ---- Columns ----


def test_a_column_is_found_by_how_many_steps_ago_it_was() -> None:
    made = filled(5)
    assert len(made) == 5
    assert [made.back(steps).text for steps in (1, 2, 5)] == [(4, 4), (3, 3), (0, 0)]
    assert made.back(3).mark == mark(2)
    assert made.last(3) == [(2, 2), (3, 3), (4, 4)]
    assert made.last(0) == []


def test_as_many_columns_are_added_as_there_are_marks() -> None:
    made = filled(1)
    made.extend([(7, 7), (8, 8), (9, 9)], [mark(7), mark(8)])  # the text behind the last one is of the next column
    assert made.last(3) == [(0, 0), (7, 7), (8, 8)]
    assert made.back(1).mark == mark(8)


def test_columns_that_lost_their_text_keep_their_marks() -> None:
    made = filled(4)
    made.retell(2, (0, 0))
    assert made.last(4) == [(0, 0), (1, 1), (0, 0), (0, 0)]
    assert [made.back(steps).mark for steps in (1, 2, 3, 4)] == [mark(3), mark(2), mark(1), mark(0)]


def test_a_new_conversation_has_no_columns() -> None:
    made = filled(3)
    made.clear()
    assert len(made) == 0


def test_the_oldest_columns_are_forgotten_beyond_ten_minutes() -> None:
    made = history()
    count = ARCHIVE_FRAMES + 10
    made.extend([(step, step) for step in range(count)], [mark(step) for step in range(count)])
    assert len(made) == ARCHIVE_FRAMES
    assert made.back(ARCHIVE_FRAMES).text == (10, 10)
    with pytest.raises(IndexError):
        made.back(ARCHIVE_FRAMES + 1)


operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 9)),
        st.tuples(st.just("drop"), st.integers(0, 9)),
        st.tuples(st.just("retell"), st.integers(0, 9)),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    max_size=25,
)


@given(operations)
def test_after_whatever_happened_it_has_the_columns_that_a_plain_list_has(done: list[tuple[str, int]]) -> None:
    made, expected, number = history(), list[tuple[tuple[int, int], Mark]](), 0
    for what, count in done:
        kept = len(expected) - min(count, len(expected))
        if what == "add":
            new = [((n, n + 1), mark(n, n % 2 == 0, n % 3 == 0)) for n in range(number, number + count)]
            made.extend([text for text, _ in new], [at for _, at in new])
            expected += new
            number += count
        elif what == "drop":
            made.drop(len(expected) - kept)
            del expected[kept:]
        elif what == "retell":
            made.retell(len(expected) - kept, (5, 6))
            expected[kept:] = [((5, 6), at) for _, at in expected[kept:]]
        else:
            made.clear()
            expected.clear()
    assert len(made) == len(expected)
    assert made.last(len(expected)) == [text for text, _ in expected]
    assert [made.back(steps) for steps in range(len(expected), 0, -1)] == expected


@pytest.mark.parametrize(("first", "last", "found"), [(6, 0, 5), (4, 0, 2), (1, 0, None), (5, 5, None), (3, 1, 2)])
def test_a_word_begins_where_none_is_under_way(first: int, last: int, found: int | None) -> None:
    made = history()
    for step, (pending, lookahead) in enumerate(
        [(True, False), (False, False), (False, True), (True, True), (False, False), (True, False)]
    ):
        made.add((step, step), mark(step, pending, lookahead))
    assert made.word_start(first, last) == found


def test_columns_are_nothing_that_the_garbage_collector_visits() -> None:
    # A full collection stops every thread, for 0.1 s where some million objects are visited.
    made = history()
    gc.collect()
    before = len(gc.get_objects())
    for step in range(1000):
        made.add((step, step + 1), mark(step, pending=step % 2 == 0, lookahead=step % 3 == 0))
    gc.collect()  # finds that the tuples of a column refer to numbers alone
    gc.collect()  # and then the same of the columns
    assert len(gc.get_objects()) < before + 100
    assert made.back(400) == ((600, 601), mark(600, pending=True, lookahead=True))


# ---- Frames ----


@given(st.integers(0, 3 * ARCHIVE_FRAMES), st.lists(st.integers(1, 700), min_size=1, max_size=6))
def test_frames_come_back_as_they_were_kept_wherever_the_archive_begins_anew(start: int, counts: list[int]) -> None:
    made, frame = history(), start
    for count in counts:
        made.keep(frame, codes(frame, frame + count))
        frame += count
    read = made.frames(start, frame)
    assert read.dtype == torch.int64
    assert torch.equal(read, codes(start, frame))
    assert torch.equal(made.frames(frame - 1, frame), codes(frame - 1, frame))


def test_a_frame_is_known_until_one_ten_minutes_later_takes_its_place() -> None:
    made = history()
    made.keep(0, codes(0, ARCHIVE_FRAMES))
    made.keep(ARCHIVE_FRAMES, codes(ARCHIVE_FRAMES, ARCHIVE_FRAMES + 2))
    assert torch.equal(made.frames(2, ARCHIVE_FRAMES + 2), codes(2, ARCHIVE_FRAMES + 2))


# ---- Several of them ----


def test_a_draft_has_columns_of_its_own_over_the_same_frames() -> None:
    made = filled(3)
    draft = made.draft()
    draft.drop(1)
    draft.add((9, 9), mark(9))
    draft.keep(0, codes(0, 2))
    assert (made.last(3)[-1], draft.last(3)[-1]) == ((2, 2), (9, 9))
    assert torch.equal(made.frames(0, 2), codes(0, 2))


def test_a_copy_has_columns_and_frames_of_its_own() -> None:
    made, copy = filled(3), filled(1)
    made.keep(0, codes(0, 2))
    copy.copy(made)
    made.drop(2)
    made.keep(0, codes(5, 7))
    assert copy.last(3) == [(0, 0), (1, 1), (2, 2)]
    assert torch.equal(copy.frames(0, 2), codes(0, 2))


def test_each_slot_has_room_for_ten_minutes_of_every_codebook() -> None:
    stepper = ToyStepper()
    archive = new_archive(stepper, 3)  # type: ignore[arg-type]
    assert archive.shape == (3, len(stepper.delays), ARCHIVE_FRAMES)
    assert archive.dtype == torch.int16
