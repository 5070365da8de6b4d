"""The columns of a slot: those that were run, those that are due, and the blocks of the cache that they take."""

from itertools import pairwise
from typing import Any, cast

import pytest
from conversations import ToyStepper
from hypothesis import given
from hypothesis import strategies as st

from dia2.steps.slot_columns import SlotColumns

TEXTS = [(number, number + 1) for number in range(4, 30)]


def columns(stepper: ToyStepper, slot: int = 0) -> SlotColumns:
    return SlotColumns(cast(Any, stepper), slot)


def due(count: int, stepper: ToyStepper | None = None) -> tuple[ToyStepper, SlotColumns]:
    """A slot in which so many columns are due."""
    stepper = stepper or ToyStepper()
    made = columns(stepper)
    made.due.extend(TEXTS[:count])
    return stepper, made


def test_the_next_step_comes_behind_the_columns_that_are_due() -> None:
    stepper, made = due(3)
    assert made.next == 3
    stepper.slots[0].column = 10
    assert made.next == 13


@given(st.integers(1, len(TEXTS)), st.sets(st.integers(1, len(TEXTS) - 1)))
def test_the_parts_in_which_columns_are_run_change_nothing(count: int, cuts: set[int]) -> None:
    at_once, whole = due(count)
    whole.run(count)
    in_parts, made = due(count)
    for start, stop in pairwise([0, *sorted(cut for cut in cuts if cut < count), count]):
        made.run(stop - start)
    assert not made.due
    assert in_parts.slots[0].column == at_once.slots[0].column == count
    assert in_parts.remembered(0, count) == at_once.remembered(0, count)


def test_running_what_is_due_leaves_the_text_of_the_column_behind_it() -> None:
    stepper, made = due(3)
    stepper.slots[0].text = (70, 71)
    made.run(2)
    assert stepper.slots[0].text == (70, 71)
    assert list(made.due) == TEXTS[2:3]
    assert made.next == 3


def test_columns_that_the_cache_has_need_not_be_run() -> None:
    stepper, made = due(3)
    made.skip(2)
    assert list(made.due) == TEXTS[2:3]
    assert stepper.prefilled == 0


@pytest.mark.parametrize(
    ("count", "column", "left"), [(0, 4, 3), (2, 4, 1), (3, 4, 0), (5, 2, 0)], ids=["none", "due", "all due", "run"]
)
def test_going_back_takes_what_is_due_before_what_was_run(count: int, column: int, left: int) -> None:
    stepper, made = due(3)
    stepper.slots[0].column = 4
    made.drop(count)
    assert (stepper.slots[0].column, list(made.due)) == (column, TEXTS[:left])
    assert made.next == 7 - count


def test_a_draft_has_columns_due_of_its_own_in_the_same_slot() -> None:
    stepper, made = due(3)
    draft = made.draft()
    draft.drop(3)
    assert (made.next, draft.next) == (3, 0)
    stepper.slots[0].column = 5
    assert (made.next, draft.next) == (8, 5)


# ---- Blocks of the cache: 16 columns each, 10 for a full context of 160 ----


def test_a_context_is_full_at_its_limit_even_where_the_cache_has_more() -> None:
    _, made = due(0, ToyStepper(limit=160))
    assert (made.reach, made.is_short) == (160, False)


def test_a_slot_whose_neighbours_have_taken_the_spare_blocks_reaches_less_far() -> None:
    stepper = ToyStepper(limit=160, slots=2, blocks=16)
    mine, other = columns(stepper, 0), columns(stepper, 1)
    free = mine.reach
    stepper.slots[1].column = other.reach - 1
    other.hold()
    assert mine.reach < free
    assert mine.is_short
    stepper.slots[0].column = mine.reach
    with pytest.raises(RuntimeError, match=f"needs {mine.reach + 1} columns of the cache"):
        mine.hold()


def test_blocks_are_held_for_the_next_step_and_given_back_when_it_lies_further_back() -> None:
    stepper, made = due(20)
    made.hold()
    assert stepper.blocks.held(0) == 32  # column 20 is the next
    made.drop(20)
    made.hold()
    assert stepper.blocks.held(0) == 32
    made.fit()
    assert stepper.blocks.held(0) == 16


def test_a_step_needs_no_preparation_where_nothing_is_due_and_its_column_has_its_block() -> None:
    stepper, made = due(1)
    assert not made.is_ready
    made.run(1)
    assert made.is_ready
    stepper.slots[0].column = 16  # the first column of a block that the slot has not taken
    assert not made.is_ready
    made.hold()
    assert made.is_ready
    stepper.blocks.hold(0, made.limit + 1)
    stepper.slots[0].column = made.limit - 1
    assert made.is_ready
    stepper.slots[0].column = made.limit
    assert not made.is_ready
