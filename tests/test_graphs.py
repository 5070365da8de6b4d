"""The sizes that graphs are captured for, and the rows of a batch that they read."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dia2.cuda.graphs import MOST_SLOTS, BatchRows, batch_sizes, size_for


@given(st.integers(1, 1000))
def test_there_is_a_graph_for_every_batch_and_the_smallest_that_fits_has_less_than_half_of_it_unused(
    slots: int,
) -> None:
    sizes = batch_sizes(slots)
    for count in range(1, min(slots, MOST_SLOTS) + 1):
        assert count <= size_for(count, sizes) < 2 * count


def test_more_slots_than_the_largest_graph_takes_are_refused() -> None:
    with pytest.raises(ValueError, match="129 slots at once; at most 128 can be"):
        size_for(129, batch_sizes(500))


def test_a_batch_is_padded_with_rows_of_the_spare_slot() -> None:
    rows = BatchRows(20, torch.device("cpu"))
    assert rows.sizes == (1, 2, 4, 8, 16, 32)
    assert rows.fill([3, 0, 19, 7, 5]) == 8
    assert rows.first(8).tolist() == [3, 0, 19, 7, 5, 20, 20, 20]
    assert rows.fill([4]) == 1
    assert rows.first(2).tolist() == [4, 0]
